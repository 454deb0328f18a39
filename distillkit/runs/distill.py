"""Train both stages of a run, from its newest checkpoint on, and save the student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from distillkit.data.batches import TrainingBatches
from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import ModelInput
from distillkit.inference.student import Student, save_student
from distillkit.metrics.distortion import psnr_from_mse
from distillkit.objectives.controllability import Variant
from distillkit.recipe.build import build_reconstruction_loss
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Recipe
from distillkit.runs.manifest import Manifest
from distillkit.tradeoff import REALISTIC
from distillkit.training.checkpoint import Checkpoint, Checkpoints
from distillkit.training.distributed import broadcast
from distillkit.training.loop import Stage, Trainer
from distillkit.training.models import RunModels
from distillkit.training.samples import make_sampler
from distillkit.training.stages import describe_teaching, make_stage1, make_stage2
from distillkit.training.tracking import RunLog


@dataclass(frozen=True)
class Run:
    """Everything that one run works with."""

    resolved: ResolvedRecipe
    folder: Path
    accelerator: Accelerator
    models: RunModels
    batches: TrainingBatches
    samples: list[EvaluationPair]
    """Held-out images that are shown while the student is trained."""
    manifest: Manifest

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.accelerator.is_main_process


def distill(run: Run, notify: Callable[..., None]) -> None:
    """Train both stages and save the student.

    Args:
        run: The run, with its models built and its data opened.
        notify: Calls a hook of the plugins' observers, by its name and with its arguments.
    """
    limit = run.recipe.training.checkpoints_total_limit
    checkpoints = Checkpoints(run.folder / "checkpoints", limit, run.is_main)
    newest = broadcast(checkpoints.newest() if run.is_main else None)
    log = RunLog(run.folder / "metrics.jsonl", run.accelerator, notify)
    log.rewind(newest.step if newest else 0)
    _log_teaching(run, log)
    run.accelerator.init_trackers("tensorboard")
    reconstruction = build_reconstruction_loss(run.resolved, run.accelerator.device)

    def train(stage: Stage, student: Student, resume: Checkpoint | None) -> None:
        device = run.accelerator.device
        grids = run.folder / "samples"
        trainer = Trainer(
            stage,
            run.batches,
            run.recipe.training,
            run.recipe.seed,
            run.accelerator,
            checkpoints,
            log,
            make_sampler(grids, student, run.samples, device, writes=run.is_main),
        )
        trainer.train(resume)

    stage1, adapter = make_stage1(run.recipe, run.models, reconstruction)
    with run.manifest.timed("stage1"):
        # A checkpoint of stage 2 stands for a complete stage 1.
        resume = newest and (newest.stage1_end or newest)
        train(stage1, Student(run.models.student, None), resume)
    # copied, because merging the adapter removes its tensors
    trained = {"stage1": {k: v.detach().clone() for k, v in adapter.tensors().items()}}
    adapter.merge()
    drop_stage1_teachers(run.models, run.recipe)

    if run.recipe.stage2.steps:
        stage2, variant = make_stage2(run.resolved, run.models, reconstruction)
        check_faithful_target(run, variant, log)
        with run.manifest.timed("stage2"):
            resume = newest if newest and newest.stage1_end else None
            train(stage2, Student(run.models.student, variant), resume)
        trained["stage2"] = {k: v.detach() for k, v in variant.tensors().items()}
    _finish(run, trained)


def _log_teaching(run: Run, log: RunLog) -> None:
    teaching = dict(describe_teaching(run.resolved, run.models))
    run.manifest.write(teaching=teaching)
    for name, description in teaching.items():
        log.info(f"{name}: {description}")


def drop_stage1_teachers(models: RunModels, recipe: Recipe) -> None:
    """Free the teachers that stage 2 has no use for."""
    for name in list(models.teachers):
        if name not in recipe.stage2.needed_teachers:
            del models.teachers[name]


def _finish(run: Run, trained: dict[str, dict[str, Tensor]]) -> None:
    """Save the student; record the unusable images of all processes, and the use of the cache."""
    bad_images: dict[str, str] = {}
    for found in gather_object([run.batches.bad_images]):
        bad_images |= found
    run.accelerator.wait_for_everyone()
    if run.is_main:
        data = run.manifest.facts["data"]
        save_student(run.folder / "student", run.resolved, trained, data)
    run.manifest.write(bad_images=bad_images)
    if run.models.cache.enabled:
        run.manifest.write(cache=run.models.cache.summary())


def check_faithful_target(run: Run, variant: Variant, log: RunLog) -> None:
    """Warn, before stage 2, if the faithful target is no more faithful than the student.

    Compares mean PSNR on ``stage2.faithful_check_images`` training crops; the figures go into the
    manifest.
    """
    images = run.recipe.stage2.faithful_check_images
    if not variant.needs_faithful_target or images == 0:
        return
    errors = []
    for step in range(ceil(images / run.recipe.data.batch_size)):
        errors.append(_faithful_errors(run, variant, step))
    student, target = psnr_from_mse(torch.cat(errors, dim=1), peak=2).mean(dim=1).tolist()
    crops = sum(batch_errors.shape[1] for batch_errors in errors)
    run.manifest.write(
        faithful_check={"student_psnr": student, "target_psnr": target, "crops": crops}
    )
    if target <= student:
        log.warning(
            f"the faithful target ({target:.2f} dB) is no more faithful than the stage-1 "
            f"student ({student:.2f} dB) on {crops} training crops: tradeoff 1 will not gain PSNR. "
            "Lower stage1.reconstruction.l2_weight or the teachers' anchor_weight, or choose a "
            "more faithful teacher"
        )


@torch.no_grad()
def _faithful_errors(run: Run, variant: Variant, step: int) -> Tensor:
    """Compute the mean squared errors of student (row 0) and faithful target (row 1), (2, B)."""
    models = run.models

    def generator(purpose: str) -> torch.Generator:
        # "guard" is an older name of this check. Another key would draw other crops.
        return keyed_generator(run.recipe.seed, "guard", step, purpose)

    batch = models.prepare(run.batches.batch("guard", step, 0), generator("degradation"))
    assert batch.lq is not None
    assert batch.gt is not None, "a recipe without ground truth has no latent target"
    condition = models.student.condition(ModelInput(batch.lq, batch.captions))
    draws = generator("draws")

    def compute_stage1_latent() -> Tensor:
        return variant.generate(condition, REALISTIC, draws)

    stage1_latent = models.cache.get(
        "stage-1 latent", batch.cache_key, ["stage1"], compute_stage1_latent, draws
    )
    target = models.faithful_target(batch, generator("endpoint"))
    errors = []
    for latent in (stage1_latent, target):
        image = models.student.codec.decode(latent).clamp(-1, 1)
        errors.append((image - batch.gt).square().mean(dim=(1, 2, 3)))
    return torch.stack(errors).cpu()
