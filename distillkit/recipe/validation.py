"""What the parts of a recipe need of each other, beyond each key being right by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from distillkit.plugins.descriptors import Capability, Spec, TeacherSpec
from distillkit.recipe.document import Document
from distillkit.recipe.errors import Problem
from distillkit.recipe.positions import KeyPath
from distillkit.recipe.schema import Source, Stage1, Stage2, Training

Model = TypeVar("Model", bound=BaseModel)
ROLES = ("fidelity", "realness")


def check(document: Document, specs: Mapping[str, tuple[str, Spec]]) -> Iterator[Problem]:
    """Problems of the tables that are valid by themselves.

    Args:
        specs: full name and descriptor of what each ``use`` table names, by key path.
    """
    stage1 = _valid(Stage1, document.get(("stage1",)))
    if stage1 is not None:
        yield from _check_teachers(document, stage1, specs)
        yield from _check_anchors(document, stage1)
    stage2 = _valid(Stage2, document.get(("stage2",)))
    if stage2 is not None:
        yield from _check_endpoint(document, stage2, specs)
    training = _valid(Training, document.get(("training",)))
    if training is not None and training.sharding == "full":
        yield from _check_sharding(document, training, stage1, stage2)
    if training is not None and training.recast_weights:
        yield from _check_recasting(document, training)
    for part in ("train", "eval"):
        sources = document.get(("data", part))
        for i, table in enumerate(sources if isinstance(sources, list) else []):
            source = _valid(Source, table)
            if source is not None:
                yield from _check_source(document, source, ("data", part, i))


def _valid(model: type[Model], values: Any) -> Model | None:
    try:
        return model.model_validate(values)
    except ValidationError:
        return None


def _check_teachers(
    document: Document, stage1: Stage1, specs: Mapping[str, tuple[str, Spec]]
) -> Iterator[Problem]:
    for role in ROLES:
        weight, term = getattr(stage1.weights, role), getattr(stage1, f"{role}_term")
        if weight == 0:
            continue
        key: KeyPath = ("teachers", role)
        if document.get(key) is None:
            what = f"missing, while stage1.weights.{role} is {weight:g}; name a teacher or set that weight to 0"
            yield Problem(document.origin(key), key, what)
        elif f"teachers.{role}" in specs and term not in _offers(specs[f"teachers.{role}"][1]):
            name, other = specs[f"teachers.{role}"][0], "output" if term == "score" else "score"
            what = f'{name} offers no {term}, but stage1.{role}_term = "{term}"; set that to "{other}" or name another teacher'
            yield Problem(
                document.origin((*key, "use")), (*key, "use"), what, tuple(_capability_table(specs))
            )


def _check_anchors(document: Document, stage1: Stage1) -> Iterator[Problem]:
    """A score has an anchor of its own."""
    for role in ROLES:
        if (
            getattr(stage1, f"{role}_anchor") is not None
            and getattr(stage1, f"{role}_term") == "score"
        ):
            key: KeyPath = ("stage1", f"{role}_anchor")
            what = f'is for an output teacher, but stage1.{role}_term = "score"; leave it out, or set that to "output"'
            yield Problem(document.origin(key), key, what)


def _check_endpoint(
    document: Document, stage2: Stage2, specs: Mapping[str, tuple[str, Spec]]
) -> Iterator[Problem]:
    """A stage 2 that aims at the faithful endpoint needs the teacher's images."""
    aims = stage2.variant == "oftsr" or (
        stage2.variant == "adapter_scaling" and stage2.target == "teacher"
    )
    teacher = specs.get("teachers.fidelity")
    missing = document.get(("teachers", "fidelity")) is None
    if (
        stage2.steps
        and aims
        and (missing or (teacher is not None and "output" not in _offers(teacher[1])))
    ):
        key: KeyPath = ("stage2", "target" if stage2.variant == "adapter_scaling" else "variant")
        what = "aims at the faithful teacher's images, and "
        what += (
            "teachers.fidelity is missing"
            if missing
            else f"{teacher[0] if teacher else ''} offers none"
        )
        yield Problem(
            document.origin(key),
            key,
            f'{what}; name another teacher, or take variant "adapter_scaling" with target "reconstruction"',
        )


def _check_sharding(
    document: Document, training: Training, stage1: Stage1 | None, stage2: Stage2 | None
) -> Iterator[Problem]:
    """What cannot be had while frozen weights are sharded over the processes."""
    copies = "trains as many weights as there are, which every process would keep whole, five times with all that belongs to them"
    for name, stage in (("stage1", stage1), ("stage2", stage2)):
        if stage is not None and stage.steps and stage.adapter.kind == "full":
            yield _unsharded(document, (name, "adapter", "kind"), f'"full" {copies}; take "lora"')
    if stage2 is not None and stage2.steps and stage2.variant == "oftsr":
        yield _unsharded(
            document, ("stage2", "variant"), f'"oftsr" {copies}; take "adapter_scaling"'
        )
    if stage1 is not None and stage1.restores_images:
        what = 'images of different sizes may take a teacher different numbers of passes, and the others would wait; take "crop"'
        yield _unsharded(document, ("stage1", "output_targets"), what)
    if training.cache_gib:
        what = "a process that finds a result makes no pass, and the others would wait for its part of the weights; set it to 0"
        yield _unsharded(document, ("training", "cache_gib"), what)
    if training.recast_weights:
        what = "the backward pass would gather every weight once more; set it to false"
        yield _unsharded(document, ("training", "recast_weights"), what)
    if training.channels_last:
        yield _unsharded(
            document,
            ("training", "channels_last"),
            "torch shards weights in the usual order only; set it to false",
        )


def _check_recasting(document: Document, training: Training) -> Iterator[Problem]:
    """Refuse weight re-casting where frozen weights are not cast, or not by their layers."""
    key: KeyPath = ("training", "recast_weights")
    if training.mixed_precision == "no":
        what = (
            'needs training.mixed_precision = "bf16", because float32 weights are never cast; '
            "change one of the two"
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


def _unsharded(document: Document, key: KeyPath, what: str) -> Problem:
    return Problem(document.origin(key), key, f'not with training.sharding = "full": {what}')


def _offers(teacher: Spec) -> frozenset[Capability]:
    assert isinstance(teacher, TeacherSpec)
    return teacher.capabilities


def _capability_table(specs: Mapping[str, tuple[str, Spec]]) -> Iterator[str]:
    teachers = [(role, *specs[f"teachers.{role}"]) for role in ROLES if f"teachers.{role}" in specs]
    width = max(len(name) for _, name, _ in teachers)
    yield f"{'role':<10}{'teacher':<{width + 2}}{'score':<7}output"
    for role, name, spec in teachers:
        score, output = ("yes" if term in _offers(spec) else "no" for term in ("score", "output"))
        yield f"{role:<10}{name:<{width + 2}}{score:<7}{output}"


def _check_source(document: Document, source: Source, path: KeyPath) -> Iterator[Problem]:
    if (
        source.imagefolder is not None
        and source.lq_column is None
        and document.get(("degradation",)) is None
    ):
        what = "has clean images only, so the recipe needs a [degradation], or an lq_column with inputs"
        yield Problem(document.origin(path), path, what)
