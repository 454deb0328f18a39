"""Plan where results go, and restore one file after another."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distillkit_runtime.errors import RestoreError
from distillkit_runtime.pictures import (
    SAVE_OPTIONS,
    count_frames,
    read_picture,
    refuse_lost_opacity,
    write_picture,
)
from distillkit_runtime.restorer import Restorer

READABLE = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""What a folder is searched for. A file that is named may have any suffix."""
Existing = Literal["refuse", "replace", "skip"]
"""What to do with results that are there already."""


class Job(NamedTuple):
    """A picture, and where its result goes."""

    source: Path
    target: Path


def plan_jobs(source: Path, output: Path, existing: Existing = "refuse") -> list[Job]:
    """Decide where each result goes; read no picture and write nothing.

    Args:
        source: a picture, or a folder.
        output: a file for a picture, if it ends as one; else a folder, in which the source's
            folders are mirrored and results are PNG files.
        existing: whether results that exist are refused, replaced or left out.

    Raises:
        RestoreError: there is no picture, or a result would have no place of its own.
    """
    is_file = bool(output.suffix) and not output.is_dir()
    if source.is_dir():
        if is_file:
            raise RestoreError(f"{output} - is one file, but {source} is a folder; name a folder")
        jobs = [_mirror(path, source, output) for path in _find_pictures(source, output)]
    elif not source.exists():
        raise RestoreError(f"{source} - no such file or folder")
    elif is_file:
        jobs = [Job(source, output)]
    else:
        jobs = [_mirror(source, source.parent, output)]
    _refuse_targets(jobs)
    if existing == "refuse":
        _refuse_existing(jobs)
    if existing == "skip":
        jobs = [job for job in jobs if not job.target.exists()]
    return jobs


def restore_files(restorer: Restorer, jobs: Sequence[Job], tradeoff: Any) -> list[str]:
    """Restore pictures; one that cannot be read, restored or written is passed over.

    Returns:
        One line for each picture that failed.
    """
    failures = []
    for number, job in enumerate(jobs, 1):
        if len(jobs) > 1 and sys.stderr.isatty():
            print(f"{number}/{len(jobs)} {job.source}", file=sys.stderr)
        try:
            restore_file(restorer, job, tradeoff)
        except RestoreError as e:
            reason = str(e)
            if str(job.source) not in reason:
                reason = f"{job.source} - {reason}"
            failures.append(reason)
    return failures


def restore_file(restorer: Restorer, job: Job, tradeoff: Any) -> None:
    """Restore one picture; its result appears only when it is complete.

    Raises:
        RestoreError: it cannot be read, restored or written.
    """
    picture = read_picture(job.source)
    refuse_lost_opacity(picture, job.target)
    write_picture(restorer(picture, tradeoff), job.target)
    frames = count_frames(job.source)
    if frames > 1:
        print(f"{job.source} - {frames} frames; the first is restored", file=sys.stderr)


def _mirror(source: Path, base: Path, output: Path) -> Job:
    return Job(source, (output / source.relative_to(base)).with_suffix(".png"))


def _find_pictures(folder: Path, output: Path) -> list[Path]:
    results = output.absolute()
    found = [path for path in sorted(folder.rglob("*")) if _is_picture(path)]
    if results != folder.absolute():
        # Those in `output` are results of an earlier call.
        found = [path for path in found if results not in path.absolute().parents]
    if not found:
        raise RestoreError(f"{folder} - holds no pictures")
    return found


def _is_picture(path: Path) -> bool:
    # A Mac's `._` files hold attributes of others.
    is_named_so = path.suffix.lower() in READABLE and not path.name.startswith("._")
    return is_named_so and path.is_file()


def _refuse_targets(jobs: Sequence[Job]) -> None:
    sources = {os.path.realpath(job.source) for job in jobs}
    owners: dict[Path, Path] = {}
    for source, target in jobs:
        _refuse_unknown_suffix(target)
        if os.path.realpath(target) in sources:
            raise RestoreError(f"{target} - is an input, which a result would replace")
        other = owners.setdefault(target, source)
        if other != source:
            raise RestoreError(
                f"{target} - two results would be written there, of {other} and {source}; restore "
                "them into different folders"
            )
    for folder in {job.target.parent for job in jobs}:
        _refuse_unwritable(folder)


def _refuse_unknown_suffix(target: Path) -> None:
    if target.suffix.lower() not in SAVE_OPTIONS:
        known = ", ".join(SAVE_OPTIONS)
        raise RestoreError(
            f"{target} - cannot write {target.suffix}; use one of {known}, or make a folder of "
            "that name"
        )


def _refuse_existing(jobs: Iterable[Job]) -> None:
    existing = [job.target for job in jobs if job.target.exists()]
    if not existing:
        return
    which = f"{existing[0]} - exists"
    if len(existing) > 1:
        which = f"{existing[0]} and {len(existing) - 1} more - exist"
    raise RestoreError(
        f"{which}; pass --overwrite to replace it, or --skip-existing to make only what is missing"
    )


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be written, before any work; leave nothing there."""
    candidates = [folder, *folder.absolute().parents]
    existing = next(path for path in candidates if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as e:
        raise RestoreError(f"{folder} - cannot be written to: {e.strerror or e}") from e
