"""The whole of a run: check, stage 1, stage 2, export, evaluate, report. One run is one folder."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.data.pairs import BatchSettings, PairedBatches
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.captions import captioned
from distillkit.errors import Interrupted
from distillkit.files.atomic import explain_full_disk, write_file
from distillkit.inference.student import Student, read_about, save_student, student_folder
from distillkit.objectives.controllability import Variant
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.build import build_distance, held_out, open_sources
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Recipe
from distillkit.runs.evaluate import evaluate_run
from distillkit.runs.folder import history_entry, prepare_folder
from distillkit.runs.manifest import Manifest
from distillkit.runs.preflight import check_presence
from distillkit.training.cache_estimate import describe
from distillkit.training.checkpoint import Checkpoint, Checkpoints
from distillkit.training.distributed import (
    broadcast,
    count_weight_bytes,
    create_accelerator,
    create_mesh,
    distributed_errors,
)
from distillkit.training.loop import Stage, Trainer
from distillkit.training.models import Cast, build_cast
from distillkit.training.samples import sampler
from distillkit.training.stages import first_stage, second_stage, taught
from distillkit.training.tracking import RunLog


def run_recipe(
    resolved: ResolvedRecipe,
    out: Path,
    *,
    resume: bool = False,
    fork: Path | None = None,
    planned: Recipe | None = None,
) -> Path | None:
    """Distill, export, evaluate and report.

    Args:
        out: the run's folder, made if need be. resume: go on from the newest checkpoint in it; a finished run is only evaluated
        again. fork: another run's folder, or one of its checkpoints, from where a new ``out`` starts.
        planned: whose use of the cache is foretold; default: the recipe itself.

    Returns:
        the report; None where nothing was evaluated, and in every process but the first, which alone writes.

    Raises:
        DistillkitError: before any work, when something is missing or the folder cannot be used; later, with the state on disk.
        Interrupted: SIGINT or SIGTERM came; a checkpoint is written.
    """
    accelerator = create_accelerator(resolved.recipe.training, out)
    with explain_full_disk(out), distributed_errors(accelerator):
        return _run(resolved, out, accelerator, resume, fork, planned or resolved.recipe)


def dry_run(resolved: ResolvedRecipe) -> None:
    """One step of each stage, one checkpoint and one evaluation image, in a folder that is removed afterwards."""
    recipe = resolved.recipe
    once = {"checkpointing_steps": 1, "validation_steps": 1, "logging_steps": 1, "log_with": []}
    small = recipe.model_copy(
        update={
            "stage1": recipe.stage1.model_copy(update={"steps": 1}),
            "stage2": recipe.stage2.model_copy(
                update={"steps": min(1, recipe.stage2.steps), "faithful_check_images": 1}
            ),
            "training": recipe.training.model_copy(update=once),
            "evaluation": recipe.evaluation.model_copy(update={"max_images": 1, "gallery": 1}),
        }
    )
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        training = small.training.model_copy(update={"cache_dir": Path(folder) / "cache"})
        small = small.model_copy(update={"training": training})
        run_recipe(replace(resolved, recipe=small), Path(folder) / "run", planned=recipe)


def _run(
    resolved: ResolvedRecipe,
    out: Path,
    accelerator: Accelerator,
    resume: bool,
    fork: Path | None,
    planned: Recipe,
) -> Path | None:
    recipe, plugins, main = resolved.recipe, load_plugins(), accelerator.is_main_process
    with accelerator.main_process_first():
        check_presence(resolved)
        if recipe.evaluation.interpolate is not None:
            read_about(
                student_folder(recipe.evaluation.interpolate)
            )  # a baseline that is not there is refused now
        changes = (
            prepare_folder(out, resolved, resume, fork, _say, accelerator.num_processes)
            if main
            else []
        )
    sharded = recipe.training.sharding == "full"
    mesh = create_mesh(accelerator.device, accelerator.num_processes) if sharded else None
    cast = build_cast(resolved, accelerator.device, mesh)
    batches = open_batches(resolved, cast, accelerator.num_processes)
    if cast.cache.store and main:
        _say(describe(planned, cast, batches))
    shown: list[EvaluationPair] = []
    if main or mesh:  # sharded weights take all processes wherever the student is at work
        shown = _one_a_photo(held_out(resolved, cast.degradation, cast.student.scale))[
            : recipe.evaluation.gallery
        ]
    about = {
        "recipe": recipe.name,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
    }
    manifest = Manifest(out / "manifest.json", main, **about)
    if sharded:
        kept, whole = zip(*gather_object([count_weight_bytes(cast.models)]), strict=True)
        manifest.write(sharding={"kept_bytes": kept, "whole_bytes": whole[0]})
        if main:
            _say(
                f"sharding: of {whole[0] / 2**20:,.1f} MiB of frozen weights each process keeps {max(kept) / 2**20:,.1f} or less"
            )
    try:
        if changes:
            manifest.write(history=[*manifest.facts.get("history", []), history_entry(changes)])
        if main:
            write_file(out / "recipe.toml", resolved.to_toml())
            plugins.notify("distillkit_run_started", run_dir=out, recipe=recipe)
        _distill(resolved, out, cast, batches, shown, accelerator, manifest, plugins.notify)
        if not main:
            return None
        with manifest.timed("evaluation"):
            report = evaluate_run(resolved, out, accelerator.device)
        manifest.close("finished")
        plugins.notify("distillkit_run_finished", run_dir=out)
        return report
    except BaseException as e:
        manifest.close(
            "interrupted" if isinstance(e, Interrupted | KeyboardInterrupt) else "failed"
        )
        raise


def _distill(
    resolved: ResolvedRecipe,
    out: Path,
    cast: Cast,
    batches: PairedBatches,
    shown: list[EvaluationPair],
    accelerator: Accelerator,
    manifest: Manifest,
    notify: Callable[..., None],
) -> None:
    """Both stages, from wherever the run's checkpoints stand, and the export of the student."""
    recipe = resolved.recipe
    main = accelerator.is_main_process
    checkpoints = Checkpoints(out / "checkpoints", recipe.training.checkpoints_total_limit, main)
    newest = broadcast(checkpoints.newest() if main else None)
    log = RunLog(out / "metrics.jsonl", accelerator, notify)
    log.rewind(newest.step if newest else 0)
    teaching = taught(resolved, cast)
    manifest.write(taught=teaching)
    for role, how in teaching.items():
        log.say(f"{role}: {how}")
    accelerator.init_trackers("tensorboard")
    perceptual = (
        build_distance(resolved, "stage1.perceptual", accelerator.device)
        if recipe.stage1.weights.perceptual > 0
        else None
    )

    def train(stage: Stage, student: Student, checkpoint: Checkpoint | None) -> None:
        sample = sampler(out / "samples", student, shown, accelerator.device, writes=main)
        trainer = Trainer(
            stage, batches, recipe.training, recipe.seed, accelerator, checkpoints, log, sample
        )
        trainer.train(checkpoint)

    stage1, adapter = first_stage(recipe, cast, perceptual)
    with manifest.timed("stage1"):
        train(stage1, Student(cast.student, None), newest and (newest.stage1 or newest))
    changes: dict[str, dict[str, Tensor]] = {
        "stage1": {k: v.detach().clone() for k, v in adapter.tensors().items()}
    }
    adapter.merge()
    cast.teachers.pop("realness", None)  # stage 2 has no use for it

    if recipe.stage2.steps:
        stage2, variant = second_stage(recipe, cast, perceptual)
        check_faithful_target(cast, variant, batches, recipe, log, manifest)
        with manifest.timed("stage2"):
            rest = newest if newest and newest.stage1 else None
            train(stage2, Student(cast.student, variant), rest)
        changes["stage2"] = {k: v.detach() for k, v in variant.tensors().items()}
    bad_images = gather_object([batches.bad_images])
    accelerator.wait_for_everyone()
    if main:
        save_student(out / "student", resolved, changes)
    manifest.write(
        bad_images={name: reason for found in bad_images for name, reason in found.items()}
    )
    if cast.cache.store:
        manifest.write(cache=cast.cache.facts())


def open_batches(resolved: ResolvedRecipe, cast: Cast, processes: int) -> PairedBatches:
    """The training batches of a recipe, from all of its sources."""
    data = resolved.recipe.data
    settings = BatchSettings(
        crop=data.crop,
        batch_size=data.batch_size,
        scale=cast.student.scale,
        seed=resolved.recipe.seed,
        flip=data.flip,
        full_images=resolved.recipe.stage1.restores_images,
        cycle=data.cycle,
        max_bad_fraction=data.max_bad_fraction,
        workers=data.workers,
        image_cache_mb=data.image_cache_mb,
        micro_batches=processes * resolved.recipe.training.gradient_accumulation_steps,
    )
    weights = [source.weight for source in data.train]
    return PairedBatches(open_sources(resolved, "train"), weights, settings)


def check_faithful_target(
    cast: Cast,
    variant: Variant,
    batches: PairedBatches,
    recipe: Recipe,
    log: RunLog,
    manifest: Manifest,
) -> None:
    """Say so, before stage 2, if the faithful endpoint is no more faithful than the student it starts from.

    Compares mean PSNR on ``stage2.faithful_check_images`` training crops; the figures go into the manifest.
    """
    n = recipe.stage2.faithful_check_images
    if not variant.needs_endpoint or n == 0:
        return
    errors: list[tuple[float, float]] = []
    for step in range(-(-n // recipe.data.batch_size)):
        batch = batches.batch("guard", step, 0)
        inputs = cast.inputs(batch, keyed_generator(recipe.seed, "guard", step, "degradation"))
        draws, more = (
            keyed_generator(recipe.seed, "guard", step, purpose)
            for purpose in ("draws", "endpoint")
        )
        with torch.no_grad(), captioned(batch.captions):
            condition = cast.student.condition(inputs.lq)
            start = cast.known(
                "start",
                inputs.key,
                ["stage1"],
                partial(variant.generate, condition, 0.0, draws),
                draws,
            )
            ends = start, cast.endpoint(inputs, more)
            images = [cast.student.codec.decode(z).clamp(-1, 1) for z in ends]
        a, b = ((image - inputs.gt).square().mean(dim=(1, 2, 3)).tolist() for image in images)
        errors += zip(a, b, strict=True)
    student, endpoint = (
        float((10 * torch.log10(4 / torch.tensor(e))).mean()) for e in zip(*errors, strict=True)
    )
    manifest.write(guard={"student_psnr": student, "faithful_psnr": endpoint, "crops": len(errors)})
    if endpoint <= student:
        log.say(
            f"warning: the faithful endpoint ({endpoint:.2f} dB) is no more faithful than the stage-1 student ({student:.2f} dB) "
            f"on {len(errors)} training crops: tradeoff 1 will not gain PSNR. Lower stage1.weights.l2 or anchor, or choose a more "
            "faithful teacher"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _one_a_photo(items: list[EvaluationPair]) -> list[EvaluationPair]:
    """The first crop of every photo."""
    first: dict[str, EvaluationPair] = {}
    for item in items:
        first.setdefault(item.name.partition("#")[0], item)
    return list(first.values())
