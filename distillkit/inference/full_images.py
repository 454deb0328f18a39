"""Restore full images in memory as tensors, large ones in tiles."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distillkit.diffusion.model import ModelInput
from distillkit.diffusion.padding import restore_padded
from distillkit.inference.student import Student
from distillkit.inference.tiling import Box, default_tile, plan_tiles, restored_bands


def restore_full_image(
    student: Student,
    inputs: ModelInput,
    tradeoff: float | None,
    generator: torch.Generator,
    *,
    device: torch.device | str,
    tile: int | None = None,
) -> Tensor:
    """Restore an image of any size, in the tiles of a :class:`~distillkit.Restorer`.

    An image that is no larger than a tile is restored at once. The model needs the memory of one
    tile, whatever the size of the image.

    Args:
        student: What restores, on ``device``.
        inputs: One image (1, 3, h, w) in [-1, 1].
        tradeoff: The tradeoff of the student; None: its fixed one.
        generator: Of the student's draws; tiles draw from it one after the other.
        device: Where the model runs.
        tile: Side in input pixels; default as a restorer's.

    Returns:
        The image (1, 3, scale h, scale w) in [-1, 1], on the CPU.
    """
    model = student.model
    tile = tile or default_tile(model.scale, model.size_multiple)
    height, width = inputs.lq.shape[-2:]
    grid = plan_tiles(
        height, width, tile=tile, overlap=tile // 8, size_multiple=model.size_multiple
    )

    def restore_on_device(padded: ModelInput) -> Tensor:
        return student.restore(padded, tradeoff, generator)

    def restore_box(box: Box) -> Tensor:
        top, bottom, left, right = box
        lq = inputs.lq[..., top:bottom, left:right].to(device)
        box_inputs = replace(inputs, lq=lq)
        restored = restore_padded(restore_on_device, box_inputs, model.scale, model.size_multiple)
        return restored.cpu()

    # Merged once for all tiles.
    with student.merged_at([student.resolve(tradeoff)]):
        bands = [band for _, band in restored_bands(restore_box, grid, model.scale)]
    return torch.cat(bands, dim=2)
