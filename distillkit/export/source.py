"""The student that an export is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.errors import DistillkitError
from distillkit.files.atomic import check_writable
from distillkit.inference.student import (
    Student,
    find_student,
    load_student,
    read_about,
    student_folder,
)

About = Mapping[str, Any]
"""The content of the ``distillkit.json`` in a student's folder."""


class ExportSource(NamedTuple):
    """A student to export, and where it comes from."""

    run: Path
    """The folder of the run, or of an earlier export."""
    folder: Path
    """The student's folder in it."""
    about: dict[str, Any]
    """As :data:`About`; an export changes it."""
    student: Student


def load_export_source(run: Path | str, out: Path) -> ExportSource:
    """Check that the folder of an export can be written, then load the student.

    Args:
        run: A run's folder, an exported one, a plugin's trained student or a Hub repository.
        out: The folder to write.

    Raises:
        DistillkitError: ``out`` exists or cannot be written, or there is no student in ``run``.
    """
    if out.exists():
        raise DistillkitError(f"{out} - exists; name a new folder")
    check_writable(out)
    found = find_student(run)
    folder = student_folder(found)
    return ExportSource(found, folder, read_about(folder), load_student(folder))
