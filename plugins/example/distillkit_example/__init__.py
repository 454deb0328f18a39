"""The smallest plugin: a sharpening teacher, and a degradation with grain.

This file says what there is, ``options.py`` what a recipe may set, ``models.py`` does the work.
"""

from __future__ import annotations

from distillkit import DegradationSpec, TeacherSpec, hookimpl


@hookimpl
def distillkit_teachers() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            name="sharpen",
            summary="bicubic enlargement and an unsharp mask",
            options="distillkit_example.options:SharpenOptions",
            build="distillkit_example.models:Sharpen",
            capabilities=frozenset({"output"}),
        )
    ]


@hookimpl
def distillkit_degradations() -> list[DegradationSpec]:
    return [
        DegradationSpec(
            name="grain",
            summary="area averaging and grain",
            options="distillkit_example.options:GrainOptions",
            build="distillkit_example.models:Grain",
        )
    ]
