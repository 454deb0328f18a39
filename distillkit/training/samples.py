"""Sample grids: what the student makes of a few held-out images while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.captions import captioned
from distillkit.files.images import write_image
from distillkit.inference.student import Student
from distillkit.inference.tiling import restore_padded


def sampler(
    folder: Path,
    student: Student,
    items: list[EvaluationPair],
    device: torch.device,
    *,
    writes: bool = True,
) -> Callable[[str, int], None] | None:
    """A function of stage and global step that writes ``step-<step>.png`` into ``folder``; None without ``items``.

    One row an image: the input, the student (at tradeoff 0, 0.5 and 1 where it has a knob), the ground truth.

    Args:
        writes: whether this process may touch the folder; without, it only takes part.
    """
    if not items:
        return None

    def sample(stage: str, step: int) -> None:
        rows = [_row(student, item, device) for item in items]
        width = max(row.shape[-1] for row in rows)
        grid = torch.cat(
            [F.pad(row, (0, width - row.shape[-1]), value=1.0) for row in rows], dim=-2
        )
        if not writes:
            return
        folder.mkdir(exist_ok=True)
        write_image(grid[0], folder / f"step-{step:08d}.png")

    return sample


def _row(student: Student, item: EvaluationPair, device: torch.device) -> Tensor:
    name, lq, gt, caption = item
    images = [F.interpolate(lq, size=gt.shape[-2:], mode="nearest")]
    for tradeoff in (0.0, 0.5, 1.0) if student.variant else (0.0,):
        draws = keyed_generator("sample", name)

        def restore(
            x: Tensor, tradeoff: float = tradeoff, draws: torch.Generator = draws
        ) -> Tensor:
            return student.restore(x, tradeoff, draws)

        with captioned([caption]):
            images.append(
                restore_padded(
                    restore, lq.to(device), student.model.scale, student.model.size_multiple
                ).cpu()
            )
    return torch.cat([*images, gt], dim=-1)
