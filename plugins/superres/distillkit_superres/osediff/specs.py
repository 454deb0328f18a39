"""What this folder offers to recipes."""

from __future__ import annotations

from distillkit import StudentSpec, TeacherSpec
from distillkit_superres.osediff.options import (
    OSEDiffConfig,
    OSEDiffTeacherConfig,
    SD21BaseConfig,
)

_OSEDIFF_LICENSE = "Apache-2.0 AND openrail++"


TEACHERS = [
    TeacherSpec(
        name="osediff",
        summary="OSEDiff: one-step 4x super-resolution on Stable Diffusion 2.1-base; as a score, trained at the last time only",
        config=OSEDiffTeacherConfig,
        build="distillkit_superres.osediff.build:build_osediff",
        license=_OSEDIFF_LICENSE,
        capabilities=frozenset({"score", "output"}),
    ),
    TeacherSpec(
        name="sd21-base",
        summary="Stable Diffusion 2.1-base as a score, with or without classifier-free guidance",
        config=SD21BaseConfig,
        build="distillkit_superres.osediff.build:build_sd21_base",
        license="openrail++",
        capabilities=frozenset({"score"}),
    ),
]

STUDENTS = [
    StudentSpec(
        name="osediff",
        summary="OSEDiff with its adapters merged, to be trained further",
        config=OSEDiffConfig,
        build="distillkit_superres.osediff.build:build_osediff",
        license=_OSEDIFF_LICENSE,
    ),
]
