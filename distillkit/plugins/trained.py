"""The trained students that plugins ship in their packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillkit.plugins.manager import Plugin, Plugins

STUDENT = "student"
"""The folder in each of them that holds the student's files."""


@dataclass(frozen=True)
class TrainedStudent:
    """A student of a plugin, which restores without a run."""

    name: str
    """``"<plugin>/<folder>"``."""
    path: Path
    """As ``distillkit export`` writes it."""


def trained_of(plugin: Plugin) -> list[TrainedStudent]:
    """List the trained students of a plugin by name."""
    if plugin.trained is None:
        return []
    folders = [path for path in sorted(plugin.trained.iterdir()) if (path / STUDENT).is_dir()]
    return [TrainedStudent(f"{plugin.name}/{path.name}", path) for path in folders]


def list_trained(plugins: Plugins) -> list[TrainedStudent]:
    """List the trained students of all plugins."""
    return [student for plugin in plugins for student in trained_of(plugin)]


def find_trained(name: str, plugins: Plugins) -> TrainedStudent | None:
    """Return the trained student of a plugin that has a name; None where there is none."""
    for student in list_trained(plugins):
        if student.name == name:
            return student
    return None
