"""One training step of either stage as one module whose forward makes every pass: the only thing that is prepared for devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from distillkit.adapters import Adapter
from distillkit.data.pairs import Batch
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import Condition, DiffusionModel
from distillkit.errors import RecipeError
from distillkit.objectives.controllability import Stage2Batch, Variant
from distillkit.objectives.dual_teacher import (
    StudentSample,
    denoised_output_distillation,
    output_distillation,
    score_distillation,
)
from distillkit.objectives.known import computed
from distillkit.objectives.reconstruction import Distance, reconstruction
from distillkit.recipe.schema import Stage1
from distillkit.training.feature_cache import digest
from distillkit.training.models import Cast, Role, WholeInput, encodes_by_network
from distillkit.training.per_term_backward import Terms, backward_per_term


class Step(nn.Module):
    """``forward(batch, step) -> Terms``. Its parameters are ``tensors``, what the stage trains by name, and no others."""

    def __init__(
        self, cast: Cast, seed: int, stage: str, tensors: Mapping[str, nn.Parameter]
    ) -> None:
        super().__init__()
        self._trained, self._tensors = nn.ParameterList(tensors.values()), dict(tensors)
        self._cast, self._seed, self._stage = (
            [cast],
            seed,
            stage,
        )  # in a list: models are no submodules and are never prepared
        self.part = 0
        """Which of its step's batches the next one is, counted over all processes."""

    def tensors(self) -> dict[str, nn.Parameter]:
        """What the stage trains, by name."""
        return self._tensors

    @property
    def cast(self) -> Cast:
        return self._cast[0]

    @property
    def student(self) -> DiffusionModel:
        return self.cast.student

    def generator(self, step: int, purpose: str) -> torch.Generator:
        """Randomness of one purpose at one step and part: a resumed run draws what an uninterrupted one would."""
        return keyed_generator(self._seed, self._stage, step, self.part, purpose)


@dataclass(frozen=True)
class Piece:
    """A batch, or the same window of all that belongs to it, and what the student made of it."""

    lq: Tensor
    gt: Tensor
    key: str
    wholes: Sequence[WholeInput]
    condition: Condition
    latent: Tensor
    part: Callable[[Tensor], Tensor]
    """Of images of the whole batch (B, 3, H, W), those of the window."""


class Stage1Step(Step):
    """Algorithm 1: ``L_s1 = L_rec + lambda_rn L_rn + lambda_fl L_fl`` (eq. 4)."""

    def __init__(
        self,
        cast: Cast,
        adapter: Adapter,
        options: Stage1,
        perceptual: Distance | None,
        seed: int,
        *,
        per_term_backward: bool = False,
    ) -> None:
        super().__init__(cast, seed, "stage1", adapter.tensors())
        self._options, self._perceptual, self._term_by_term = options, perceptual, per_term_backward

    def forward(self, batch: Batch, step: int) -> Terms:
        inputs = self.cast.inputs(batch, self.generator(batch.step, "degradation"))
        with self.cast.remembering("student", inputs.key):
            condition = self.student.condition(inputs.lq)
        latent = self.student.generate(condition, self.generator(step, "student"))
        whole = Piece(*inputs, condition, latent, lambda images: images)
        piece = self._decoded_piece(whole, self.generator(batch.step, "decode_crop_size"))
        taught: Terms = {}  # first, so that what the decoder keeps is not held beside it
        for role in self._asked(decoded=False):
            taught |= self._settle(
                partial(self._teach_score, role, draws=self.generator(step, role)), whole, None
            )
        image = self.student.codec.decode(piece.latent)
        terms = self._settle(
            partial(self._reconstruct, draws=self.generator(step, "shift")), piece, image
        )
        for role in self._asked(decoded=True):
            if self._asks_for_output(role):
                teach = partial(self._teach_output, role, step=step, data_step=batch.step)
            else:
                teach = partial(self._teach_score, role, draws=self.generator(step, role))
            terms |= self._settle(teach, piece, image)
        return terms | taught

    def _asked(self, decoded: bool) -> list[Role]:
        """The teachers that need the decoded image, or those that do not."""
        return [
            r
            for r in self.cast.teachers
            if getattr(self._options.weights, r) and self._needs_image(r) == decoded
        ]

    def _needs_image(self, role: Role) -> bool:
        teacher = self.cast.teachers[role]
        return (
            self._asks_for_output(role)
            or not isinstance(teacher, DiffusionModel)
            or teacher.space != self.student.space
        )

    def _asks_for_output(self, role: Role) -> bool:
        return getattr(self._options, f"{role}_term") == "output" or not isinstance(
            self.cast.teachers[role], DiffusionModel
        )

    def _settle(
        self, make: Callable[[Piece, Tensor | None], Terms], piece: Piece, image: Tensor | None
    ) -> Terms:
        """The terms that ``make`` makes of what the student made; term by term, their gradient is taken at once."""
        if not self._term_by_term:
            return make(piece, image)
        trained = list(self.tensors().values())
        return backward_per_term(
            lambda latent, x_0: make(replace(piece, latent=latent), x_0),
            [piece.latent, image],
            trained,
        )

    def _reconstruct(self, piece: Piece, image: Tensor, draws: torch.Generator) -> Terms:
        weights, shift = self._options.weights, self._options.perceptual_shift
        perceptual = self._perceptual if weights.perceptual > 0 else None
        found = reconstruction(image, piece.gt, perceptual, shift=shift, generator=draws)
        return {
            name: getattr(weights, name) * term
            for name, term in found.items()
            if getattr(weights, name) > 0
        }

    def _teach_score(
        self, role: Role, piece: Piece, image: Tensor | None, draws: torch.Generator
    ) -> Terms:
        weights, options, teacher = self._options.weights, self._options, self.cast.teachers[role]
        assert isinstance(teacher, DiffusionModel)
        sample = StudentSample(piece.condition, piece.latent, image)
        known = (
            partial(self.cast.known, "gt latent", piece.key, [role])
            if encodes_by_network(teacher)
            else computed
        )
        with self.cast.remembering(role, piece.key):
            imitate, anchor = score_distillation(
                teacher,
                self.student,
                sample,
                piece.lq,
                piece.gt,
                draws,
                weighting=options.score_weighting,
                gradient=options.teacher_gradient,
                known=known,
            )
        weight = getattr(weights, role)
        return {
            f"{role}/imitate": weight * weights.imitate * imitate,
            f"{role}/anchor": weight * weights.gamma(role) * anchor,
        }

    def _teach_output(
        self, role: Role, piece: Piece, image: Tensor, step: int, data_step: int
    ) -> Terms:
        weights, options = self._options.weights, self._options
        restored = self._restored(role, piece, data_step)
        if options.output_loss == "image":
            loss = output_distillation(image, restored)
        else:
            sample = StudentSample(piece.condition, piece.latent, image)
            draws = self.generator(step, f"{role}_times")
            loss = denoised_output_distillation(
                self.student, sample, restored, draws, gradient=options.teacher_gradient
            )
        terms = {f"{role}/output": getattr(weights, role) * weights.imitate * loss}
        if role in self.cast.anchors:
            anchor = self.cast.anchors[role](image, piece.gt).mean()
            terms[f"{role}/metric_anchor"] = getattr(weights, role) * weights.gamma(role) * anchor
        return terms

    def _restored(self, role: Role, piece: Piece, data_step: int) -> Tensor:
        """What an output teacher makes of the piece, or that window of what it makes of the whole images."""
        if self._options.output_targets == "crop":
            return self.cast.restored(role, piece.lq, piece.key, self.generator(data_step, role))

        def draws(key: str) -> torch.Generator:
            return keyed_generator(self._seed, self._stage, role, "image", key)

        return piece.part(self.cast.restored_wholes(role, piece.wholes, draws))

    def _decoded_piece(self, whole: Piece, generator: torch.Generator) -> Piece:
        side = self._options.decode_crop_size
        if side is None or side >= min(whole.gt.shape[-2:]):
            return whole
        scale, factor = (
            whole.gt.shape[-1] // whole.lq.shape[-1],
            whole.gt.shape[-1] // whole.latent.shape[-1],
        )
        unit = math.lcm(
            factor, *(scale * m.size_multiple for m in (self.student, *self.cast.teachers.values()))
        )
        if side % unit:
            raise RecipeError(
                f"stage1.decode_crop_size - {side} pixels: these models take {unit} and its multiples"
            )
        places = ((length - side) // unit + 1 for length in whole.gt.shape[-2:])
        top, left = (unit * int(torch.randint(n, (), generator=generator)) for n in places)

        def cut(x: Tensor, ratio: int) -> Tensor:
            return x[
                ..., top // ratio : (top + side) // ratio, left // ratio : (left + side) // ratio
            ]

        lq, key = (
            cut(whole.lq, scale),
            digest(whole.key, f"{side} {top} {left}") if whole.key else "",
        )
        with self.cast.remembering("student", key):
            condition = self.student.condition(lq)
        latent = cut(whole.latent, factor)
        return Piece(
            lq,
            cut(whole.gt, 1),
            key,
            whole.wholes,
            condition,
            latent,
            lambda images: cut(images, 1),
        )


class Stage2Step(Step):
    """Controllability distillation: whatever the chosen variant's loss is."""

    def __init__(self, cast: Cast, variant: Variant, seed: int) -> None:
        super().__init__(cast, seed, "stage2", variant.tensors())
        self.variant = variant
        self.average: Callable[[], AbstractContextManager[None]] = nullcontext

    def forward(self, batch: Batch, step: int) -> Terms:
        inputs = self.cast.inputs(batch, self.generator(batch.step, "degradation"))

        def student_draws() -> torch.Generator:
            return self.generator(batch.step, "student")

        lesson = Stage2Batch(
            lq=inputs.lq,
            gt=inputs.gt,
            endpoint=lambda: self.cast.endpoint(inputs, self.generator(batch.step, "endpoint")),
            generator=self.generator(step, "variant"),
            draws=student_draws,
            step=step,
            average=self.average,
            known=partial(self.cast.known, "start", inputs.key, ["stage1"], draws=student_draws()),
        )
        with self.cast.remembering("student", inputs.key):
            return self.variant.terms(lesson)
