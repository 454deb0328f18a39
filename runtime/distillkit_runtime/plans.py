"""Decide where results go, by the rules of ``distillkit restore``. No picture is read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from distillkit_runtime.errors import RestoreError
from distillkit_runtime.writing import LONGEST_NAME, SAVE_OPTIONS

READABLE = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""What a folder is searched for. A file that is named may have any suffix."""
WRITABLE = frozenset(SAVE_OPTIONS)
_OTHER_FILES = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".svg", ".pdf", ".eps", ".ico", ".exr", ".hdr"}
    | {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".txt", ".zip"}
)
UNREADABLE_PHOTOS = frozenset(
    {".heic", ".heif", ".jxl"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef"}
)
"""Photographs of phones and cameras that folders hold, too, and that are not read."""
_FILE_SUFFIXES = READABLE | _OTHER_FILES
"""An output that ends so is meant to be a file, unless it is a folder already."""
Existing = Literal["refuse", "replace", "skip"]
"""What to do with results that are there already."""


class Job(NamedTuple):
    """A picture, and where its result goes."""

    source: Path
    target: Path


def plan_jobs(source: Path, output: Path, existing: Existing = "refuse") -> list[Job]:
    """Decide where each result goes; read no picture and write nothing.

    Args:
        source: A picture, or a folder.
        output: A file for a picture, if it ends as one that is written; else a folder, in which
            the source's folders are mirrored and results are PNG files.
        existing: Whether results that exist are refused, replaced or left out.

    Raises:
        RestoreError: There is no picture, or a result would have no place of its own.
    """
    if output.suffix.lower() in WRITABLE and not output.is_dir():
        jobs = [Job(_only_file(source, output), output)]
    else:
        jobs = _plan_folder(source, output)
    _refuse_shared_targets(jobs)
    _refuse_targets_that_are_inputs(jobs)
    if existing == "refuse":
        _refuse_existing_targets(jobs)
    if existing == "skip":
        jobs = [job for job in jobs if not job.target.exists()]
    _refuse_unwritable_targets(jobs)
    return jobs


def find_unreadable_photos(source: Path) -> list[Path]:
    """List the photographs in a folder that :func:`plan_jobs` leaves out.

    Raises:
        RestoreError: A folder cannot be read.
    """
    if not source.is_dir():
        return []
    return sorted(path for path in _walk(source) if _is_photo(path, UNREADABLE_PHOTOS))


def _only_file(source: Path, output: Path) -> Path:
    if not source.exists():
        raise RestoreError(f"{source} - no such file or folder")
    if source.is_dir():
        raise RestoreError(f"{output} - is one file, but {source} is a folder; name a folder")
    return source


def _plan_folder(source: Path, output: Path) -> list[Job]:
    """Give every picture its place in the folder ``output``."""
    _refuse_output_that_is_no_folder(output)
    if source.is_dir():
        base = source
        found = _find_pictures(source, output)
    elif source.exists():
        base = source.parent
        found = [source]
    else:
        raise RestoreError(f"{source} - no such file or folder")
    jobs = []
    for path in found:
        mirrored = output / path.relative_to(base)
        jobs.append(Job(path, mirrored.with_suffix(".png")))
    return jobs


def _refuse_output_that_is_no_folder(output: Path) -> None:
    known = ", ".join(sorted(WRITABLE))
    if output.is_dir():
        return
    if output.exists():
        raise RestoreError(
            f"{output} - is a file; name an output folder, or a file that ends in {known}"
        )
    suffix = output.suffix.lower()
    if suffix in _FILE_SUFFIXES:
        raise RestoreError(
            f"{output} - cannot write {suffix}; use one of {known}, or make a folder of that name"
        )


def _find_pictures(folder: Path, output: Path) -> list[Path]:
    """List a folder's pictures, but for the results of earlier calls in ``output``."""
    found = sorted(path for path in _walk(folder) if _is_photo(path, READABLE))
    results = output.absolute()
    if results != folder.absolute():
        found = [path for path in found if results not in path.absolute().parents]
    if not found:
        raise RestoreError(f"{folder} - holds no images")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it, also behind links to other folders."""
    seen = set()
    for place, below, names in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        # A link may lead back to a folder above it.
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        for name in names:
            yield Path(place, name)


def _refuse_unreadable(error: OSError) -> None:
    raise RestoreError(f"{error.filename} - cannot be read: {error.strerror}") from error


def _is_photo(path: Path, suffixes: frozenset[str]) -> bool:
    # A Mac's `._` files hold attributes of others.
    is_attributes = path.name.startswith("._")
    return path.suffix.lower() in suffixes and not is_attributes and path.is_file()


def _refuse_shared_targets(jobs: Sequence[Job]) -> None:
    owners: dict[Path, Path] = {}
    for source, target in jobs:
        other = owners.setdefault(target, source)
        if other != source:
            raise RestoreError(
                f"{target} - two results would be written there, of {other} and {source}; restore "
                "each by its name, into different folders"
            )


def _refuse_targets_that_are_inputs(jobs: Sequence[Job]) -> None:
    # A link may lead from the output folder to an input.
    sources = {os.path.realpath(job.source) for job in jobs}
    for _, target in jobs:
        if os.path.realpath(target) in sources:
            raise RestoreError(
                f"{target} - is an input, which a result would replace; name another output"
            )


def _refuse_existing_targets(jobs: Sequence[Job]) -> None:
    existing = [job.target for job in jobs if job.target.exists()]
    if not existing:
        return
    which = f"{existing[0]} - exists"
    if len(existing) > 1:
        which = f"{existing[0]} and {len(existing) - 1} more - exist"
    raise RestoreError(
        f"{which}; pass --overwrite to replace it, or --skip-existing to make only what is missing"
    )


def _refuse_unwritable_targets(jobs: Sequence[Job]) -> None:
    for _, target in jobs:
        if len(os.fsencode(target.name)) > LONGEST_NAME:
            raise RestoreError(
                f"{target} - the name is too long; it may have {LONGEST_NAME} bytes. Name an "
                "output file"
            )
        if target.is_dir():
            raise RestoreError(f"{target} - is a folder; a result would have that name")
    for folder in {job.target.parent for job in jobs}:
        _refuse_unwritable(folder)


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be written; of one to be made, try the nearest parent."""
    candidates = [folder, *folder.absolute().parents]
    existing = next(path for path in candidates if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as e:
        raise RestoreError(f"{folder} - cannot be written: {e.strerror or e}") from e
