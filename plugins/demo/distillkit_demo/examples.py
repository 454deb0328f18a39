"""Example photographs: those that scikit-image carries, made small and compressed."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

from distillkit import read_picture

LONGEST_RESULT = 640
"""Pixels of a restored example's longer side: few enough for a quick answer."""


@dataclass(frozen=True)
class Example:
    """A photograph in the public domain."""

    file: str
    alt: str


EXAMPLES = {
    "cat": Example("chelsea.png", "A tabby cat looks into the camera"),
    "coffee": Example("coffee.png", "A cup of espresso on a wooden table"),
    "astronaut": Example("astronaut.png", "An astronaut in an orange suit smiles"),
}


def load_examples(scale: int) -> dict[str, bytes]:
    """Make the example photos for a student: JPEG files by name.

    Args:
        scale: The scale of the student.
    """
    spec = importlib.util.find_spec("skimage")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "data")
    return {name: _shrink(folder / example.file, scale) for name, example in EXAMPLES.items()}


def _shrink(path: Path, scale: int) -> bytes:
    picture = read_picture(path).convert("RGB")
    longest = LONGEST_RESULT // scale
    picture.thumbnail((longest, longest))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()
