"""How much a run will put into the cache, before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from distillkit.data.pairs import PairedBatches
from distillkit.data.sources import BadImageError, Source
from distillkit.diffusion.model import DiffusionModel
from distillkit.diffusion.remembered import remembering
from distillkit.recipe.schema import Recipe
from distillkit.training.feature_store import FeatureStore, default_folder
from distillkit.training.models import Cast, Role, encodes_by_network

OVERHEAD = 400
"""Bytes of a file beyond its tensor, about."""
WIDTH = 4
"""Bytes of a value; in mixed precision some results take two."""
LOOKED_AT = 8
"""Images of a source whose sizes stand for those of all."""


@dataclass(frozen=True)
class Forecast:
    """Results of one kind that a run will want to keep."""

    kind: str
    entries: int
    size: int
    """Bytes of all of them."""
    again: bool
    """Whether the run itself asks for some of them twice."""


def forecast(recipe: Recipe, cast: Cast, batches: PairedBatches) -> list[Forecast]:
    """What a run of ``recipe`` computes that a later step or run could find again.

    One image is encoded by every model whose latents are kept, and restored by the student, to see their size; where whole images
    are restored, some are read.
    """
    batch, crop, parts = recipe.data.batch_size, recipe.data.crop, batches.settings.micro_batches
    piece = min(recipe.stage1.decode_crop_size or crop, crop)
    found: list[Forecast] = []

    def made(steps: int) -> int:
        return parts * min(steps, recipe.data.cycle or steps)

    def note(kind: str, steps: int, values: int, extra: int = 0) -> None:
        if entries := made(steps) + extra:
            found.append(
                Forecast(kind, entries, entries * (OVERHEAD + values), made(steps) < parts * steps)
            )

    own = _input_latents(cast, None, crop)
    for size in own:
        note("lq latent", recipe.stage1.steps, batch * size)
    for role, teacher in cast.teachers.items():
        if getattr(recipe.stage1.weights, role) == 0:
            continue
        if getattr(recipe.stage1, f"{role}_term") == "output" or not isinstance(
            teacher, DiffusionModel
        ):
            if recipe.stage1.output_targets == "crop":
                note("restored", recipe.stage1.steps, batch * 3 * piece**2 * WIDTH)
            else:
                entries, size = _images(batches, batch * made(recipe.stage1.steps), teacher.scale)
                asked = batch * parts * recipe.stage1.steps
                found.append(Forecast("restored image", entries, size, entries < asked))
            continue
        side = crop if teacher.space == cast.student.space else piece
        if encodes_by_network(teacher):
            note("gt latent", recipe.stage1.steps, batch * _latent(cast, role, side))
        for size in _input_latents(cast, role, side):
            note("lq latent", recipe.stage1.steps, batch * size)
    options = recipe.stage2
    aims = options.variant == "oftsr" or (
        options.variant == "adapter_scaling" and options.target == "teacher"
    )
    for size in own if options.steps else ():
        note("lq latent", options.steps, batch * size)
    if options.steps and (aims or options.variant != "adapter_scaling"):
        latent = batch * _latent(cast, None, crop)
        guard = -(-options.faithful_check_images // batch) if aims else 0
        note("start", options.steps, latent, guard)
        if aims:
            note("endpoint", options.steps, latent, guard)
    return found


def describe(recipe: Recipe, cast: Cast, batches: PairedBatches) -> str:
    """The forecast against the cache's bound, for the person who starts the run."""
    found, limit = forecast(recipe, cast, batches), recipe.training.cache_gib * 2**30
    folder = recipe.training.cache_dir or default_folder()
    held, wanted = (
        sum(e.size for e in FeatureStore(folder, 0).features()),
        sum(f.size for f in found),
    )
    kinds = ", ".join(f"{f.entries} {f.kind}" for f in found)
    text = f"cache: {folder} holds {_gib(held)} of at most {_gib(limit)}; this run can use {_gib(wanted)}"
    text += f" ({kinds})" if kinds else ": it has nothing to keep"
    if wanted > limit:
        text += f"; only about {limit / wanted:.0%} of it will be kept: raise training.cache_gib or lower data.cycle"
    longest = max(recipe.stage1.steps, recipe.stage2.steps)
    if not any(f.again for f in found) and not 0 < recipe.data.cycle < longest:
        text += f"; no batch comes again within it (data.cycle = {recipe.data.cycle}): only another run of the same data gains"
    return text


def _images(batches: PairedBatches, crops: int, scale: int) -> tuple[int, int]:
    """How many results ``crops`` crops of whole images need, and their bytes; an image degraded anew is another one each time."""
    entries, size = 0, 0.0
    for source, weight in zip(batches.sources, batches.weights, strict=True):
        own = ceil(crops * weight / sum(batches.weights))
        own = min(own, len(source)) if source.paired else own
        pixels = list(_pixels(source, batches.settings.scale))
        entries += own
        size += own * (OVERHEAD + 3 * WIDTH * scale**2 * sum(pixels) / max(len(pixels), 1))
    return entries, int(size)


def _pixels(source: Source, scale: int) -> Iterator[int]:
    """Low-quality pixels of some of the images."""
    for index in range(0, len(source), max(len(source) // LOOKED_AT, 1)):
        try:
            height, width = source.read(index).gt.shape[:2]
        except BadImageError:
            continue
        yield (height // scale) * (width // scale)


@torch.no_grad()
def _latent(cast: Cast, role: Role | None, side: int) -> int:
    """Bytes of one latent of a ``side`` x ``side`` image, in the space of a teacher or (None) of the student."""
    model = cast.student if role is None else cast.teachers[role]
    assert isinstance(model, DiffusionModel)
    lq = torch.zeros(1, 3, side // model.scale, side // model.scale, device=cast.device)
    image = torch.zeros(1, 3, side, side, device=cast.device)
    return model.encode(image, model.condition(lq)).numel() * WIDTH


@torch.no_grad()
def _input_latents(cast: Cast, role: Role | None, side: int) -> list[int]:
    """Bytes of what a teacher or (None) the student remembers of the input of a ``side`` x ``side`` image."""
    sizes: dict[str, int] = {}

    def memory(what: str, compute: Callable[[], Tensor]) -> Tensor:
        value = compute()
        sizes[what] = value.numel() * WIDTH
        return value

    model = cast.student if role is None else cast.teachers[role]
    assert isinstance(model, DiffusionModel)
    with remembering(memory):
        condition = model.condition(
            torch.zeros(1, 3, side // model.scale, side // model.scale, device=cast.device)
        )
    if role is None:
        model.generate(condition, torch.Generator())  # only then is what it starts from asked for
    return list(sizes.values())


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:.1f} MiB"
