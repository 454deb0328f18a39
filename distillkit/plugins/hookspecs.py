"""The hooks a plugin may implement. Each returns descriptors; none does work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from distillkit.plugins.descriptors import (
    DatasetSpec,
    DegradationSpec,
    MetricSpec,
    StudentSpec,
    TeacherSpec,
)

if TYPE_CHECKING:
    import typer

hookspec = pluggy.HookspecMarker("distillkit")
hookimpl = pluggy.HookimplMarker("distillkit")


@hookspec
def distillkit_teachers() -> Sequence[TeacherSpec]:
    """Teachers this plugin offers."""
    return ()


@hookspec
def distillkit_students() -> Sequence[StudentSpec]:
    """Students this plugin offers."""
    return ()


@hookspec
def distillkit_degradations() -> Sequence[DegradationSpec]:
    """Degradations this plugin offers."""
    return ()


@hookspec
def distillkit_datasets() -> Sequence[DatasetSpec]:
    """Datasets this plugin offers."""
    return ()


@hookspec
def distillkit_metrics() -> Sequence[MetricSpec]:
    """Metrics this plugin offers."""
    return ()


@hookspec
def distillkit_recipes() -> Sequence[Path]:
    """Recipe files this plugin ships, for ``distillkit plugins`` to list."""
    return ()


@hookspec
def distillkit_commands(app: typer.Typer) -> None:
    """Add commands to the command line (``app.command(...)``)."""


@hookspec
def distillkit_run_started(run_dir: Path, recipe: Any) -> None:
    """A run is about to do its first step; ``recipe`` is the resolved recipe."""


@hookspec
def distillkit_step(stage: str, step: int, terms: dict[str, float]) -> None:
    """Loss terms were just logged, at global step ``step``."""


@hookspec
def distillkit_checkpoint(path: Path, step: int) -> None:
    """A checkpoint is safely on disk."""


@hookspec
def distillkit_run_finished(run_dir: Path) -> None:
    """A run ended in success, its report written."""
