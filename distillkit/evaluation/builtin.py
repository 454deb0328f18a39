"""The engine's own metrics, offered through the same hook as a plugin's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from distillkit.hooks.hookspecs import hookimpl
from distillkit.hooks.specs import MetricSpec
from distillkit.weights import WeightFile

if TYPE_CHECKING:
    from distillkit.evaluation.metrics import Metric


class NoOptions(BaseModel):
    """A metric without options."""

    model_config = ConfigDict(extra="forbid")


class LpipsOptions(BaseModel):
    """Options of LPIPS."""

    model_config = ConfigDict(extra="forbid")

    trunk: Path | None = None
    """ImageNet weights of the network (keys ``features.*``); by default torchvision's file in torch hub's cache."""


@hookimpl
def distillkit_metrics() -> Sequence[MetricSpec]:
    """PSNR and SSIM (RGB and luma), shift-tolerant LPIPS and LPIPS (AlexNet and VGG)."""
    return (
        *(MetricSpec(name=name, summary=summary, config=NoOptions, build=_distortion(name)) for name, summary in _DISTORTION),
        *(_stlpips(net) for net in _NETS),
        *(_lpips(net) for net in _NETS),
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
_TRUNK_URL = "https://download.pytorch.org/models/"


def _distortion(name: str) -> Callable[[Any], Metric]:
    def build(config: NoOptions) -> Metric:
        from distillkit.evaluation import metrics

        functions = {"psnr": metrics.psnr, "psnr-y": metrics.psnr_y, "ssim": metrics.ssim, "ssim-y": metrics.ssim_y}
        return functions[name]()

    return build


def _stlpips(net: Literal["alex", "vgg"]) -> MetricSpec:
    def build(config: NoOptions) -> Metric:
        from distillkit.evaluation.learned import stlpips

        return stlpips(net)

    summary = f"Shift-tolerant LPIPS, {net}; its weights install from the package index"
    return MetricSpec(name=f"stlpips-{net}", summary=summary, config=NoOptions, build=build, license="BSD-2-Clause")


def _lpips(net: Literal["alex", "vgg"]) -> MetricSpec:
    def build(config: LpipsOptions) -> Metric:
        from distillkit.evaluation.learned import lpips

        return lpips(net, trunk(config))

    def trunk(config: LpipsOptions) -> Path:
        return config.trunk or _torch_home() / "hub" / "checkpoints" / _TRUNK_FILE[net]

    def weights(config: LpipsOptions) -> tuple[WeightFile, ...]:
        url = None if config.trunk else _TRUNK_URL + _TRUNK_FILE[net]
        return (WeightFile(path=trunk(config), url=url, size=_TRUNK_SIZE[net], license="BSD-3-Clause"),)

    summary = f"LPIPS v0.1, {net}; needs the trunk's ImageNet weights on disk"
    return MetricSpec(
        name=f"lpips-{net}", summary=summary, config=LpipsOptions, build=build, license="BSD-2-Clause", weights=weights
    )


def _torch_home() -> Path:
    """Where torch keeps what it downloads, by its own rule, without importing it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", Path(cache, "torch"))).expanduser()
