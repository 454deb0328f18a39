"""What this folder offers to recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import StudentSpec, TeacherSpec, WeightFile
from distillkit_superres.osediff.settings import (
    BaseModelConfig,
    OSEDiffConfig,
    OSEDiffTeacherConfig,
    SD21BaseConfig,
)

if TYPE_CHECKING:
    from distillkit_superres.osediff.model import OSEDiff, StableDiffusion

_OSEDIFF_LICENSE = "Apache-2.0 AND openrail++"


def _osediff(config: OSEDiffConfig) -> OSEDiff:
    from distillkit_superres.osediff.build import build_osediff

    return build_osediff(config)


def _sd21_base(config: SD21BaseConfig) -> StableDiffusion:
    from distillkit_superres.osediff.build import build_sd21_base

    return build_sd21_base(config)


def _files(config: BaseModelConfig) -> tuple[WeightFile, ...]:
    return config.files()


TEACHERS = [
    TeacherSpec(
        name="osediff",
        summary="OSEDiff: one-step 4x super-resolution on Stable Diffusion 2.1-base; as a score, trained at the last time only",
        config=OSEDiffTeacherConfig,
        build=_osediff,
        weights=_files,
        license=_OSEDIFF_LICENSE,
        capabilities=frozenset({"score", "output"}),
    ),
    TeacherSpec(
        name="sd21-base",
        summary="Stable Diffusion 2.1-base as a score, with or without classifier-free guidance",
        config=SD21BaseConfig,
        build=_sd21_base,
        weights=_files,
        license="openrail++",
        capabilities=frozenset({"score"}),
    ),
]

STUDENTS = [
    StudentSpec(
        name="osediff",
        summary="OSEDiff with its adapters merged, to be trained further",
        config=OSEDiffConfig,
        build=_osediff,
        weights=_files,
        license=_OSEDIFF_LICENSE,
    ),
]
