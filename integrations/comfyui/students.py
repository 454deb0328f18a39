"""The students that nodes offer, and how they are called."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from distillkit import Restorer

# This pack lies in custom_nodes, beside which there is models. Not resolved: it may be a link.
STUDENTS = Path(__file__).absolute().parents[2] / "models" / "distillkit"
NO_STUDENT = "no student found"
"""Offered in place of the first student."""


class StudentError(Exception):
    """A student that cannot be loaded; the text says what to do."""


def list_students() -> list[str]:
    """List the folders that hold a student, by their names in ``models/distillkit``."""
    if not STUDENTS.is_dir():
        return [NO_STUDENT]
    names = [folder.name for folder in STUDENTS.iterdir() if _about(folder) is not None]
    return sorted(names) or [NO_STUDENT]


def explain_absence(name: str) -> str | None:
    """Say why a student cannot be loaded; None: it is there."""
    if name == NO_STUDENT:
        return (
            f"There is no student in {STUDENTS}. Put a folder there that "
            "`distillkit export RUN -o FOLDER` wrote, or a run's folder, and reload the page."
        )
    if name not in list_students():
        known = ", ".join(list_students())
        return f'There is no student "{name}" in {STUDENTS}. There is: {known}.'
    return None


def load_restorer(name: str) -> Restorer:
    """Load a student, unless it is the last one that was loaded.

    Raises:
        StudentError: it is not there, or distillkit is not.
        distillkit.DistillkitError: it cannot be loaded.
    """
    absence = explain_absence(name)
    about = _about(STUDENTS / name)
    if absence is not None or about is None:
        raise StudentError(absence)
    return _load(STUDENTS / name, about.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(folder: Path, _written: int) -> Restorer:
    """Load a student; one that was written again is another one."""
    try:
        from distillkit import Restorer
    except ImportError as e:
        raise StudentError(
            f"distillkit cannot be imported ({e}). Install it for the Python that runs this: "
            "python -m pip install distillkit"
        ) from e
    return Restorer.from_pretrained(folder)


def _about(folder: Path) -> Path | None:
    """Find the description of the student in a folder: of a run, an export or the student alone."""
    for file in (folder / "student" / "distillkit.json", folder / "distillkit.json"):
        if file.is_file():
            return file
    return None


class UpscaleModel:
    """A student at one tradeoff, as nodes call a network that upscales."""

    def __init__(self, restorer: Restorer, tradeoff: float) -> None:
        restorer.check_tradeoff(tradeoff)
        self.restorer = restorer
        self.tradeoff = tradeoff

    @property
    def scale(self) -> int:
        return self.restorer.scale

    @property
    def model(self) -> Any:
        """The network, whose size hosts may want to know."""
        return self.restorer.student.model

    def to(self, device: Any) -> Self:
        """Do nothing: the student stays where it was loaded, and images come and go."""
        return self

    def __call__(self, image: Tensor) -> Tensor:
        """Restore images (B, C, h, w) in [0, 1], to (B, C, scale h, scale w)."""
        return self.restorer(image.clamp(0, 1), self.tradeoff)


def restore(restorer: Restorer, image: Tensor, tradeoff: float, mask: Tensor | None) -> Tensor:
    """Restore images with a tradeoff, and toward faithful where a mask says so.

    Args:
        restorer: the student.
        image: (B, h, w, C) in [0, 1].
        tradeoff: 0 is most realistic, 1 most faithful.
        mask: (B, h, w) in [0, 1], or one for all images: 0 keeps the tradeoff, 1 is most faithful.

    Returns:
        (B, scale h, scale w, C) in [0, 1].

    Raises:
        StudentError: not as many masks as images.
        distillkit.DistillkitError: a tradeoff or a mask that the student cannot restore by.
    """
    images = image.movedim(3, 1).clamp(0, 1)
    if mask is None:
        tradeoffs: list[Any] = [tradeoff] * len(images)
    else:
        # Checked here: a mask could bring a sum with a wrong tradeoff back into [0, 1].
        restorer.check_tradeoff(tradeoff)
        tradeoffs = [_combine(tradeoff, of_image) for of_image in _one_each(mask, len(images))]
    restored = []
    for of_image, by in zip(images, tradeoffs, strict=True):
        restored.append(restorer(of_image, by))
    return torch.stack(restored).movedim(1, 3)


def _one_each(mask: Tensor, count: int) -> Tensor:
    if len(mask) not in (1, count):
        raise StudentError(
            f"There are {count} images and {len(mask)} masks. Give one mask, or one for each."
        )
    return mask.expand(count, -1, -1)


def _combine(tradeoff: float, mask: Tensor) -> Tensor | float:
    """Make a map of tradeoffs; a mask that is the same everywhere may have any size."""
    tradeoffs = tradeoff + (1 - tradeoff) * mask.clamp(0, 1)
    lowest = float(tradeoffs.min())
    return lowest if lowest == float(tradeoffs.max()) else tradeoffs
