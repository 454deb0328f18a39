"""What the plugin offers, as light descriptors: torch is imported only when one is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from distillkit import (
    DatasetSpec,
    DegradationSpec,
    Options,
    StudentSpec,
    TeacherSpec,
    WeightFile,
    hookimpl,
)

LICENSE = "Apache-2.0"
SHIPPED = Path(__file__).parent / "weights"

Steps = Annotated[int, Field(ge=1, le=100, description="network evaluations per restoration")]
Temperature = Annotated[
    float, Field(ge=0, le=1, description="starting noise, as a share of the process's own")
]
Weights = Annotated[WeightFile, Field(description="weights of the network")]


def _shipped(name: str) -> WeightFile:
    return WeightFile(path=SHIPPED / f"{name}.safetensors", license=LICENSE)


class FaithfulOptions(Options):
    steps: Steps = 4
    temperature: Temperature = 0.25
    weights: Weights = _shipped("faithful")


class FaithfulLowLightOptions(FaithfulOptions):
    steps: Steps = 1
    temperature: Temperature = 0
    weights: Weights = _shipped("faithful-lle")


class RealisticOptions(Options):
    weights: Weights = _shipped("realistic")


class RealisticLowLightOptions(RealisticOptions):
    weights: Weights = _shipped("realistic-lle")


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if low > high:
        raise ValueError(f"the range runs downwards, from {low:g} to {high:g}")
    return bounds


Ordered = AfterValidator(_check_order)
Blur = Annotated[float, Field(ge=0.1, le=8)]
Noise = Annotated[float, Field(ge=0, le=255)]
Quality = Annotated[float, Field(ge=1, le=100)]


class CameraOptions(Options):
    blur: Annotated[
        tuple[Blur, Blur],
        Ordered,
        Field(description="standard deviation, clean pixels"),
    ] = (0.3, 2.0)
    noise: Annotated[
        tuple[Noise, Noise],
        Ordered,
        Field(description="standard deviation, of 255 gray levels"),
    ] = (0, 8)
    quality: Annotated[
        tuple[Quality, Quality],
        Ordered,
        Field(description="JPEG quality"),
    ] = (50, 95)


class PhotosOptions(Options):
    split: Literal["train", "test"] = Field("train", description="the splits share no scene")


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    return [
        TeacherSpec(
            name="faithful",
            summary="faithful 4x super-resolution: residual shifting, 4 steps",
            config=FaithfulOptions,
            build="distillkit_mini.build:faithful",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="faithful-dct",
            summary="the same weights in another latent space, frequencies of 4x4 blocks",
            config=FaithfulOptions,
            build="distillkit_mini.build:faithful_dct",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic",
            summary="realistic 4x super-resolution: one step, perceptual and adversarial losses",
            config=RealisticOptions,
            build="distillkit_mini.build:realistic",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="faithful-lle",
            summary="faithful low-light enhancement: residual shifting, one step",
            config=FaithfulLowLightOptions,
            build="distillkit_mini.build:faithful_lle",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic-lle",
            summary="realistic low-light enhancement: one step, perceptual and adversarial losses",
            config=RealisticLowLightOptions,
            build="distillkit_mini.build:realistic_lle",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
    ]


@hookimpl
def distillkit_students() -> Sequence[StudentSpec]:
    return [
        StudentSpec(
            name="student",
            summary="one-step 4x super-resolution: the realistic network, its own weights",
            config=RealisticOptions,
            build="distillkit_mini.build:realistic",
            license=LICENSE,
        ),
        StudentSpec(
            name="student-lle",
            summary="one-step low-light enhancement: the realistic network, its own weights",
            config=RealisticLowLightOptions,
            build="distillkit_mini.build:realistic_lle",
            license=LICENSE,
        ),
    ]


@hookimpl
def distillkit_degradations() -> Sequence[DegradationSpec]:
    return [
        DegradationSpec(
            name="camera",
            summary="blur, 4x down, noise, JPEG; each image draws its own",
            config=CameraOptions,
            build="distillkit_mini.build:camera",
            license=LICENSE,
        )
    ]


@hookimpl
def distillkit_datasets() -> Sequence[DatasetSpec]:
    return [
        DatasetSpec(
            name="photos",
            summary="real photographs that scikit-image, scikit-learn and matplotlib carry",
            config=PhotosOptions,
            build="distillkit_mini.build:photos",
            license="CC0-1.0 AND CC-BY-2.0",
        )
    ]
