"""What spandrel reads, for distillkit: teachers, students, and what makes checkpoints of others."""

from __future__ import annotations

from pathlib import Path

import typer

from distillkit import StudentSpec, TeacherSpec, hookimpl
from distillkit_spandrel.command import convert_ncnn, join_networks


@hookimpl
def distillkit_teachers() -> list[TeacherSpec]:
    checkpoint = TeacherSpec(
        name="checkpoint",
        summary="a checkpoint that spandrel reads (ESRGAN, SwinIR, HAT, NAFNet, ...)",
        options="distillkit_spandrel.options:TeacherOptions",
        build="distillkit_spandrel.teacher:build",
        capabilities=frozenset({"output"}),
    )
    return [checkpoint]


@hookimpl
def distillkit_students() -> list[StudentSpec]:
    student = StudentSpec(
        name="student",
        summary="a checkpoint, or a network of any of spandrel's architectures, to be trained",
        options="distillkit_spandrel.options:StudentOptions",
        build="distillkit_spandrel.student:build",
        capabilities=frozenset({"output"}),
    )
    return [student]


@hookimpl
def distillkit_recipes() -> Path:
    return Path(__file__).parent / "recipes"


@hookimpl
def distillkit_commands(app: typer.Typer) -> None:
    app.command("convert-ncnn")(convert_ncnn)
    app.command("join-networks")(join_networks)
