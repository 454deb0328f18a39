"""The engine's own metrics, offered through the same hook as a plugin's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from distillkit.files.weights import WeightFile
from distillkit.plugins.descriptors import MetricSpec
from distillkit.plugins.hookspecs import hookimpl
from distillkit.plugins.options import Options


class LpipsOptions(Options):
    """Options of LPIPS."""

    net: ClassVar[Literal["alex", "vgg"]]
    trunk: Path | None = None
    """The network's ImageNet weights (keys ``features.*``), or all of LPIPS; by default torchvision's file in torch hub's cache."""

    def weight_files(self) -> tuple[WeightFile, ...]:
        if self.trunk:
            return (WeightFile(path=self.trunk),)
        return (_of_torchvision(_TRUNK_FILE[self.net], _TRUNK_SIZE[self.net]),)


class LpipsAlexOptions(LpipsOptions):
    """Options of LPIPS with AlexNet."""

    net = "alex"


class LpipsVggOptions(LpipsOptions):
    """Options of LPIPS with VGG16."""

    net = "vgg"


class NiqeOptions(Options):
    """Options of NIQE."""

    parameters: Path | None = None
    """``niqe_pris_params.npz``: mean and covariance of pristine photographs (``mu_pris_param``, ``cov_pris_param``)."""

    def weight_files(self) -> tuple[WeightFile, ...]:
        return _files(self.parameters)


class DistsOptions(Options):
    """Options of DISTS."""

    weights: Path | None = None
    """The trained ``alpha`` and ``beta`` (``weights.pt`` of its authors), or all of DISTS."""
    trunk: Path | None = None
    """ImageNet weights of VGG16 (keys ``features.*``), where ``weights`` does not hold them."""

    def weight_files(self) -> tuple[WeightFile, ...]:
        return _files(self.weights, self.trunk)


class FidOptions(Options):
    """Options of FID."""

    weights: Path | None = None
    """ImageNet weights of torchvision's Inception v3; by default its file in torch hub's cache."""

    def weight_files(self) -> tuple[WeightFile, ...]:
        return _files(self.weights) or (_of_torchvision(_INCEPTION_FILE),)


class BlindOptions(Options):
    """Options of a metric of pyiqa."""

    model: str | None = None
    """Another model than the default, by pyiqa's name: ``maniqa-pipal``."""


@hookimpl
def distillkit_metrics() -> Sequence[MetricSpec]:
    """PSNR and SSIM (RGB and luma), shift-tolerant LPIPS, LPIPS, DISTS, NIQE, FID; MUSIQ, MANIQA and CLIPIQA through pyiqa."""
    return (
        *(
            MetricSpec(
                name=name,
                summary=summary,
                build=f"distillkit.metrics.build:{name.replace('-', '_')}",
            )
            for name, summary in _DISTORTION
        ),
        *(_stlpips(net) for net in ("alex", "vgg")),
        _lpips(LpipsAlexOptions),
        _lpips(LpipsVggOptions),
        _DISTS,
        _NIQE,
        _FID,
        *(_blind(name) for name in ("musiq", "maniqa", "clipiqa")),
    )


_DISTORTION = (
    ("psnr", "PSNR in RGB, dB"),
    ("psnr-y", "PSNR of the luma, dB, as many published tables give it"),
    ("ssim", "SSIM, mean of the RGB channels"),
    ("ssim-y", "SSIM of the luma, as many published tables give it"),
)
_TRUNK_FILE = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
_TRUNK_SIZE = {"alex": 244_408_911, "vgg": 553_433_881}
_INCEPTION_FILE = "inception_v3_google-0cc3c7bd.pth"
_TORCHVISION_URL = "https://download.pytorch.org/models/"


def _stlpips(net: str) -> MetricSpec:
    return MetricSpec(
        name=f"stlpips-{net}",
        summary=f"Shift-tolerant LPIPS, {net}; its weights install from the package index",
        build=f"distillkit.metrics.build:stlpips_{net}",
        license="BSD-2-Clause",
    )


def _lpips(config: type[LpipsOptions]) -> MetricSpec:
    return MetricSpec(
        name=f"lpips-{config.net}",
        summary=f"LPIPS v0.1, {config.net}; needs the trunk's ImageNet weights on disk",
        config=config,
        build="distillkit.metrics.build:lpips",
        license="BSD-2-Clause",
    )


_DISTS = MetricSpec(
    name="dists",
    summary="DISTS (structure and texture); needs its weights and those of VGG16 on disk",
    config=DistsOptions,
    build="distillkit.metrics.build:dists",
    license="MIT",
)
_NIQE = MetricSpec(
    name="niqe",
    summary="NIQE, without a reference; needs its parameters on disk",
    config=NiqeOptions,
    build="distillkit.metrics.build:niqe",
)
_FID = MetricSpec(
    name="fid",
    summary="FID of all images together; needs torchvision's Inception v3 on disk, and is not the published FIDs' scale",
    config=FidOptions,
    build="distillkit.metrics.build:fid",
    license="BSD-3-Clause",
)


def _blind(name: str) -> MetricSpec:
    return MetricSpec(
        name=name,
        summary=f"{name.upper()} through pyiqa (extra `iqa`), without a reference; PolyForm Noncommercial: no commercial use",
        config=BlindOptions,
        build=f"distillkit.metrics.build:{name}",
        license="PolyForm-Noncommercial-1.0.0",
    )


def _files(*paths: Path | None) -> tuple[WeightFile, ...]:
    return tuple(WeightFile(path=path) for path in paths if path is not None)


def _of_torchvision(name: str, size: int | None = None) -> WeightFile:
    """A file whose name ends in the first digits of its hash, as torch hub's rule wants it."""
    digits = name.rpartition("-")[2].removesuffix(".pth")
    return WeightFile(
        path=_torch_hub() / name,
        url=_TORCHVISION_URL + name,
        sha256=digits,
        size=size,
        license="BSD-3-Clause",
    )


def _torch_hub() -> Path:
    """Where torch keeps what it downloads, by its own rule, without importing it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return (
        Path(os.environ.get("TORCH_HOME", Path(cache, "torch"))).expanduser()
        / "hub"
        / "checkpoints"
    )
