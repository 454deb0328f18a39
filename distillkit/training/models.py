"""The models of a run, built from a resolved recipe and put on a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from distillkit.adapters.shared_storage import share_storage
from distillkit.contract.enforce import enforce_contract
from distillkit.data.batches import Batch
from distillkit.data.crops import FullImage
from distillkit.data.degradation import Degradation
from distillkit.diffusion.model import (
    DiffusionModel,
    FeatureLookup,
    ModelInput,
    OutputTeacher,
    RestorationModel,
    compute_always,
)
from distillkit.diffusion.padding import restore_padded
from distillkit.errors import PluginError, RecipeError
from distillkit.files.images import to_float
from distillkit.objectives.reconstruction import Distance
from distillkit.plugins.descriptors import StudentSpec
from distillkit.recipe.build import build, build_distance
from distillkit.recipe.load import Component, ResolvedRecipe
from distillkit.recipe.schema import FIDELITY
from distillkit.training.feature_cache import (
    FeatureCache,
    digest,
    hash_batch,
    hash_component,
    hash_generator,
    hash_image,
    open_cache,
)

STUDENT = "student"
DEGRADATION = "degradation"

Teacher = DiffusionModel | OutputTeacher


@dataclass(frozen=True)
class RunModels:
    """The student, its teachers, the degradation, and the cache of their features.

    Teachers are frozen and in evaluation mode. Weights that several models share are in memory
    once.
    """

    student: RestorationModel
    teachers: dict[str, Teacher]
    degradation: Degradation | None
    device: torch.device
    cache: FeatureCache
    anchor_metrics: dict[str, Distance] = field(default_factory=dict)
    """``anchor_metric`` of output teachers, student's image to ground truth, by teacher name."""
    output_metrics: dict[str, Distance] = field(default_factory=dict)
    """``output_metric`` of output teachers, student's image to teacher's, by teacher name."""

    @property
    def modules(self) -> list[nn.Module]:
        """The student and those of the teachers that are modules."""
        models = [self.student, *self.teachers.values()]
        return [model for model in models if isinstance(model, nn.Module)]

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Put a batch on the device, degrade what is unpaired, and with a cache hash all of it.

        The degradation computes in full precision. Where the batch holds full images, these are
        degraded, and the crops are cut out of the results.

        Args:
            batch: As it was loaded.
            generator: A CPU generator for the degradation.

        Raises:
            RecipeError: A source is unpaired and the recipe names no degradation.
        """
        gt = None if batch.gt is None else batch.gt.to(self.device)
        key = hash_batch(batch) if self.cache.enabled else ""
        batch = replace(batch, gt=gt, cache_key=key)
        if batch.lq is None:
            return self._degrade_batch(batch, generator)
        images = list(self._prepare_full_images(batch, None))
        return replace(batch, lq=batch.lq.to(self.device), full_images=images)

    def model_input(self, name: str, batch: Batch) -> ModelInput:
        """Make a model's input of a prepared batch, with its part of the cache."""
        assert batch.lq is not None
        cache: FeatureLookup = compute_always
        if self.cache.enabled and encodes_by_network(self._model(name)):
            cache = self.cache.lookup(name, batch.cache_key)
        return ModelInput(batch.lq, batch.captions, cache)

    def restore(self, name: str, batch: Batch, generator: torch.Generator) -> Tensor:
        """Restore a prepared batch with a teacher, (B, 3, H, W), without gradient."""
        teacher = self.teachers[name]
        inputs = _input_without_cache(batch)

        def compute() -> Tensor:
            return teacher.restore(inputs, generator)

        return self.cache.get("restored", batch.cache_key, [name], compute, generator)

    def restore_self_ensemble(self, name: str, batch: Batch, generator: torch.Generator) -> Tensor:
        """Restore a batch as the mean over 8 flips and quarter turns, (B, 3, H, W).

        It is a little closer to the ground truth than a single restoration.
        """
        teacher = self.teachers[name]
        inputs = _input_without_cache(batch)

        def compute() -> Tensor:
            count, channels, height, width = inputs.lq.shape
            scale = teacher.scale
            total = inputs.lq.new_zeros(count, channels, scale * height, scale * width)
            for mirrored in (False, True):
                for turns in range(4):
                    turned = replace(inputs, lq=_turn(inputs.lq, mirrored, turns))
                    restored = teacher.restore(turned, generator)
                    total += _turn_back(restored, mirrored, turns)
            return total / 8

        return self.cache.get("self-ensemble", batch.cache_key, [name], compute, generator)

    def restore_full_images(
        self, name: str, batch: Batch, make_generator: Callable[[str], torch.Generator]
    ) -> Tensor:
        """Restore the full images behind a batch one by one, and cut the batch's crops.

        Args:
            name: The name of the teacher.
            batch: A prepared one with full images.
            make_generator: Makes a CPU generator from an image's key, so that the same image has
                the same result wherever it is cropped.

        Returns:
            (B, 3, H, W), without gradient.
        """
        scale = self.teachers[name].scale
        captions = batch.captions or [None] * len(batch.ids)
        crops = []
        for image, caption in zip(batch.full_images or (), captions, strict=True):
            restored = self._restore_full_image(name, image, caption, make_generator)
            crop = image.box.cut(restored, scale)
            if batch.box is not None:
                crop = batch.box.cut(crop, scale)
            crops.append(crop)
        return torch.cat(crops)

    def faithful_target(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Compute the faithful teacher's result in the student's latent space, without gradient."""
        teacher = self.teachers[FIDELITY]
        codec = self.student.codec
        inputs = _input_without_cache(batch)

        def compute() -> Tensor:
            if isinstance(teacher, DiffusionModel) and teacher.space == codec.space:
                return teacher.generate(teacher.condition(inputs), generator)
            return codec.encode(teacher.restore(inputs, generator))

        models = [FIDELITY, STUDENT]
        return self.cache.get("faithful target", batch.cache_key, models, compute, generator)

    def _model(self, name: str) -> Any:
        return self.student if name == STUDENT else self.teachers[name]

    def _restore_full_image(
        self,
        name: str,
        image: FullImage,
        caption: str | None,
        make_generator: Callable[[str], torch.Generator],
    ) -> Tensor:
        teacher = self.teachers[name]
        assert image.lq is not None
        inputs = ModelInput(image.lq, [caption])

        def restore(padded: ModelInput) -> Tensor:
            return teacher.restore(padded, make_generator(image.key))

        def compute() -> Tensor:
            return restore_padded(restore, inputs, teacher.scale, teacher.size_multiple)

        models = [name] if self.degradation is None else [DEGRADATION, name]
        generator = make_generator(image.key)
        return self.cache.get("restored full image", image.key, models, compute, generator)

    def _degrade_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Make the low-quality images of a batch that has clean ones alone."""
        assert batch.gt is not None, "a batch has clean or low-quality images"
        if self.degradation is None:
            raise RecipeError(
                "degradation - the recipe names none, and a training source has no low-quality "
                "images of its own"
            )
        key = batch.cache_key
        if self.cache.enabled:
            key = digest(key, self.cache.identities[DEGRADATION], hash_generator(generator))
        if not batch.full_images:
            return replace(batch, lq=self._degrade(batch.gt, generator), cache_key=key)
        images = list(self._prepare_full_images(batch, generator))
        lq = torch.cat([image.box.cut(image.lq) for image in images if image.lq is not None])
        key = digest(key, *(image.key for image in images))
        return replace(batch, lq=lq, full_images=images, cache_key=key)

    def _prepare_full_images(
        self, batch: Batch, generator: torch.Generator | None
    ) -> Iterator[FullImage]:
        """Put the full images on the device; with a generator, degrade them."""
        captions = batch.captions or [None] * len(batch.ids)
        for image, caption in zip(batch.full_images or (), captions, strict=False):
            # The key holds the generator's state before it draws. It is also a seed.
            draws = "" if generator is None else hash_generator(generator)
            key = digest(hash_image(image.pixels, caption), draws)
            lq = to_float(image.pixels)[None].to(self.device)
            if generator is not None:
                lq = self._degrade(lq, generator)
            yield image._replace(lq=lq, key=key)

    def _degrade(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        assert self.degradation is not None
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self.degradation(gt, generator)


def build_models(
    resolved: ResolvedRecipe, device: torch.device, mesh: DeviceMesh | None = None
) -> RunModels:
    """Build student, teachers and degradation, and check that their sizes fit together.

    Args:
        resolved: The recipe.
        device: The device of the models.
        mesh: Processes over which frozen weights are sharded.

    Raises:
        PluginError: A plugin's ``build`` failed or returned the wrong type, or what it built
            breaks the contract.
        RecipeError: Output sizes that do not match; training crops of a size that a model cannot
            take; captions that no model takes, or none for a model that takes them.
    """
    # Models to be sharded may be too large for the device before they are.
    home = device if mesh is None else torch.device("cpu")
    student = _build_student(resolved, home)
    teachers = _build_teachers(resolved, student, home)
    models: dict[str, Any] = {STUDENT: student, **teachers}
    degradation = None
    if resolved.degradation is not None:
        degradation = build(resolved.degradation, device)
    enforce_contract(resolved, models, degradation, device)
    if mesh is not None:
        from distillkit.training.sharding import shard_models

        modules = [model for model in models.values() if isinstance(model, nn.Module)]
        shard_models(modules, mesh, device)
    _check_scales(models, degradation)
    _check_crop_size(resolved, models, student.scale)
    _check_captions(resolved, models)

    def build_distances(components: Mapping[str, Component]) -> dict[str, Distance]:
        return {name: build_distance(resolved, c, device) for name, c in components.items()}

    anchor_metrics = build_distances(resolved.anchor_metrics)
    output_metrics = build_distances(resolved.output_metrics)
    cache = open_cache(resolved.recipe.training, device)
    if cache.enabled:
        cache.identities.update(_hash_models(resolved, models, degradation))
    return RunModels(student, teachers, degradation, device, cache, anchor_metrics, output_metrics)


def encodes_by_network(model: Any) -> bool:
    """Whether a model encodes by a network, so that its latents are worth caching.

    A codec without weights, which rearranges pixels, is faster than reading a file.
    """
    if not isinstance(model, RestorationModel):
        return False
    if type(model).encode is not RestorationModel.encode:
        return True
    return isinstance(model.codec, nn.Module) and any(True for _ in model.codec.parameters())


def _input_without_cache(batch: Batch) -> ModelInput:
    """Make a model's input for a result that is cached itself, so that no part of it is as well."""
    assert batch.lq is not None
    return ModelInput(batch.lq, batch.captions)


def _turn(image: Tensor, mirrored: bool, turns: int) -> Tensor:
    """Mirror an image where ``mirrored``, then turn it by ``turns`` quarter turns."""
    if mirrored:
        image = image.flip(-1)
    return image.rot90(turns, (-2, -1))


def _turn_back(image: Tensor, mirrored: bool, turns: int) -> Tensor:
    """Undo :func:`_turn`."""
    image = image.rot90(-turns, (-2, -1))
    return image.flip(-1) if mirrored else image


def _build_student(resolved: ResolvedRecipe, device: torch.device) -> RestorationModel:
    student = _build_model(resolved, resolved.student, device)
    spec = resolved.student.spec
    assert isinstance(spec, StudentSpec)
    expected = DiffusionModel if "score" in spec.capabilities else RestorationModel
    if not isinstance(student, expected):
        found = type(student).__name__
        raise PluginError(f"{spec.full_name} - builds a {found}, not a {expected.__name__}")
    return student


def _build_teachers(
    resolved: ResolvedRecipe, student: RestorationModel, device: torch.device
) -> dict[str, Teacher]:
    teachers: dict[str, Teacher] = {}
    modules: list[nn.Module] = [student]
    for name, component in resolved.teachers.items():
        teacher = _build_model(resolved, component, device)
        if isinstance(teacher, nn.Module):
            # one by one, so that no more than one copy of shared weights exists at a time
            share_storage(teacher, *modules)
            modules.append(teacher)
        teachers[name] = teacher
    return teachers


def _build_model(resolved: ResolvedRecipe, component: Component, device: torch.device) -> Any:
    model = build(component, device)
    if resolved.recipe.training.channels_last and isinstance(model, nn.Module):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _hash_models(
    resolved: ResolvedRecipe, models: Mapping[str, Any], degradation: Degradation | None
) -> Iterator[tuple[str, str]]:
    yield STUDENT, hash_component(resolved.student, models[STUDENT])
    for name, component in resolved.teachers.items():
        yield name, hash_component(component, models[name])
    if resolved.degradation is not None:
        yield DEGRADATION, hash_component(resolved.degradation, degradation)


def _key_of(name: str) -> str:
    """Return the recipe's key of a model."""
    return name if name in (STUDENT, DEGRADATION) else f"teachers.{name}"


def _check_scales(models: Mapping[str, Any], degradation: Degradation | None) -> None:
    scales = {_key_of(name): model.scale for name, model in models.items()}
    if degradation is not None:
        scales[DEGRADATION] = degradation.scale
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{key} {scale}x" for key, scale in scales.items())
        raise RecipeError(f"scales differ: {listed}; set options, or name others, of one scale")


def _check_crop_size(resolved: ResolvedRecipe, models: Mapping[str, Any], scale: int) -> None:
    """Training crops are not padded: their sides must be multiples of what every model takes."""
    crop = resolved.recipe.data.crop_size
    units = {_key_of(name): scale * model.size_multiple for name, model in models.items()}
    misfits = [f"{key} takes multiples of {unit}" for key, unit in units.items() if crop % unit]
    if misfits:
        where = resolved.locate(("data", "crop_size"))
        common = math.lcm(*units.values())
        raise RecipeError(
            f"{where} - clean crops of {crop} pixels: {', '.join(misfits)}; "
            f"all take {common} and its multiples"
        )


def _check_captions(resolved: ResolvedRecipe, models: Mapping[str, Any]) -> None:
    """Require captions where a model takes them, and only there."""
    takers = [
        _key_of(name)
        for name, model in models.items()
        if isinstance(model, RestorationModel) and model.takes_captions
    ]
    sources = enumerate(resolved.recipe.data.train)
    captioned = [i for i, source in sources if source.caption_column]
    if captioned and not takers:
        where = resolved.locate(("data", "train", captioned[0], "caption_column"))
        raise RecipeError(
            f"{where} - no model of this recipe takes captions; turn them on in the options of "
            "one that can"
        )
    if takers and not captioned:
        raise RecipeError(
            f"{', '.join(takers)} - takes captions, and no source of data.train names a "
            "caption_column"
        )
