"""Estimate how much of the feature cache a run will use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from distillkit.data.batches import TrainingBatches
from distillkit.data.sources import BadImageError, Source
from distillkit.diffusion.model import DiffusionModel, ModelInput, RestorationModel
from distillkit.recipe.schema import Recipe, TeacherLossConfig
from distillkit.training.feature_store import FeatureStore, default_folder
from distillkit.training.models import RunModels, Teacher, encodes_by_network

FILE_OVERHEAD = 400
"""Bytes of a file beyond its tensor, about."""
VALUE_BYTES = 4
"""Bytes of a value; in mixed precision some results take two."""
SAMPLED_IMAGES = 8
"""Images of a source whose sizes stand for those of all."""


@dataclass(frozen=True)
class CacheEstimate:
    """Results of one kind that a run would keep."""

    kind: str
    entries: int
    size: int
    """Bytes of all of them."""
    repeats: bool
    """Whether the run itself uses some of them more than once."""


def estimate_cache(
    recipe: Recipe, models: RunModels, batches: TrainingBatches
) -> list[CacheEstimate]:
    """Estimate what a run computes that a later step or run could read from the cache.

    To see the sizes, one image is encoded by every model whose latents are kept, and restored by
    the student; where full images are restored, some are read.
    """
    return list(_Estimator(recipe, models, batches).estimate())


class _Estimator:
    def __init__(self, recipe: Recipe, models: RunModels, batches: TrainingBatches) -> None:
        self.recipe = recipe
        self.models = models
        self.batches = batches
        self.batch_size = recipe.data.batch_size
        self.crop = recipe.data.crop_size
        self.decoded_crop = min(recipe.stage1.decode_crop_size or self.crop, self.crop)

    def estimate(self) -> Iterator[CacheEstimate]:
        stage1, stage2 = self.recipe.stage1, self.recipe.stage2
        student = self.models.student
        student_latents = _input_latents(student, self.crop, self.models.device, generates=True)
        for values in student_latents:
            yield from self._entries("lq latent", stage1.steps, values)
        for name, teacher in self.models.teachers.items():
            yield from self._estimate_teacher(stage1.teachers[name], teacher)
        for values in student_latents:
            yield from self._entries("lq latent", stage2.steps, values)
        if stage2.steps and stage2.uses_stage1_latent:
            yield from self._estimate_stage2(_latent(student, self.crop, self.models.device))

    def _estimate_teacher(
        self, config: TeacherLossConfig, teacher: Teacher
    ) -> Iterator[CacheEstimate]:
        steps = self.recipe.stage1.steps
        if config.weight == 0:
            return
        if config.term == "output" or not isinstance(teacher, DiffusionModel):
            if config.output_input == "full_image":
                yield self._full_images(teacher.scale)
            else:
                yield from self._entries("restored", steps, 3 * self.decoded_crop**2)
            return
        if not encodes_by_network(teacher):
            return
        side = self.decoded_crop
        if teacher.space == self.models.student.space:
            side = self.crop
        yield from self._entries("gt latent", steps, _latent(teacher, side, self.models.device))
        for values in _input_latents(teacher, side, self.models.device, generates=False):
            yield from self._entries("lq latent", steps, values)

    def _estimate_stage2(self, latent_values: int) -> Iterator[CacheEstimate]:
        stage2 = self.recipe.stage2
        check_batches = 0
        if stage2.uses_faithful_target:
            check_batches = ceil(stage2.faithful_check_images / self.batch_size)
        yield from self._entries("stage-1 latent", stage2.steps, latent_values, check_batches)
        if stage2.uses_faithful_target:
            yield from self._entries("faithful target", stage2.steps, latent_values, check_batches)

    def _distinct_batches(self, steps: int) -> int:
        """Count the micro-batches of a stage that differ from each other."""
        cycle = self.recipe.data.cycle_steps or steps
        return self.batches.settings.micro_batches * min(steps, cycle)

    def _entries(
        self, kind: str, steps: int, image_values: int, extra: int = 0
    ) -> Iterator[CacheEstimate]:
        """Estimate one result for each batch, of so many values for each image."""
        distinct = self._distinct_batches(steps)
        entries = distinct + extra
        if entries:
            size = entries * (FILE_OVERHEAD + self.batch_size * image_values * VALUE_BYTES)
            repeats = distinct < self.batches.settings.micro_batches * steps
            yield CacheEstimate(kind, entries, size, repeats)

    def _full_images(self, scale: int) -> CacheEstimate:
        """Estimate one result for each full image; degraded again, it counts as another one."""
        steps = self.recipe.stage1.steps
        crops = self.batch_size * self._distinct_batches(steps)
        entries = 0
        size = 0.0
        total_weight = sum(self.batches.weights)
        for source, weight in zip(self.batches.sources, self.batches.weights, strict=True):
            images = ceil(crops * weight / total_weight)
            if source.columns.lq is not None:
                images = min(images, len(source))
            pixels = list(_sample_pixels(source, self.batches.settings.scale))
            mean_pixels = sum(pixels) / max(len(pixels), 1)
            entries += images
            size += images * (FILE_OVERHEAD + 3 * VALUE_BYTES * scale**2 * mean_pixels)
        lookups = self.batch_size * self.batches.settings.micro_batches * steps
        return CacheEstimate("restored full image", entries, int(size), entries < lookups)


def describe_cache(recipe: Recipe, models: RunModels, batches: TrainingBatches) -> str:
    """Describe the estimate against the cache's limit, for the person who starts the run."""
    estimates = estimate_cache(recipe, models, batches)
    limit = recipe.training.cache_gib * 2**30
    folder = recipe.training.cache_dir or default_folder()
    held = sum(entry.size for entry in FeatureStore(folder, 0).features())
    wanted = sum(estimate.size for estimate in estimates)
    text = (
        f"cache: {folder} holds {_gib(held)} of at most {_gib(limit)}; "
        f"this run can use {_gib(wanted)}"
    )
    if estimates:
        kinds = ", ".join(f"{estimate.entries} {estimate.kind}" for estimate in estimates)
        text += f" ({kinds})"
    else:
        text += ": it has nothing to keep"
    if wanted > limit:
        text += (
            f"; only about {limit / wanted:.0%} of it will be kept: raise training.cache_gib or "
            "lower data.cycle_steps"
        )
    longest = max(recipe.stage1.steps, recipe.stage2.steps)
    cycles = 0 < recipe.data.cycle_steps < longest
    if not cycles and not any(estimate.repeats for estimate in estimates):
        text += (
            f"; no batch repeats within it (data.cycle_steps = {recipe.data.cycle_steps}): "
            "only another run of the same data gains"
        )
    return text


def _sample_pixels(source: Source, scale: int) -> Iterator[int]:
    """Count the low-quality pixels of some of the images."""
    stride = max(len(source) // SAMPLED_IMAGES, 1)
    if source.streamed:
        stride = 1
    for index in range(0, len(source), stride)[: SAMPLED_IMAGES + 1]:
        try:
            sizes = source.read(index).sizes
        except BadImageError:
            continue
        if sizes.gt is not None:
            height, width = sizes.gt
            yield (height // scale) * (width // scale)
        elif sizes.lq is not None:
            height, width = sizes.lq
            yield height * width


@torch.no_grad()
def _latent(model: RestorationModel, side: int, device: torch.device) -> int:
    """Count the values of the latent of a ``side`` x ``side`` image."""
    condition = model.condition(_black_input(model, side, device))
    image = torch.zeros(1, 3, side, side, device=device)
    return model.encode(image, condition).numel()


@torch.no_grad()
def _input_latents(
    model: RestorationModel, side: int, device: torch.device, *, generates: bool
) -> list[int]:
    """Count the values of what a model caches of the input of a ``side`` x ``side`` image."""
    if not encodes_by_network(model):
        return []
    values: dict[str, int] = {}

    def look_up(name: str, compute: Callable[[], Tensor]) -> Tensor:
        feature = compute()
        values[name] = feature.numel()
        return feature

    inputs = _black_input(model, side, device)
    condition = model.condition(ModelInput(inputs.lq, cache=look_up))
    if generates:
        # a model may look up the latent that it starts from only then
        model.generate(condition, torch.Generator())
    return list(values.values())


def _black_input(model: RestorationModel, side: int, device: torch.device) -> ModelInput:
    lq_side = side // model.scale
    return ModelInput(torch.zeros(1, 3, lq_side, lq_side, device=device))


def _gib(size: float) -> str:
    if size >= 2**30 / 100:
        return f"{size / 2**30:.2f} GiB"
    return f"{size / 2**20:.1f} MiB"
