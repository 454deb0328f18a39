"""The whole of a run: check, stage 1, stage 2, export, evaluate, report. One run is one folder."""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import Tensor

from distillkit.data.images import write_image
from distillkit.data.pairs import PairedBatches
from distillkit.data.seeds import keyed_generator
from distillkit.errors import DistillkitError, Interrupted, WeightsError
from distillkit.evaluation.runs import evaluate_run
from distillkit.hooks.manager import load_plugins
from distillkit.inference.build import Item, build, held_out, open_sources
from distillkit.inference.student import Student, make_variant, save_student, stage1_adapter
from distillkit.objectives.controllability import Variant
from distillkit.provenance import Manifest
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Recipe
from distillkit.training.cast import Cast, build_cast
from distillkit.training.checkpoint import Checkpoints
from distillkit.training.loop import Stage, Trainer
from distillkit.training.step import Stage1Step, Stage2Step
from distillkit.training.tracking import RunLog


def run_recipe(resolved: ResolvedRecipe, out: Path, *, resume: bool = False) -> Path | None:
    """Distil, export, evaluate and report.

    Args:
        out: the run's folder, made if need be. resume: go on from the newest checkpoint in it; a finished run is only evaluated
        again.

    Returns:
        the report; None where nothing was evaluated.

    Raises:
        DistillkitError: before any work, when something is missing or the folder cannot be used; later, with the state on disk.
        Interrupted: SIGINT or SIGTERM came; a checkpoint is written.
    """
    check_weights(resolved)
    claim_folder(out, resolved, resume)
    recipe = resolved.recipe
    accelerator = Accelerator(
        mixed_precision=recipe.training.precision,
        log_with=list(recipe.training.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
    )
    manifest = Manifest(out / "manifest.json", recipe=recipe.name, seed=recipe.seed, device=str(accelerator.device))
    plugins = load_plugins()
    try:
        plugins.notify("distillkit_run_started", run_dir=out, recipe=recipe)
        with _timed(manifest, "distillation"):
            _distil(resolved, out, accelerator, manifest, plugins.notify)
        accelerator.wait_for_everyone()
        report = None
        if accelerator.is_main_process:
            with _timed(manifest, "evaluation"):
                report = evaluate_run(resolved, out, accelerator.device, manifest=manifest.facts, say=_say)
            manifest.close("finished")
            plugins.notify("distillkit_run_finished", run_dir=out)
        return report
    except BaseException as e:
        manifest.close("interrupted" if isinstance(e, Interrupted | KeyboardInterrupt) else "failed")
        raise
    finally:
        accelerator.end_training()


def reevaluate(resolved: ResolvedRecipe, run_dir: Path, device: str | None = None) -> Path | None:
    """Judge the student of a finished run again; the run's manifest gains nothing, its evaluation is replaced."""
    manifest = json.loads((run_dir / "manifest.json").read_text())
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return evaluate_run(resolved, run_dir, device, manifest=manifest, say=_say)


def dry_run(resolved: ResolvedRecipe) -> None:
    """One step of each stage, one checkpoint and one evaluation image, in a folder that is removed afterwards."""
    recipe = resolved.recipe
    once = {"checkpoint_every": 1, "sample_every": 1, "log_every": 1, "trackers": []}
    small = recipe.model_copy(
        update={
            "stage1": recipe.stage1.model_copy(update={"steps": 1}),
            "stage2": recipe.stage2.model_copy(update={"steps": min(1, recipe.stage2.steps), "guard_images": 1}),
            "training": recipe.training.model_copy(update=once),
            "evaluation": recipe.evaluation.model_copy(update={"max_images": 1, "gallery": 1}),
        }
    )
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        run_recipe(replace(resolved, recipe=small), Path(folder))


def check_weights(resolved: ResolvedRecipe) -> None:
    """Refuse to start while a weight file that training needs is not on this machine. (A metric without weights is left out.)

    Raises:
        WeightsError: listing every missing file with its size and licence, and the command that fetches them.
    """
    perceptual = resolved.recipe.stage1.weights.perceptual > 0
    needed = [c for k, c in resolved.components.items() if not k.startswith("evaluation.") and (k != "stage1.perceptual" or perceptual)]
    missing = {f.name: f for c in needed for f in c.spec.weights(c.config) if f.find() is None}
    if missing:
        lines = [
            f"  {f.name}  {f'{f.size / 1e6:.0f} MB' if f.size else 'size unknown'}  licence {f.license}" for f in missing.values()
        ]
        raise WeightsError(
            "\n".join(["weights that are not on this machine:", *lines, f"fetch them with: distillkit fetch {resolved.path}"])
        )


def claim_folder(out: Path, resolved: ResolvedRecipe, resume: bool) -> None:
    """Make ``out`` this recipe's run folder.

    Raises:
        DistillkitError: it holds another run, cannot be written to, or was made by a recipe that differs from this one.
    """
    written, text = out / "recipe.toml", resolved.to_toml()
    if written.exists():
        if not resume:
            raise DistillkitError(f"{out} - holds a run already; go on with it by --resume, or choose another folder by --out")
        changes = [line for line in difflib.ndiff(written.read_text().splitlines(), text.splitlines()) if line[:1] in "+-"]
        if changes:
            raise DistillkitError(
                "\n".join([f"{out} - was made by another recipe than {resolved.path}; --resume needs the same:", *changes])
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".probe"
        probe.write_bytes(bytes(1 << 20))
        probe.unlink()
        written.write_text(text)
    except OSError as e:
        raise DistillkitError(f"{out} - cannot be written to ({e.strerror or e}); choose another folder by --out") from e


def _distil(resolved: ResolvedRecipe, out: Path, accelerator: Accelerator, manifest: Manifest, notify: Callable[..., None]) -> None:
    """Both stages, from wherever the run's checkpoints stand, and the export of the student."""
    recipe = resolved.recipe
    cast = build_cast(resolved, accelerator.device)
    batches = open_batches(resolved, cast, accelerator.num_processes)
    shown = _one_a_photo(held_out(resolved, cast.degradation, cast.student.scale))[: recipe.evaluation.gallery]
    checkpoints = Checkpoints(out / "checkpoints", recipe.training.keep_checkpoints)
    newest = checkpoints.newest()
    log = RunLog(out / "metrics.jsonl", accelerator, notify)
    log.rewind(newest.step if newest else 0)
    accelerator.init_trackers("tensorboard" if "tensorboard" in recipe.training.trackers else recipe.name)

    perceptual = build(resolved, "stage1.perceptual", accelerator.device) if recipe.stage1.weights.perceptual > 0 else None
    adapter = stage1_adapter(cast.student, recipe.stage1.adapter, recipe.seed)
    step1 = Stage1Step(cast, adapter, recipe.stage1, perceptual, recipe.seed)
    stage1 = Stage("stage1", step1, recipe.stage1.steps, recipe.stage1.learning_rate)
    knobless = Student(cast.student, None)
    trainer = Trainer(recipe.training, recipe.seed, accelerator, checkpoints, log, _sampler(out, accelerator, knobless, shown))
    with _timed(manifest, "stage1"):
        first = newest if newest and newest.stage == "stage1" else checkpoints.final("stage1")
        trainer.train(stage1, batches, first)
    trained1 = {name: tensor.detach().clone() for name, tensor in adapter.tensors().items()}
    adapter.merge()

    trained2: dict[str, Tensor] | None = None
    if recipe.stage2.steps:
        weights = recipe.stage1.weights.model_dump()
        variant = make_variant(
            cast.student, recipe.stage2, recipe.seed, weights=weights, perceptual=perceptual, shift=recipe.stage1.perceptual_shift
        )
        guard_endpoint(cast, variant, batches, recipe, log, manifest)
        stage2 = Stage(
            "stage2",
            Stage2Step(cast, variant, recipe.seed),
            recipe.stage2.steps,
            recipe.stage2.learning_rate,
            offset=recipe.stage1.steps,
        )
        trainer = Trainer(
            recipe.training,
            recipe.seed,
            accelerator,
            checkpoints,
            log,
            _sampler(out, accelerator, Student(cast.student, variant), shown),
        )
        with _timed(manifest, "stage2"):
            trainer.train(stage2, batches, newest if newest and newest.stage == "stage2" else None)
        trained2 = {name: tensor.detach() for name, tensor in variant.tensors().items()}
    if accelerator.is_main_process:
        save_student(out / "student", resolved, trained1, trained2)
    manifest.write(bad_images=batches.bad_images)


def open_batches(resolved: ResolvedRecipe, cast: Cast, world_size: int) -> PairedBatches:
    """The training batches of a recipe, from all of its sources."""
    data = resolved.recipe.data
    return PairedBatches(
        open_sources(resolved, "train"),
        [source.weight for source in data.train],
        crop=data.crop,
        batch_size=data.batch_size,
        scale=cast.student.scale,
        seed=resolved.recipe.seed,
        flip=data.flip,
        max_bad_fraction=data.max_bad_fraction,
        workers=data.workers,
        cache_mb=data.cache_mb,
        world_size=world_size,
    )


def guard_endpoint(cast: Cast, variant: Variant, batches: PairedBatches, recipe: Recipe, log: RunLog, manifest: Manifest) -> None:
    """Say so, before stage 2, if the faithful endpoint is no more faithful than the student it starts from.

    Compares mean PSNR on ``stage2.guard_images`` training crops; the figures go into the manifest.
    """
    n = recipe.stage2.guard_images
    if not variant.needs_endpoint or n == 0:
        return
    errors: list[tuple[float, float]] = []
    for step in range(-(-n // recipe.data.batch_size)):
        batch = batches.batch("guard", step, 0)
        lq, gt = cast.inputs(batch, keyed_generator(recipe.seed, "guard", step, "degradation"))
        draws = keyed_generator(recipe.seed, "guard", step, "draws")
        with torch.no_grad():
            ends = variant.generate(cast.student.condition(lq), 0.0, draws), cast.endpoint(lq, draws)
            images = [cast.student.codec.decode(z).clamp(-1, 1) for z in ends]
        a, b = ((image - gt).square().mean(dim=(1, 2, 3)).tolist() for image in images)
        errors += zip(a, b, strict=True)
    student, endpoint = (float((10 * torch.log10(4 / torch.tensor(e))).mean()) for e in zip(*errors, strict=True))
    manifest.write(guard={"student_psnr": student, "endpoint_psnr": endpoint, "crops": len(errors)})
    if endpoint <= student:
        log.say(
            f"warning: the faithful endpoint ({endpoint:.2f} dB) is no more faithful than the stage-1 student ({student:.2f} dB) "
            f"on {len(errors)} training crops: tradeoff 1 will not gain PSNR. Lower stage1.weights.l2 or anchor, or choose a more "
            "faithful teacher"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _one_a_photo(items: list[Item]) -> list[Item]:
    """The first crop of every photo."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item[0].partition("#")[0], item)
    return list(first.values())


def _sampler(out: Path, accelerator: Accelerator, student: Student, shown: list[Item]) -> Callable[[str, int], None] | None:
    """Writes a grid of held-out images: input, the student (at tradeoff 0, .5 and 1 where it has a knob), ground truth."""
    if not shown or not accelerator.is_main_process:
        return None

    def sample(stage: str, step: int) -> None:
        tradeoffs = (0.0, 0.5, 1.0) if student.variant else (0.0,)
        rows = []
        for name, lq, gt in shown:
            enlarged = torch.nn.functional.interpolate(lq, size=gt.shape[-2:], mode="nearest")
            draws = [keyed_generator("sample", name) for _ in tradeoffs]
            restored = [student.restore(lq.to(accelerator.device), t, g).cpu() for t, g in zip(tradeoffs, draws, strict=True)]
            rows.append(torch.cat([enlarged, *restored, gt], dim=-1))
        width = max(row.shape[-1] for row in rows)
        rows = [torch.nn.functional.pad(row, (0, width - row.shape[-1]), value=1.0) for row in rows]
        folder = out / "samples"
        folder.mkdir(exist_ok=True)
        write_image(torch.cat(rows, dim=-2)[0], folder / f"step-{step:08d}.png")

    return sample


@contextmanager
def _timed(manifest: Manifest, name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds: dict[str, Any] = dict(manifest.facts.get("seconds", {}))
        manifest.write(seconds=seconds | {name: round(time.monotonic() - started, 2)})
