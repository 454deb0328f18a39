"""Super-resolution for distillkit: what this plugin offers, as light descriptors."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit import DegradationSpec, StudentSpec, TeacherSpec, hookimpl
from distillkit_superres.degradation import specs as degradation
from distillkit_superres.osediff import specs as osediff
from distillkit_superres.resshift import specs as resshift


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    return [*resshift.TEACHERS, *osediff.TEACHERS]


@hookimpl
def distillkit_students() -> Sequence[StudentSpec]:
    return osediff.STUDENTS


@hookimpl
def distillkit_degradations() -> Sequence[DegradationSpec]:
    return degradation.DEGRADATIONS
