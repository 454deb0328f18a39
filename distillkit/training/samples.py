"""Sample grids: what the student makes of a few held-out images while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import ModelInput
from distillkit.files.images import write_image
from distillkit.inference.full_images import restore_full_image
from distillkit.inference.student import Student

TRADEOFFS = (0.0, 0.5, 1.0)
"""Shown of a student whose tradeoff can be set."""


def make_sampler(
    folder: Path,
    student: Student,
    pairs: list[EvaluationPair],
    device: torch.device,
    *,
    writes: bool = True,
) -> Callable[[str, int], None] | None:
    """Make a function of stage and global step that writes ``step-<step>.png``.

    Each row shows one image: the input, the student (at tradeoffs 0, 0.5 and 1, if it can be set),
    the ground truth.

    Args:
        folder: The folder of the grids.
        student: As it is trained.
        pairs: Pairs of held-out images; without any there is no function.
        device: The device of the student.
        writes: Whether this process writes to the folder; without, it only takes part.
    """
    if not pairs:
        return None

    def sample(stage: str, step: int) -> None:
        rows = [_make_row(student, pair, device) for pair in pairs]
        width = max(row.shape[-1] for row in rows)
        padded = [F.pad(row, (0, width - row.shape[-1]), value=1.0) for row in rows]
        if not writes:
            return
        folder.mkdir(exist_ok=True)
        grid = torch.cat(padded, dim=-2)
        write_image(grid[0], folder / f"step-{step:08d}.png")

    return sample


def _make_row(student: Student, pair: EvaluationPair, device: torch.device) -> Tensor:
    images = [F.interpolate(pair.lq, size=pair.gt.shape[-2:], mode="nearest")]
    tradeoffs = TRADEOFFS if student.variant else (None,)
    for tradeoff in tradeoffs:
        images.append(_restore(student, pair, tradeoff, device))
    return torch.cat([*images, pair.gt], dim=-1)


def _restore(
    student: Student, pair: EvaluationPair, tradeoff: float | None, device: torch.device
) -> Tensor:
    # the same draws at every tradeoff and every step
    generator = keyed_generator("sample", pair.name)
    inputs = ModelInput(pair.lq, [pair.caption])
    return restore_full_image(student, inputs, tradeoff, generator, device=device)
