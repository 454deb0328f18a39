"""Evaluate a run's student beside its teachers and baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit.console import logger, with_progress
from distillkit.data.degradation import Degradation
from distillkit.data.evaluation_pairs import PlannedPair
from distillkit.diffusion.model import ModelInput, OutputTeacher
from distillkit.errors import DistillkitError
from distillkit.evaluation.checks import check_sweep
from distillkit.evaluation.gallery import Gallery
from distillkit.evaluation.protocol import (
    EvaluationSettings,
    Method,
    available_metrics,
    bicubic_method,
    evaluate,
)
from distillkit.evaluation.results import (
    LINEAR,
    LINEAR_STAGE1,
    ROLES,
    STUDENT,
    AbsentMetric,
    Results,
)
from distillkit.files.atomic import check_writable
from distillkit.inference.costs import count_parameters, count_trained_parameters, describe_device
from distillkit.inference.full_images import restore_full_image
from distillkit.inference.student import (
    Student,
    interpolate_adapter,
    interpolate_students,
    load_student,
)
from distillkit.metrics.base import Metric, SetMetric
from distillkit.plugins.descriptors import TeacherSpec
from distillkit.recipe.build import build, open_evaluation_sets, pick_device
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import FIDELITY, EvaluationConfig
from distillkit.report.files import remove_other_sets, write_evaluation
from distillkit.report.notes import missing_notes, start_note
from distillkit.report.page import EvaluatedSet, write_report
from distillkit.runs.comparison_folder import refuse_output_in_inputs
from distillkit.runs.method_folders import Files, Layout, folder_methods, read_folders
from distillkit.tradeoff import REALISTIC

STAGE1_STUDENT = f"{STUDENT}@{REALISTIC:g}"
"""The label of the student at the tradeoff where stage 2 changes nothing."""


def evaluate_run(
    resolved: ResolvedRecipe,
    run_dir: Path,
    device: torch.device | str | None = None,
    *,
    method_folders: Mapping[str, Path] | None = None,
    combine: tuple[str, str] | None = None,
) -> Path | None:
    """Evaluate a run's student on held-out images.

    Writes ``evaluation/`` and ``report.html``, prints the checks. Several evaluation sets have a
    folder each in ``evaluation/``. The student is loaded from the run's ``student`` folder, as a
    user would load it.

    Args:
        resolved: The run's recipe.
        run_dir: The run's folder; its ``manifest.json`` is shown in the report.
        device: Where models run; default: a GPU where there is one.
        method_folders: More methods to compare with, as folders of their images by the method's
            name; the images are named as the recipe's evaluation images, and lie in a folder of
            the set's name where there are several sets.
        combine: Two methods to combine linearly; default: the teachers, where both restore.

    Returns:
        The report, or None where the recipe names no held-out images.
    """
    if not resolved.recipe.data.eval:
        logger.info("no evaluation: the recipe names no held-out images (data.eval)")
        return None
    refuse_output_in_inputs(run_dir / "evaluation", method_folders or {})
    check_writable(run_dir / "evaluation")
    device = pick_device(device)
    student = load_student(run_dir / "student", device)
    teachers = _build_output_teachers(resolved, device)
    sets = _open_sets(resolved, student.model.scale, device)
    metrics, absent = _build_metrics(resolved, device)
    # All files are checked before anything is measured.
    files_of_sets = _read_method_folders(method_folders or {}, sets)
    model_methods = _model_methods(resolved, run_dir, student, teachers, device)
    options = resolved.recipe.evaluation
    settings_of = partial(
        EvaluationSettings,
        seed=resolved.recipe.seed,
        combine=_pairs_to_combine(combine, teachers, student),
        alphas=options.alphas,
        reference=options.reference,
        device=describe_device(device),
        start=_describe_start(resolved),
        color_fix=options.color_fix,
        absent=absent,
    )
    evaluated = []
    for name, items in sets.items():
        # Metrics measure the images of all methods in one batch, in this order.
        methods = [
            *model_methods,
            *folder_methods(files_of_sets[name]),
            bicubic_method(student.model.scale),
        ]
        folder = run_dir / "evaluation"
        progress_label = "evaluating"
        if len(sets) > 1:
            folder = folder / name
            progress_label = f"evaluating {name}"
        evaluated_set = _evaluate_set(
            methods, items, metrics, settings_of(name), options, folder, progress_label
        )
        _write_set(resolved, evaluated_set, is_only_set=len(sets) == 1)
        evaluated.append(evaluated_set)
    remove_other_sets(run_dir / "evaluation", sets)
    return _write_report(resolved, run_dir, evaluated)


def _evaluate_set(
    methods: Sequence[Method],
    items: Sequence[PlannedPair],
    metrics: Sequence[Metric | SetMetric],
    settings: EvaluationSettings,
    options: EvaluationConfig,
    folder: Path,
    progress_label: str,
) -> EvaluatedSet:
    """Restore and measure the images of one set, with every seed."""
    gallery = Gallery(options.num_gallery_images)
    results_by_seed = []
    for seed_offset in range(options.num_seeds):
        seeded = replace(settings, seed=settings.seed + seed_offset)
        label = progress_label
        if options.num_seeds > 1:
            label = f"{progress_label} seed {seeded.seed}"
        # Read one by one: all of them at once may not fit into memory.
        pairs = (item.read() for item in items)
        observed = with_progress(pairs, len(items), label)
        # The gallery keeps images of the first seed.
        observe = gallery if seed_offset == 0 else None
        results_by_seed.append(evaluate(methods, observed, metrics, seeded, observe=observe))
    return EvaluatedSet(Results.over_seeds(results_by_seed), gallery, folder)


def _read_method_folders(
    folders: Mapping[str, Path], sets: Mapping[str, Sequence[PlannedPair]]
) -> dict[str, dict[str, Files]]:
    """Check the files of other methods against the images to evaluate on, by set."""
    files: dict[str, dict[str, Files]] = {name: {} for name in sets}
    if not folders:
        # Nothing is to be read of the images yet.
        return files
    for name, items in sets.items():
        layouts = {}
        for item in items:
            image = item.read().gt[0]
            layouts[item.name] = Layout(tuple(image.shape[1:]), bool((image == image[:1]).all()))
        set_folders = dict(folders)
        if len(sets) > 1:
            set_folders = {method: folder / name for method, folder in folders.items()}
        files[name] = read_folders(set_folders, layouts)
    return files


def _pairs_to_combine(
    requested: tuple[str, str] | None,
    teachers: Mapping[str, OutputTeacher],
    student: Student,
) -> dict[str, tuple[str, str]]:
    """Choose whose images are combined linearly, by the name of the curve."""
    pairs = {}
    if requested is not None:
        pairs[LINEAR] = requested
    elif teachers.keys() >= set(ROLES):
        pairs[LINEAR] = ROLES
    if FIDELITY in teachers and student.variant is not None:
        pairs[LINEAR_STAGE1] = (FIDELITY, STAGE1_STUDENT)
    return pairs


def _describe_start(resolved: ResolvedRecipe) -> str:
    """Describe the student before training, and how long it was trained."""
    student = resolved.student
    files = [file.path.name for file in student.config.weight_files() if file.path]
    weights = "as its plugin initializes it"
    if files:
        weights = f"with the weights {', '.join(files)}"
    recipe = resolved.recipe
    steps = f"{recipe.stage1.steps} + {recipe.stage2.steps} steps in batches"
    return f"{student.full_name} {weights}; {steps} of {recipe.data.batch_size} followed"


def _build_output_teachers(
    resolved: ResolvedRecipe, device: torch.device
) -> dict[str, OutputTeacher]:
    """Build the recipe's teachers that offer images, not only scores, by name."""
    teachers = {}
    for name, component in resolved.teachers.items():
        assert isinstance(component.spec, TeacherSpec)
        if "output" in component.spec.capabilities:
            teachers[name] = build(component, device)
    return teachers


def _open_sets(
    resolved: ResolvedRecipe,
    scale: int,
    device: torch.device,
) -> dict[str, list[PlannedPair]]:
    """Plan the images of every evaluation set."""
    degradation: Degradation | None = None
    if resolved.degradation is not None:
        degradation = build(resolved.degradation, device)
    sets = open_evaluation_sets(resolved, degradation, scale)
    largest = resolved.recipe.evaluation.max_images
    return {name: items[:largest] for name, items in sets.items()}


def _build_metrics(
    resolved: ResolvedRecipe, device: torch.device
) -> tuple[list[Metric | SetMetric], dict[str, AbsentMetric]]:
    """Build the metrics that can be built.

    Returns:
        The metrics, and by name why the others could not be built.
    """
    builders = {}
    for component in resolved.metrics:
        builders[component.spec.name] = partial(build, component, device)
    # After hours of training, a metric that cannot be built costs its cells, whatever the reason.
    return available_metrics(builders, tolerated=DistillkitError)


def _model_methods(
    resolved: ResolvedRecipe,
    run_dir: Path,
    student: Student,
    teachers: Mapping[str, OutputTeacher],
    device: torch.device,
) -> list[Method]:
    """Make methods of the student, the teachers and interpolated weights."""
    options = resolved.recipe.evaluation
    tile = options.tile_size
    trained = count_trained_parameters(run_dir / "student")
    methods = []
    for tradeoff in _tradeoffs(student, options.tradeoffs):
        methods.append(_model_method(STUDENT, student, tradeoff, trained, device, tile))
    for name, teacher in teachers.items():
        # A teacher is evaluated as a student with a fixed tradeoff.
        methods.append(_model_method(name, Student(teacher, None), None, 0, device, tile))
    weights = interpolate_adapter(student)
    if weights is not None:
        for tradeoff in options.tradeoffs:
            methods.append(_model_method("weights", weights, tradeoff, trained, device, tile))
    if options.interpolate_with is not None:
        both = interpolate_students(run_dir, options.interpolate_with, device)
        for tradeoff in options.tradeoffs:
            methods.append(_model_method("interpolated", both, tradeoff, None, device, tile))
    return methods


def _tradeoffs(student: Student, tradeoffs: list[float]) -> list[float]:
    """Keep one tradeoff where the student's is fixed; else judge the stage-1 student, too."""
    if student.variant is None:
        return [student.fixed_tradeoff]
    # A baseline is made of its images.
    return sorted({REALISTIC, *tradeoffs})


def _model_method(
    name: str,
    student: Student,
    tradeoff: float | None,
    trained: int | None,
    device: torch.device,
    tile: int | None,
) -> Method:
    """Make a method that restores images of any size, in tiles of this side or the default's."""

    def restore(item: str, inputs: ModelInput, generator: torch.Generator) -> Tensor:
        return restore_full_image(student, inputs, tradeoff, generator, device=device, tile=tile)

    return Method(
        name,
        tradeoff,
        student.nfe,
        restore,
        parameters=count_parameters(student.model),
        trainable=trained,
    )


def _metrics_trained_against(resolved: ResolvedRecipe, results: Results) -> set[str]:
    """Name the metrics that the student was trained against, and variants."""
    trained_against = set()
    for component in resolved.training_metrics:
        # "lpips" stands for "lpips-vgg" and "lpips-alex", too, but not for "lpipsy".
        loss = component.spec.name
        names = [m.name for m in results.metrics if f"{m.name}-".startswith(f"{loss}-")]
        trained_against.update(names)
    return trained_against


def _write_set(
    resolved: ResolvedRecipe,
    evaluated: EvaluatedSet,
    *,
    is_only_set: bool,
) -> None:
    """Write the files of a set as soon as it is measured, and print its checks."""
    results, gallery, folder = evaluated
    if not is_only_set:
        logger.info(f"evaluation set {results.dataset}:")
    trained_against = _metrics_trained_against(resolved, results)
    write_evaluation(results, gallery, folder, trained_against)
    for note in missing_notes(results):
        logger.warning(f"not measured: {note}")
    checks = check_sweep(results, trained_against)
    if checks:
        logger.info(start_note(results))
    for check in checks:
        logger.info(str(check))


def _write_report(
    resolved: ResolvedRecipe, run_dir: Path, evaluated: Sequence[EvaluatedSet]
) -> Path:
    # All sets have the same metrics.
    trained_against = _metrics_trained_against(resolved, evaluated[0].results)
    return write_report(
        run_dir,
        evaluated,
        trained_against,
        recipe_toml=resolved.to_toml(),
        manifest=json.loads((run_dir / "manifest.json").read_text()),
        history=_read_history(run_dir / "metrics.jsonl"),
    )


def _read_history(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``, without a last line that a kill cut off."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
