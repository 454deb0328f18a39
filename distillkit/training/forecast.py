"""How much a run will put into the cache, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillkit.diffusion.model import DiffusionModel
from distillkit.recipe.schema import Recipe
from distillkit.training.cast import Cast, Role, encodes_by_network
from distillkit.training.store import Store, default_folder

OVERHEAD = 400
"""Bytes of a file beyond its tensor, about."""
WIDTH = 4
"""Bytes of a value; in mixed precision some results take two."""


@dataclass(frozen=True)
class Forecast:
    """Results of one kind that a run will want to keep."""

    kind: str
    entries: int
    size: int
    """Bytes of all of them."""


def forecast(recipe: Recipe, cast: Cast, parts: int) -> list[Forecast]:
    """What a run of ``recipe`` computes that a later step or run could find again.

    Args:
        parts: batches of a step, over all processes. One image is encoded by every model whose latents are kept, to see their size.
    """
    batch, crop = recipe.data.batch_size, recipe.data.crop
    piece = min(recipe.stage1.decode_crop or crop, crop)
    found: list[Forecast] = []

    def note(kind: str, steps: int, values: int, extra: int = 0) -> None:
        entries = parts * min(steps, recipe.data.cycle or steps) + extra
        if entries:
            found.append(Forecast(kind, entries, entries * (OVERHEAD + values)))

    for role, teacher in cast.teachers.items():
        if getattr(recipe.stage1.weights, role) == 0:
            continue
        if getattr(recipe.stage1, f"{role}_term") == "output" or not isinstance(teacher, DiffusionModel):
            note("restored", recipe.stage1.steps, batch * 3 * piece**2 * WIDTH)
        elif encodes_by_network(teacher):
            side = crop if teacher.space == cast.student.space else piece
            note("gt latent", recipe.stage1.steps, batch * _latent(cast, role, side))
    options = recipe.stage2
    aims = options.variant == "oftsr" or (options.variant == "gate" and options.target == "mix")
    if options.steps and (aims or options.variant != "gate"):
        latent = batch * _latent(cast, None, crop)
        guard = -(-options.guard_images // batch) if aims else 0
        note("start", options.steps, latent, guard)
        if aims:
            note("endpoint", options.steps, latent, guard)
    return found


def describe(recipe: Recipe, cast: Cast, parts: int) -> str:
    """The forecast against the cache's bound, for the person who starts the run."""
    found, limit = forecast(recipe, cast, parts), recipe.training.cache_gib * 2**30
    folder = recipe.training.cache_dir or default_folder()
    held, wanted = sum(e.size for e in Store(folder, 0).entries()), sum(f.size for f in found)
    kinds = ", ".join(f"{f.entries} {f.kind}" for f in found)
    text = f"cache: {folder} holds {_gib(held)} of at most {_gib(limit)}; this run can use {_gib(wanted)}"
    text += f" ({kinds})" if kinds else ": it has nothing to keep"
    if wanted > limit:
        text += f"; only about {limit / wanted:.0%} of it will be kept: raise training.cache_gib or lower data.cycle"
    longest = max(recipe.stage1.steps, recipe.stage2.steps)
    if recipe.data.cycle == 0 or recipe.data.cycle >= longest:
        text += f"; no batch comes again within it (data.cycle = {recipe.data.cycle}): only another run of the same data gains"
    return text


@torch.no_grad()
def _latent(cast: Cast, role: Role | None, side: int) -> int:
    """Bytes of one latent of a ``side`` x ``side`` image, in the space of a teacher or (None) of the student."""
    model = cast.student if role is None else cast.teachers[role]
    assert isinstance(model, DiffusionModel)
    lq = torch.zeros(1, 3, side // model.scale, side // model.scale, device=cast.device)
    image = torch.zeros(1, 3, side, side, device=cast.device)
    return model.encode(image, model.condition(lq)).numel() * WIDTH


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:.1f} MiB"
