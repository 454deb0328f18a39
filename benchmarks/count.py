"""Count the operations of a step of stage 1 at the paper's sizes, without computing them.

``python benchmarks/count.py [--crop 512]``

The networks are on torch's meta device, where a step has shapes and no values. The first row is the
plain algorithm (the engine with no setting evaluates the same networks as often), the next have the
settings that they name; "cached" leaves out what a full cache gives. Prints multiplications and
additions of a step (10^12), recomputation included, and the first row's divided by them.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from distillkit.data.pairs import Batch
from distillkit.recipe.build import build_reconstruction_loss
from distillkit.recipe.load import load_recipe
from distillkit.training.blocks import gradient_checkpointing
from distillkit.training.feature_cache import FeatureCache
from distillkit.training.models import RunModels
from distillkit.training.stages import make_stage1
from distillkit_superres.osediff.architecture import ARCHITECTURES, make_unet, make_vae
from distillkit_superres.osediff.model import OSEDiff, PosteriorMean
from distillkit_superres.osediff.text import FixedPrompt
from distillkit_superres.resshift.autoencoder import VQConfig, VQModel
from distillkit_superres.resshift.build import make_process
from distillkit_superres.resshift.model import ResShift
from distillkit_superres.resshift.unet import SwinUNet, SwinUNetConfig

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "ctsr_sr4x.toml"
META = torch.device("meta")
SCORE = 'stage1.teacher_gradient="sds"; stage1.score_weighting="sample"'
ROWS = ["", "cached", "training.gradient_checkpointing=true", f"cached; {SCORE}"]
DECODED = [
    "stage1.decode_crop_size=256",
    "cached; stage1.decode_crop_size=256",
    f"cached; stage1.decode_crop_size=256; {SCORE}",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument(
        "--row",
        action="append",
        metavar="SETTINGS",
        help="settings of one row, ';' between; instead of the usual",
    )
    arguments = parser.parse_args()
    print(f"{'TFLOP':>8}{'fewer':>8}  settings (crop {arguments.crop})")
    first = None
    for text in arguments.row or (ROWS + (DECODED if arguments.crop > 256 else [])):
        settings = [s.strip() for s in text.split(";") if s.strip()]
        flops = count(settings, arguments.crop)
        first = first or flops
        print(
            f"{flops / 1e12:>8.2f}{first / flops:>7.2f}x  {text or 'the plain algorithm'}",
            flush=True,
        )


def count(settings: Sequence[str], crop: int) -> int:
    """Operations of a step."""
    sets = [
        'stage1.reconstruction.perceptual_metric="distillkit/stlpips-vgg"',
        *(s for s in settings if s != "cached"),
    ]
    resolved = load_recipe(RECIPE, sets)
    counter = FlopCounterMode(display=False)
    cache = FullCache(counter) if "cached" in settings else FeatureCache(None, META)
    reconstruction = build_reconstruction_loss(resolved, META)
    stage, adapter = make_stage1(resolved.recipe, full_size(cache), reconstruction)
    batch = Batch(
        *(torch.empty(1, 3, side, side, device=META) for side in (crop, crop // 4)), ["counted"]
    )
    with (
        counter,
        gradient_checkpointing(
            stage.models if resolved.recipe.training.gradient_checkpointing else (), adapter
        ),
    ):
        torch.stack(list(stage.module(batch, 0).values())).sum().backward()
    return counter.get_total_flops() - (cache.spared if isinstance(cache, FullCache) else 0)


def full_size(cache: FeatureCache) -> RunModels:
    """Student and teachers of ``recipes/ctsr_sr4x.toml``."""
    shapes = ARCHITECTURES["full"]

    def osediff() -> OSEDiff:
        with META:
            unet, vae, prompt = (
                make_unet(shapes.unet),
                make_vae(shapes.vae),
                torch.empty(1, 77, 1024),
            )
        return (
            OSEDiff(unet, vae, copy.deepcopy(PosteriorMean(vae)), FixedPrompt(prompt))
            .eval()
            .requires_grad_(False)
        )

    with META:
        autoencoder, network = VQModel(VQConfig()), SwinUNet(SwinUNetConfig())
    faithful = ResShift(network, autoencoder, make_process(15, 0.04)).eval().requires_grad_(False)
    teachers = {"fidelity": faithful, "realness": osediff()}
    return ShapeModels(osediff(), teachers, None, META, cache)


class ShapeModels(RunModels):
    """Models of batches without pixels, which cannot be hashed."""

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        return replace(batch, cache_key="counted")


class FullCache(FeatureCache):
    """Counts what it would have spared."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__(None, META)
        self.store: Any = "full"
        self.spared, self._counter = 0, counter

    def get(self, kind: str, key: str, models: Any, compute: Any, generator: Any = None) -> Tensor:
        before = self._counter.get_total_flops()
        with torch.no_grad():
            value = compute()
        self.spared += self._counter.get_total_flops() - before
        return value


if __name__ == "__main__":
    main()
