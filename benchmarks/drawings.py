"""Print how far out of range a 4x student is driven by drawn images, whose edges are hard.

``python benchmarks/drawings.py photo/photo4x [CHECKPOINT.safetensors ...] [--images 150]``

A model is a run, a plugin's trained student or a checkpoint that spandrel reads. What is printed is
the largest absolute value that it gives for small drawings of ``photo/graphics`` (120 px), at
tradeoff 0 and 1; black is 0, white is 1.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillkit import ModelInput
from distillkit.inference.student import Student, find_student, load_student
from distillkit_photo.graphics import draw_graphic, shrink
from distillkit_spandrel import student as spandrel_student
from distillkit_spandrel.options import StudentOptions

SIDE = 480


def load(model: str) -> Student:
    """Load a student, or a checkpoint as a student of fixed tradeoff."""
    if Path(model).is_file():
        options = StudentOptions.model_validate({"weights": model})
        return Student(spandrel_student.build(options), None)
    return load_student(find_student(model))


def draw(images: int) -> Iterator[Tensor]:
    """Draw small images, (1, 3, 120, 120) in [-1, 1]."""
    rng = random.Random(0)
    for _ in range(images):
        small = shrink(rng, draw_graphic(rng, SIDE))
        yield torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1


@torch.no_grad()
def find_largest(student: Student, tradeoff: float, images: int) -> float:
    """Return the largest absolute value, in units of white."""
    largest = 0.0
    with student.merged_at([tradeoff]):
        for image in draw(images):
            condition = student.model.condition(ModelInput(image))
            restored = student.model.generate(condition) / 2 + 0.5
            largest = max(largest, float(restored.abs().max()))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--images", type=int, default=150)
    arguments = parser.parse_args()
    for model in arguments.models:
        student = load(model)
        tradeoffs = [0.0] if student.variant is None else [0.0, 1.0]
        for tradeoff in tradeoffs:
            largest = find_largest(student, tradeoff, arguments.images)
            print(f"{largest:8.1f}  {model} at tradeoff {tradeoff:g}")


if __name__ == "__main__":
    main()
