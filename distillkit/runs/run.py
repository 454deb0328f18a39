"""Run a recipe: check, stage 1, stage 2, export, evaluate, report. One run is one folder."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.device_mesh import DeviceMesh

from distillkit.console import logger
from distillkit.data.batches import BatchSettings, TrainingBatches
from distillkit.data.evaluation_pairs import EvaluationPair, PlannedPair
from distillkit.errors import DataError, DistillkitError, Interrupted
from distillkit.evaluation.statistics import photo_of
from distillkit.files.atomic import (
    check_writable,
    explain_full_disk,
    scratch_folder,
    write_file,
)
from distillkit.inference.student import read_about, student_folder
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.build import open_evaluation_sets, open_sources
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Recipe
from distillkit.runs.distill import Run, distill
from distillkit.runs.folder import history_entry, lock_folder, prepare_folder
from distillkit.runs.manifest import Manifest
from distillkit.runs.preflight import check_required_files
from distillkit.runs.recipe_changes import Change
from distillkit.training.cache_estimate import describe_cache
from distillkit.training.distributed import create_accelerator, distributed_errors
from distillkit.training.models import RunModels, build_models
from distillkit.training.tracking import NONFINITE


def run_recipe(
    resolved: ResolvedRecipe,
    out: Path,
    *,
    resume: bool = False,
    fork: Path | None = None,
    cache_estimate_for: Recipe | None = None,
) -> Path | None:
    """Distill, export, evaluate and report.

    Args:
        resolved: The recipe.
        out: The run's folder, made if need be.
        resume: Continue from the newest checkpoint in it; a finished run is only evaluated again.
        fork: Another run's folder, or one of its checkpoints, from which a new ``out`` starts.
        cache_estimate_for: The recipe whose use of the cache is logged; default: ``resolved``. A
            dry run gives the recipe that it shortened.

    Returns:
        The report; None where nothing was evaluated, and in every process but the first, which
        alone writes.

    Raises:
        DistillkitError: Before any work, when something is missing or the folder cannot be used;
            later, with the state on disk.
        Interrupted: SIGINT or SIGTERM came; a checkpoint is written.
    """
    accelerator = create_accelerator(resolved.recipe.training, out)
    with explain_full_disk(out), distributed_errors(accelerator), ExitStack() as stack:
        changes = _check(resolved, out, accelerator, resume, fork)
        if accelerator.is_main_process:
            stack.enter_context(lock_folder(out))
        run = _prepare(resolved, out, accelerator, cache_estimate_for or resolved.recipe)
        return _execute(run, changes)


def dry_run(resolved: ResolvedRecipe, out: Path) -> None:
    """Try every part of a recipe in a temporary folder.

    That is one step of each part of each stage that is trained, a checkpoint, and one evaluation
    image.

    Args:
        resolved: The recipe.
        out: The folder of the later run. Only whether it can be written is checked.

    Raises:
        DistillkitError: As :func:`run_recipe`, ``out`` cannot be written, or a step was skipped.
    """
    check_writable(out)
    recipe = resolved.recipe
    with scratch_folder() as folder:
        short = _shortened(recipe, folder / "cache")
        run = folder / "run"
        run_recipe(replace(resolved, recipe=short), run, cache_estimate_for=recipe)
        _refuse_skipped_steps(run)


def _refuse_skipped_steps(out: Path) -> None:
    """Raise DistillkitError if a step of a run was skipped, and say which terms were to blame."""
    file = out / NONFINITE
    if not file.exists():
        return
    skipped = json.loads(file.read_text().splitlines()[0])
    terms = [f"{name} = {value}" for name, value in skipped["terms"].items() if name != "loss"]
    raise DistillkitError(
        f"dry run: step {skipped['step']} was skipped, because its loss or its gradient is not "
        f"finite; {', '.join(terms)}; images {', '.join(skipped['ids'])}"
    )


def open_batches(resolved: ResolvedRecipe, scale: int, processes: int) -> TrainingBatches:
    """Open the training batches of a recipe, for a student of that scale."""
    data = resolved.recipe.data
    settings = BatchSettings(
        crop_size=data.crop_size,
        batch_size=data.batch_size,
        scale=scale,
        seed=resolved.recipe.seed,
        augment=data.augment,
        full_images=resolved.recipe.stage1.restores_full_images,
        cycle_steps=data.cycle_steps,
        max_bad_fraction=data.max_bad_fraction,
        num_workers=data.num_workers,
        image_cache_mb=data.image_cache_mb,
        micro_batches=processes * resolved.recipe.training.gradient_accumulation_steps,
    )
    weights = [source.weight for source in data.train]
    return TrainingBatches(open_sources(resolved, "train"), weights, settings)


def _shortened(recipe: Recipe, cache_dir: Path) -> Recipe:
    """Shorten a recipe to one step of everything that it trains."""
    first1, rest1 = _one_of_each(recipe.stage1.pretraining_steps, recipe.stage1.steps)
    first2, rest2 = _one_of_each(recipe.stage2.faithful_steps, recipe.stage2.steps)
    stage1 = {"steps": first1 + rest1, "pretraining_steps": first1}
    stage2 = {"steps": first2 + rest2, "faithful_steps": first2, "faithful_check_images": 1}
    training = {
        "checkpointing_steps": 1,
        "validation_steps": 1,
        "logging_steps": 1,
        "log_with": [],
        "cache_dir": cache_dir,
    }
    evaluation = {"max_images": 1, "num_gallery_images": 1}
    return recipe.model_copy(
        update={
            "stage1": recipe.stage1.model_copy(update=stage1),
            "stage2": recipe.stage2.model_copy(update=stage2),
            "training": recipe.training.model_copy(update=training),
            "evaluation": recipe.evaluation.model_copy(update=evaluation),
        }
    )


def _one_of_each(first_steps: int, steps: int) -> tuple[int, int]:
    """Shorten a stage whose first steps learn something else to one step of either kind."""
    first = min(first_steps, steps)
    return min(1, first), min(1, steps - first)


def _check(
    resolved: ResolvedRecipe, out: Path, accelerator: Accelerator, resume: bool, fork: Path | None
) -> list[Change]:
    """Check files, folder and recipe before any work.

    Returns:
        How the recipe differs from that of the run that is continued.
    """
    with accelerator.main_process_first():
        check_required_files(resolved)
        baseline = resolved.recipe.evaluation.interpolate_with
        if baseline is not None:
            read_about(student_folder(baseline))
        if accelerator.is_main_process:
            processes = accelerator.num_processes
            return prepare_folder(out, resolved, resume, fork, logger.info, processes)
    return []


def _prepare(
    resolved: ResolvedRecipe, out: Path, accelerator: Accelerator, cache_estimate_for: Recipe
) -> Run:
    """Build the models, open the data and begin the manifest."""
    recipe = resolved.recipe
    main = accelerator.is_main_process
    mesh = None
    if recipe.training.sharding == "full":
        from distillkit.training.sharding import create_mesh

        mesh = create_mesh(accelerator.device, accelerator.num_processes)
    models = build_models(resolved, accelerator.device, mesh)
    batches = open_batches(resolved, models.student.scale, accelerator.num_processes)
    if models.cache.enabled and main:
        logger.info(describe_cache(cache_estimate_for, models, batches))
    samples = _choose_samples(resolved, models, main, mesh)
    manifest = Manifest(
        out / "manifest.json",
        main,
        recipe=recipe.name,
        plugins=resolved.plugins,
        device=str(accelerator.device),
        processes=accelerator.num_processes,
    )
    _record_data(manifest, batches)
    if recipe.training.sharding == "full":
        _report_sharding(models, manifest, main)
    return Run(resolved, out, accelerator, models, batches, samples, manifest)


def _record_data(manifest: Manifest, batches: TrainingBatches) -> None:
    """Record which images the run learns from; refuse to go on with others.

    Raises:
        DataError: A branch or tag of the Hub names another commit than when the run began.
    """
    data = [source.describe() for source in batches.sources]
    former = manifest.facts.get("data", [])
    for old, new in zip(former, data, strict=False):
        same_source = old["source"] == new["source"]
        if same_source and old.get("commit") != new.get("commit"):
            raise DataError(
                f"{old['source']} - the run began with commit {old['commit']}, its revision now "
                f'names {new["commit"]}; resume with revision = "{old["commit"]}"'
            )
    manifest.write(data=data)


def _execute(run: Run, changes: list[Change]) -> Path | None:
    """Distill, evaluate and write the report; record in the manifest how the run ended."""
    plugins = load_plugins()
    manifest = run.manifest
    try:
        if changes:
            history = manifest.facts.get("history", [])
            manifest.write(history=[*history, history_entry(changes)])
        if run.is_main:
            write_file(run.folder / "recipe.toml", run.resolved.to_toml())
            plugins.notify("distillkit_run_started", run_dir=run.folder, recipe=run.recipe)
        distill(run, plugins.notify)
        if not run.is_main:
            return None
        # Only now, because what draws the figures takes half a second to import.
        from distillkit.runs.evaluate import evaluate_run

        with manifest.timed("evaluation"):
            report = evaluate_run(run.resolved, run.folder, run.accelerator.device)
        manifest.close("finished")
        plugins.notify("distillkit_run_finished", run_dir=run.folder)
        return report
    except BaseException as e:
        interrupted = isinstance(e, Interrupted | KeyboardInterrupt)
        manifest.close("interrupted" if interrupted else "failed")
        raise


def _choose_samples(
    resolved: ResolvedRecipe, models: RunModels, main: bool, mesh: DeviceMesh | None
) -> list[EvaluationPair]:
    """Choose the held-out images of the sample grids: the first crop of each of some photos."""
    # With sharded weights every process takes part in each of the student's passes.
    if not main and mesh is None:
        return []
    # Names are unique within a set only.
    by_photo: dict[tuple[str, str], PlannedPair] = {}
    sets = open_evaluation_sets(resolved, models.degradation, models.student.scale)
    for name, pairs in sets.items():
        for pair in pairs:
            by_photo.setdefault((name, photo_of(pair.name)), pair)
    chosen = list(by_photo.values())[: resolved.recipe.evaluation.num_gallery_images]
    return [pair.read() for pair in chosen]


def _report_sharding(models: RunModels, manifest: Manifest, main: bool) -> None:
    from distillkit.training.sharding import count_weight_bytes

    kept, totals = zip(*gather_object([count_weight_bytes(models.modules)]), strict=True)
    total = totals[0]
    manifest.write(sharding={"kept_bytes": kept, "whole_bytes": total})
    if main:
        logger.info(
            f"sharding: of {total / 2**20:,.1f} MiB of frozen weights each process keeps "
            f"{max(kept) / 2**20:,.1f} or less"
        )
