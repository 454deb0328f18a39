"""What every export begins with."""

from __future__ import annotations

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


class ExportedStudent(NamedTuple):
    """A student to export."""

    run: Path
    """The folder of the run, or of an earlier export."""
    folder: Path
    """The folder of the student in it."""
    about: dict[str, Any]
    """What it says about the student."""
    student: Student


def begin_export(run: Path | str, out: Path) -> ExportedStudent:
    """Load a student, after a check that the folder of its export can be written.

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
    return ExportedStudent(found, folder, read_about(folder), load_student(folder))
