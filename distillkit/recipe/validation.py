"""Checks across the tables of a recipe, each of which is valid by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from distillkit.errors import did_you_mean
from distillkit.plugins.descriptors import Spec, StudentSpec, TeacherSpec
from distillkit.recipe.document import Document
from distillkit.recipe.errors import Problem
from distillkit.recipe.key_paths import KeyPath
from distillkit.recipe.schema import (
    SourceConfig,
    Stage1Config,
    Stage2Config,
    TeacherLossConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    from distillkit.recipe.load import Component

Model = TypeVar("Model", bound=BaseModel)
Components = Mapping[KeyPath, "Component"]
Need = tuple[KeyPath, str]
"""A key whose value needs the student's denoiser, and what to set it to instead."""


def check(document: Document, components: Components) -> Iterator[Problem]:
    """Yield the problems between tables that are valid by themselves.

    Args:
        document: The recipe.
        components: What its ``use`` tables name, by key path.
    """
    stage1 = _valid(Stage1Config, document.get(("stage1",)))
    stage2 = _valid(Stage2Config, document.get(("stage2",)))
    training = _valid(TrainingConfig, document.get(("training",)))
    if stage1 is not None:
        yield from _check_stage1(document, stage1, components)
    if stage2 is not None and stage2.steps:
        yield from _check_needed_teachers(document, stage2, components)
    yield from _check_student(document, stage1, stage2, components)
    if stage1 is not None and stage2 is not None:
        yield from _check_reconstruction_target(document, stage1, stage2)
    if training is not None:
        yield from _check_training(document, training, stage1, stage2)
    for split in ("train", "eval"):
        yield from _check_sources(document, split)
    if stage1 is not None and stage1.restores_full_images:
        yield from _check_zoom(document)
    yield from _check_truth(document, list(_find_uses_of_truth(stage1, stage2, training)))


def _check_stage1(
    document: Document, stage1: Stage1Config, components: Components
) -> Iterator[Problem]:
    if stage1.steps:
        yield from _check_teachers(document, stage1, components)
    yield from _check_named_teachers(document, stage1)


def _check_training(
    document: Document,
    training: TrainingConfig,
    stage1: Stage1Config | None,
    stage2: Stage2Config | None,
) -> Iterator[Problem]:
    if training.sharding == "full":
        yield from _check_sharding(document, training)
        yield from _check_sharded_adapters(document, stage1, stage2)
        if stage1 is not None:
            yield from _check_sharded_teachers(document, stage1)
    if training.recast_weights:
        yield from _check_recasting(document, training)


def _valid(model: type[Model], values: Any) -> Model | None:
    try:
        return model.model_validate(values)
    except ValidationError:
        return None


def _check_teachers(
    document: Document, stage1: Stage1Config, components: Components
) -> Iterator[Problem]:
    named = document.get(("teachers",))
    teachers = list(named) if isinstance(named, dict) else []
    for name, loss in stage1.teachers.items():
        yield from _check_metrics(document, name, loss)
        if loss.weight == 0:
            continue
        if name not in teachers:
            yield _missing_teacher(document, name, loss, teachers)
        else:
            yield from _check_capability(document, name, loss, components)


def _check_named_teachers(document: Document, stage1: Stage1Config) -> Iterator[Problem]:
    named = document.get(("teachers",))
    for name in named if isinstance(named, dict) else ():
        if name == "adversarial":
            key: KeyPath = ("teachers", name)
            what = "is the name of the adversarial term; give the teacher another one"
            yield Problem(document.origin(key), key, what)
        if name not in stage1.teachers:
            key = ("teachers", name)
            what = f"has no [stage1.teachers.{name}], which says what it teaches"
            yield Problem(document.origin(key), key, what)


def _missing_teacher(
    document: Document, name: str, loss: TeacherLossConfig, teachers: list[str]
) -> Problem:
    key: KeyPath = ("teachers", name)
    what = (
        f"missing, while stage1.teachers.{name}.weight is {loss.weight:g}; "
        f"name a teacher or set that weight to 0{did_you_mean(name, teachers)}"
    )
    return Problem(document.origin(key), key, what)


def _check_capability(
    document: Document, name: str, loss: TeacherLossConfig, components: Components
) -> Iterator[Problem]:
    component = components.get(("teachers", name))
    needed = "output" if loss.term == "output" else "score"
    if component is None or needed in _capabilities(component.spec):
        return
    other = "output" if needed == "score" else "score"
    what = (
        f"{component.full_name} offers no {needed}, but stage1.teachers.{name}.term = "
        f'"{loss.term}"; set that to "{other}" or name another teacher'
    )
    key: KeyPath = ("teachers", name, "use")
    yield Problem(document.origin(key), key, what, tuple(_capability_table(components)))


def _check_metrics(document: Document, name: str, loss: TeacherLossConfig) -> Iterator[Problem]:
    """Refuse metrics between images for a teacher whose score is matched."""
    if loss.term == "output":
        return
    for option in ("anchor_metric", "output_metric"):
        if getattr(loss, option) is None:
            continue
        key: KeyPath = ("stage1", "teachers", name, option)
        what = (
            f'is for an output teacher, but stage1.teachers.{name}.term = "{loss.term}"; '
            'leave it out, or set that to "output"'
        )
        yield Problem(document.origin(key), key, what)


def _check_needed_teachers(
    document: Document, stage2: Stage2Config, components: Components
) -> Iterator[Problem]:
    """Refuse a stage 2 that learns from teachers without their images."""
    for name in stage2.needed_teachers:
        teacher = components.get(("teachers", name))
        if document.get(("teachers", name)) is None:
            reason = f"teachers.{name} is missing"
        elif teacher is not None and "output" not in _capabilities(teacher.spec):
            reason = f"{teacher.full_name} offers none"
        else:
            continue
        key: KeyPath = ("stage2", "variant")
        if stage2.variant == "adapter_scaling":
            key = ("stage2", "target")
        what = (
            f"needs the images of teachers.{name}, and {reason}; name another teacher, "
            'or take variant "adapter_scaling" with target "reconstruction"'
        )
        yield Problem(document.origin(key), key, what)


def _check_student(
    document: Document,
    stage1: Stage1Config | None,
    stage2: Stage2Config | None,
    components: Components,
) -> Iterator[Problem]:
    """Refuse what needs a denoiser where the student has none."""
    student = components.get(("student",))
    if student is None or "score" in _capabilities(student.spec):
        return
    table = tuple(_capability_table(components))
    needs: list[Need] = []
    if stage1 is not None and stage1.steps:
        for name, loss in stage1.teachers.items():
            needs += _denoiser_needs(name, loss)
    if stage2 is not None and stage2.steps and stage2.variant != "adapter_scaling":
        needs.append((("stage2", "variant"), 'take "adapter_scaling"'))
    for key, remedy in needs:
        what = f"needs the student's denoiser, and {student.full_name} has none; {remedy}"
        yield Problem(document.origin(key), key, what, table)


def _denoiser_needs(name: str, loss: TeacherLossConfig) -> Iterator[Need]:
    """Yield the keys of one teacher's terms that need the student's denoiser."""
    at: KeyPath = ("stage1", "teachers", name)
    if loss.weight == 0 or loss.imitation_weight == 0:
        return
    if loss.term == "score" and loss.imitator == "denoiser":
        yield (*at, "imitator"), 'take "output", or imitation_weight = 0'
    if loss.term == "output" and loss.output_loss == "denoised":
        yield (*at, "output_loss"), 'take "image"'


def _check_reconstruction_target(
    document: Document, stage1: Stage1Config, stage2: Stage2Config
) -> Iterator[Problem]:
    """Refuse a tradeoff that weights a term of weight 0: the target is the same at every t."""
    if stage2.steps == 0 or not stage2.uses_reconstruction_target:
        return
    if stage1.reconstruction.l2_weight > 0:
        return
    key: KeyPath = ("stage1", "reconstruction", "l2_weight")
    what = (
        'is 0, but stage2.target = "reconstruction" makes its tradeoff out of the L2 weight; '
        'raise it, or take stage2.target = "teacher" or stage2.steps = 0'
    )
    yield Problem(document.origin(key), key, what)


def _check_sharding(document: Document, training: TrainingConfig) -> Iterator[Problem]:
    """Refuse settings that do not work while frozen weights are sharded."""
    if training.cache_gib:
        what = (
            "a process that finds a cached result makes no pass, and the others would wait for "
            "its part of the weights; set it to 0"
        )
        yield _unshardable(document, ("training", "cache_gib"), what)
    if training.recast_weights:
        what = "the backward pass would gather every weight once more; set it to false"
        yield _unshardable(document, ("training", "recast_weights"), what)
    if training.channels_last:
        what = "torch shards weights in the usual memory order only; set it to false"
        yield _unshardable(document, ("training", "channels_last"), what)


def _check_sharded_adapters(
    document: Document, stage1: Stage1Config | None, stage2: Stage2Config | None
) -> Iterator[Problem]:
    """Refuse stages that train full weights, which every process would hold unsharded."""
    copies = (
        "trains as many weights as there are, which every process would keep in full, five times "
        "with gradients, averages and optimizer states"
    )
    for name, stage in (("stage1", stage1), ("stage2", stage2)):
        if stage is not None and stage.steps and stage.adapter.kind == "full":
            key: KeyPath = (name, "adapter", "kind")
            yield _unshardable(document, key, f'"full" {copies}; take "lora"')
    if stage2 is not None and stage2.steps and stage2.variant == "oftsr":
        key = ("stage2", "variant")
        yield _unshardable(document, key, f'"oftsr" {copies}; take "adapter_scaling"')


def _check_sharded_teachers(document: Document, stage1: Stage1Config) -> Iterator[Problem]:
    """Refuse terms that copy a teacher's weights, or whose number of passes varies."""
    for name, loss in stage1.teachers.items():
        at: KeyPath = ("stage1", "teachers", name)
        if loss.restores_full_images:
            what = (
                "images of different sizes may take a teacher different numbers of passes, and "
                'the other processes would wait; take "crop"'
            )
            yield _unshardable(document, (*at, "output_input"), what)
        if loss.weight and loss.term == "distribution_matching":
            what = 'its fake score would be a second copy of the weights; take "score"'
            yield _unshardable(document, (*at, "term"), what)


def _unshardable(document: Document, key: KeyPath, what: str) -> Problem:
    return Problem(document.origin(key), key, f'not with training.sharding = "full": {what}')


def _check_recasting(document: Document, training: TrainingConfig) -> Iterator[Problem]:
    """Refuse weight re-casting where frozen weights are not cast, or not by their layers."""
    key: KeyPath = ("training", "recast_weights")
    if training.mixed_precision == "no":
        what = (
            'needs training.mixed_precision = "bf16" or "fp16", because float32 weights are never '
            "cast; change one of the two"
        )
        yield Problem(document.origin(key), key, what)
    if training.compile:
        what = (
            "does not work with training.compile = true, because compiled blocks cast their "
            "weights themselves; set one of the two to false"
        )
        yield Problem(document.origin(key), key, what)
    if training.gradient_checkpointing:
        what = (
            "adds nothing to training.gradient_checkpointing = true, which already recomputes "
            "the casts; set one of the two to false"
        )
        yield Problem(document.origin(key), key, what)


def _valid_sources(document: Document, split: str) -> Iterator[tuple[int, SourceConfig]]:
    """Yield the sources of a split that are valid by themselves, with their places."""
    tables = document.get(("data", split))
    for i, table in enumerate(tables if isinstance(tables, list) else ()):
        source = _valid(SourceConfig, table)
        if source is not None:
            yield i, source


def _check_sources(document: Document, split: str) -> Iterator[Problem]:
    if document.get(("degradation",)) is not None:
        return
    for i, source in _valid_sources(document, split):
        if source.imagefolder is None or source.paired:
            continue
        if not source.ground_truth:
            continue
        key: KeyPath = ("data", split, i)
        what = (
            "has clean images only, so the recipe needs a [degradation], or an lq_folder or "
            "lq_column with inputs"
        )
        yield Problem(document.origin(key), key, what)


def _check_zoom(document: Document) -> Iterator[Problem]:
    """Refuse shrunk crops where a teacher restores the full image, which is not shrunk."""
    for i, source in _valid_sources(document, "train"):
        if source.zoom_out == 1:
            continue
        key: KeyPath = ("data", "train", i, "zoom_out")
        what = (
            'not beside a teacher with output_input = "full_image", whose result would not be '
            "shrunk; leave one of the two out"
        )
        yield Problem(document.origin(key), key, what)


def _sources_without_truth(document: Document, split: str) -> Iterator[KeyPath]:
    """Yield the keys that say that a source has no ground truth."""
    for i, source in _valid_sources(document, split):
        if not source.ground_truth:
            yield "data", split, i, "ground_truth"


def _check_truth(document: Document, uses: list[str]) -> Iterator[Problem]:
    """Refuse sources without ground truth where it is used."""
    for key in _sources_without_truth(document, "eval"):
        what = "there is nothing to evaluate against; list the source in data.train"
        yield _needs_truth(document, key, what)
    for key in _sources_without_truth(document, "train"):
        for what in uses:
            yield _needs_truth(document, key, what)


def _needs_truth(document: Document, key: KeyPath, what: str) -> Problem:
    return Problem(document.origin(key), key, f"is false, but {what}")


def _find_uses_of_truth(
    stage1: Stage1Config | None, stage2: Stage2Config | None, training: TrainingConfig | None
) -> Iterator[str]:
    """Say why a recipe can learn nothing from images without ground truth."""
    if stage1 is not None and stage1.steps and not stage1.learns_from_outputs:
        yield (
            "no teacher of stage 1 gives images to learn from; set "
            'stage1.teachers.NAME.term = "output" with weights above 0, or stage1.steps = 0'
        )
    if stage2 is not None and stage2.steps and not stage2.learns_from_teachers_alone:
        yield (
            'stage 2 needs it; take stage2.variant = "adapter_scaling", stage2.target = "line" and '
            'stage2.line.faithful_end = "teacher" with a mix weight above 0, or stage2.steps = 0'
        )
    if training is not None and training.sharding == "full":
        yield (
            'with training.sharding = "full" a process without it calls fewer teachers, and the '
            'others would wait; take "none"'
        )


def _capabilities(spec: Spec) -> frozenset[str]:
    assert isinstance(spec, StudentSpec | TeacherSpec)
    return spec.capabilities


def _capability_table(components: Components) -> Iterator[str]:
    """Show what the student and each teacher of the recipe offers."""
    models = [c for key, c in components.items() if key[0] in ("student", "teachers")]
    name_width = max(len(c.full_name) for c in models) + 2
    role_width = max(10, *(len(str(c.key[-1])) + 2 for c in models))
    yield f"{'role':<{role_width}}{'model':<{name_width}}{'score':<7}output"
    for teacher in models:
        offered = _capabilities(teacher.spec)
        score, output = ("yes" if term in offered else "no" for term in ("score", "output"))
        role = str(teacher.key[-1])
        yield f"{role:<{role_width}}{teacher.full_name:<{name_width}}{score:<7}{output}"
