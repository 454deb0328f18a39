"""Prepare the folder of a run, also as a fork of another run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distillkit.errors import DistillkitError
from distillkit.files.atomic import atomic_dir, explain_disk_errors
from distillkit.recipe.load import ResolvedRecipe
from distillkit.runs.manifest import timestamp
from distillkit.runs.recipe_changes import Change, RunProgress, compare_recipes, format_changes
from distillkit.training.checkpoint import Checkpoint, Checkpoints

PROBE_BYTES = 1 << 20
"""Size of the file that is written to see whether a folder can be written to."""


@contextmanager
def lock_folder(run: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder while the context is open.

    The operating system holds the lock, and releases it however this process ends. ``run.pid``
    names the process that has it.

    Raises:
        DistillkitError: Another process uses it.
        DiskError: The folder cannot be written to.
    """
    lock = FileLock(run / "run.lock", timeout=0)
    owner = run / "run.pid"
    with explain_disk_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise DistillkitError(
                f"{run} - another process ({_read_owner(owner)}) is at work here; wait for it, "
                "or choose another folder with --out"
            ) from None
        owner.write_text(f"pid {os.getpid()} on {socket.gethostname()}")
    try:
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _read_owner(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has the lock, but has not written its name yet
        return "pid unknown"


def prepare_folder(
    out: Path,
    resolved: ResolvedRecipe,
    resume: bool,
    fork: Path | None,
    say: Callable[[str], None],
    processes: int = 1,
) -> list[Change]:
    """Make a folder ready for a run, or make it a fork of another run.

    Args:
        out: The run's folder.
        resolved: The recipe.
        resume: Continue the run in ``out``, which with ``fork`` is an earlier fork of that run.
        fork: Another run's folder, or one of its checkpoints, to copy into ``out``.
        say: Shows a text to the user.
        processes: Number of processes of the run; a step takes a batch for each.

    Returns:
        As :func:`check_folder`.

    Raises:
        DistillkitError: The folder cannot be used, or the recipe cannot continue from ``fork``.
    """
    if fork is not None:
        # An interrupted fork is continued by the same command with --resume.
        if resume and (out / "recipe.toml").exists():
            _check_fork(out, fork)
        else:
            _make_fork(out, resolved, fork, say, processes)
    changes = check_folder(out, resolved, resume or fork is not None, processes)
    if changes:
        say(
            f"{out} - continues with another recipe; its steps are the same:\n"
            f"{format_changes(changes)}"
        )
    return changes


def check_folder(
    out: Path,
    resolved: ResolvedRecipe,
    resume: bool,
    processes: int = 1,
) -> list[Change]:
    """Refuse a folder that holds another run, or that cannot be written to.

    Args:
        out: The run's folder.
        resolved: The recipe.
        resume: Whether a run that is there is to be continued.
        processes: How many take part in the run.

    Returns:
        How the recipe differs from that of the continued run, in nothing that changes its steps.

    Raises:
        DistillkitError: The folder holds a run and ``resume`` is False; the steps of that run are
            not those of this recipe; all its checkpoints are lost or damaged; or a file of a
            megabyte cannot be written there.
    """
    changes = []
    has_checkpoints = any((out / "checkpoints").glob("step-*"))
    if (out / "recipe.toml").exists():
        if not resume:
            raise DistillkitError(
                f"{out} - holds a run already; continue it with --resume, or choose another folder "
                "with --out"
            )
        if not has_checkpoints and (out / "student").exists():
            raise DistillkitError(
                f"{out} - holds a student but no checkpoint to continue from; evaluate it again "
                f"with: distillkit evaluate {out}; or train in another folder with --out"
            )
        changes = _safe_changes(out, resolved, processes)
    elif has_checkpoints:
        raise DistillkitError(
            f"{out} - holds checkpoints but no recipe.toml, which says what they belong to; put it "
            "back, or choose another folder with --out"
        )
    _check_writable(out)
    return changes


def history_entry(changes: Sequence[Change], **facts: Any) -> dict[str, Any]:
    """Describe a changed recipe for the ``history`` in a run's manifest.

    Returns:
        ``time``, the ``facts``, and ``changes``: the old and the new value of each key.
    """
    return {
        "time": timestamp(),
        **facts,
        "changes": {change.key: [change.old, change.new] for change in changes},
    }


def _check_writable(out: Path) -> None:
    # Writing is tried: permissions alone do not show a full disk or a read-only file system.
    probe = out / ".probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise DistillkitError(
            f"{out} - cannot be written to ({error.strerror or error}); choose another folder with "
            "--out"
        ) from error


def _safe_changes(
    run: Path,
    resolved: ResolvedRecipe,
    processes: int,
) -> list[Change]:
    """List the changes since the run's last start, all of them safe."""
    old = _read_recipe(run)
    new = resolved.document.values
    old_processes = _read_processes(run, processes)
    if old == new and old_processes == processes:
        return []
    newest = _open_checkpoints(run).newest()
    changes = compare_recipes(old, new, _progress(newest), (old_processes, processes))
    unsafe = [change for change in changes if change.compatibility != "safe"]
    # Without a checkpoint the run starts from its first step, so any recipe fits.
    if newest is None or not unsafe:
        return changes
    _refuse_incompatible(changes, run, newest, resolved)
    raise DistillkitError(
        f"{run} - stands at {newest.stage} step {newest.step}, and its steps are not those of "
        f"{resolved.source}:\n"
        f"{format_changes(unsafe)}\n"
        "continue in a new folder, which leaves this one as it is: "
        f"{_fork_command(resolved, run)}"
    )


def _make_fork(
    out: Path,
    resolved: ResolvedRecipe,
    source: Path,
    say: Callable[[str], None],
    processes: int,
) -> None:
    """Copy the checkpoint, the log and the history of another run."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DistillkitError(
            f"{out} - is not empty; choose a new folder for the fork with --out (or continue a "
            "fork with --resume)"
        )
    run = source
    if source.parent.name == "checkpoints":
        run = source.parent.parent
    old = _read_recipe(run)
    checkpoint = _find_checkpoint(run, source)
    changes = compare_recipes(
        old,
        resolved.document.values,
        _progress(checkpoint),
        (_read_processes(run, processes), processes),
    )
    _refuse_incompatible(changes, run, checkpoint, resolved)
    origin = {"run": str(run.resolve()), "stage": checkpoint.stage, "step": checkpoint.step}
    entry = history_entry(changes, forked_from=origin)
    history = [*_read_manifest(run).get("history", []), entry]
    manifest = {"started": entry["time"], "forked_from": origin, "history": history}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_dir(out) as folder:
        for copied in (checkpoint, checkpoint.stage1_end):
            if copied is not None:
                shutil.copytree(copied.path, folder / "checkpoints" / copied.path.name)
        if (run / "metrics.jsonl").exists():
            shutil.copyfile(run / "metrics.jsonl", folder / "metrics.jsonl")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        (folder / "recipe.toml").write_text(resolved.to_toml())
    text = f"{out} - forked from {run} at {checkpoint.stage} step {checkpoint.step}"
    if changes:
        text += f"\n{format_changes(changes)}"
    say(text)


def _find_checkpoint(run: Path, source: Path) -> Checkpoint:
    """Open the checkpoint ``source``; of the run itself the newest one."""
    if source != run:
        return _open_checkpoints(run).read(source)
    newest = _open_checkpoints(run).newest()
    if newest is None:
        raise DistillkitError(
            f"{run} - has no checkpoint to fork from; start this recipe without --fork, or "
            "--resume that run until it writes one"
        )
    return newest


def _check_fork(out: Path, source: Path) -> None:
    """Refuse to continue a fork of another run."""
    origin = _read_manifest(out).get("forked_from", {}).get("run")
    if origin is not None and source.resolve().is_relative_to(origin):
        return
    fact = f"was forked from {origin}" if origin else "was not forked"
    raise DistillkitError(
        f"{out} - holds a run that {fact}; continue it with --resume without --fork, or choose "
        "another --out"
    )


def _refuse_incompatible(
    changes: Sequence[Change],
    run: Path,
    checkpoint: Checkpoint,
    resolved: ResolvedRecipe,
) -> None:
    incompatible = [change for change in changes if change.compatibility == "incompatible"]
    if not incompatible:
        return
    advice = "restore the old values, or start from the first step in another folder with --out"
    # The end of stage 1 fits any stage 2.
    only_stage2 = all(change.key.startswith("stage2.") for change in incompatible)
    if checkpoint.stage1_end and only_stage2:
        command = _fork_command(resolved, checkpoint.stage1_end.path)
        advice += f"; or continue from the end of stage 1: {command}"
    raise DistillkitError(
        f"{run} - {resolved.source} cannot continue from its checkpoint ({checkpoint.stage} step "
        f"{checkpoint.step}):\n{format_changes(incompatible)}\n{advice}"
    )


def _fork_command(resolved: ResolvedRecipe, source: Path) -> str:
    words = ["distillkit", "run", resolved.source]
    for override in resolved.overrides:
        words += ["--set", override]
    return shlex.join([*words, "--fork", str(source), "--out", "NEWDIR"])


def _progress(checkpoint: Checkpoint | None) -> RunProgress | None:
    if checkpoint is None:
        return None
    steps_done = checkpoint.step
    if checkpoint.stage1_end is not None:
        steps_done -= checkpoint.stage1_end.step
    return RunProgress(checkpoint.stage, steps_done, checkpoint.final)


def _open_checkpoints(run: Path) -> Checkpoints:
    return Checkpoints(run / "checkpoints", 1, writes=False)


def _read_recipe(run: Path) -> dict[str, Any]:
    path = run / "recipe.toml"
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise DistillkitError(
            f"{run} - not a run's folder (no recipe.toml); give a folder that distillkit run wrote"
        ) from None
    except ValueError as error:
        raise DistillkitError(
            f"{path} - damaged: {error}; it says what the checkpoints belong to; put it back as it "
            "was, or start from the first step in another folder with --out"
        ) from error


def _read_processes(run: Path, default: int) -> int:
    """Read how many processes made the run so far.

    The default is for a run that has not begun.
    """
    return _read_manifest(run).get("processes", default)


def _read_manifest(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / "manifest.json").read_text())
    except (OSError, ValueError):
        return {}
