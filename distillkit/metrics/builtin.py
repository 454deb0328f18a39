"""The engine's own metrics, offered through the same hook as a plugin's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from distillkit.plugins.descriptors import MetricSpec
from distillkit.plugins.hookspecs import hookimpl

WITHOUT_REFERENCE = {"metric_order": "it judges an image by itself"}
"""The contract test that metrics without a reference need not pass, and the reason."""


@hookimpl
def distillkit_metrics() -> Sequence[MetricSpec]:
    """Offer distortion measures, perceptual distances, and metrics without a reference."""
    return (
        _spec("psnr", "PSNR in RGB, dB"),
        _spec("psnr-y", "PSNR of the luma, dB, as many published tables give it"),
        _spec("ssim", "SSIM, mean of the RGB channels"),
        _spec("ssim-y", "SSIM of the luma, as many published tables give it"),
        _stlpips("alex"),
        _stlpips("vgg"),
        _lpips("alex", "LpipsAlexOptions"),
        _lpips("vgg", "LpipsVggOptions"),
        _spec(
            "dists",
            "DISTS (structure and texture); needs its weights and those of VGG16 on disk",
            options="DistsOptions",
            license="MIT",
        ),
        _spec(
            "niqe",
            "NIQE, without a reference; needs its parameters on disk",
            options="NiqeOptions",
            exempt=WITHOUT_REFERENCE,
        ),
        _spec(
            "fid",
            "FID of all images together, on the published scale; needs its Inception on disk",
            options="FidOptions",
            license="Apache-2.0",
        ),
        _pyiqa("musiq"),
        _pyiqa("maniqa"),
        _pyiqa("clipiqa"),
    )


def _spec(
    name: str,
    summary: str,
    *,
    options: str = "Options",
    license: str = "unknown",
    exempt: Mapping[str, str] = MappingProxyType({}),
) -> MetricSpec:
    function = name.replace("-", "_")
    return MetricSpec(
        name=name,
        summary=summary,
        options=f"distillkit.metrics.options:{options}",
        build=f"distillkit.metrics.build:{function}",
        license=license,
        exempt=exempt,
    )


def _stlpips(net: str) -> MetricSpec:
    return _spec(
        f"stlpips-{net}",
        f"Shift-tolerant LPIPS, {net}; its weights install from the package index",
        license="BSD-2-Clause",
    )


def _lpips(net: str, options: str) -> MetricSpec:
    return MetricSpec(
        name=f"lpips-{net}",
        summary=f"LPIPS v0.1, {net}; needs the trunk's ImageNet weights on disk",
        options=f"distillkit.metrics.options:{options}",
        build="distillkit.metrics.build:lpips",
        license="BSD-2-Clause",
    )


def _pyiqa(name: str) -> MetricSpec:
    return _spec(
        name,
        f"{name.upper()} through pyiqa (extra `iqa`), without a reference; "
        "PolyForm Noncommercial: no commercial use",
        options="PyiqaOptions",
        license="PolyForm-Noncommercial-1.0.0",
        exempt=WITHOUT_REFERENCE,
    )
