"""Reading GSAD's published files."""

from __future__ import annotations

from pathlib import Path

from distillkit import load_exactly
from distillkit_lowlight.checkpoint import read_tensors
from distillkit_lowlight.gsad.unet import UNet
from distillkit_lowlight.schedule import TABLES


def load_unet(network: UNet, path: Path) -> None:
    """Fill ``network`` from a published ``*_gen.pth`` file, or a flat safetensors copy of it.

    Such a file holds the U-Net under ``denoise_fn.`` and twelve tables of the training schedule, which are not read: they follow
    from the schedule.

    Raises:
        WeightsError: missing, damaged, unsafe, or of another architecture.
    """
    state = {name: value for name, value in read_tensors(path).items() if name not in TABLES}
    load_exactly(
        network, {name.removeprefix("denoise_fn."): value for name, value in state.items()}, path
    )
