"""Algorithm 1 of the paper and the second stage, written plainly: what the engine's speed and memory are measured against.

The student S, the teachers T_r and T_f and stage 2's frozen student are separate networks in float32. Nothing is shared between
them, cached, batched together, recomputed or compiled, and no pass is made without gradient but for what autograd leaves out of
itself: a pass of frozen weights over an input that needs none. The draws are the engine's own, so that from the same seed it has
the same losses. Written against the models alone (``distillkit.diffusion``); the engine's objectives and loop are not used.

There is no moving average and no learning-rate schedule here: compare recipes without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distillkit import ModelInput
from distillkit.data.pairs import PairedBatches
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import DiffusionModel
from distillkit.diffusion.prediction import Prediction, epsilon_from_sample
from distillkit.diffusion.process import match_timesteps
from distillkit.recipe.build import build, build_adapter, build_distance
from distillkit.recipe.load import ResolvedRecipe

Terms = dict[str, Tensor]


class Baseline:
    """Both stages of a recipe, plainly.

    Raises:
        ValueError: a recipe whose stage-2 variant is not ``adapter_scaling``, or with losses that are not the paper's.
    """

    def __init__(self, resolved: ResolvedRecipe, device: torch.device | str = "cpu") -> None:
        self.recipe, self.device = resolved.recipe, torch.device(device)
        if self.recipe.stage2.steps and self.recipe.stage2.variant != "adapter_scaling":
            raise ValueError(
                f"the baseline's stage 2 is the gate, not {self.recipe.stage2.variant}"
            )
        others = {"output_loss": "image", "output_targets": "crop"} | dict.fromkeys(
            ("decode_crop_size", "fidelity_anchor", "realness_anchor")
        )
        if foreign := [
            key for key, plain in others.items() if getattr(self.recipe.stage1, key) != plain
        ]:
            raise ValueError(f"the baseline has the paper's losses only, not stage1.{foreign[0]}")
        self.student = build(resolved, "student", device)
        roles = [
            role for role in ("fidelity", "realness") if f"teachers.{role}" in resolved.components
        ]
        self.teachers = {role: build(resolved, f"teachers.{role}", device) for role in roles}
        self.degradation = (
            build(resolved, "degradation", device) if self.recipe.degradation else None
        )
        self.perceptual = (
            build_distance(resolved, "stage1.reconstruction.perceptual_metric", device)
            if self.recipe.stage1.reconstruction.perceptual_weight
            else None
        )
        models = _separate([self.student, *self.teachers.values()])
        self.student, self.teachers = models[0], dict(zip(self.teachers, models[1:], strict=True))

    def stage1(self, batches: PairedBatches, steps: int) -> Iterator[Terms]:
        """Train stage 1; the detached terms of each step, weighted. The student keeps what it learned."""
        adapter = build_adapter(self.student, self.recipe.stage1.adapter, self.recipe.seed)
        yield from self._train("stage1", adapter.tensors(), self.algorithm_1, batches, steps)
        adapter.merge()

    def stage2(self, batches: PairedBatches, steps: int) -> Iterator[Terms]:
        """Train stage 2 from what :meth:`stage1` left; the realistic teacher is let go of."""
        self.teachers.pop("realness", None)
        self.start = copy.deepcopy(self.student)
        self.adapter = build_adapter(self.student, self.recipe.stage2.adapter, self.recipe.seed + 1)
        yield from self._train("stage2", self.adapter.tensors(), self.gate, batches, steps)

    def algorithm_1(self, lq: Tensor, gt: Tensor, step: int, data_step: int) -> Terms:
        """Lines 2-14: one step's terms of eq. 4. ``data_step``: the first step that had the same batch."""
        options, student = self.recipe.stage1, self.student
        condition = student.condition(ModelInput(lq))
        z_s = student.generate(condition, self._draws("stage1", step, "student"))
        x_0 = student.codec.decode(z_s)
        terms = self._reconstruction(
            x_0, gt, options.weights.l2, self._draws("stage1", step, "shift")
        )
        for role, teacher in self.teachers.items():
            if weight := getattr(options.weights, role):
                if getattr(options, f"{role}_term") == "output" or not isinstance(
                    teacher, DiffusionModel
                ):
                    restored = teacher.restore(lq, self._draws("stage1", data_step, role))
                    terms[f"{role}/output"] = (
                        weight * options.weights.imitate * (x_0 - restored).square().mean()
                    )
                else:
                    draws = self._draws("stage1", step, role)
                    imitate, anchor = self._eq_2_and_3(teacher, condition, z_s, x_0, lq, gt, draws)
                    terms[f"{role}/imitate"] = weight * options.weights.imitate * imitate
                    terms[f"{role}/anchor"] = weight * options.weights.gamma(role) * anchor
        return terms

    def _eq_2_and_3(
        self,
        teacher: DiffusionModel,
        condition: Any,
        z_s: Tensor,
        x_0: Tensor,
        lq: Tensor,
        gt: Tensor,
        draws: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        student, options = self.student, self.recipe.stage1
        same = teacher.space == student.space
        levels, own_levels = (
            teacher.process.num_train_timesteps,
            student.process.num_train_timesteps,
        )
        if levels is not None and (own_levels is None or levels <= own_levels):
            t = teacher.process.sample_timesteps(len(lq), draws).to(lq.device)
            t_own, known = match_timesteps(teacher.process, t, student.process)
        else:
            t_own = student.process.sample_timesteps(len(lq), draws).to(lq.device)
            t, known = match_timesteps(student.process, t_own, teacher.process)

        y = teacher.condition(ModelInput(lq))
        z = teacher.encode(gt, y)
        eps = torch.randn(z.shape, generator=draws).to(z)
        mine = z_s if same else teacher.encode(x_0, y)
        with torch.set_grad_enabled(options.teacher_gradient == "full"):
            of_student = teacher.predict(teacher.process.add_noise(mine, eps, t, y.y), t, y)
        of_truth = teacher.predict(teacher.process.add_noise(z, eps, t, y.y), t, y)

        target = (
            of_student.sample
            if same
            else student.codec.encode(teacher.decode(of_student.sample, y)).detach()
        )
        eps_own = eps if same else torch.randn(z_s.shape, generator=draws).to(z)
        z_in = z_s if options.teacher_gradient == "full" else z_s.detach()
        z_t = student.process.add_noise(z_in, eps_own, t_own, condition.y)
        own = student.predict(z_t, t_own, condition)
        wanted = Prediction(
            target, epsilon_from_sample(student.process, z_t, t_own, target, condition.y)
        )

        imitate = self._difference(own, wanted, student.process.coefficients(t_own).ratio)
        anchor = self._difference(of_student, of_truth, teacher.process.coefficients(t).ratio)
        if (
            options.teacher_gradient == "sds"
        ):  # the teacher's Jacobian is 1; z_s falls along clean_S - clean_T, which is eps_T - eps_S
            toward = 1 if options.score_weighting == "sample" else -1
            imitate, anchor = (
                imitate + toward * (z_s - z_s.detach()),
                anchor + (mine - mine.detach()),
            )
        return _mean_square(imitate, known), _mean_square(anchor, known)

    def _difference(self, a: Prediction, b: Prediction, ratio: Tensor) -> Tensor:
        weighting = self.recipe.stage1.score_weighting
        if weighting == "sample":
            return a.sample - b.sample
        return (a.epsilon - b.epsilon) / (ratio.clamp(min=1) if weighting == "clipped" else 1)

    def gate(self, lq: Tensor, gt: Tensor, step: int, data_step: int) -> Terms:
        """One step's terms of stage 2; z_0 and z_1 are made anew at every step."""
        options, weights = self.recipe.stage2, self.recipe.stage1.weights
        draws = self._draws("stage2", step, "variant")
        t = float(torch.rand((), generator=draws))
        if options.faithful_every and (step + 1) % options.faithful_every == 0:
            t = 1.0
        if options.target == "teacher":
            z_0 = self.start.generate(
                self.start.condition(ModelInput(lq)), self._draws("stage2", data_step, "student")
            )
            z_1 = self._endpoint(lq, self._draws("stage2", data_step, "endpoint"))
        with self.adapter.at_scale(t):
            z_t = self.student.generate(
                self.student.condition(ModelInput(lq)), self._draws("stage2", data_step, "student")
            )
            if options.target == "teacher":
                return {"teacher": (z_t - ((1 - t) * z_0 + t * z_1)).square().mean()}
            return self._reconstruction(
                self.student.codec.decode(z_t), gt, weights.l2 * options.l2_weight_ratio**t, draws
            )

    def _endpoint(self, lq: Tensor, draws: torch.Generator) -> Tensor:
        teacher, codec = self.teachers["fidelity"], self.student.codec
        if isinstance(teacher, DiffusionModel) and teacher.space == codec.space:
            return teacher.generate(teacher.condition(ModelInput(lq)), draws)
        return codec.encode(teacher.restore(lq, draws))

    def _reconstruction(self, x_0: Tensor, gt: Tensor, l2: float, draws: torch.Generator) -> Terms:
        """Eq. 1."""
        weights, shift = (
            self.recipe.stage1.weights,
            self.recipe.stage1.reconstruction.perceptual_max_shift,
        )
        terms = {"l2": l2 * (x_0 - gt).square().mean(), "l1": weights.l1 * (x_0 - gt).abs().mean()}
        if self.perceptual is not None:
            top, left = (
                torch.randint(shift + 1, (2,), generator=draws).tolist() if shift else (0, 0)
            )
            height, width = gt.shape[-2] - shift, gt.shape[-1] - shift
            a, b = (image[..., top : top + height, left : left + width] for image in (x_0, gt))
            terms["perceptual"] = weights.perceptual * self.perceptual(a, b).mean()
        return {
            name: term
            for name, term in terms.items()
            if (name == "l2" and l2) or getattr(weights, name) > 0
        }

    def _train(
        self,
        stage: str,
        tensors: dict[str, nn.Parameter],
        losses: Callable[[Tensor, Tensor, int, int], Terms],
        batches: PairedBatches,
        steps: int,
    ) -> Iterator[Terms]:
        options = self.recipe.training
        rate = getattr(self.recipe, stage).learning_rate
        optimizer = torch.optim.AdamW(
            tensors.values(),
            lr=rate,
            betas=options.adam_betas,
            weight_decay=options.adam_weight_decay,
        )
        for step, batch in enumerate(batches.iterate(stage, 0, steps)):
            torch.manual_seed(
                keyed_generator(self.recipe.seed, stage, step, 0, "global").initial_seed()
            )
            gt = batch.gt.to(self.device)
            degrade = self._draws(stage, batch.step, "degradation")
            lq = batch.lq.to(self.device) if batch.lq is not None else self.degradation(gt, degrade)
            terms = losses(lq, gt, step, batch.step)
            torch.stack(list(terms.values())).sum().backward()
            nn.utils.clip_grad_norm_(tensors.values(), options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            yield {name: term.detach() for name, term in terms.items()}

    def _draws(self, stage: str, step: int, purpose: str) -> torch.Generator:
        return keyed_generator(self.recipe.seed, stage, step, 0, purpose)


def _separate(models: list[Any]) -> list[Any]:
    """The models, copied where they hold tensors of one that comes before them."""
    seen: set[int] = set()
    for i, model in enumerate(models):
        if isinstance(model, nn.Module):
            if seen & {p.data_ptr() for p in model.parameters()}:
                models[i] = copy.deepcopy(model)
            seen |= {p.data_ptr() for p in models[i].parameters()}
    return models


def _mean_square(gap: Tensor, known: Tensor) -> Tensor:
    return (gap.square().mean(dim=(1, 2, 3)) * known).sum() / known.sum().clamp(min=1)
