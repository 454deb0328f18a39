"""Reading GSAD's published files."""

from __future__ import annotations

from pathlib import Path

from distillkit import load_exactly, read_tensors
from distillkit_lowlight.gsad.unet import UNet
from distillkit_lowlight.schedule import TABLE_NAMES


def load_unet(network: UNet, path: Path) -> None:
    """Fill a network from a published ``*_gen.pth`` file.

    Such a file holds the U-Net under ``denoise_fn.``, and the twelve tables of the training
    schedule. The tables are not read: they follow from the schedule.

    Args:
        network: The U-Net to fill.
        path: The published file, or a flat safetensors copy of it.

    Raises:
        WeightsError: The file is missing, damaged, unsafe, or of another architecture.
    """
    weights = {
        name.removeprefix("denoise_fn."): tensor
        for name, tensor in read_tensors(path).items()
        if name not in TABLE_NAMES
    }
    load_exactly(network, weights, path)
