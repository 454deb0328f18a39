"""What the plugin offers, as light descriptors: torch is imported only when one is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillkit import (
    DatasetSpec,
    DegradationSpec,
    StudentSpec,
    TeacherSpec,
    hookimpl,
)

LICENSE = "Apache-2.0"


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    return [
        TeacherSpec(
            name="faithful",
            summary="faithful 4x super-resolution: residual shifting, 4 steps",
            options="distillkit_mini.options:FaithfulOptions",
            build="distillkit_mini.build:faithful",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="faithful-dct",
            summary="the same weights in another latent space, frequencies of 4x4 blocks",
            options="distillkit_mini.options:FaithfulOptions",
            build="distillkit_mini.build:faithful_dct",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic",
            summary="realistic 4x super-resolution: one step, perceptual and adversarial losses",
            options="distillkit_mini.options:RealisticOptions",
            build="distillkit_mini.build:realistic",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="faithful-lle",
            summary="faithful low-light enhancement: residual shifting, one step",
            options="distillkit_mini.options:FaithfulLowLightOptions",
            build="distillkit_mini.build:faithful_lle",
            license=LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic-lle",
            summary="realistic low-light enhancement: one step, perceptual and adversarial losses",
            options="distillkit_mini.options:RealisticLowLightOptions",
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
            options="distillkit_mini.options:RealisticOptions",
            build="distillkit_mini.build:realistic",
            license=LICENSE,
        ),
        StudentSpec(
            name="student-lle",
            summary="one-step low-light enhancement: the realistic network, its own weights",
            options="distillkit_mini.options:RealisticLowLightOptions",
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
            options="distillkit_mini.options:CameraOptions",
            build="distillkit_mini.build:camera",
            license=LICENSE,
        )
    ]


@hookimpl
def distillkit_datasets() -> Sequence[DatasetSpec]:
    return [
        DatasetSpec(
            name="photos",
            summary="real photographs: 39 to train on and 27 others to be judged on",
            options="distillkit_mini.options:PhotosOptions",
            build="distillkit_mini.build:photos",
            license="CC0-1.0 AND CC-BY-2.0",
        )
    ]


@hookimpl
def distillkit_recipes() -> Path:
    return Path(__file__).parent / "recipes"
