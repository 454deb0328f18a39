"""The paper's algorithm 1 and stage 2 (adapter scaling), written plainly.

The engine's speed and memory are measured against it. The student S, the teachers T_r and T_f and
stage 2's frozen student are separate networks in float32. Nothing is shared between them, cached,
batched together, checkpointed or compiled. Every pass records gradient, except where autograd
itself leaves it out: a pass of frozen weights over an input that needs none. The random draws are
the engine's own, so the same seed gives the same losses. It builds on the models alone
(``distillkit.diffusion``), not on the engine's objectives or loop.

There is no moving average and no learning-rate schedule: compare recipes without them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distillkit import ModelInput
from distillkit.data.batches import TrainingBatches
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import Condition, DiffusionModel
from distillkit.diffusion.prediction import Prediction, epsilon_from_sample
from distillkit.diffusion.process import ForwardProcess, match_timesteps
from distillkit.recipe.build import build, build_adapter, build_distance
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import FIDELITY, Recipe

Terms = dict[str, Tensor]


class Baseline:
    """Both stages of a recipe, plainly.

    Args:
        resolved: The recipe.
        device: Where its models shall be.

    Raises:
        ValueError: The recipe has a stage-2 variant other than ``adapter_scaling``, or losses that
            are not the paper's.
    """

    def __init__(self, resolved: ResolvedRecipe, device: torch.device | str = "cpu") -> None:
        self.recipe = resolved.recipe
        self.device = torch.device(device)
        _check_paper_only(self.recipe)
        student = build(resolved.student, device)
        teachers = {name: build(teacher, device) for name, teacher in resolved.teachers.items()}
        self.degradation = None
        if resolved.degradation is not None:
            self.degradation = build(resolved.degradation, device)
        self.perceptual = None
        if resolved.perceptual_metric is not None:
            self.perceptual = build_distance(resolved, resolved.perceptual_metric, device)
        self.student, *separate = _separate([student, *teachers.values()])
        self.teachers = dict(zip(teachers, separate, strict=True))

    def stage1(self, batches: TrainingBatches, steps: int) -> Iterator[Terms]:
        """Train stage 1 and yield the weighted terms of each step, detached.

        The trained adapter is merged into the student at the end.
        """
        config = self.recipe.stage1
        adapter = build_adapter(self.student.stage1_network, config.adapter, self.recipe.seed)
        trained = list(adapter.tensors().values())
        rate = config.learning_rate
        yield from self._train("stage1", trained, rate, self.algorithm_1, batches, steps)
        adapter.merge()

    def stage2(self, batches: TrainingBatches, steps: int) -> Iterator[Terms]:
        """Train stage 2 from the student of :meth:`stage1`, with the faithful teacher alone."""
        for name in self.teachers.keys() - {FIDELITY}:
            del self.teachers[name]
        config = self.recipe.stage2
        self.start = copy.deepcopy(self.student)
        # stage 1's adapter has the recipe's seed itself
        self.adapter = build_adapter(self.student.network, config.adapter, self.recipe.seed + 1)
        trained = list(self.adapter.tensors().values())
        rate = config.learning_rate
        yield from self._train("stage2", trained, rate, self.adapter_scaling, batches, steps)

    def algorithm_1(self, lq: Tensor, gt: Tensor, step: int, data_step: int) -> Terms:
        """Compute one step's terms of eq. 4 (lines 2-14).

        Args:
            lq: Low-quality images, (B, 3, h, w) in [-1, 1].
            gt: The ground truth, (B, 3, H, W) in [-1, 1].
            step: Number of the step.
            data_step: The first step that had the same batch.
        """
        condition = self.student.condition(ModelInput(lq))
        z_s = self.student.generate(condition, self._generator("stage1", step, "student"))
        x_0 = self.student.codec.decode(z_s)
        l2_weight = self.recipe.stage1.reconstruction.l2_weight
        shift = self._generator("stage1", step, "shift")
        terms = self._reconstruction(x_0, gt, l2_weight, shift)
        for name, teacher in self.teachers.items():
            config = self.recipe.stage1.teachers[name]
            if config.weight == 0:
                continue
            if config.term == "output" or not isinstance(teacher, DiffusionModel):
                generator = self._generator("stage1", data_step, name)
                restored = teacher.restore(ModelInput(lq), generator)
                output = (x_0 - restored).square().mean()
                terms[f"{name}/output"] = config.weight * config.imitation_weight * output
                continue
            generator = self._generator("stage1", step, name)
            imitate, anchor = self._eq_2_and_3(teacher, condition, z_s, x_0, lq, gt, generator)
            terms[f"{name}/imitate"] = config.weight * config.imitation_weight * imitate
            terms[f"{name}/anchor"] = config.weight * config.anchor_weight * anchor
        return terms

    def _eq_2_and_3(
        self,
        teacher: DiffusionModel,
        condition: Condition,
        z_s: Tensor,
        x_0: Tensor,
        lq: Tensor,
        gt: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Compute the two terms of one teacher, unweighted."""
        student = self.student
        gradient = self.recipe.stage1.teacher_gradient
        same_space = teacher.space == student.space
        t, t_student = _draw_timesteps(teacher.process, student.process, lq, generator)

        y = teacher.condition(ModelInput(lq))
        z = teacher.encode(gt, y)
        noise = torch.randn(z.shape, generator=generator).to(z)
        z_s_teacher = z_s if same_space else teacher.encode(x_0, y)
        with torch.set_grad_enabled(gradient == "full"):
            z_t_s = teacher.process.add_noise(z_s_teacher, noise, t, y.y)
            on_student = teacher.predict(z_t_s, t, y)
        on_truth = teacher.predict(teacher.process.add_noise(z, noise, t, y.y), t, y)

        if same_space:
            sample = on_student.sample
            student_noise = noise
        else:
            sample = student.codec.encode(teacher.decode(on_student.sample, y)).detach()
            student_noise = torch.randn(z_s.shape, generator=generator).to(z)
        student_input = z_s if gradient == "full" else z_s.detach()
        z_t = student.process.add_noise(student_input, student_noise, t_student, condition.y)
        own = student.predict(z_t, t_student, condition)
        epsilon = epsilon_from_sample(student.process, z_t, t_student, sample, condition.y)
        wanted = Prediction(sample, epsilon)

        imitate = self._difference(own, wanted, student.process.coefficients(t_student).ratio)
        anchor = self._difference(on_student, on_truth, teacher.process.coefficients(t).ratio)
        if gradient == "sds":
            # The teacher's Jacobian is 1: z_s falls along sample_S - sample_T, which is
            # eps_T - eps_S.
            sign = 1 if self.recipe.stage1.score_weighting == "sample" else -1
            imitate = imitate + sign * (z_s - z_s.detach())
            anchor = anchor + (z_s_teacher - z_s_teacher.detach())
        return imitate.square().mean(), anchor.square().mean()

    def _difference(self, a: Prediction, b: Prediction, ratio: Tensor) -> Tensor:
        weighting = self.recipe.stage1.score_weighting
        if weighting == "sample":
            return a.sample - b.sample
        difference = a.epsilon - b.epsilon
        if weighting == "clipped":
            difference = difference / ratio.clamp(min=1)
        return difference

    def adapter_scaling(self, lq: Tensor, gt: Tensor, step: int, data_step: int) -> Terms:
        """Compute one step's terms of stage 2, z_0 and z_1 included.

        Arguments are those of :meth:`algorithm_1`.
        """
        config = self.recipe.stage2
        generator = self._generator("stage2", step, "variant")
        t = float(torch.rand((), generator=generator))
        if config.faithful_every and (step + 1) % config.faithful_every == 0:
            t = 1.0
        if config.target == "teacher":
            z_0 = self._generate(self.start, lq, data_step)
            z_1 = self._faithful_target(lq, self._generator("stage2", data_step, "endpoint"))
        with self.adapter.at_scale(t):
            z_t = self._generate(self.student, lq, data_step)
            if config.target == "teacher":
                return {"teacher": (z_t - ((1 - t) * z_0 + t * z_1)).square().mean()}
            x_t = self.student.codec.decode(z_t)
            l2_weight = self.recipe.stage1.reconstruction.l2_weight * config.l2_weight_ratio**t
            return self._reconstruction(x_t, gt, l2_weight, generator)

    def _generate(self, student: DiffusionModel, lq: Tensor, data_step: int) -> Tensor:
        generator = self._generator("stage2", data_step, "student")
        return student.generate(student.condition(ModelInput(lq)), generator)

    def _faithful_target(self, lq: Tensor, generator: torch.Generator) -> Tensor:
        teacher = self.teachers[FIDELITY]
        codec = self.student.codec
        if isinstance(teacher, DiffusionModel) and teacher.space == codec.space:
            return teacher.generate(teacher.condition(ModelInput(lq)), generator)
        return codec.encode(teacher.restore(ModelInput(lq), generator))

    def _reconstruction(
        self, x_0: Tensor, gt: Tensor, l2_weight: float, generator: torch.Generator
    ) -> Terms:
        """Compute eq. 1."""
        config = self.recipe.stage1.reconstruction
        terms: Terms = {}
        if l2_weight:
            terms["l2"] = l2_weight * (x_0 - gt).square().mean()
        if config.l1_weight:
            terms["l1"] = config.l1_weight * (x_0 - gt).abs().mean()
        if self.perceptual is not None:
            shift = config.perceptual_max_shift
            top, left = torch.randint(shift + 1, (2,), generator=generator).tolist()
            rows = slice(top, top + gt.shape[-2] - shift)
            columns = slice(left, left + gt.shape[-1] - shift)
            distance = self.perceptual(x_0[..., rows, columns], gt[..., rows, columns])
            terms["perceptual"] = config.perceptual_weight * distance.mean()
        return terms

    def _train(
        self,
        stage: str,
        trained: list[nn.Parameter],
        learning_rate: float,
        losses: Callable[[Tensor, Tensor, int, int], Terms],
        batches: TrainingBatches,
        steps: int,
    ) -> Iterator[Terms]:
        config = self.recipe.training
        optimizer = torch.optim.AdamW(
            trained,
            lr=learning_rate,
            betas=config.adam_betas,
            weight_decay=config.adam_weight_decay,
        )
        for step, batch in enumerate(batches.iterate(stage, 0, steps)):
            torch.manual_seed(self._generator(stage, step, "global").initial_seed())
            gt = batch.gt.to(self.device)
            if batch.lq is not None:
                lq = batch.lq.to(self.device)
            else:
                assert self.degradation is not None
                lq = self.degradation(gt, self._generator(stage, batch.step, "degradation"))
            terms = losses(lq, gt, step, batch.step)
            torch.stack(list(terms.values())).sum().backward()
            nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            yield {name: term.detach() for name, term in terms.items()}

    def _generator(self, stage: str, step: int, purpose: str) -> torch.Generator:
        """Make the engine's generator of one purpose, for the only micro-batch."""
        return keyed_generator(self.recipe.seed, stage, step, 0, purpose)


def _check_paper_only(recipe: Recipe) -> None:
    """Refuse a recipe that asks for more than the baseline has."""
    variant = recipe.stage2.variant
    if recipe.stage2.steps and variant != "adapter_scaling":
        raise ValueError(f"the baseline's stage 2 is adapter_scaling, not {variant}")
    foreign = []
    if recipe.stage1.decode_crop_size is not None:
        foreign.append("stage1.decode_crop_size")
    plain = {"output_loss": "image", "output_input": "crop", "anchor_metric": None}
    for name, teacher in recipe.stage1.teachers.items():
        for key, value in plain.items():
            if getattr(teacher, key) != value:
                foreign.append(f"stage1.teachers.{name}.{key}")
    if foreign:
        raise ValueError(f"the baseline has the paper's losses only, not {foreign[0]}")


def _draw_timesteps(
    teacher: ForwardProcess, student: ForwardProcess, lq: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw timesteps of equal SNR for a batch, on the coarser grid, that both were trained at.

    Returns:
        The teacher's timesteps, and the student's.
    """
    grid = teacher.num_train_timesteps
    student_grid = student.num_train_timesteps
    teacher_is_coarser = grid is not None and (student_grid is None or grid <= student_grid)
    coarse, fine = (teacher, student) if teacher_is_coarser else (student, teacher)
    t = coarse.sample_timesteps(len(lq), generator)
    matched, known = match_timesteps(coarse, t, fine)
    while not known.all():
        t = torch.where(known, t, coarse.sample_timesteps(len(lq), generator))
        matched, known = match_timesteps(coarse, t, fine)
    t, matched = t.to(lq.device), matched.to(lq.device)
    return (t, matched) if teacher_is_coarser else (matched, t)


def _separate(models: list[Any]) -> list[Any]:
    """Copy the models that hold tensors of one that comes before them."""
    separate = []
    seen: set[int] = set()
    for model in models:
        if isinstance(model, nn.Module):
            if seen & _pointers(model):
                model = copy.deepcopy(model)
            seen |= _pointers(model)
        separate.append(model)
    return separate


def _pointers(model: nn.Module) -> set[int]:
    return {parameter.data_ptr() for parameter in model.parameters()}
