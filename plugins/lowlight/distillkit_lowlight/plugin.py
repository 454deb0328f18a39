"""What this plugin offers, as light descriptors.

Networks and torch are imported when something is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillkit import (
    DatasetSpec,
    DegradationSpec,
    MetricSpec,
    StudentSpec,
    TeacherSpec,
    hookimpl,
)
from distillkit_lowlight.licenses import UNLICENSED


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    """Offer GSAD and Reti-Diff; the score of Reti-Diff is in the space of its priors."""
    return (
        TeacherSpec(
            name="gsad",
            summary="GSAD: pixel-space diffusion for low light, 10 or 20 steps",
            options="distillkit_lowlight.options:GSADOptions",
            build="distillkit_lowlight.build:gsad_teacher",
            license=UNLICENSED,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="retidiff",
            exempt={"size_multiple": "it looks at the full image: its prior is of all of it"},
            summary="Reti-Diff: retinex-guided transformer for low light, one step",
            options="distillkit_lowlight.options:RetiDiffOptions",
            build="distillkit_lowlight.build:retidiff_teacher",
            license=UNLICENSED,
            capabilities=frozenset({"output"}),
        ),
        TeacherSpec(
            name="retidiff-priors",
            exempt={"size_multiple": "it looks at the full image: its prior is of all of it"},
            summary=(
                "Reti-Diff's score in the space of its priors; "
                "needs weights of stage 1, which are not published"
            ),
            options="distillkit_lowlight.options:PriorOptions",
            build="distillkit_lowlight.build:prior_teacher",
            license=UNLICENSED,
            capabilities=frozenset({"score", "output"}),
        ),
    )


@hookimpl
def distillkit_students() -> Sequence[StudentSpec]:
    """Offer a student that starts as GSAD."""
    return (
        StudentSpec(
            name="gsad",
            summary=(
                "Starts as GSAD; trained through one step of its sampler, or as a one-step model"
            ),
            options="distillkit_lowlight.options:GSADStudentOptions",
            build="distillkit_lowlight.build:gsad_student",
            license=UNLICENSED,
        ),
    )


@hookimpl
def distillkit_degradations() -> Sequence[DegradationSpec]:
    """Offer photographs in too little light."""
    return (
        DegradationSpec(
            name="dark",
            summary="Under-exposure, color cast, shot and read noise, JPEG",
            options="distillkit_lowlight.options:LowLightOptions",
            build="distillkit_lowlight.degradation:LowLight",
            license="Apache-2.0",
        ),
    )


@hookimpl
def distillkit_datasets() -> Sequence[DatasetSpec]:
    """Offer LOL v1, v2-real and v2-syn, from folders or parquet files."""

    def spec(name: str, function: str, summary: str) -> DatasetSpec:
        return DatasetSpec(
            name=name,
            summary=summary,
            options="distillkit_lowlight.options:LOLOptions",
            build=f"distillkit_lowlight.datasets:{function}",
        )

    return (
        spec("lol-v1", "lol_v1", "LOL v1: 485 + 15 pairs of 400 x 600, real cameras"),
        spec(
            "lol-v2-real",
            "lol_v2_real",
            "LOL v2-real: 689 + 100 pairs of 400 x 600, real cameras; contains LOL v1",
        ),
        spec(
            "lol-v2-syn",
            "lol_v2_syn",
            "LOL v2-syn: 900 + 100 pairs of 384 x 384, darkened photographs",
        ),
    )


def _after_gt_mean(base: str, options: str, *, bgr: bool = False) -> MetricSpec:
    name = f"{base}-gtmean"
    summary = f"{base} after GT-mean"
    if bgr:
        name += "-bgr"
        summary += ", channels in the order of GSAD's code"
    return MetricSpec(
        name=name,
        summary=summary,
        options=f"distillkit_lowlight.options:{options}",
        build="distillkit_lowlight.build:engine_metric_after_gt_mean",
        license="Apache-2.0",
    )


@hookimpl
def distillkit_metrics() -> Sequence[MetricSpec]:
    """Offer the protocols of low-light papers, and the distance of retinex maps."""

    def spec(name: str, function: str, summary: str) -> MetricSpec:
        return MetricSpec(
            name=name,
            summary=summary,
            build=f"distillkit_lowlight.build:{function}",
            license="Apache-2.0",
        )

    return (
        spec("psnr-gtmean", "psnr_gtmean", "PSNR in RGB after GT-mean, dB"),
        spec(
            "ssim-uniform",
            "ssim_uniform",
            "SSIM with a uniform 7x7 window (scikit-image's default)",
        ),
        spec(
            "ssim-uniform-gtmean",
            "ssim_uniform_gtmean",
            "SSIM with a uniform 7x7 window after GT-mean",
        ),
        _after_gt_mean("ssim", "SsimOptions"),
        _after_gt_mean("stlpips-alex", "StlpipsAlexOptions"),
        _after_gt_mean("stlpips-vgg", "StlpipsVggOptions"),
        _after_gt_mean("lpips-alex", "LpipsAlexOptions"),
        _after_gt_mean("lpips-vgg", "LpipsVggOptions"),
        _after_gt_mean("lpips-alex", "LpipsAlexBgrOptions", bgr=True),
        MetricSpec(
            name="retinex",
            summary=(
                "Difference of retinex maps through Reti-Diff's decomposition network; "
                "differentiable"
            ),
            options="distillkit_lowlight.options:RetinexOptions",
            build="distillkit_lowlight.build:retinex_distance",
            license=UNLICENSED,
        ),
    )


@hookimpl
def distillkit_recipes() -> Path:
    return Path(__file__).parent / "recipes"
