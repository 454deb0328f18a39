"""Students of photographs, trained and ready, and what they were trained on besides photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillkit import DatasetSpec, StudentSpec, TeacherSpec, hookimpl

PACKAGE = Path(__file__).parent
LICENSE = "LicenseRef-research-only"


@hookimpl
def distillkit_trained() -> Path:
    return PACKAGE / "trained"


@hookimpl
def distillkit_recipes() -> Path:
    return PACKAGE / "recipes"


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    return [
        TeacherSpec(
            name="photo4x",
            summary="the trained student of that name, at one tradeoff",
            options="distillkit_photo.options:TeacherOptions",
            build="distillkit_photo.teacher:build",
            license=LICENSE,
            capabilities=frozenset({"output"}),
        )
    ]


@hookimpl
def distillkit_students() -> Sequence[StudentSpec]:
    return [
        StudentSpec(
            name="small",
            summary="a Compact of 0.1 M parameters, 4x, trained for PSNR or LPIPS, to start from",
            options="distillkit_photo.options:SmallOptions",
            build="distillkit_photo.student:build",
            license=LICENSE,
            capabilities=frozenset({"output"}),
        )
    ]


@hookimpl
def distillkit_datasets() -> Sequence[DatasetSpec]:
    return [
        DatasetSpec(
            name="graphics",
            summary="drawn shapes, stripes and words with their small versions",
            options="distillkit_photo.options:GraphicsOptions",
            build="distillkit_photo.graphics:graphics",
            license="Apache-2.0",
        )
    ]
