"""Make a recipe's two stages: the student's adapters, and the steps that train them."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.adapters import Adapter
from distillkit.diffusion.model import DiffusionModel
from distillkit.objectives.adversarial import Adversarial
from distillkit.objectives.controllability import Variant
from distillkit.objectives.critic import Critic
from distillkit.objectives.distribution_matching import FakeScore
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.build import build_adapter, build_objective, build_variant
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import AdversarialConfig, Recipe
from distillkit.training.critics import CriticTrainer
from distillkit.training.feature_cache import digest, hash_weights
from distillkit.training.loop import Stage
from distillkit.training.models import STUDENT, RunModels
from distillkit.training.step import ADVERSARIAL, Stage1Step, Stage2Step


def describe_teaching(resolved: ResolvedRecipe, models: RunModels) -> Iterator[tuple[str, str]]:
    """Describe the loss and the anchor of each teacher in stage 1, by the teacher's name."""
    stage1 = resolved.recipe.stage1
    for name, teacher in models.teachers.items():
        config = stage1.teachers[name]
        if config.weight == 0:
            continue
        if config.term == "score" and isinstance(teacher, DiffusionModel):
            text = "score distillation"
            if teacher.space != models.student.space:
                text += f", in the space {teacher.space}"
            text += f"; {stage1.score_weighting} weighting, {stage1.teacher_gradient} gradient"
        elif config.term == "distribution_matching":
            text = f"distribution matching, {config.fake_score.updates} updates of the fake score"
        else:
            text = _describe_output_distillation(resolved, name)
        yield name, f"{resolved.teachers[name].full_name}: {text}"


def _describe_output_distillation(resolved: ResolvedRecipe, name: str) -> str:
    config = resolved.recipe.stage1.teachers[name]
    compared = "images" if config.output_loss == "image" else "clean latents"
    inputs = "crops" if config.output_input == "crop" else "full images, cut to the crops"
    metric = resolved.output_metrics.get(name)
    too = "" if metric is None else f", also in {metric.full_name}"
    anchor_metric = resolved.anchor_metrics.get(name)
    anchor = "no anchor" if anchor_metric is None else f"anchored by {anchor_metric.full_name}"
    return f"output distillation, {compared} against its results for {inputs}{too}; {anchor}"


def make_stage1(
    recipe: Recipe, models: RunModels, reconstruction: ReconstructionLoss
) -> tuple[Stage, Adapter]:
    """Make dual-teacher score distillation, and the adapter on the student that it trains.

    Merge the adapter before stage 2.
    """
    config = recipe.stage1
    adapter = build_adapter(models.student.stage1_network, config.adapter, recipe.seed)
    step = Stage1Step(
        models,
        adapter,
        config,
        reconstruction,
        recipe.seed,
        per_term_backward=recipe.training.per_term_backward,
    )
    step.critics = {name: CriticTrainer(c) for name, c in _build_stage1_critics(recipe, models)}
    stage = Stage(
        "stage1",
        step,
        config.steps,
        config.learning_rate,
        models=models.modules,
        adapter=adapter,
    )
    return stage, adapter


def make_stage2(
    resolved: ResolvedRecipe, models: RunModels, reconstruction: ReconstructionLoss
) -> tuple[Stage, Variant]:
    """Make controllability distillation of a student whose stage-1 adapter is merged."""
    recipe = resolved.recipe
    config = recipe.stage2
    if models.cache.enabled:
        # taken now, before stage 2 adds tensors of its own to the student
        student = models.cache.identities[STUDENT]
        models.cache.identities["stage1"] = digest(student, hash_weights(models.student))
    objective = build_objective(resolved, models.student, reconstruction, models.device)
    variant = build_variant(models.student, config, recipe.seed, objective)
    step = Stage2Step(models, variant, recipe.seed, self_ensemble=config.line.self_ensemble)
    adversarial = config.line.adversarial
    if config.variant == "adapter_scaling" and config.target == "line" and adversarial.weight:
        critic = _build_adversarial(adversarial, recipe.seed, models)
        step.critics = {ADVERSARIAL: CriticTrainer(critic)}
    stage = Stage(
        "stage2",
        step,
        config.steps,
        config.learning_rate,
        offset=recipe.stage1.steps,
        models=variant.models,
        adapter=variant.adapter,
    )
    return stage, variant


def _build_stage1_critics(recipe: Recipe, models: RunModels) -> Iterator[tuple[str, Critic]]:
    config = recipe.stage1
    if config.adversarial.weight:
        yield ADVERSARIAL, _build_adversarial(config.adversarial, recipe.seed, models)
    for name, teacher in models.teachers.items():
        loss = config.teachers[name]
        if loss.weight and loss.term == "distribution_matching":
            assert isinstance(teacher, DiffusionModel)
            fake_score = FakeScore(
                teacher,
                models.student,
                rank=loss.fake_score.rank,
                learning_rate=loss.fake_score.learning_rate,
                updates=loss.fake_score.updates,
                seed=recipe.seed,
            )
            yield name, fake_score.to(models.device)


def _build_adversarial(config: AdversarialConfig, seed: int, models: RunModels) -> Critic:
    critic = Adversarial(
        weight=config.weight,
        channels=config.channels,
        learning_rate=config.learning_rate,
        max_shift=config.max_shift,
        seed=seed,
    )
    return critic.to(models.device)
