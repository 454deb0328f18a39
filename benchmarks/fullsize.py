"""Measure the paper's recipe at its true size, with random weights, against the plain algorithm.

    python benchmarks/fullsize.py FOLDER [options of ratios.py]

Writes into FOLDER, unless they are there: weight files of the shapes of Stable Diffusion 2.1,
OSEDiff and ResShift with random values (6 GB), a few random images, and ``fullsize.toml``, which is
``superres/ctsr_sr4x`` reading these (with ST-LPIPS-VGG in place of LPIPS-VGG: the same trunk).
Then runs ``benchmarks/ratios.py`` on it, with all further options, for instance

    python benchmarks/fullsize.py /tmp/full --set data.crop_size=256 --steps 1 --no-breakdown \\
        --engine 'training.mixed_precision="bf16"; training.recast_weights=true'

``--only-write`` stops before that: ``distillkit advise FOLDER/fullsize.toml`` and ``distillkit
bench`` work on it, too. On a CPU a step of 256 pixels takes minutes and the baseline some 15 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from distillkit_superres.osediff.architecture import (
    make_empty,
    make_text,
    make_unet,
    make_vae,
)
from distillkit_superres.osediff.lora import Shapes, unet_layout, vae_layout
from distillkit_superres.osediff.sizes import ARCHITECTURES
from distillkit_superres.resshift.autoencoder import VQConfig, VQModel
from distillkit_superres.resshift.unet import SwinUNet, SwinUNetConfig

RANK = 4
OVERLAY = """extends = ["superres/ctsr_sr4x"]
name = "fullsize"

[student]
folder = "base"
checkpoint = "osediff.pkl"

[teachers.realness]
folder = "base"
checkpoint = "osediff.pkl"

[teachers.fidelity]
weights = "resshift.pth"
autoencoder = "autoencoder.pth"

[data]
eval = []

[[data.train]]
imagefolder = "images"

[stage1.reconstruction]
perceptual_metric = "distillkit/stlpips-vgg"

[evaluation]
metrics = ["psnr"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only-write", action="store_true")
    arguments, others = parser.parse_known_args()
    recipe = write(arguments.folder)
    if not arguments.only_write:
        ratios = Path(__file__).with_name("ratios.py")
        command = [sys.executable, str(ratios), str(recipe), *others]
        sys.exit(subprocess.run(command, check=False).returncode)


def write(folder: Path) -> Path:
    """Write everything that ``fullsize.toml`` needs; files that exist are left alone."""
    shapes = ARCHITECTURES["full"]
    weights: dict[str, Callable[[], nn.Module]] = {
        "base/unet/diffusion_pytorch_model.safetensors": partial(make_unet, shapes.unet),
        "base/vae/diffusion_pytorch_model.safetensors": partial(make_vae, shapes.vae),
        "base/text_encoder/model.safetensors": partial(make_text, shapes.text),
        "resshift.pth": partial(SwinUNet, SwinUNetConfig()),
        "autoencoder.pth": partial(VQModel, VQConfig()),
    }
    for name, make in weights.items():
        _write_once(folder / name, partial(_write_weights, make))
    _write_once(folder / "osediff.pkl", _write_adapters)
    for i in range(8):
        _write_once(folder / f"images/{i}.png", _write_picture)
    recipe = folder / "fullsize.toml"
    _write_once(recipe, _write_recipe)
    return recipe


def _write_once(path: Path, write_to: Callable[[Path], None]) -> None:
    """Write a file unless it exists, so that an interrupted write leaves none of that name."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    write_to(temporary)
    temporary.rename(path)


def _write_recipe(path: Path) -> None:
    path.write_text(OVERLAY)


def _write_weights(make: Callable[[], nn.Module], path: Path) -> None:
    torch.manual_seed(0)
    tensors = {name: tensor.contiguous() for name, tensor in make().state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def _write_adapters(path: Path) -> None:
    """Write random adapters in the layout of OSEDiff's checkpoint."""
    shapes = ARCHITECTURES["full"]
    unet = make_empty(make_unet, shapes.unet).state_dict()
    vae = make_empty(make_vae, shapes.vae).state_dict()
    generator = torch.Generator().manual_seed(0)
    checkpoint = {
        "state_dict_unet": _draw_tensors(unet_layout(unet, RANK), generator),
        "state_dict_vae": _draw_tensors(vae_layout(vae, RANK), generator),
        "rank_unet": RANK,
        "rank_vae": RANK,
    }
    torch.save(checkpoint, path)


def _draw_tensors(layout: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in layout.items()}


def _write_picture(path: Path) -> None:
    seed = list(path.name.encode())
    small = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((768, 768), Image.Resampling.BICUBIC)
    image.save(path, format="PNG")


if __name__ == "__main__":
    main()
