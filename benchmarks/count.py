"""Count the operations of a step of stage 1 at the paper's sizes, without computing them.

``python benchmarks/count.py [--crop 512]``

The networks are on torch's meta device, where a step has shapes and no values. The first row is the
plain algorithm (the engine with no setting evaluates the same networks as often), the next have the
settings that they name; "cached" leaves out what a full feature cache holds. Prints multiplications
and additions of a step (10^12), recomputation included, and the first row's divided by them.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distillkit import ResolvedRecipe, load_recipe
from distillkit.data.batches import Batch
from distillkit.recipe.build import build_reconstruction_loss
from distillkit.training.blocks import gradient_checkpointing
from distillkit.training.feature_cache import FeatureCache
from distillkit.training.models import RunModels
from distillkit.training.stages import make_stage1
from distillkit_superres.osediff.architecture import make_unet, make_vae
from distillkit_superres.osediff.build import make_thin
from distillkit_superres.osediff.model import OSEDiff, PosteriorMean
from distillkit_superres.osediff.options import OSEDiffStudentOptions
from distillkit_superres.osediff.sizes import ARCHITECTURES
from distillkit_superres.osediff.text import FixedPrompt
from distillkit_superres.resshift.autoencoder import VQConfig, VQModel
from distillkit_superres.resshift.build import make_process
from distillkit_superres.resshift.model import ResShift
from distillkit_superres.resshift.unet import SwinUNet, SwinUNetConfig

RECIPE = "superres/ctsr_sr4x"
META = torch.device("meta")
Model = TypeVar("Model", bound=nn.Module)
SCORE = 'stage1.teacher_gradient="sds"; stage1.score_weighting="sample"'
CACHED = "cached"
ROWS = ["", "cached", "training.gradient_checkpointing=true", f"cached; {SCORE}"]
DECODE_CROP_ROWS = [
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
        dest="rows",
        action="append",
        metavar="SETTINGS",
        help="settings of one row, ';' between; instead of the usual",
    )
    options = parser.parse_args()
    rows = options.rows
    if rows is None:
        rows = list(ROWS)
        if options.crop > 256:
            rows += DECODE_CROP_ROWS
    print(f"{'TFLOP':>8}{'fewer':>8}  settings (crop {options.crop})")
    reference = None
    for row in rows:
        settings = [setting.strip() for setting in row.split(";") if setting.strip()]
        flops = count_flops(settings, options.crop)
        if reference is None:
            reference = flops
        fewer = reference / flops
        print(f"{flops / 1e12:>8.2f}{fewer:>7.2f}x  {row or 'the plain algorithm'}", flush=True)


def count_flops(settings: Sequence[str], crop: int) -> int:
    """Count the operations of a step of stage 1.

    Args:
        settings: ``KEY=VALUE`` texts, or ``cached``.
        crop: Side of the crop in pixels.
    """
    overrides = ['stage1.reconstruction.perceptual_metric="distillkit/stlpips-vgg"']
    overrides += [setting for setting in settings if setting != CACHED]
    resolved = load_recipe(RECIPE, overrides)
    counter = FlopCounterMode(display=False)
    cache = FeatureCache(None, META)
    if CACHED in settings:
        cache = FullCache(counter)
    reconstruction = build_reconstruction_loss(resolved, META)
    models = make_models(resolved, cache)
    stage, adapter = make_stage1(resolved.recipe, models, reconstruction)
    gt = torch.empty(1, 3, crop, crop, device=META)
    lq = torch.empty(1, 3, crop // 4, crop // 4, device=META)
    checkpointing: Any = nullcontext()
    if resolved.recipe.training.gradient_checkpointing:
        checkpointing = gradient_checkpointing(stage.models, adapter)
    with counter, checkpointing:
        terms = stage.module(Batch(gt, lq, ["counted"]), 0)
        torch.stack(list(terms.values())).sum().backward()
    flops = counter.get_total_flops()
    if isinstance(cache, FullCache):
        flops -= cache.spared
    return flops


def make_models(resolved: ResolvedRecipe, cache: FeatureCache) -> RunModels:
    """Make student and teachers of ``superres/ctsr_sr4x``, without values.

    The student is as thin as the recipe's.
    """
    with META:
        autoencoder = VQModel(VQConfig())
        network = SwinUNet(SwinUNetConfig())
    faithful = ResShift(network, autoencoder, make_process(15, 0.04))
    teachers = {"fidelity": freeze(faithful), "realness": make_osediff()}
    student = make_osediff()
    options = resolved.student.config
    assert isinstance(options, OSEDiffStudentOptions)
    make_thin(student, options)
    return ShapeModels(freeze(student), teachers, None, META, cache)


def make_osediff() -> OSEDiff:
    shapes = ARCHITECTURES["full"]
    with META:
        unet = make_unet(shapes.unet)
        vae = make_vae(shapes.vae)
        prompt = torch.empty(1, 77, 1024)
    encoder = copy.deepcopy(PosteriorMean(vae))
    return freeze(OSEDiff(unet, vae, encoder, FixedPrompt(prompt)))


def freeze(model: Model) -> Model:
    return model.eval().requires_grad_(False)


class ShapeModels(RunModels):
    """Models of batches without pixels, which cannot be hashed."""

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        return replace(batch, cache_key="counted")


class FullCache(FeatureCache):
    """Counts the operations that a cache which holds everything would spare."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__(None, META)
        self.store: Any = "full"
        self.spared = 0
        self._counter = counter

    def get(
        self,
        kind: str,
        key: str,
        models: Sequence[str],
        compute: Callable[[], Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        before = self._counter.get_total_flops()
        with torch.no_grad():
            value = compute()
        self.spared += self._counter.get_total_flops() - before
        return value


if __name__ == "__main__":
    main()
