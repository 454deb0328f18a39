"""Checkpoints that spandrel reads, as output teachers for distillkit: the light descriptor."""

from __future__ import annotations

from distillkit import TeacherSpec, hookimpl


@hookimpl
def distillkit_teachers() -> list[TeacherSpec]:
    checkpoint = TeacherSpec(
        name="checkpoint",
        summary="a checkpoint that spandrel reads (ESRGAN, SwinIR, HAT, NAFNet, ...)",
        options="distillkit_spandrel.options:Options",
        build="distillkit_spandrel.teacher:build",
        capabilities=frozenset({"output"}),
    )
    return [checkpoint]
