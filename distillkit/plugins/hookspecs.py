"""The hooks that a plugin may implement.

Those of the first kind return descriptors and do no work. The observers are called during a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from distillkit.plugins.descriptors import (
    DatasetSpec,
    DegradationSpec,
    MaskSpec,
    MetricSpec,
    StudentSpec,
    TeacherSpec,
)

if TYPE_CHECKING:
    import typer

API_VERSION = 1
"""The version of the hooks and of the public names of ``distillkit``.

It grows when a plugin that works might stop working. The plugin's module with the hooks may state
the version that it was written for: ``DISTILLKIT_API = 1``. Another one is refused.
"""

hookspec = pluggy.HookspecMarker("distillkit")
hookimpl = pluggy.HookimplMarker("distillkit")


@hookspec
def distillkit_teachers() -> Sequence[TeacherSpec]:
    """Return the teachers that this plugin offers."""
    return ()


@hookspec
def distillkit_students() -> Sequence[StudentSpec]:
    """Return the students that this plugin offers."""
    return ()


@hookspec
def distillkit_degradations() -> Sequence[DegradationSpec]:
    """Return the degradations that this plugin offers."""
    return ()


@hookspec
def distillkit_datasets() -> Sequence[DatasetSpec]:
    """Return the datasets that this plugin offers."""
    return ()


@hookspec
def distillkit_metrics() -> Sequence[MetricSpec]:
    """Return the metrics that this plugin offers."""
    return ()


@hookspec
def distillkit_masks() -> Sequence[MaskSpec]:
    """Return what this plugin finds in images, to be kept faithful."""
    return ()


@hookspec
def distillkit_recipes() -> Path:
    """Return the folder of this plugin's recipes, which ships in its package.

    ``quickstart.toml`` in it is the recipe ``"<plugin>/quickstart"``, and ``tiny/quickstart.toml``
    is ``"<plugin>/tiny/quickstart"``. The comment that a file begins with is its summary.
    """
    raise NotImplementedError


@hookspec
def distillkit_trained() -> Path:
    """Return the folder of this plugin's trained students, which ships in its package.

    Each is a folder as ``distillkit export`` writes it: ``photo4x`` in it is the student
    ``"<plugin>/photo4x"``, which restores without a run. Where no other plugin has one, the first
    by name is what ``distillkit restore`` takes.
    """
    raise NotImplementedError


@hookspec
def distillkit_commands(app: typer.Typer) -> None:
    """Add commands to ``distillkit``: ``app.command("name")(function)``.

    It is called whenever the help is shown, so the functions import heavy code inside.
    """


@hookspec
def distillkit_run_started(run_dir: Path, recipe: Any) -> None:
    """Observe that a run is about to do its first step; ``recipe`` is the resolved recipe."""


@hookspec
def distillkit_step(stage: str, step: int, terms: dict[str, float]) -> None:
    """Observe the loss terms that were just logged, at global step ``step``."""


@hookspec
def distillkit_checkpoint(path: Path, step: int) -> None:
    """Observe that a checkpoint is safely on disk."""


@hookspec
def distillkit_run_finished(run_dir: Path) -> None:
    """Observe that a run ended in success, its report written."""
