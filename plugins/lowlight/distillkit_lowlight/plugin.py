"""What this plugin offers to distillkit. Light: networks and torch are imported when something is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from distillkit import (
    DatasetSpec,
    DegradationSpec,
    MetricSpec,
    StudentSpec,
    TeacherSpec,
    WeightFile,
    hookimpl,
)
from distillkit_lowlight.options import (
    DarkOptions,
    GSADOptions,
    GSADStudentOptions,
    LOLOptions,
    LpipsOptions,
    Network,
    NoOptions,
    PriorOptions,
    RetiDiffOptions,
    RetinexOptions,
)

if TYPE_CHECKING:
    from datasets import Dataset

UNLICENSED = "NONE"
"""SPDX: the authors publish no license. Their weights may be used as their authors allow, and are never part of this plugin."""


def _weights(options: Network) -> tuple[WeightFile, ...]:
    return tuple(
        WeightFile(path=path, license=UNLICENSED, source=options.source)
        for path in options.files().values()
    )


def _built_by(name: str) -> Callable[[Any], Any]:
    """The function ``name`` of :mod:`distillkit_lowlight.build`, imported at the first call."""

    def build(options: Any) -> Any:
        from distillkit_lowlight import build as builders

        return getattr(builders, name)(options)

    return build


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    """GSAD (score and output) and Reti-Diff (output; score in the space of its priors)."""
    return (
        TeacherSpec(
            name="gsad",
            summary="GSAD: pixel-space diffusion for low light, 10 or 20 steps",
            config=GSADOptions,
            build=_built_by("gsad_teacher"),
            license=UNLICENSED,
            weights=_weights,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="retidiff",
            summary="Reti-Diff: retinex-guided transformer for low light, one pass",
            config=RetiDiffOptions,
            build=_built_by("retidiff_teacher"),
            license=UNLICENSED,
            weights=_weights,
            capabilities=frozenset({"output"}),
        ),
        TeacherSpec(
            name="retidiff-priors",
            summary="Reti-Diff's score in the space of its priors; needs weights of stage 1, which are not published",
            config=PriorOptions,
            build=_built_by("prior_teacher"),
            license=UNLICENSED,
            weights=_weights,
            capabilities=frozenset({"score", "output"}),
        ),
    )


@hookimpl
def distillkit_students() -> Sequence[StudentSpec]:
    """A student that starts as GSAD."""
    return (
        StudentSpec(
            name="gsad",
            summary="Starts as GSAD; trained through one step of its sampler, or as a one-step model",
            config=GSADStudentOptions,
            build=_built_by("gsad_student"),
            license=UNLICENSED,
            weights=_weights,
        ),
    )


@hookimpl
def distillkit_degradations() -> Sequence[DegradationSpec]:
    """Photographs in too little light."""

    def build(options: DarkOptions) -> Any:
        from distillkit_lowlight.degradation import LowLight

        return LowLight(**options.model_dump())

    return (
        DegradationSpec(
            name="dark",
            summary="Under-exposure, color cast, shot and read noise, JPEG",
            config=DarkOptions,
            build=build,
            license="Apache-2.0",
        ),
    )


@hookimpl
def distillkit_datasets() -> Sequence[DatasetSpec]:
    """LOL v1, v2-real and v2-syn, from folders or parquet files."""

    def spec(name: str, constant: str, summary: str) -> DatasetSpec:
        def build(options: LOLOptions) -> Dataset:
            from distillkit_lowlight import datasets as lol

            return lol.load(
                getattr(lol, constant), options.root, options.split, check=options.check
            )

        return DatasetSpec(name=name, summary=summary, config=LOLOptions, build=build)

    return (
        spec("lol-v1", "LOL_V1", "LOL v1: 485 + 15 pairs of 400 x 600, real cameras"),
        spec(
            "lol-v2-real",
            "LOL_V2_REAL",
            "LOL v2-real: 689 + 100 pairs of 400 x 600, real cameras; contains LOL v1",
        ),
        spec(
            "lol-v2-syn",
            "LOL_V2_SYN",
            "LOL v2-syn: 900 + 100 pairs of 384 x 384, darkened photographs",
        ),
    )


def _after_gt_mean(base: str, *, bgr: bool = False) -> MetricSpec:
    """The engine's metric ``base`` after GT-mean, with the same options and files."""

    def find(options: BaseModel) -> tuple[Any, Any]:
        from distillkit import load_plugins

        spec = load_plugins().find("metrics", f"distillkit/{base}")[1]
        return spec, spec.config(**options.model_dump())

    def build(options: BaseModel) -> Any:
        from distillkit_lowlight.metrics import after_gt_mean

        spec, own = find(options)
        return after_gt_mean(spec.build(own), name, bgr=bgr)

    def weights(options: BaseModel) -> tuple[WeightFile, ...]:
        spec, own = find(options)
        return tuple(spec.weights(own))

    name = f"{base}-gtmean" + ("-bgr" if bgr else "")
    summary = f"{base} after GT-mean" + (", channels in the order of GSAD's code" if bgr else "")
    config = LpipsOptions if base.startswith("lpips") else NoOptions
    return MetricSpec(
        name=name,
        summary=summary,
        config=config,
        build=build,
        license="Apache-2.0",
        weights=weights,
    )


@hookimpl
def distillkit_metrics() -> Sequence[MetricSpec]:
    """The GT-mean protocol before every kind of metric, the uniform-window SSIM, and the distance of retinex maps."""

    def spec(name: str, function: str, summary: str) -> MetricSpec:
        def build(options: NoOptions) -> Any:
            from distillkit_lowlight import metrics

            return getattr(metrics, function)()

        return MetricSpec(
            name=name, summary=summary, config=NoOptions, build=build, license="Apache-2.0"
        )

    return (
        spec("psnr-gtmean", "psnr_gtmean", "PSNR in RGB after GT-mean, dB"),
        spec(
            "ssim-uniform",
            "ssim_uniform_raw",
            "SSIM with a uniform 7x7 window (scikit-image's default)",
        ),
        spec(
            "ssim-uniform-gtmean",
            "ssim_uniform_gtmean",
            "SSIM with a uniform 7x7 window after GT-mean",
        ),
        *(
            _after_gt_mean(base)
            for base in ("ssim", "stlpips-alex", "stlpips-vgg", "lpips-alex", "lpips-vgg")
        ),
        _after_gt_mean("lpips-alex", bgr=True),
        MetricSpec(
            name="retinex",
            summary="Difference of retinex maps through Reti-Diff's decomposition network; differentiable",
            config=RetinexOptions,
            build=_built_by("retinex_distance"),
            license=UNLICENSED,
            weights=_weights,
        ),
    )
