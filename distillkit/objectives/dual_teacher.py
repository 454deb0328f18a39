"""Eq. 2-4 of the paper: score distillation from two frozen teachers (algorithm 1, lines 5-13).

Paper's symbols: ``z_s`` is the student's clean latent z_0^s, ``z`` the ground truth's z_0,
``eps_T`` and ``eps_S`` the noise predictions of a teacher T (T_f for L_fl, T_r for L_rn) and of the
student S. For either teacher

``L_T = |eps_T(z_t^s) - eps_S(z_t^s)|^2 + gamma |eps_T(z_t^s) - eps_T(z_t)|^2``

whose terms are called *imitate* and *anchor*. What the paper leaves open is settled here: norms are
means over elements; ``z_t^s`` and ``z_t`` share timestep and noise; a teacher predicts in its own
latent space and forward process, at the timestep whose SNR equals the student's; only timesteps
that both were trained at are drawn, so a term has the same weight however a batch is split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distillkit.diffusion.bridge import Bridge
from distillkit.diffusion.model import Condition, DiffusionModel, ModelInput, RestorationModel
from distillkit.diffusion.prediction import Prediction
from distillkit.diffusion.process import ForwardProcess, match_timesteps
from distillkit.errors import DistillkitError

ScoreWeighting = Literal["literal", "clipped", "sample"]
TeacherGradient = Literal["full", "sds"]
Imitator = Literal["denoiser", "output"]

MAX_REDRAWS = 10_000
"""Draws after which two processes count as having no timestep in common."""


@dataclass(frozen=True)
class StudentOutput:
    """What the student generated for one batch, with its gradient."""

    condition: Condition
    """The student's condition."""
    latent: Tensor
    """z_0^s, (B, C, h, w)."""
    image: Tensor | None
    """x_0 = D(z_0^s), (B, 3, H, W); None where no teacher of another latent space looks at it."""


class ScoreTerms(NamedTuple):
    """The two terms of eq. 2 or 3, unweighted scalars."""

    imitate: Tensor
    anchor: Tensor


# Each argument is a symbol or a choice of eq. 2 and 3: a class for them would only move the list.
def score_distillation(  # noqa: PLR0913
    teacher: DiffusionModel,
    student: RestorationModel,
    output: StudentOutput,
    inputs: ModelInput,
    gt: Tensor,
    generator: torch.Generator,
    *,
    weighting: ScoreWeighting = "clipped",
    gradient: TeacherGradient = "full",
    imitator: Imitator = "denoiser",
) -> ScoreTerms:
    """Compute eq. 2 for the faithful teacher, eq. 3 for the realistic one.

    In different latent spaces the teacher sees the student's re-encoded image, and its clean
    prediction comes back, without gradient, to be compared in the student's space.

    Args:
        teacher: Frozen.
        student: The model that made ``output``; its denoiser predicts eps_S.
        output: The output of the student.
        inputs: The teacher's; its cache may hold the ground truth's latent.
        gt: The ground truth, (B, 3, H, W) in [-1, 1].
        generator: A CPU generator for timesteps and noise.
        weighting: The weight of a noise difference at ``r = signal / noise``. ``"literal"``: none
            (as printed; grows with r). ``"clipped"``: ``1 / max(r, 1)``. ``"sample"``: clean
            latents are compared instead. For *imitate* that is the same difference over r; for
            *anchor* it is another loss, because
            ``eps_T(z_t^s) - eps_T(z_t) = r [(z_s - z) - (z0_T(z_t^s) - z0_T(z_t))]``.
        gradient: ``"full"`` differentiates the terms as they stand, through the teacher's input.
            ``"sds"`` runs the teacher without gradient and pushes ``z_s`` along the weighted
            difference itself, as score distillation sampling does (the teacher's Jacobian is
            taken as 1).
        imitator: The prediction of the student that imitates the teacher's. ``"denoiser"``: eps_S,
            as printed. ``"output"``: z_s itself, whose noise in ``z_t^s`` is known, so that
            *imitate* becomes ``|z_s - sg[z0_T(z_t^s)]|^2`` in the same weighting, the loss of
            score distillation sampling. A student without a denoiser has no other.
    """
    lq = inputs.lq
    if imitator == "output":
        student_process = teacher.process
    else:
        assert isinstance(student, DiffusionModel)
        student_process = student.process
    t_teacher, t_student = draw_timesteps(
        teacher.process, student_process, len(lq), generator, lq.device
    )
    with torch.no_grad():
        condition = teacher.condition(inputs)
        z = inputs.cache("gt latent", lambda: teacher.encode(gt, condition))
    bridge = Bridge(student, teacher, condition)
    noise = torch.randn(z.shape, generator=generator).to(z)

    z_s = bridge.to_teacher(output.latent, output.image)
    z_t_s = teacher.process.add_noise(z_s, noise, t_teacher, condition.y)
    z_t = teacher.process.add_noise(z, noise, t_teacher, condition.y)
    predict = _predict_both if gradient == "full" else _predict_both_without_gradient
    student_side, truth_side = predict(teacher, z_t_s, z_t, t_teacher, condition)

    # anchor: eps_T(z_t^s) - eps_T(z_t)
    anchor_gap = _gap(student_side, truth_side, teacher.process, t_teacher, weighting)

    # imitate: eps_S(z_t^s) - eps_T(z_t^s), as a difference of clean latents in the student's space
    if bridge.identity:
        target = student_side.sample
        student_noise = noise
    else:
        with torch.no_grad():
            target = bridge.to_student(student_side.sample)
        # another space has noise of its own, drawn after the teacher's
        student_noise = torch.randn(output.latent.shape, generator=generator).to(z)
    if imitator == "output":
        imitated = output.latent
        target = target.detach()
    else:
        assert isinstance(student, DiffusionModel)
        imitated = _predict_own(student, output, student_noise, t_student, gradient).sample
    imitate_gap = _as_noise(imitated - target, student_process, t_student, weighting)

    imitate = imitate_gap.square().mean()
    anchor = anchor_gap.square().mean()
    if gradient == "sds":
        # The output's own gap has its gradient already.
        if imitator == "denoiser":
            imitate = imitate + _push(imitate_gap, output.latent)
        anchor = anchor + _push(anchor_gap, z_s)
    return ScoreTerms(imitate, anchor)


def output_distillation(image: Tensor, restored: Tensor) -> Tensor:
    """Compute ``|x_0 - restore_T(x_LQ)|^2``, a mean.

    It is all that a teacher without a score can teach. It is not eq. 3 and has no anchor.

    Args:
        image: The student's image, x_0, (B, 3, H, W) in [-1, 1].
        restored: The teacher's image for the same input, (B, 3, H, W), without gradient.
    """
    return (image - restored).square().mean()


def denoised_output_distillation(
    student: DiffusionModel,
    output: StudentOutput,
    restored: Tensor,
    generator: torch.Generator,
    *,
    gradient: TeacherGradient = "full",
) -> Tensor:
    """Compute ``min(SNR_t, 1) |z0_S(z_t^s) - E_S(restore_T(x_LQ))|^2``, a mean.

    The teacher's result stands for a clean latent at every t: what the first term of eq. 2 or 3
    becomes for a teacher that does not look at ``z_t`` (with ``weighting = "clipped"``). The second
    term would be plain MSE to the ground truth, because the teacher cancels: there is none.

    Args:
        student: The model that made ``output``.
        output: The output of the student.
        restored: The teacher's image for the same input, (B, 3, H, W) in [-1, 1].
        generator: A CPU generator for timesteps and noise.
        gradient: As in :func:`score_distillation`.
    """
    with torch.no_grad():
        target = student.codec.encode(restored)
    t = student.process.sample_timesteps(len(restored), generator).to(restored.device)
    noise = torch.randn(output.latent.shape, generator=generator).to(output.latent)
    own = _predict_own(student, output, noise, t, gradient)
    gap = _as_noise(own.sample - target, student.process, t, "clipped")
    loss = gap.square().mean()
    if gradient == "sds":
        loss = loss + _push(gap, output.latent)
    return loss


def draw_timesteps(
    teacher: ForwardProcess,
    student: ForwardProcess,
    n: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw ``n`` pairs of timesteps of equal SNR that both processes know.

    They are drawn as in the training of the process with the coarser grid, among its timesteps
    that the other one was trained at as well.

    Returns:
        The teacher's timesteps (n,), and the student's (n,).

    Raises:
        DistillkitError: There is no such timestep.
    """
    if _is_coarser(teacher, student):
        t_teacher, t_student = _draw_shared(teacher, student, n, generator)
    else:
        t_student, t_teacher = _draw_shared(student, teacher, n, generator)
    return t_teacher.to(device), t_student.to(device)


def _draw_shared(
    source: ForwardProcess, target: ForwardProcess, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw timesteps of ``source`` that ``target`` knows, and their partners there.

    Unknown ones are drawn again. Were they left out of a mean instead, a batch of one would have a
    term of 0 where a larger batch has the mean over the others.
    """
    t = source.sample_timesteps(n, generator)
    for _ in range(MAX_REDRAWS):
        matched, known = match_timesteps(source, t, target)
        if known.all():
            return t, matched
        t = torch.where(known, t, source.sample_timesteps(n, generator))
    raise DistillkitError(
        f"no timestep of equal SNR in {_describe_range(source)} and {_describe_range(target)}: "
        "the teacher's score cannot be matched to the student's; learn from its images instead "
        '(stage1.teachers.NAME.term = "output")'
    )


def _describe_range(process: ForwardProcess) -> str:
    low, high = process.log_snr_range()
    return f"{type(process).__name__} (log SNR {low:.2f} to {high:.2f})"


def _is_coarser(a: ForwardProcess, b: ForwardProcess) -> bool:
    if a.num_train_timesteps is None:
        return False
    if b.num_train_timesteps is None:
        return True
    return a.num_train_timesteps <= b.num_train_timesteps


def _predict_both(
    teacher: DiffusionModel, z_t_s: Tensor, z_t: Tensor, t: Tensor, condition: Condition
) -> tuple[Prediction, Prediction]:
    """Predict for the student's noised latent, with gradient, and for the truth's, without."""
    student_side = teacher.predict(z_t_s, t, condition)
    with torch.no_grad():
        truth_side = teacher.predict(z_t, t, condition)
    return student_side, truth_side


@torch.no_grad()
def _predict_both_without_gradient(
    teacher: DiffusionModel, z_t_s: Tensor, z_t: Tensor, t: Tensor, condition: Condition
) -> tuple[Prediction, Prediction]:
    """Predict for both in one pass, which is cheaper: nothing is kept for a backward pass."""
    both = teacher.predict(torch.cat([z_t_s, z_t]), torch.cat([t, t]), condition.doubled())
    student_sample, truth_sample = both.sample.chunk(2)
    student_epsilon, truth_epsilon = both.epsilon.chunk(2)
    return Prediction(student_sample, student_epsilon), Prediction(truth_sample, truth_epsilon)


def _predict_own(
    student: DiffusionModel,
    output: StudentOutput,
    noise: Tensor,
    t: Tensor,
    gradient: TeacherGradient,
) -> Prediction:
    """Predict for the student's own noised latent, by the student's denoiser."""
    latent = output.latent
    if gradient == "sds":
        # The latent gets its gradient from _push alone: no Jacobian of the denoiser.
        latent = latent.detach()
    z_t = student.process.add_noise(latent, noise, t, output.condition.y)
    return student.predict(z_t, t, output.condition)


def _gap(
    a: Prediction, b: Prediction, process: ForwardProcess, t: Tensor, weighting: ScoreWeighting
) -> Tensor:
    """Compute the weighted difference of predictions for two latents, (B, C, h, w)."""
    if weighting == "sample":
        return a.sample - b.sample
    gap = a.epsilon - b.epsilon
    if weighting == "clipped":
        gap = gap / process.coefficients(t).ratio.clamp(min=1)
    return gap


def _as_noise(
    sample_gap: Tensor, process: ForwardProcess, t: Tensor, weighting: ScoreWeighting
) -> Tensor:
    """Turn a gap of samples at one ``z_t`` into the (negated, weighted) gap of their noises.

    ``eps_a - eps_b = -r (z0_a - z0_b)`` with ``r = signal / noise``. Clipped, it is that times
    ``1 / max(r, 1)``, so the factor is ``min(r, 1)``.
    """
    if weighting == "sample":
        return sample_gap
    ratio = process.coefficients(t).ratio
    if weighting == "clipped":
        ratio = ratio.clamp(max=1)
    return sample_gap * ratio


def _push(gap: Tensor, latent: Tensor) -> Tensor:
    """Return 0 with the gradient ``2 gap`` for ``latent``, averaged like the loss itself.

    So the logged value stays that of the loss, and its gradient is that of ``|gap|^2`` with
    ``d gap / d latent = 1``: score distillation sampling (Poole et al. 2022).
    """
    push = (2 * gap.detach() * latent).mean()
    return push - push.detach()
