"""Everyone who takes part in a run, built from a resolved recipe and put on a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from distillkit.adapters.sharing import share_storage
from distillkit.data.crops import CropBox, FullImage
from distillkit.data.degradation import Degradation
from distillkit.data.pairs import Batch
from distillkit.diffusion.captions import captioned
from distillkit.diffusion.model import DiffusionModel, OutputTeacher
from distillkit.diffusion.remembered import nothing_kept, remembering
from distillkit.errors import PluginError, RecipeError
from distillkit.files.images import to_float
from distillkit.inference.tiling import restore_padded
from distillkit.objectives.reconstruction import Distance
from distillkit.recipe.build import build, build_distance
from distillkit.recipe.load import ResolvedRecipe
from distillkit.training.distributed import shard_models
from distillkit.training.feature_cache import (
    Cache,
    digest,
    identity,
    identity_of_batch,
    identity_of_draws,
    identity_of_image,
    open_cache,
)

Role = Literal["fidelity", "realness"]
ROLES: tuple[Role, Role] = ("fidelity", "realness")


class WholeInput(NamedTuple):
    """The low-quality image that one of a batch was cut out of."""

    lq: Tensor
    """(1, 3, h, w)."""
    window: CropBox
    caption: str | None
    key: str
    """A hash of the image, of what is said about it and of the draws that degraded it."""
    by: tuple[str, ...]
    """Who else of the cast has a part in it: the degradation, or nobody."""


class Inputs(NamedTuple):
    """What a step works on."""

    lq: Tensor
    gt: Tensor
    key: str
    """With a cache: a hash of the batch, of what degraded it and of its draws."""
    wholes: Sequence[WholeInput] = ()
    """Where the batch tells them."""


@dataclass(frozen=True)
class Cast:
    """The student, its teachers, what degrades its inputs, and the cache of what they make of inputs that come again.

    Teachers are frozen and in evaluation mode. Weights that several of them have in common are in memory once.
    """

    student: DiffusionModel
    teachers: dict[Role, DiffusionModel | OutputTeacher]
    degradation: Degradation | None
    device: torch.device
    cache: Cache
    identities: dict[str, str] = field(default_factory=dict)
    """With a cache, hashes of ``student`` (as it was built), ``stage1`` (the student after it), each role and ``degradation``."""
    anchors: dict[Role, Distance] = field(default_factory=dict)
    """What stands in for the anchor of a teacher that has no score."""

    @property
    def models(self) -> list[nn.Module]:
        """The student and those of the teachers that are modules."""
        return [m for m in (self.student, *self.teachers.values()) if isinstance(m, nn.Module)]

    def inputs(self, batch: Batch, generator: torch.Generator) -> Inputs:
        """A batch on the device; unpaired images are degraded with draws of ``generator``, in full precision.

        Where the batch tells what its crops were cut out of, that is degraded, and they are cut out of the result.
        """
        gt = batch.gt.to(self.device)
        key = identity_of_batch(batch) if self.cache.store else ""
        told = list(
            zip(batch.full_images or (), batch.captions or [None] * len(batch.ids), strict=False)
        )
        if batch.lq is not None:
            return Inputs(
                batch.lq.to(self.device), gt, key, [self._whole(*of_one, None) for of_one in told]
            )
        if self.degradation is None:
            raise RecipeError(
                "degradation - the recipe names none, and a training source has no low-quality images of its own"
            )
        if self.cache.store:
            key = digest(key, self.identities["degradation"], identity_of_draws(generator))
        if not told:
            return Inputs(self._degraded(gt, generator), gt, key)
        wholes = [self._whole(*of_one, generator) for of_one in told]
        return Inputs(
            torch.cat([w.window.cut(w.lq) for w in wholes]),
            gt,
            digest(key, *(w.key for w in wholes)),
            wholes,
        )

    def _whole(
        self, whole: FullImage, caption: str | None, draws: torch.Generator | None
    ) -> WholeInput:
        """A low-quality image, or with ``draws`` a clean one to be degraded."""
        key = digest(
            identity_of_image(whole.pixels, caption), identity_of_draws(draws) if draws else ""
        )
        image = to_float(whole.pixels)[None].to(self.device)
        lq = self._degraded(image, draws) if draws else image
        return WholeInput(lq, whole.box, caption, key, ("degradation",) if draws else ())

    def _degraded(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        assert self.degradation is not None
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self.degradation(gt, generator)

    def known(
        self,
        kind: str,
        key: str,
        by: Sequence[str],
        compute: Callable[[], Tensor],
        draws: torch.Generator | None = None,
    ) -> Tensor:
        """``compute()`` without gradient, or its former result for the same inputs, draws and members ``by`` of the cast."""
        if self.cache.store is None:
            return self.cache.tensor(kind, (), compute)
        whose = [self.identities[member] for member in by]
        with remembering(nothing_kept):  # what is kept as a whole is not kept in parts
            return self.cache.tensor(
                kind, [key, *whose, identity_of_draws(draws) if draws else ""], compute
            )

    @contextmanager
    def remembering(self, member: str, key: str) -> Iterator[None]:
        """Inside the block, what ``condition`` of that member encodes of the input of ``key`` is kept in the cache."""

        def memory(what: str, compute: Callable[[], Tensor]) -> Tensor:
            return self.known("lq latent", digest(key, what), [member], compute)

        with remembering(memory if self.cache.store else nothing_kept):
            yield

    def restored(self, role: Role, lq: Tensor, key: str, generator: torch.Generator) -> Tensor:
        """A teacher's image, (B, 3, H, W), without gradient."""
        return self.known(
            "restored", key, [role], lambda: self.teachers[role].restore(lq, generator), generator
        )

    def restored_wholes(
        self, role: Role, wholes: Sequence[WholeInput], draws: Callable[[str], torch.Generator]
    ) -> Tensor:
        """A teacher's images of whole inputs, made one by one and cut to the batch's crops: (B, 3, H, W), without gradient.

        ``draws`` are given for a whole input's key: the same image has the same result wherever it is cut.
        """
        teacher = self.teachers[role]

        def restored(whole: WholeInput) -> Tensor:
            def restore(lq: Tensor) -> Tensor:
                return teacher.restore(lq, draws(whole.key))

            def compute() -> Tensor:
                with captioned([whole.caption]):
                    return restore_padded(restore, whole.lq, teacher.scale, teacher.size_multiple)

            return self.known(
                "restored image", whole.key, [*whole.by, role], compute, draws(whole.key)
            )

        return torch.cat([whole.window.cut(restored(whole), teacher.scale) for whole in wholes])

    def endpoint(self, inputs: Inputs, generator: torch.Generator) -> Tensor:
        """The faithful teacher's result in the student's latent space, without gradient."""
        teacher, codec = self.teachers["fidelity"], self.student.codec

        def compute() -> Tensor:
            if isinstance(teacher, DiffusionModel) and teacher.space == codec.space:
                return teacher.generate(teacher.condition(inputs.lq), generator)
            return codec.encode(teacher.restore(inputs.lq, generator))

        return self.known("endpoint", inputs.key, ["fidelity", "student"], compute, generator)


def build_cast(
    resolved: ResolvedRecipe, device: torch.device, mesh: DeviceMesh | None = None
) -> Cast:
    """Build student, teachers and degradation, each by its plugin, and check that their sizes fit together.

    Args:
        mesh: processes over which frozen weights are sharded.

    Raises:
        PluginError: a plugin's ``build`` failed or returned the wrong thing. RecipeError: output sizes that do not match, or
            training crops of a size that somebody cannot take, captions that nobody takes, or none for a model that takes them.
    """
    home = torch.device("cpu") if mesh else device  # whole ones may be too large for the device
    student = _model(resolved, "student", home)
    if not isinstance(student, DiffusionModel):
        raise PluginError(
            f"{resolved.components['student'].full_name} - builds a {type(student).__name__}, not a DiffusionModel"
        )
    teachers: dict[Role, Any] = {}
    for role in ROLES:
        if f"teachers.{role}" in resolved.components:
            teacher = _model(resolved, f"teachers.{role}", home)
            if isinstance(teacher, nn.Module):
                share_storage(
                    teacher, *(m for m in (student, *teachers.values()) if isinstance(m, nn.Module))
                )
            teachers[role] = teacher
    if mesh is not None:
        sharded = [m for m in (student, *teachers.values()) if isinstance(m, nn.Module)]
        shard_models(sharded, mesh, device)
    degradation = (
        build(resolved, "degradation", device) if "degradation" in resolved.components else None
    )
    scales = {"student": student.scale} | {f"teachers.{r}": t.scale for r, t in teachers.items()}
    scales |= {"degradation": degradation.scale} if degradation is not None else {}
    if len(set(scales.values())) > 1:
        raise RecipeError(
            "scales differ: "
            + ", ".join(f"{k} {v}x" for k, v in scales.items())
            + "; they must agree"
        )
    models = {"student": student} | {f"teachers.{r}": t for r, t in teachers.items()}
    _check_crop(resolved, models, student.scale)
    _check_captions(
        resolved,
        [k for k, m in models.items() if isinstance(m, DiffusionModel) and m.takes_captions],
    )
    anchors = {
        role: build_distance(resolved, f"stage1.{role}_anchor", device)
        for role in ROLES
        if f"stage1.{role}_anchor" in resolved.components
    }
    cache = open_cache(resolved.recipe.training, device)
    members = models if degradation is None else models | {"degradation": degradation}
    made = (
        {k: identity(resolved.components[k], thing) for k, thing in members.items()}
        if cache.store
        else {}
    )
    return Cast(
        student,
        teachers,
        degradation,
        device,
        cache,
        {k.removeprefix("teachers."): v for k, v in made.items()},
        anchors,
    )


def encodes_by_network(model: DiffusionModel) -> bool:
    """Whether a model's latents are worth a file: folding pixels is faster than reading one."""
    if type(model).encode is not DiffusionModel.encode:
        return True
    return isinstance(model.codec, nn.Module) and any(True for _ in model.codec.parameters())


def _model(resolved: ResolvedRecipe, key: str, device: torch.device) -> Any:
    model = build(resolved, key, device)
    if resolved.recipe.training.channels_last and isinstance(model, nn.Module):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _check_crop(
    resolved: ResolvedRecipe, models: Mapping[str, DiffusionModel | OutputTeacher], scale: int
) -> None:
    """Training crops are not padded: their sides must be multiples of what every model takes."""
    crop, units = resolved.recipe.data.crop, {k: scale * m.size_multiple for k, m in models.items()}
    unfit = [f"{k} takes multiples of {unit}" for k, unit in units.items() if crop % unit]
    if unfit:
        fit = math.lcm(*units.values())
        where = f"{resolved.origin('data.crop')}  data.crop"
        raise RecipeError(
            f"{where} - clean crops of {crop} pixels: {', '.join(unfit)}; all take {fit} and its multiples"
        )


def _check_captions(resolved: ResolvedRecipe, takers: list[str]) -> None:
    """A caption column and a model that takes captions need each other."""
    captioned = [
        f"data.train.{i}.caption_column"
        for i, s in enumerate(resolved.recipe.data.train)
        if s.caption_column
    ]
    if captioned and not takers:
        where = f"{resolved.origin(captioned[0])}  {captioned[0]}"
        raise RecipeError(
            f"{where} - no model of this recipe takes captions; turn them on in the options of one that can"
        )
    if takers and not captioned:
        raise RecipeError(
            f"{', '.join(takers)} - takes captions, and no source of data.train names a caption_column"
        )
