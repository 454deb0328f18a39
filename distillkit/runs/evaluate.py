"""Judging a run's student: beside its teachers, their linear combinations and plain interpolation, on held-out images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit.data.degradation import Degradation
from distillkit.diffusion.model import OutputTeacher
from distillkit.evaluation.checks import claims
from distillkit.evaluation.gallery import Gallery
from distillkit.evaluation.protocol import Method, available_metrics, bicubic_method, evaluate
from distillkit.evaluation.results import ROLES, Results
from distillkit.inference.costs import device_name, parameters, trained_parameters
from distillkit.inference.student import Student, interpolated, load_student
from distillkit.inference.tiling import restore_padded
from distillkit.plugins.descriptors import TeacherSpec
from distillkit.recipe.build import build, held_out
from distillkit.recipe.load import ResolvedRecipe
from distillkit.report.page import write_evaluation, write_report
from distillkit.runs.compare import folder_methods


def evaluate_run(
    resolved: ResolvedRecipe,
    run_dir: Path,
    device: torch.device | str,
    *,
    manifest: Mapping[str, Any],
    say: Callable[[str], None],
    others: Mapping[str, Path] | None = None,
    combine: tuple[str, str] | None = None,
) -> Path | None:
    """Measure, write ``evaluation/`` and ``report.html``, and say what holds and what does not.

    The student is loaded from the run's exported folder, as a user would load it.

    Args:
        others: methods to compare with, by name: folders of their images, called as the run's own evaluation images are.
        combine: two methods to combine linearly; default: the teachers, where both restore.

    Returns:
        the report, or None where the recipe names no held-out images.
    """
    recipe, options = resolved.recipe, resolved.recipe.evaluation
    if not recipe.data.eval:
        say("no evaluation: the recipe names no held-out images (data.eval)")
        return None
    student = load_student(run_dir / "student", device)
    teachers = {
        role: build(resolved, f"teachers.{role}", device)
        for role in ROLES
        if _restores(resolved, f"teachers.{role}")
    }
    degradation: Degradation | None = (
        build(resolved, "degradation", device) if "degradation" in resolved.components else None
    )
    items = held_out(resolved, degradation, student.model.scale)[: options.max_images]
    names = [k for k in resolved.components if k.startswith("evaluation.metrics.")]
    metrics, absent = available_metrics(
        {resolved.components[k].spec.name: lambda k=k: build(resolved, k, device) for k in names}  # type: ignore[misc]
    )
    gallery = Gallery(options.gallery)
    own = trained_parameters(run_dir / "student")
    methods = [
        *_student_methods("student", student, options.tradeoffs, device, own),
        *_teacher_methods(teachers, device),
    ]
    if options.interpolate is not None:
        methods += _student_methods(
            "interpolated",
            interpolated(run_dir, options.interpolate, device),
            options.tradeoffs,
            device,
        )
    shapes = {item.name: (item.gt.shape[2], item.gt.shape[3]) for item in items}
    methods += folder_methods(others or {}, shapes)
    parts = [
        evaluate(
            [*methods, bicubic_method(student.model.scale)],
            items,
            metrics,
            dataset=recipe.name,
            seed=seed,
            combine=combine or (ROLES if len(teachers) == 2 else None),
            alphas=options.alphas,
            reference=options.reference,
            device=device_name(device),
            absent=absent,
            observe=gallery if seed == recipe.seed else None,
            progress=lambda name: None,
        )
        for seed in range(recipe.seed, recipe.seed + options.seeds)
    ]
    results = Results.over_seeds(parts)
    distances = (["stage1.perceptual"] if recipe.stage1.weights.perceptual > 0 else []) + [
        f"stage1.{r}_anchor" for r in ROLES
    ]
    losses = {resolved.components[key].spec.name for key in distances if key in resolved.components}
    trained = {
        m.name for m in metrics if any(f"{m.name}-".startswith(f"{loss}-") for loss in losses)
    }  # with their variants
    write_evaluation(results, gallery, run_dir / "evaluation", trained)
    for claim in claims(results, trained):
        say(str(claim))
    return write_report(
        run_dir,
        results,
        gallery,
        trained=trained,
        recipe_toml=resolved.to_toml(),
        manifest=manifest,
        history=_history(run_dir / "metrics.jsonl"),
    )


def _student_methods(
    name: str,
    student: Student,
    tradeoffs: list[float],
    device: torch.device | str,
    trained: int | None = None,
) -> Iterator[Method]:
    model = student.model
    for tradeoff in tradeoffs if student.variant else [0.0]:

        def restore(
            item: str, lq: Tensor, generator: torch.Generator, tradeoff: float = tradeoff
        ) -> Tensor:
            one = lambda x: student.restore(x, tradeoff, generator)
            return restore_padded(one, lq.to(device), model.scale, model.size_multiple).cpu()

        yield Method(
            name, tradeoff, student.nfe, restore, parameters=parameters(model), trainable=trained
        )


def _teacher_methods(
    teachers: Mapping[str, OutputTeacher], device: torch.device | str
) -> Iterator[Method]:
    for role, teacher in teachers.items():

        def restore(
            item: str, lq: Tensor, generator: torch.Generator, teacher: OutputTeacher = teacher
        ) -> Tensor:
            one = lambda x: teacher.restore(x, generator)
            return restore_padded(one, lq.to(device), teacher.scale, teacher.size_multiple).cpu()

        yield Method(role, None, teacher.nfe, restore, parameters=parameters(teacher), trainable=0)


def _restores(resolved: ResolvedRecipe, key: str) -> bool:
    """Whether the recipe has that teacher and it offers images, not only scores."""
    component = resolved.components.get(key)
    return (
        component is not None
        and isinstance(component.spec, TeacherSpec)
        and "output" in component.spec.capabilities
    )


def _history(path: Path) -> list[dict[str, Any]]:
    """The whole lines of ``metrics.jsonl``; a line that a kill cut off is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
