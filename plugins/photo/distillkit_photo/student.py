"""A small network to start from."""

from __future__ import annotations

from distillkit_photo.options import SmallOptions
from distillkit_spandrel import student
from distillkit_spandrel.options import StudentOptions


def build(options: SmallOptions) -> student.Student:
    """Build the student that a recipe names."""
    (file,) = options.weight_files()
    return student.build(StudentOptions.model_validate({"weights": file}))
