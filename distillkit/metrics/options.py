"""What a recipe may set for the engine's metrics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Literal

from distillkit.files.weights import WeightFile
from distillkit.plugins.options import Options

NIQE_SOURCE = "the package BasicSR (niqe_pris_params.npz)"
DISTS_SOURCE = "the authors' package DISTS_pytorch (weights.pt)"
VGG_SOURCE = "torchvision (vgg16-397923af.pth, as `distillkit fetch --metric lpips-vgg` gets it)"
FID_SOURCE = "torch-fidelity's releases (weights-inception-2015-12-05-6726825d.pth)"
Trunk = Literal["alex", "vgg"]
"""The networks whose features LPIPS compares."""


class LpipsOptions(Options):
    """Options of LPIPS."""

    net: ClassVar[Trunk]
    trunk: Path | None = None
    """The network's ImageNet weights (keys ``features.*``), or all of LPIPS.

    By default it is torchvision's file in torch hub's cache.
    """

    def weight_files(self) -> tuple[WeightFile, ...]:
        source = f"torchvision's ImageNet weights of {self.net}"
        return _local_files(self.trunk, source=source) or (_trunk_file(self.net),)


class LpipsAlexOptions(LpipsOptions):
    """Options of LPIPS with AlexNet."""

    net = "alex"


class LpipsVggOptions(LpipsOptions):
    """Options of LPIPS with VGG16."""

    net = "vgg"


class NiqeOptions(Options):
    """Options of NIQE."""

    parameters: Path | None = None
    """``niqe_pris_params.npz``: mean and covariance of pristine photographs.

    Their keys are ``mu_pris_param`` and ``cov_pris_param``.
    """

    def weight_files(self) -> tuple[WeightFile, ...]:
        return _local_files(self.parameters, source=NIQE_SOURCE)


class DistsOptions(Options):
    """Options of DISTS."""

    weights: Path | None = None
    """The trained ``alpha`` and ``beta`` (``weights.pt`` of its authors), or all of DISTS."""
    trunk: Path | None = None
    """ImageNet weights of VGG16 (keys ``features.*``), where ``weights`` does not hold them."""

    def weight_files(self) -> tuple[WeightFile, ...]:
        weights = _local_files(self.weights, source=DISTS_SOURCE)
        return weights + _local_files(self.trunk, source=VGG_SOURCE)


class FidOptions(Options):
    """Options of FID."""

    weights: Path | None = None
    """The Inception of published FIDs; by default torch-fidelity's file in torch hub's cache."""

    def weight_files(self) -> tuple[WeightFile, ...]:
        return _local_files(self.weights, source=FID_SOURCE) or (_inception_file(),)


class PyiqaOptions(Options):
    """Options of a metric of pyiqa."""

    model: str | None = None
    """Another model than the default, by pyiqa's name: ``maniqa-pipal``."""


def _local_files(path: Path | None, *, source: str) -> tuple[WeightFile, ...]:
    return () if path is None else (WeightFile(path=path, source=source),)


def _trunk_file(net: Trunk) -> WeightFile:
    """Name torchvision's ImageNet weights of a network."""
    # torch hub's rule: the name ends in the first digits of the file's hash.
    names = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
    sizes = {"alex": 244_408_911, "vgg": 553_433_881}
    name = names[net]
    return WeightFile(
        path=_torch_hub() / name,
        url=f"https://download.pytorch.org/models/{name}",
        sha256=name.removesuffix(".pth").rpartition("-")[2],
        size=sizes[net],
        license="BSD-3-Clause",
    )


def _inception_file() -> WeightFile:
    """Name the weights of the Inception of published FIDs, converted by torch-fidelity."""
    name = "weights-inception-2015-12-05-6726825d.pth"
    releases = "https://github.com/toshas/torch-fidelity/releases/download"
    return WeightFile(
        path=_torch_hub() / name,
        url=f"{releases}/v0.2.0/{name}",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size=95_628_359,
        license="Apache-2.0",
    )


def _torch_hub() -> Path:
    """Find the folder of torch's downloads by torch's own rule, without importing it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"
