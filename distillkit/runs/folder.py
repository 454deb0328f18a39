"""The folder of a run: whether a recipe may use it or go on in it, and new ones that are forked from another run's."""

from __future__ import annotations

import json
import shlex
import shutil
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError
from distillkit.files.atomic import atomic_dir
from distillkit.recipe.load import ResolvedRecipe
from distillkit.runs.changes import Change, Standing, compare, lines
from distillkit.training.checkpoint import Checkpoint, Checkpoints

PROBE_BYTES = 1 << 20


def prepare(
    out: Path,
    resolved: ResolvedRecipe,
    resume: bool,
    fork: Path | None,
    say: Callable[[str], None],
    processes: int = 1,
) -> list[Change]:
    """Make ``out`` ready for a run of the recipe by ``processes``: as it is, or as a fork of the run or checkpoint ``fork``.

    Given again with ``resume``, a fork that is there is gone on with.

    Returns:
        what :func:`check_folder` does.
    """
    if fork is not None:
        if resume and (out / "recipe.toml").exists():
            _check_fork(out, fork)
        else:
            _make_fork(out, resolved, fork, say, processes)
    changes = check_folder(out, resolved, resume or fork is not None, processes)
    if changes:
        say(f"{out} - goes on with another recipe; its steps are the same:\n{lines(changes)}")
    return changes


def check_folder(
    out: Path, resolved: ResolvedRecipe, resume: bool, processes: int = 1
) -> list[Change]:
    """Refuse an output folder that holds another run, or that cannot be written to.

    Returns:
        how the recipe differs from that of the run which it goes on with; only in what leaves the steps as they are.

    Raises:
        DistillkitError: it holds a run and ``resume`` is False; that run's steps are not those of this recipe, or all its
            checkpoints are lost or damaged; or a file of a megabyte cannot be written there.
    """
    changes: list[Change] = []
    kept = any((out / "checkpoints").glob("step-*"))
    if (out / "recipe.toml").exists():
        if not resume:
            raise DistillkitError(
                f"{out} - holds a run already; go on with it by --resume, or choose another folder by --out"
            )
        if not kept and (out / "student").exists():
            what = f"holds a student but no checkpoint to go on from; judge it again with: distillkit eval {out}"
            raise DistillkitError(f"{out} - {what}; or train anew in another folder by --out")
        changes = _safe_changes(out, resolved, processes)
    elif kept:
        what = "holds checkpoints but no recipe.toml, which says what they are of; put it back, or choose another folder by --out"
        raise DistillkitError(f"{out} - {what}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".probe"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as e:
        raise DistillkitError(
            f"{out} - cannot be written to ({e.strerror or e}); choose another folder by --out"
        ) from e
    return changes


def entry(changes: Sequence[Change], **facts: Any) -> dict[str, Any]:
    """What the ``history`` in a run's manifest says of a changed recipe: ``time``, and ``changes`` with the old and new value of
    each key."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **facts,
        "changes": {c.key: [c.old, c.new] for c in changes},
    }


def _safe_changes(run: Path, resolved: ResolvedRecipe, processes: int) -> list[Change]:
    former, were = _recipe_of(run), _processes_of(run, processes)
    if former == resolved.document.values and were == processes:
        return []
    newest = _checkpoints(run).newest()
    changes = compare(former, resolved.document.values, _standing(newest), (were, processes))
    unsafe = [c for c in changes if c.verdict != "safe"]
    if newest is None or not unsafe:
        return changes
    _refuse_incompatible(changes, run, newest, resolved)
    head = f"{run} - stands at {newest.stage} step {newest.step}, and its steps are not those of {resolved.path}:"
    tail = f"go on in a new folder, which leaves this one as it is: {_command(resolved, run)}"
    raise DistillkitError(f"{head}\n{lines(unsafe)}\n{tail}")


def _make_fork(
    out: Path, resolved: ResolvedRecipe, source: Path, say: Callable[[str], None], processes: int
) -> None:
    """Write ``out`` with the checkpoint, the log and the history of the run ``source``; it appears whole or not at all."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DistillkitError(
            f"{out} - is not empty; choose a new folder for the fork by --out (or go on with one by --resume)"
        )
    run = source.parent.parent if source.parent.name == "checkpoints" else source
    former = _recipe_of(run)
    checkpoint = _checkpoints(run).newest() if run == source else _checkpoints(run).read(source)
    if checkpoint is None:
        raise DistillkitError(f"{run} - has no checkpoint to fork from")
    changes = compare(
        former,
        resolved.document.values,
        _standing(checkpoint),
        (_processes_of(run, processes), processes),
    )
    _refuse_incompatible(changes, run, checkpoint, resolved)
    origin = {"run": str(run.resolve()), "stage": checkpoint.stage, "step": checkpoint.step}
    history = [*_manifest_of(run).get("history", []), entry(changes, forked_from=origin)]
    manifest = {"started": history[-1]["time"], "forked_from": origin, "history": history}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_dir(out) as temporary:
        for kept in filter(None, (checkpoint, checkpoint.stage1)):
            shutil.copytree(kept.path, temporary / "checkpoints" / kept.path.name)
        if (run / "metrics.jsonl").exists():
            shutil.copyfile(run / "metrics.jsonl", temporary / "metrics.jsonl")
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        (temporary / "recipe.toml").write_text(resolved.to_toml())
    say(
        "\n".join(
            [
                f"{out} - forked from {run} at {checkpoint.stage} step {checkpoint.step}",
                *(f"  {c}" for c in changes),
            ]
        )
    )


def _check_fork(out: Path, source: Path) -> None:
    origin = _manifest_of(out).get("forked_from", {}).get("run")
    if origin is None or not source.resolve().is_relative_to(origin):
        was = f"was forked from {origin}" if origin else "was not forked"
        raise DistillkitError(
            f"{out} - holds a run that {was}; go on with it by --resume without --fork, or choose another --out"
        )


def _refuse_incompatible(
    changes: Sequence[Change], run: Path, at: Checkpoint, resolved: ResolvedRecipe
) -> None:
    wrong = [c for c in changes if c.verdict == "incompatible"]
    if not wrong:
        return
    head = f"{run} - {resolved.path} cannot go on from its checkpoint ({at.stage} step {at.step}):"
    advice = "give the former values, or start anew in another folder by --out"
    if at.stage1 and all(c.key.startswith("stage2.") for c in wrong):
        advice += f"; or go on from the end of stage 1: {_command(resolved, at.stage1.path)}"
    raise DistillkitError(f"{head}\n{lines(wrong)}\n{advice}")


def _command(resolved: ResolvedRecipe, source: Path) -> str:
    sets = [word for text in resolved.overrides for word in ("--set", text)]
    return shlex.join(
        ["distillkit", "run", str(resolved.path), *sets, "--fork", str(source), "--out", "NEWDIR"]
    )


def _standing(checkpoint: Checkpoint | None) -> Standing | None:
    if checkpoint is None:
        return None
    before = checkpoint.stage1.step if checkpoint.stage1 else 0
    return Standing(checkpoint.stage, checkpoint.step - before, checkpoint.final)


def _checkpoints(run: Path) -> Checkpoints:
    return Checkpoints(run / "checkpoints", 1, writes=False)


def _recipe_of(run: Path) -> dict[str, Any]:
    path = run / "recipe.toml"
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise DistillkitError(f"{run} - not a run's folder (no recipe.toml)") from None
    except ValueError as e:
        what = "it says what the checkpoints are of; put it back as it was, or start anew in another folder by --out"
        raise DistillkitError(f"{path} - damaged: {e}; {what}") from e


def _processes_of(run: Path, now: int) -> int:
    """How many made it so far; ``now`` where none has begun."""
    return _manifest_of(run).get("processes", now)


def _manifest_of(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / "manifest.json").read_text())
    except (OSError, ValueError):
        return {}
