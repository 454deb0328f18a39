"""What a recipe's two stages train: the student's adapters, wrapped in the steps that train them."""

from __future__ import annotations

from distillkit.adapters import Adapter
from distillkit.diffusion.model import DiffusionModel
from distillkit.inference.student import make_variant, stage1_adapter
from distillkit.objectives.controllability import Variant
from distillkit.objectives.reconstruction import Distance
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Recipe
from distillkit.training.feature_cache import digest, identity_of_weights
from distillkit.training.loop import Stage
from distillkit.training.models import Cast
from distillkit.training.step import Stage1Step, Stage2Step


def taught(resolved: ResolvedRecipe, cast: Cast) -> dict[str, str]:
    """By role, what stage 1 asks of each teacher: the loss by its name, what it is taken of, and its anchor."""
    options = resolved.recipe.stage1
    told: dict[str, str] = {}
    for role, teacher in cast.teachers.items():
        if getattr(options.weights, role) == 0:
            continue
        if getattr(options, f"{role}_term") == "score" and isinstance(teacher, DiffusionModel):
            space = "" if teacher.space == cast.student.space else f", in the space {teacher.space}"
            text = f"score distillation{space}; {options.score_weighting} weighting, {options.teacher_gradient} gradient"
        else:
            compared = {"image": "images", "denoised": "clean predictions"}[options.output_loss]
            of = {"crop": "crops", "image": "whole images, cut to the crops"}[
                options.output_targets
            ]
            anchor = resolved.components.get(f"stage1.{role}_anchor")
            text = f"output distillation, {compared} against its results for {of}; "
            text += f"anchored by {anchor.full_name}" if anchor else "no anchor"
        told[role] = f"{resolved.components[f'teachers.{role}'].full_name}: {text}"
    return told


def first_stage(recipe: Recipe, cast: Cast, perceptual: Distance | None) -> tuple[Stage, Adapter]:
    """Dual-teacher distillation, and the adapter on the student that it trains; merge the adapter before the second stage."""
    options = recipe.stage1
    adapter = stage1_adapter(cast.student, options.adapter, recipe.seed)
    step = Stage1Step(
        cast,
        adapter,
        options,
        perceptual,
        recipe.seed,
        per_term_backward=recipe.training.per_term_backward,
    )
    return Stage(
        "stage1", step, options.steps, options.learning_rate, models=cast.models, adapter=adapter
    ), adapter


def second_stage(recipe: Recipe, cast: Cast, perceptual: Distance | None) -> tuple[Stage, Variant]:
    """Controllability distillation of a student whose first stage is merged, and the variant that it trains."""
    options, weights = recipe.stage2, recipe.stage1.weights.model_dump()
    shift = recipe.stage1.perceptual_shift
    if cast.cache.store:
        cast.identities["stage1"] = digest(
            cast.identities["student"], identity_of_weights(cast.student)
        )
    variant = make_variant(
        cast.student, options, recipe.seed, weights=weights, perceptual=perceptual, shift=shift
    )
    step = Stage2Step(cast, variant, recipe.seed)
    models, offset = variant.models, recipe.stage1.steps
    return Stage(
        "stage2", step, options.steps, options.learning_rate, offset, models, variant.adapter
    ), variant
