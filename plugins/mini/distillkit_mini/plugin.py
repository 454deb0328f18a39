"""What the plugin offers, as light descriptors: torch and the networks are imported only when one is built."""

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


def _shipped(name: str) -> WeightFile:
    return WeightFile(path=SHIPPED / f"{name}.safetensors", license=LICENSE)


class FaithfulOptions(Options):
    steps: Annotated[int, Field(ge=1, le=100)] = Field(
        4, description="network passes of one restoration"
    )
    temperature: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="starting noise, as a share of the process's own"
    )
    weights: WeightFile = Field(_shipped("faithful"), description="weights of the network")


class FaithfulLowLightOptions(FaithfulOptions):
    steps: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="network passes of one restoration"
    )
    temperature: Annotated[float, Field(ge=0, le=1)] = Field(
        0, description="starting noise, as a share of the process's own"
    )
    weights: WeightFile = Field(_shipped("faithful-lle"), description="weights of the network")


class RealisticOptions(Options):
    weights: WeightFile = Field(
        _shipped("realistic"),
        description="weights of the network; a student starts from them",
    )


class RealisticLowLightOptions(RealisticOptions):
    weights: WeightFile = Field(
        _shipped("realistic-lle"),
        description="weights of the network; a student starts from them",
    )


def _upwards(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range runs downwards, from {ends[0]:g} to {ends[1]:g}")
    return ends


Blur = Annotated[float, Field(ge=0.1, le=8)]
Noise = Annotated[float, Field(ge=0, le=255)]
Quality = Annotated[float, Field(ge=1, le=100)]


class CameraOptions(Options):
    blur: Annotated[tuple[Blur, Blur], AfterValidator(_upwards)] = Field(
        (0.3, 2.0), description="standard deviation, clean pixels"
    )
    noise: Annotated[tuple[Noise, Noise], AfterValidator(_upwards)] = Field(
        (0, 8), description="standard deviation, of 255 gray levels"
    )
    quality: Annotated[tuple[Quality, Quality], AfterValidator(_upwards)] = Field(
        (50, 95), description="JPEG quality"
    )


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
            summary="the same weights in another latent space, the frequencies of 4x4 blocks",
            config=FaithfulOptions,
            build="distillkit_mini.build:faithful_dct",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic",
            summary="realistic 4x super-resolution: one step, trained with perceptual and adversarial losses",
            config=RealisticOptions,
            build="distillkit_mini.build:realistic",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="faithful-lle",
            summary="faithful low-light enhancement: residual shifting from the brightened input, one step",
            config=FaithfulLowLightOptions,
            build="distillkit_mini.build:faithful_lle",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic-lle",
            summary="realistic low-light enhancement: one step, trained with perceptual and adversarial losses",
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
            summary="one-step 4x super-resolution, the realistic teacher's network with weights of its own",
            config=RealisticOptions,
            build="distillkit_mini.build:realistic",
            license=LICENSE,
        ),
        StudentSpec(
            name="student-lle",
            summary="one-step low-light enhancement, the realistic teacher's network with weights of its own",
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
            summary="blur, 4x down, noise, JPEG, each image with draws of its own",
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
