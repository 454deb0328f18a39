"""One training step of either stage, as a module whose forward makes every network pass.

Only this module is passed to ``accelerator.prepare``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distillkit.adapters import Adapter
from distillkit.data.batches import Batch
from distillkit.data.crops import CropBox
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import DiffusionModel, RestorationModel
from distillkit.errors import RecipeError
from distillkit.objectives.adversarial import Adversarial
from distillkit.objectives.controllability import Stage2Batch, Variant
from distillkit.objectives.critic import CriticSample
from distillkit.objectives.distribution_matching import FakeScore
from distillkit.objectives.dual_teacher import (
    StudentOutput,
    denoised_output_distillation,
    output_distillation,
    score_distillation,
)
from distillkit.objectives.reconstruction import Losses, ReconstructionLoss, shifted_crops
from distillkit.recipe.schema import FIDELITY, REALNESS, Stage1Config
from distillkit.tradeoff import REALISTIC
from distillkit.training.critics import CriticTrainer
from distillkit.training.feature_cache import digest
from distillkit.training.models import STUDENT, RunModels
from distillkit.training.per_term_backward import backward_per_term

ADVERSARIAL = "adversarial"
"""The name of the discriminator among a step's critics, and of its term."""


class Step(nn.Module):
    """``forward(batch, step) -> Losses``.

    Args:
        models: The models of the run.
        seed: The seed of the recipe.
        stage: ``"stage1"`` or ``"stage2"``.
        tensors: What the stage trains, by name: the only parameters of this module.
    """

    def __init__(
        self, models: RunModels, seed: int, stage: str, tensors: Mapping[str, nn.Parameter]
    ) -> None:
        super().__init__()
        self._trained = nn.ParameterList(tensors.values())
        self._tensors = dict(tensors)
        # in a list, so that the models are no submodules and are never prepared
        self._models = [models]
        self._seed = seed
        self._stage = stage
        self.critics: dict[str, CriticTrainer] = {}
        """Critics by name. Their networks are no submodules, so they are never prepared."""
        self.micro_batch = 0
        """Number of the present micro-batch within its step, counted over all processes."""
        self.loss_scale = torch.ones(())
        """Loss scale of float16, (): the trainer multiplies the losses by it before backward."""

    def tensors(self) -> dict[str, nn.Parameter]:
        """Return what the stage trains, by name."""
        return self._tensors

    @property
    def models(self) -> RunModels:
        return self._models[0]

    @property
    def student(self) -> RestorationModel:
        return self.models.student

    def generator(self, step: int, purpose: str) -> torch.Generator:
        """Make the generator of one purpose: a resumed run draws what an uninterrupted one does.

        What depends on the inputs alone (the degradation, teachers' images, the frozen stage-1
        student) draws by ``batch.step``: with ``data.cycle_steps`` its result then repeats, so that
        the cache can hold it. The losses and the trained student draw by the step itself.
        """
        return keyed_generator(self._seed, self._stage, step, self.micro_batch, purpose)

    def update_critics(self, step: int, accelerator: Accelerator) -> Losses:
        """Let the critics learn from what the student generated in this step.

        Returns:
            What is to be logged of them, by name.
        """
        values: Losses = {}
        for name, critic in self.critics.items():

            def make_generator(update: int, sample: int, name: str = name) -> torch.Generator:
                process = accelerator.process_index
                return keyed_generator(
                    self._seed, self._stage, step, "critic", name, update, sample, process
                )

            for term, value in critic.update(accelerator, make_generator).items():
                values[f"{name}/critic/{term}"] = value
        return values

    def _remember(self, critic: str, batch: Batch, output: StudentOutput, weight: float) -> None:
        """Keep the student's output for a critic."""
        assert output.image is not None
        assert batch.gt is not None, "critics compare with the ground truth"
        self.critics[critic].remember(
            CriticSample(
                latent=output.latent.detach().float(),
                image=output.image.detach().float(),
                gt=batch.gt,
                inputs=self.models.model_input(self._input_of(critic), batch),
                weight=weight,
            )
        )

    def _input_of(self, critic: str) -> str:
        """Name the model whose input a critic sees: its teacher's, or else the student's."""
        return critic if critic in self.models.teachers else STUDENT

    def _adversarial_losses(
        self, batch: Batch, step: int, output: StudentOutput, *, realism: float = 1.0
    ) -> Losses:
        """Compute the adversarial term, ``realism`` times its weight."""
        critic = self.critics[ADVERSARIAL].critic
        assert isinstance(critic, Adversarial)
        assert output.image is not None
        self._remember(ADVERSARIAL, batch, output, realism)
        term = critic.term(output.image, self.generator(step, ADVERSARIAL))
        return {ADVERSARIAL: realism * critic.weight * term}


class Stage1Step(Step):
    """Algorithm 1: ``L_s1 = L_rec + lambda_rn L_rn + lambda_fl L_fl`` (eq. 4).

    Args:
        models: The models of the run.
        adapter: On the student's network.
        config: Stage 1's table of the recipe.
        reconstruction: Eq. 1.
        seed: The seed of the recipe.
        per_term_backward: Take the gradient of each teacher's terms as soon as they are computed.
    """

    def __init__(
        self,
        models: RunModels,
        adapter: Adapter,
        config: Stage1Config,
        reconstruction: ReconstructionLoss,
        seed: int,
        *,
        per_term_backward: bool = False,
    ) -> None:
        super().__init__(models, seed, "stage1", adapter.tensors())
        self._config = config
        self._reconstruction = reconstruction
        self._per_term_backward = per_term_backward

    def forward(self, batch: Batch, step: int) -> Losses:
        batch = self.models.prepare(batch, self.generator(batch.step, "degradation"))
        condition = self.student.condition(self.models.model_input(STUDENT, batch))
        latent = self.student.generate(condition, self.generator(step, "student"))
        output = StudentOutput(condition, latent, None)
        if step < self._config.pretraining_steps and batch.gt is not None:
            return {"pretraining": (self.student.codec.decode(latent) - batch.gt).abs().mean()}

        # Before the decoder runs, so that its activations are not held beside these.
        latent_losses: Losses = {}
        for name in self._teachers(batch, needs_image=False):
            compute = partial(self._score_losses, name, batch, step)
            latent_losses |= self._backward(compute, output)

        batch, output = self._crop_to_decode(batch, output)
        output = replace(output, image=self.student.codec.decode(output.latent))
        losses: Losses = {}
        if batch.gt is not None:
            losses |= self._backward(partial(self._reconstruction_losses, batch, step), output)
        for name in self._teachers(batch, needs_image=True):
            compute = partial(self._losses_with_image(name), name, batch, step)
            losses |= self._backward(compute, output)
        if ADVERSARIAL in self.critics and batch.gt is not None:
            losses |= self._backward(partial(self._adversarial_losses, batch, step), output)
        return losses | latent_losses

    def _teachers(self, batch: Batch, needs_image: bool) -> list[str]:
        """List the teachers with a weight that need the decoded image, or those that do not.

        Without ground truth a score has no anchor, so only outputs are learned from.
        """
        weighted = [n for n in self.models.teachers if self._config.teachers[n].weight > 0]
        if batch.gt is None:
            weighted = [name for name in weighted if self._teaches_by_output(name)]
        return [name for name in weighted if self._needs_image(name) == needs_image]

    def _losses_with_image(self, name: str) -> Callable[..., Losses]:
        """Choose the loss of a teacher that needs the decoded image."""
        if name in self.critics:
            return self._matching_losses
        if self._teaches_by_output(name):
            return self._output_losses
        return self._score_losses

    def _needs_image(self, name: str) -> bool:
        if self._teaches_by_output(name) or name in self.critics:
            return True
        teacher = self.models.teachers[name]
        assert isinstance(teacher, DiffusionModel)
        return teacher.space != self.student.space

    def _teaches_by_output(self, name: str) -> bool:
        is_model = isinstance(self.models.teachers[name], DiffusionModel)
        return self._config.teachers[name].term == "output" or not is_model

    def _backward(
        self, compute: Callable[[StudentOutput], Losses], output: StudentOutput
    ) -> Losses:
        """Compute losses of the student's output; per term, take their gradient at once."""
        if not self._per_term_backward:
            return compute(output)

        def compute_from(latent: Tensor, image: Tensor | None) -> Losses:
            return compute(replace(output, latent=latent, image=image))

        trained = list(self.tensors().values())
        inputs = [output.latent, output.image]
        return backward_per_term(compute_from, inputs, trained, self.loss_scale)

    def _reconstruction_losses(self, batch: Batch, step: int, output: StudentOutput) -> Losses:
        assert output.image is not None
        assert batch.gt is not None
        return self._reconstruction(output.image, batch.gt, self.generator(step, "shift"))

    def _score_losses(self, name: str, batch: Batch, step: int, output: StudentOutput) -> Losses:
        config = self._config.teachers[name]
        teacher = self.models.teachers[name]
        assert isinstance(teacher, DiffusionModel)
        assert batch.gt is not None
        terms = score_distillation(
            teacher,
            self.student,
            output,
            self.models.model_input(name, batch),
            batch.gt,
            self.generator(step, name),
            weighting=self._config.score_weighting,
            gradient=self._config.teacher_gradient,
            imitator=config.imitator,
        )
        return {
            f"{name}/imitate": config.weight * config.imitation_weight * terms.imitate,
            f"{name}/anchor": config.weight * config.anchor_weight * terms.anchor,
        }

    def _matching_losses(self, name: str, batch: Batch, step: int, output: StudentOutput) -> Losses:
        config = self._config.teachers[name]
        fake_score = self.critics[name].critic
        assert isinstance(fake_score, FakeScore)
        self._remember(name, batch, output, 1.0)
        inputs = self.models.model_input(name, batch)
        term = fake_score.term(output, inputs, self.generator(step, name))
        return {f"{name}/match": config.weight * config.imitation_weight * term}

    def _output_losses(self, name: str, batch: Batch, step: int, output: StudentOutput) -> Losses:
        config = self._config.teachers[name]
        assert output.image is not None
        restored = self._restore(name, batch)
        if config.output_loss == "image":
            loss = output_distillation(output.image, restored)
        else:
            assert isinstance(self.student, DiffusionModel)
            loss = denoised_output_distillation(
                self.student,
                output,
                restored,
                self.generator(step, f"{name}_times"),
                gradient=self._config.teacher_gradient,
            )
        losses = {f"{name}/output": config.weight * config.imitation_weight * loss}
        if name in self.models.output_metrics and config.output_metric_weight > 0:
            generator = self.generator(step, f"{name}_shift")
            shift = self._reconstruction.max_shift
            pair = shifted_crops(output.image, restored, shift, generator)
            distance = self.models.output_metrics[name](*pair).mean()
            losses[f"{name}/metric"] = config.weight * config.output_metric_weight * distance
        if name in self.models.anchor_metrics and batch.gt is not None:
            anchor = self.models.anchor_metrics[name](output.image, batch.gt).mean()
            losses[f"{name}/metric_anchor"] = config.weight * config.anchor_weight * anchor
        return losses

    def _restore(self, name: str, batch: Batch) -> Tensor:
        """Restore the batch with an output teacher, or cut it out of restored full images."""
        if self._config.teachers[name].output_input == "crop":
            return self.models.restore(name, batch, self.generator(batch.step, name))

        def make_generator(key: str) -> torch.Generator:
            return keyed_generator(self._seed, self._stage, name, "image", key)

        return self.models.restore_full_images(name, batch, make_generator)

    def _crop_to_decode(self, batch: Batch, output: StudentOutput) -> tuple[Batch, StudentOutput]:
        """Draw the crop that is decoded, and cut it out of the batch and the student's latent."""
        side = self._config.decode_crop_size
        assert batch.lq is not None
        scale = self.student.scale
        if side is None or side >= scale * min(batch.lq.shape[-2:]):
            return batch, output
        factor = scale * batch.lq.shape[-1] // output.latent.shape[-1]
        top, left = self._draw_decode_corner(batch, side, scale, factor)
        box = CropBox(top // scale, left // scale, side // scale, side // scale)
        key = digest(batch.cache_key, f"{side} {top} {left}") if batch.cache_key else ""
        batch = batch.crop(box, scale, key)
        condition = self.student.condition(self.models.model_input(STUDENT, batch))
        rows = slice(top // factor, (top + side) // factor)
        columns = slice(left // factor, (left + side) // factor)
        return batch, StudentOutput(condition, output.latent[..., rows, columns], None)

    def _draw_decode_corner(
        self, batch: Batch, side: int, scale: int, factor: int
    ) -> tuple[int, int]:
        """Draw the crop's corner on the grid of whole latent pixels that every model takes."""
        models = (self.student, *self.models.teachers.values())
        unit = math.lcm(factor, *(scale * model.size_multiple for model in models))
        if side % unit:
            raise RecipeError(
                f"stage1.decode_crop_size - {side} pixels: these models take {unit} and its "
                "multiples"
            )
        generator = self.generator(batch.step, "decode_crop")
        assert batch.lq is not None
        height, width = (scale * side_of_lq for side_of_lq in batch.lq.shape[-2:])
        top = torch.randint((height - side) // unit + 1, (), generator=generator)
        left = torch.randint((width - side) // unit + 1, (), generator=generator)
        return unit * int(top), unit * int(left)


class Stage2Step(Step):
    """Controllability distillation: whatever the chosen variant's loss is."""

    def __init__(
        self, models: RunModels, variant: Variant, seed: int, *, self_ensemble: bool = True
    ) -> None:
        super().__init__(models, seed, "stage2", variant.tensors())
        self.variant = variant
        self._self_ensemble = self_ensemble
        self.averaged_weights: Callable[[], AbstractContextManager[None]] = nullcontext

    def forward(self, batch: Batch, step: int) -> Losses:
        prepared = self.models.prepare(batch, self.generator(batch.step, "degradation"))
        condition = self.student.condition(self.models.model_input(STUDENT, prepared))

        def student_generator() -> torch.Generator:
            return self.generator(batch.step, "student")

        def compute_stage1_latent() -> Tensor:
            return self.variant.generate(condition, REALISTIC, student_generator())

        def stage1_latent() -> Tensor:
            return self.models.cache.get(
                "stage-1 latent",
                prepared.cache_key,
                ["stage1"],
                compute_stage1_latent,
                student_generator(),
            )

        def faithful_target() -> Tensor:
            return self.models.faithful_target(prepared, self.generator(batch.step, "endpoint"))

        def realistic_image() -> Tensor:
            return self.models.restore(REALNESS, prepared, self.generator(batch.step, REALNESS))

        def faithful_image() -> Tensor:
            generator = self.generator(batch.step, FIDELITY)
            if self._self_ensemble:
                return self.models.restore_self_ensemble(FIDELITY, prepared, generator)
            return self.models.restore(FIDELITY, prepared, generator)

        def adversarial(latent: Tensor, image: Tensor, realism: float) -> Losses:
            if ADVERSARIAL not in self.critics or prepared.gt is None:
                return {}
            output = StudentOutput(condition, latent, image)
            return self._adversarial_losses(prepared, step, output, realism=realism)

        return self.variant.losses(
            Stage2Batch(
                condition=condition,
                gt=prepared.gt,
                stage1_latent=stage1_latent,
                faithful_target=faithful_target,
                realistic_image=realistic_image,
                faithful_image=faithful_image,
                generator=self.generator(step, "variant"),
                student_generator=student_generator,
                step=step,
                averaged_weights=self.averaged_weights,
                adversarial=adversarial,
            )
        )
