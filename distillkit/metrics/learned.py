"""Perceptual metrics with networks: shift-tolerant LPIPS (weights on the package index) and LPIPS (trunk fetched by the user)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from distillkit.errors import WeightsError
from distillkit.files.weights import load_exactly, read_state_dict
from distillkit.metrics.base import FullReference, Metric

Trunk = Literal["alex", "vgg"]


def stlpips(net: Trunk) -> Metric:
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022). Its scale is not LPIPS's: never put both in one column."""
    from distillkit.metrics.perceptual import PerceptualDistance

    return _perceptual(
        f"stlpips-{net}", f"shift-tolerant LPIPS vST0.0, {net}, RGB", PerceptualDistance(net)
    )


def lpips(net: Trunk, trunk: Path) -> Metric:
    """LPIPS v0.1 (Zhang et al., CVPR 2018) through the ``lpips`` package, whose linear weights it uses. Never downloads.

    Args:
        trunk: ImageNet weights of the network, with torchvision's keys ``features.*``. Where the file holds the linear layers too
            (``lin0.weight`` ..., a complete LPIPS), they are taken from it; other keys are passed over.

    Raises:
        WeightsError: the trunk's file is not there, damaged or of another network.
    """
    if not trunk.is_file():
        raise WeightsError(
            f"{trunk} - LPIPS needs torchvision's ImageNet weights of {net}: put the file there or set `trunk` to it"
        )
    return _perceptual(f"lpips-{net}", f"LPIPS v0.1, {net}, RGB", _lpips_network(net, trunk))


def _lpips_network(net: Trunk, path: Path) -> nn.Module:
    import lpips as package

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torchvision deprecates the argument by which lpips asks for an untrained trunk
        model = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = read_state_dict(path)
    features = {k: v for k, v in state.items() if k.startswith("features.")}
    own = {f"features.{k.split('.', 1)[1]}": k for k in model.net.state_dict()}
    load_exactly(model.net, {own.get(k, k): v for k, v in features.items()}, path)
    if linear := {k: v for k, v in state.items() if k.startswith("lin")}:
        load_exactly(model.lins, {f"{k[3]}.model.1.weight": v for k, v in linear.items()}, path)
    return model.requires_grad_(False).eval()


def _perceptual(name: str, protocol: str, network: nn.Module) -> Metric:
    def distance(restored: Tensor, gt: Tensor) -> Tensor:
        return network.to(restored.device)(restored, gt).flatten()

    return FullReference(
        name,
        f"{protocol}, no border crop",
        distance,
        higher_is_better=False,
        differentiable=True,
        perceptual=True,
    )
