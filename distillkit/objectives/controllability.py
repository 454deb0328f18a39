"""Eq. 5-9 of the paper and what works in their place: the second distillation, which gives the student its knob.

``tradeoff`` t runs from 0 (most realistic: the stage-1 student) to 1 (most faithful). Symbols: ``theta_0`` is the stage-1 student,
frozen; ``z_0 = S_theta0(x_LR)`` its latent; ``z_1`` a faithful endpoint, the fidelity teacher's result in the student's space.

============  =======================================  ==========================================  ======
variant       trained                                  image at tradeoff t                         passes
============  =======================================  ==========================================  ======
gate          an adapter whose scale is t              D(S_theta_t(x_LR))                          1
oftsr         a copy of the network, zero head         D(z_0 + t f(z_0, t))                        2
ctsr_eq8      an adapter, on                           D(z_0 + t eps_S(z_0, t))                    2
ctsr_alg2     an adapter, on                           D(z_0 + t eps_S(z_0, t))                    2
============  =======================================  ==========================================  ======

(passes of the network, for a student that generates in one.) ``adapter_scaling`` is ours and the default. ``ctsr_eq8`` and ``ctsr_alg2`` are
the paper's two statements, taken literally; neither mentions a faithful endpoint, and neither gives a usable knob on the mini
models (``docs/results.md``). The paper does not state their inference rule: this one starts at the stage-1 result, as its Table 7
does.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distillkit.adapters import Adapter
from distillkit.diffusion.model import Condition, DiffusionModel
from distillkit.diffusion.process import ForwardProcess
from distillkit.errors import PluginError
from distillkit.objectives.known import Known, computed
from distillkit.objectives.reconstruction import Distance, reconstruction


@dataclass(frozen=True)
class Stage2Batch:
    """What a variant may learn from at one step."""

    lq: Tensor
    gt: Tensor
    endpoint: Callable[[], Tensor]
    """z_1, (B, C, h, w), computed when asked for, without gradient."""
    generator: torch.Generator
    """On the CPU: for times and tradeoffs, new ones at each step."""
    draws: Callable[[], torch.Generator]
    """For the noise that a student starts from: the same at each call, and whenever a batch comes again."""
    step: int
    """Steps of stage 2 done so far."""
    average: Callable[[], AbstractContextManager[None]]
    """A ``with`` block inside which the trained tensors are their moving average."""
    known: Known = computed
    """Of z_0, made of ``lq`` and ``draws``."""


class Variant(ABC):
    """One way to train and to use the knob."""

    student: DiffusionModel
    extra_nfe: int
    """Network passes of :meth:`generate` beyond those of the stage-1 student."""
    needs_endpoint: bool

    adapter: Adapter | None = None
    """The adapter that is trained; None where a network of its own is."""

    @property
    def models(self) -> tuple[DiffusionModel, ...]:
        """Everything whose passes carry gradient."""
        return (self.student,)

    @abstractmethod
    def tensors(self) -> dict[str, nn.Parameter]:
        """What stage 2 trains, by name."""

    @abstractmethod
    def terms(self, lesson: Stage2Batch) -> dict[str, Tensor]:
        """Weighted loss terms, to be summed."""

    @abstractmethod
    def generate(
        self,
        condition: Condition,
        tradeoff: float,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        """The latent at ``tradeoff``, clamped to [0, 1]. Exactly the stage-1 student's at 0.

        ``z_0`` is the latent at 0 where it is already known: it spares the variants of two passes the first.
        """

    def ready(self, tradeoff: float) -> AbstractContextManager[None]:
        """A ``with`` block for :meth:`generate` at this one tradeoff, without gradient: it is then as fast as it can be."""
        return nullcontext()

    @torch.no_grad()
    def start(self, lesson: Stage2Batch, condition: Condition) -> Tensor:
        """z_0 of a lesson, without gradient."""
        return lesson.known(lambda: self.generate(condition, 0.0, lesson.draws()))


class AdapterScaling(Variant):
    """The tradeoff is the scale of the stage-2 adapter: ``theta_t = theta_0 + t (theta - theta_0)``, one pass at every t.

    Target ``"teacher"``: ``L = |S_theta_t(x_LR) - ((1 - t) z_0 + t z_1)|^2``.
    Target ``"reconstruction"``: eq. 1 with its L2 weight growing geometrically, ``lambda_l2(t) = lambda_l2 ratio^t``; no teacher is asked.

    One t, uniform on [0, 1], serves a whole batch; every ``faithful_every`` steps t is 1. Only theta has gradient; the diffusion
    time that the network sees stays the student's own. A fixed t merges into plain weights.
    """

    extra_nfe = 0

    def __init__(
        self,
        student: DiffusionModel,
        adapter: Adapter,
        target: Literal["reconstruction", "teacher"],
        *,
        weights: Mapping[str, float] | None = None,
        ratio: float = 40.0,
        faithful_every: int = 3,
        perceptual: Distance | None = None,
        shift: int = 0,
    ) -> None:
        self.student, self.target = student, target
        self.adapter: Adapter = adapter
        self.needs_endpoint = target == "teacher"
        self._weights, self._ratio, self._endpoint_every = (
            dict(weights or {"l2": 1.0}),
            ratio,
            faithful_every,
        )
        self._perceptual, self._shift = perceptual, shift

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.adapter.tensors()

    def terms(self, lesson: Stage2Batch) -> dict[str, Tensor]:
        t = self._draw_tradeoff(lesson)
        condition = self.student.condition(lesson.lq)
        if self.target == "teacher":
            z_0, z_1 = self.start(lesson, condition), lesson.endpoint()
            z_t = self.generate(condition, t, lesson.draws())
            return {"teacher": (z_t - ((1 - t) * z_0 + t * z_1)).square().mean()}
        x_t = self.student.codec.decode(self.generate(condition, t, lesson.draws()))
        terms = reconstruction(
            x_t, lesson.gt, self._perceptual, shift=self._shift, generator=lesson.generator
        )
        weights = self._weights | {"l2": self._weights["l2"] * self._ratio**t}
        return {
            name: weights.get(name, 0.0) * term
            for name, term in terms.items()
            if weights.get(name, 0.0) > 0
        }

    def generate(
        self,
        condition: Condition,
        tradeoff: float,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        with self.adapter.at_scale(_clamp(tradeoff)):
            return self.student.generate(condition, generator)

    def ready(self, tradeoff: float) -> AbstractContextManager[None]:
        return self.adapter.merged_at(_clamp(tradeoff))

    def _draw_tradeoff(self, lesson: Stage2Batch) -> float:
        drawn = float(torch.rand((), generator=lesson.generator))
        at_the_end = self._endpoint_every > 0 and (lesson.step + 1) % self._endpoint_every == 0
        return 1.0 if at_the_end else drawn


class _Literal(Variant):
    """What eq. 8 and algorithm 2 share: T_S is the adapter switched off, S the adapter switched on."""

    extra_nfe = 1
    needs_endpoint = False

    def __init__(self, student: DiffusionModel, adapter: Adapter) -> None:
        self.student = student
        self.adapter: Adapter = adapter

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.adapter.tensors()

    def generate(
        self,
        condition: Condition,
        tradeoff: float,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        t = _clamp(tradeoff)
        if z_0 is None:
            with self.adapter.at_scale(0.0):
                z_0 = self.student.generate(condition, generator)
        if t == 0:
            return z_0
        return z_0 + t * self._noise(z_0, torch.full((len(z_0),), t), condition, scale=1.0)

    def _noise(self, z: Tensor, t: Tensor, condition: Condition, *, scale: float) -> Tensor:
        """``eps_S(z, t, c)`` for scale 1, ``eps_TS(z, t, c)`` for scale 0; t (B,) in [0, 1] spans the model's range of times."""
        with self.adapter.at_scale(scale):
            return self.student.predict(
                z, knob_time(self.student.process, t).to(z.device), condition
            ).epsilon

    def _draw(self, lesson: Stage2Batch) -> tuple[Tensor, Tensor, Tensor, Condition]:
        """z_0 and two independent uniform times, (B,)."""
        condition = self.student.condition(lesson.lq)
        z_0 = self.start(lesson, condition)
        t, u = torch.rand(2, len(z_0), generator=lesson.generator)
        return z_0, t, u, condition


class CtsrEq8(_Literal):
    """Eq. 8: ``|t eps_TS(z_0, t) - t' eps_TS(z_0, t') + (t' - t) eps_S(z_t, t)|^2`` with ``z_t = z_0 + t eps_TS(z_0, t)`` (eq. 5).

    t and t' are independent and uniform on (0, 1). T_S is frozen and gives no gradient; S alone is trained.
    """

    def terms(self, lesson: Stage2Batch) -> dict[str, Tensor]:
        z_0, t, u, condition = self._draw(lesson)
        a, b = _column(t, z_0), _column(u, z_0)
        with torch.no_grad():
            jump_t = a * self._noise(z_0, t, condition, scale=0.0)
            jump_u = b * self._noise(z_0, u, condition, scale=0.0)
        slope = self._noise(z_0 + jump_t, t, condition, scale=1.0)
        return {"ctrl": (jump_t - jump_u + (b - a) * slope).square().mean()}


class CtsrAlg2(_Literal):
    """Algorithm 2: ``|t eps_TS(z_t, t) - t' eps_TS(z_t', t') + (t' - t) eps_S(z_t, t)|^2`` with t' > t,
    ``z_t = z_0 + t eps_TS(z_0, t)`` and ``z_t' = z_t + t' eps_TS(z_0, t)``.

    It differs from eq. 5-8 in where T_S is asked and in the step to z_t'. T_S gives no gradient.
    """

    def terms(self, lesson: Stage2Batch) -> dict[str, Tensor]:
        z_0, t, u, condition = self._draw(lesson)
        t, u = torch.minimum(t, u), torch.maximum(t, u)
        a, b = _column(t, z_0), _column(u, z_0)
        with torch.no_grad():
            start = self._noise(z_0, t, condition, scale=0.0)
            z_t = z_0 + a * start
            z_u = z_t + b * start
            known = a * self._noise(z_t, t, condition, scale=0.0) - b * self._noise(
                z_u, u, condition, scale=0.0
            )
        slope = self._noise(z_t, t, condition, scale=1.0)
        return {"ctrl": (known + (b - a) * slope).square().mean()}


class Oftsr(Variant):
    """OFTSR's identity with its roles put right: a jump network f that agrees with a straight flow from z_0 to z_1.

    ``L = |t' f(z_0, t') - sg[t f_avg(z_0, t)] - (t' - t) (z_1 - z_0)|^2``, t and t' independent and uniform on (0, 1)

    f is a copy of the stage-1 network with its last layer at zero, fed z_0 and t in the place of the diffusion time; f_avg its
    moving average, without gradient. Two passes: z_0, then f. Needs a student that names its ``head``.
    """

    extra_nfe = 1
    needs_endpoint = True

    def __init__(self, student: DiffusionModel) -> None:
        if student.head is None:
            raise PluginError(
                f'{type(student).__name__} names no head, which stage2.variant = "oftsr" starts from zero; use "adapter_scaling"'
            )
        self.student = student
        self._jump = _with_own_network(student)
        self._jump.network.requires_grad_(True)
        for parameter in self._jump.network.get_submodule(student.head).parameters():
            nn.init.zeros_(parameter)

    @property
    def models(self) -> tuple[DiffusionModel, ...]:
        return self.student, self._jump

    def tensors(self) -> dict[str, nn.Parameter]:
        return dict(self._jump.network.named_parameters())

    def terms(self, lesson: Stage2Batch) -> dict[str, Tensor]:
        condition = self.student.condition(lesson.lq)
        z_0, z_1 = self.start(lesson, condition), lesson.endpoint()
        with torch.no_grad():
            t, u = torch.rand(2, len(z_0), generator=lesson.generator)
            a, b = _column(t, z_0), _column(u, z_0)
            with lesson.average():
                known = a * self._flow(z_0, t, condition)
        return {
            "ctrl": (b * self._flow(z_0, u, condition) - known - (b - a) * (z_1 - z_0))
            .square()
            .mean()
        }

    def generate(
        self,
        condition: Condition,
        tradeoff: float,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        t = _clamp(tradeoff)
        if z_0 is None:
            z_0 = self.student.generate(condition, generator)
        if t == 0:
            return z_0
        return z_0 + t * self._flow(z_0, torch.full((len(z_0),), t), condition)

    def _flow(self, z_0: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self._jump(z_0, knob_time(self.student.process, t).to(z_0.device), condition)


def knob_time(process: ForwardProcess, t: Tensor) -> Tensor:
    """A tradeoff t (B,) in [0, 1] as a time of ``process``: 0 is its cleanest time, 1 its noisiest."""
    if process.num_train_timesteps is not None:
        return (t * (process.num_train_timesteps - 1)).round().long()
    low, high = process.log_snr_range()
    ends = process.timestep_at(torch.tensor([high, low]))
    return ends[0] + t * (ends[1] - ends[0])


def _clamp(tradeoff: float) -> float:
    return min(max(float(tradeoff), 0.0), 1.0)


def _column(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like).reshape(-1, 1, 1, 1)


def _with_own_network(student: DiffusionModel) -> DiffusionModel:
    """The student with a copy of its network; everything else is shared."""
    twin = copy.copy(student)
    twin.__dict__["_modules"] = dict(student._modules)
    twin.network = copy.deepcopy(student.network)
    return twin
