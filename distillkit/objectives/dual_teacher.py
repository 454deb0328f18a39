"""Eq. 2-4 of the paper: two frozen teachers shape one student (algorithm 1, lines 5-13).

Paper's symbols: ``z_s`` is the student's clean latent z_0^s, ``z`` the ground truth's z_0, ``eps_T`` and ``eps_S`` the noise
predictions of a teacher T (T_f for L_fl, T_r for L_rn) and of the student S. For either teacher

``L_T = |eps_T(z_t^s) - eps_S(z_t^s)|^2 + gamma |eps_T(z_t^s) - eps_T(z_t)|^2``      (*imitate* and *anchor*)

What the paper leaves open is settled here: norms are means over elements; ``z_t^s`` and ``z_t`` share time and noise; a teacher is
asked in its own latent space and forward process, at the time whose SNR equals the student's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distillkit.diffusion.bridge import Bridge
from distillkit.diffusion.model import Condition, DiffusionModel
from distillkit.diffusion.prediction import Prediction
from distillkit.diffusion.process import ForwardProcess, match_timesteps
from distillkit.objectives.known import Known, computed

Weighting = Literal["literal", "clipped", "sample"]
Gradient = Literal["full", "sds"]


@dataclass(frozen=True)
class StudentSample:
    """What the student made of one batch, carrying its gradient."""

    condition: Condition
    latent: Tensor
    """z_0^s, (B, C, h, w)."""
    image: Tensor | None
    """x_0 = D(z_0^s), (B, 3, H, W); None where it was not decoded. Teachers of the student's own latent space do not look at it."""


class TeacherTerms(NamedTuple):
    """The two terms of eq. 2 or 3, scalars."""

    imitate: Tensor
    anchor: Tensor


def score_distillation(
    teacher: DiffusionModel,
    student: DiffusionModel,
    sample: StudentSample,
    lq: Tensor,
    gt: Tensor,
    generator: torch.Generator,
    *,
    weighting: Weighting = "clipped",
    gradient: Gradient = "full",
    known: Known = computed,
) -> TeacherTerms:
    """Eq. 2 for the faithful teacher, eq. 3 for the realistic one.

    Args:
        teacher: frozen. student: the model that made ``sample``; its denoiser answers eps_S with the same trained weights.
        lq, gt: the batch, (B, 3, h, w) and (B, 3, H, W) in [-1, 1].
        generator: a CPU generator for times and noise.
        weighting: of a noise difference at ``r = signal / noise``. ``"literal"``: none (as printed; grows with r).
            ``"clipped"``: times ``1 / max(r, 1)``. ``"clean"``: clean predictions are compared instead. For *imitate* that is the
            same difference over r; for *anchor* it is another loss, because
            ``eps_T(z_t^s) - eps_T(z_t) = r [(z_s - z) - (clean_T(z_t^s) - clean_T(z_t))]``.
        gradient: ``"full"`` differentiates the terms as they stand, through the teacher's input. ``"score"`` runs the teacher
            without gradient and pushes ``z_s`` along the weighted difference itself, as score distillation does (the teacher's
            Jacobian taken as 1).
        known: of ``gt`` in the teacher's latent space.

    In different latent spaces the teacher sees the student's re-encoded image, and its clean prediction comes back, without
    gradient, to be compared in the student's space. Samples whose time the other process was never trained at are left out.
    """
    t_teacher, t_student, kept = draw_timesteps(
        teacher.process, student.process, len(lq), generator, lq.device
    )
    with torch.no_grad():
        condition = teacher.condition(lq)
        z = known(lambda: teacher.encode(gt, condition))
    bridge = Bridge(student, teacher, condition)
    noise = torch.randn(z.shape, generator=generator).to(z)
    z_s = bridge.to_teacher(sample.latent, sample.image)

    z_t_s, z_t = (
        teacher.process.add_noise(latent, noise, t_teacher, condition.y) for latent in (z_s, z)
    )
    if gradient == "full":
        of_student = teacher.predict(z_t_s, t_teacher, condition)
        with torch.no_grad():
            of_truth = teacher.predict(z_t, t_teacher, condition)
    else:  # nothing is kept for a backward pass, so one pass of twice the batch makes both
        with torch.no_grad():
            both = teacher.predict(
                torch.cat([z_t_s, z_t]), torch.cat([t_teacher, t_teacher]), condition.twice()
            )
        of_student, of_truth = (
            Prediction(*half)
            for half in zip(both.sample.chunk(2), both.epsilon.chunk(2), strict=True)
        )
    with torch.no_grad():
        clean_target = bridge.to_student(of_student.sample)
    if bridge.identity:
        clean_target = of_student.sample
    own_noise = (
        noise if bridge.identity else torch.randn(sample.latent.shape, generator=generator).to(z)
    )

    anchor_gap = _gap(of_student, of_truth, teacher.process, t_teacher, weighting)
    z_in = sample.latent if gradient == "full" else sample.latent.detach()
    z_t_student = student.process.add_noise(z_in, own_noise, t_student, sample.condition.y)
    own = student.predict(z_t_student, t_student, sample.condition)
    imitate_gap = _as_noise(own.sample - clean_target, student.process, t_student, weighting)

    if gradient == "full":
        return TeacherTerms(_mean_square(imitate_gap, kept), _mean_square(anchor_gap, kept))
    imitate = _mean_square(imitate_gap, kept) + _push(imitate_gap, sample.latent, kept)
    return TeacherTerms(imitate, _mean_square(anchor_gap, kept) + _push(anchor_gap, z_s, kept))


def output_distillation(image: Tensor, restored: Tensor) -> Tensor:
    """``|x_0 - restore_T(x_LQ)|^2``, a mean: all that a teacher without a score can teach. It is not eq. 3 and has no anchor.

    Args:
        image: the student's, x_0. restored: the teacher's for the same input, without gradient. Both (B, 3, H, W) in [-1, 1].
    """
    return (image - restored).square().mean()


def denoised_output_distillation(
    student: DiffusionModel,
    sample: StudentSample,
    restored: Tensor,
    generator: torch.Generator,
    *,
    gradient: Gradient = "full",
) -> Tensor:
    """``min(SNR_t, 1) |clean_S(z_t^s) - E_S(restore_T(x_LQ))|^2``, a mean: the teacher's result as a clean prediction at every t.

    What the first term of eq. 2 or 3 becomes for a teacher that does not look at ``z_t`` (with ``score_weighting = "clipped"``). The
    second would be plain MSE to the ground truth, the teacher canceling: it has none.

    Args:
        restored: the teacher's image for the same input, (B, 3, H, W) in [-1, 1]. generator: a CPU generator for times and noise.
        gradient: as in :func:`score_distillation`.
    """
    with torch.no_grad():
        target = student.codec.encode(restored)
    t = student.process.sample_timesteps(len(restored), generator).to(restored.device)
    noise = torch.randn(sample.latent.shape, generator=generator).to(sample.latent)
    z_in = sample.latent if gradient == "full" else sample.latent.detach()
    own = student.predict(
        student.process.add_noise(z_in, noise, t, sample.condition.y), t, sample.condition
    )
    gap, kept = (
        _as_noise(own.sample - target, student.process, t, "clipped"),
        torch.ones_like(t, dtype=torch.bool),
    )
    loss = _mean_square(gap, kept)
    return loss if gradient == "full" else loss + _push(gap, sample.latent, kept)


def draw_timesteps(
    teacher: ForwardProcess,
    student: ForwardProcess,
    n: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """``n`` pairs of times of equal SNR, drawn on the coarser grid, and a mask of the pairs that both processes know."""
    coarser_is_teacher = teacher.num_train_timesteps is not None and (
        student.num_train_timesteps is None
        or teacher.num_train_timesteps <= student.num_train_timesteps
    )
    source, target = (teacher, student) if coarser_is_teacher else (student, teacher)
    drawn = source.sample_timesteps(n, generator).to(device)
    matched, kept = match_timesteps(source, drawn, target)
    return (drawn, matched, kept) if coarser_is_teacher else (matched, drawn, kept)


def _gap(
    a: Prediction, b: Prediction, process: ForwardProcess, t: Tensor, weighting: Weighting
) -> Tensor:
    if weighting == "sample":
        return a.sample - b.sample
    gap = a.epsilon - b.epsilon
    return gap if weighting == "literal" else gap / process.coefficients(t).ratio.clamp(min=1)


def _as_noise(
    clean_gap: Tensor, process: ForwardProcess, t: Tensor, weighting: Weighting
) -> Tensor:
    """A difference of clean predictions at the same ``z_t`` as the (negated) difference of their noises, weighted."""
    ratio = process.coefficients(t).ratio
    return (
        clean_gap
        * {"literal": ratio, "clipped": ratio.clamp(max=1), "sample": torch.ones_like(ratio)}[
            weighting
        ]
    )


def _mean_square(gap: Tensor, kept: Tensor) -> Tensor:
    return (gap.square().mean(dim=(1, 2, 3)) * kept).sum() / kept.sum().clamp(min=1)


def _push(gap: Tensor, latent: Tensor, kept: Tensor) -> Tensor:
    """Zero in value; its gradient with respect to ``latent`` is ``2 gap``, averaged like :func:`_mean_square`."""
    push = ((2 * gap.detach() * latent).mean(dim=(1, 2, 3)) * kept).sum() / kept.sum().clamp(min=1)
    return push - push.detach()
