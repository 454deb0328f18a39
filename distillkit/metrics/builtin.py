"""The engine's own metrics, offered through the same hook as a plugin's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from distillkit.errors import WeightsError
from distillkit.files.weights import WeightFile
from distillkit.plugins.descriptors import MetricSpec
from distillkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from distillkit.metrics.base import Metric, SetMetric


class NoOptions(BaseModel):
    """A metric without options."""

    model_config = ConfigDict(extra="forbid")


class LpipsOptions(NoOptions):
    """Options of LPIPS."""

    trunk: Path | None = None
    """The network's ImageNet weights (keys ``features.*``), or all of LPIPS; by default torchvision's file in torch hub's cache."""


class NiqeOptions(NoOptions):
    """Options of NIQE."""

    parameters: Path | None = None
    """``niqe_pris_params.npz``: mean and covariance of pristine photographs (``mu_pris_param``, ``cov_pris_param``)."""


class DistsOptions(NoOptions):
    """Options of DISTS."""

    weights: Path | None = None
    """The trained ``alpha`` and ``beta`` (``weights.pt`` of its authors), or all of DISTS."""
    trunk: Path | None = None
    """ImageNet weights of VGG16 (keys ``features.*``), where ``weights`` does not hold them."""


class FidOptions(NoOptions):
    """Options of FID."""

    weights: Path | None = None
    """ImageNet weights of torchvision's Inception v3; by default its file in torch hub's cache."""


class BlindOptions(NoOptions):
    """Options of a metric of pyiqa."""

    model: str | None = None
    """Another model than the default, by pyiqa's name: ``maniqa-pipal``."""


@hookimpl
def distillkit_metrics() -> Sequence[MetricSpec]:
    """PSNR and SSIM (RGB and luma), shift-tolerant LPIPS, LPIPS, DISTS, NIQE, FID; MUSIQ, MANIQA and CLIPIQA through pyiqa."""
    return (
        *(
            MetricSpec(name=name, summary=summary, config=NoOptions, build=_distortion(name))
            for name, summary in _DISTORTION
        ),
        *(_stlpips(net) for net in _NETS),
        *(_lpips(net) for net in _NETS),
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
_NETS: tuple[Literal["alex", "vgg"], ...] = ("alex", "vgg")
_TRUNK_FILE = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
_TRUNK_SIZE = {"alex": 244_408_911, "vgg": 553_433_881}
_INCEPTION_FILE = "inception_v3_google-0cc3c7bd.pth"
_TORCHVISION_URL = "https://download.pytorch.org/models/"


def _distortion(name: str) -> Callable[[Any], Metric]:
    def build(config: NoOptions) -> Metric:
        from distillkit.metrics import base as metrics

        functions = {
            "psnr": metrics.psnr,
            "psnr-y": metrics.psnr_y,
            "ssim": metrics.ssim,
            "ssim-y": metrics.ssim_y,
        }
        return functions[name]()

    return build


def _stlpips(net: Literal["alex", "vgg"]) -> MetricSpec:
    def build(config: NoOptions) -> Metric:
        from distillkit.metrics.learned import stlpips

        return stlpips(net)

    summary = f"Shift-tolerant LPIPS, {net}; its weights install from the package index"
    return MetricSpec(
        name=f"stlpips-{net}",
        summary=summary,
        config=NoOptions,
        build=build,
        license="BSD-2-Clause",
    )


def _lpips(net: Literal["alex", "vgg"]) -> MetricSpec:
    def build(config: LpipsOptions) -> Metric:
        from distillkit.metrics.learned import lpips

        return lpips(net, trunk(config))

    def trunk(config: LpipsOptions) -> Path:
        return config.trunk or _torch_hub() / _TRUNK_FILE[net]

    def weights(config: LpipsOptions) -> tuple[WeightFile, ...]:
        if config.trunk:
            return (WeightFile(path=config.trunk),)
        return (_of_torchvision(_TRUNK_FILE[net], _TRUNK_SIZE[net]),)

    summary = f"LPIPS v0.1, {net}; needs the trunk's ImageNet weights on disk"
    return MetricSpec(
        name=f"lpips-{net}",
        summary=summary,
        config=LpipsOptions,
        build=build,
        license="BSD-2-Clause",
        weights=weights,
    )


def _build_dists(config: DistsOptions) -> Metric:
    if config.weights is None:
        raise WeightsError(
            "DISTS needs its trained weights: set `weights`, and `trunk` to the ImageNet weights of VGG16"
        )
    from distillkit.metrics.dists import dists

    return dists(config.weights, config.trunk)


def _build_niqe(config: NiqeOptions) -> Metric:
    if config.parameters is None:
        raise WeightsError(
            "NIQE needs the statistics of pristine photographs: set `parameters` to a niqe_pris_params.npz"
        )
    from distillkit.metrics.niqe import niqe

    return niqe(config.parameters)


def _build_fid(config: FidOptions) -> SetMetric:
    from distillkit.metrics.fid import fid

    return fid(_inception(config))


def _inception(config: FidOptions) -> Path:
    return config.weights or _torch_hub() / _INCEPTION_FILE


def _inception_file(config: FidOptions) -> tuple[WeightFile, ...]:
    return (
        WeightFile(path=config.weights) if config.weights else _of_torchvision(_INCEPTION_FILE),
    )


_DISTS = MetricSpec(
    name="dists",
    summary="DISTS (structure and texture); needs its weights and those of VGG16 on disk",
    config=DistsOptions,
    build=_build_dists,
    license="MIT",
    weights=lambda config: tuple(WeightFile(path=p) for p in (config.weights, config.trunk) if p),
)
_NIQE = MetricSpec(
    name="niqe",
    summary="NIQE, without a reference; needs its parameters on disk",
    config=NiqeOptions,
    build=_build_niqe,
    weights=lambda config: tuple(WeightFile(path=p) for p in (config.parameters,) if p),
)
_FID = MetricSpec(
    name="fid",
    summary="FID of all images together; needs torchvision's Inception v3 on disk, and is not the published FIDs' scale",
    config=FidOptions,
    build=_build_fid,
    license="BSD-3-Clause",
    weights=_inception_file,
)


def _blind(name: str) -> MetricSpec:
    def build(config: BlindOptions) -> Metric:
        from distillkit.metrics.no_reference import blind

        return blind(name, config.model or name)

    return MetricSpec(
        name=name,
        summary=f"{name.upper()} through pyiqa (extra `iqa`), without a reference; PolyForm Noncommercial: no commercial use",
        config=BlindOptions,
        build=build,
        license="PolyForm-Noncommercial-1.0.0",
    )


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
