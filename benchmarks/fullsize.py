"""The paper's recipe at its true size with random weights, against the plain algorithm: ``python benchmarks/fullsize.py FOLDER``.

Writes into FOLDER, unless they are there: weight files of Stable Diffusion 2.1's, OSEDiff's and ResShift's shapes with random
values (6 GB), a few random images, and ``fullsize.toml``, which is ``recipes/ctsr_sr4x.toml`` reading these (with ST-LPIPS-VGG in
the place of LPIPS-VGG: the same trunk). Then runs ``benchmarks/ratios.py`` on it; further options go there, for instance

    python benchmarks/fullsize.py /tmp/full --set data.crop_size=256 --steps 1 --warmup 1 --no-look \
        --engine 'training.mixed_precision="bf16"; training.recast_weights=true; training.per_term_backward=true'

``--only-write`` ends before that: ``distillkit doctor FOLDER/fullsize.toml`` and ``distillkit bench`` work on it, too. On a CPU a
step of 256 pixels takes minutes and the baseline some 15 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from distillkit_superres.osediff.architecture import (
    ARCHITECTURES,
    make_empty,
    make_text,
    make_unet,
    make_vae,
)
from distillkit_superres.osediff.lora import unet_layout, vae_layout
from distillkit_superres.resshift.autoencoder import VQConfig, VQModel
from distillkit_superres.resshift.unet import SwinUNet, SwinUNetConfig

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
RANK = 4
OVERLAY = """extends = ["{recipes}/ctsr_sr4x.toml"]
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

[stage1]
perceptual = "distillkit/stlpips-vgg"

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
        sys.exit(
            subprocess.run(
                [sys.executable, str(ratios), str(recipe), *others], check=False
            ).returncode
        )


def write(folder: Path) -> Path:
    """Everything that ``fullsize.toml`` needs; what is there already is left alone."""
    shapes = ARCHITECTURES["full"]
    unet, vae = make_empty(make_unet, shapes.unet), make_empty(make_vae, shapes.vae)
    files: dict[str, Callable[[Path], None]] = {
        "base/unet/diffusion_pytorch_model.safetensors": lambda path: save_file(
            _random(lambda: make_unet(shapes.unet)), path
        ),
        "base/vae/diffusion_pytorch_model.safetensors": lambda path: save_file(
            _random(lambda: make_vae(shapes.vae)), path
        ),
        "base/text_encoder/model.safetensors": lambda path: save_file(
            _random(lambda: make_text(shapes.text)), path
        ),
        "osediff.pkl": lambda path: torch.save(_adapters(unet, vae), path),
        "resshift.pth": lambda path: torch.save(_random(lambda: SwinUNet(SwinUNetConfig())), path),
        "autoencoder.pth": lambda path: torch.save(_random(lambda: VQModel(VQConfig())), path),
        **{f"images/{i}.png": _picture for i in range(8)},
        "fullsize.toml": lambda path: path.write_text(OVERLAY.format(recipes=RECIPES)) and None,
    }
    for name, make in files.items():
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}")
            make(temporary)
            temporary.rename(path)
    return folder / "fullsize.toml"


def _random(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.contiguous() for name, tensor in make().state_dict().items()}


def _adapters(unet: nn.Module, vae: nn.Module) -> dict[str, Any]:
    """In the layout of OSEDiff's checkpoint."""
    g = torch.Generator().manual_seed(0)
    layouts = {
        "unet": unet_layout(unet.state_dict(), RANK),
        "vae": vae_layout(vae.state_dict(), RANK),
    }
    tensors = {
        f"state_dict_{k}": {n: 0.02 * torch.randn(s, generator=g) for n, s in v.items()}
        for k, v in layouts.items()
    }
    return tensors | {"rank_unet": RANK, "rank_vae": RANK}


def _picture(path: Path) -> None:
    small = np.random.default_rng(list(path.name.encode())).integers(
        0, 256, (40, 40, 3), dtype=np.uint8
    )
    Image.fromarray(small).resize((768, 768), Image.Resampling.BICUBIC).save(path, format="PNG")


if __name__ == "__main__":
    main()
