"""Restoring files and folders of files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.errors import DataError, DistillkitError

if TYPE_CHECKING:
    from distillkit.inference.restorer import Restorer

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
"""What is taken for an image in a folder. A file that is named is tried whatever its suffix."""
WRITABLE = SUFFIXES - {".gif"}
Tradeoffs = Sequence[float | None]
"""None is the student's own."""


@dataclass(frozen=True)
class Job:
    """One image, and where its results go: one a trade-off."""

    source: Path
    targets: tuple[Path, ...]


def plan(inputs: Sequence[Path], output: Path, tradeoffs: Tradeoffs = (None,), *, overwrite: bool = False) -> list[Job]:
    """What there is to do; reads no image and writes nothing.

    One file goes to ``output`` itself where that has an image's suffix; all else goes into the folder ``output`` as PNG, folders
    mirrored below it, and so are the folders that a pattern (``"photos/**/*.jpg"``) goes through. Results of several trade-offs are
    told apart by ``_t0.5`` behind the name.

    Args:
        overwrite: replace existing results.

    Raises:
        DataError: an input that does not exist, a folder without images, several inputs for one result, or a result in the place of
            an input. DistillkitError: a result exists and ``overwrite`` is False, or the folder is a file.
    """
    if output.suffix.lower() in WRITABLE and not output.is_dir():
        if len(inputs) != 1 or not inputs[0].is_file():
            _refuse_missing(inputs)
            raise DataError(f"{output} - is one file, but there are several inputs, a folder or a pattern; name an output folder")
        pairs = [(inputs[0], output)]
    else:
        if output.exists() and not output.is_dir():
            raise DistillkitError(f"{output} - is a file; name an output folder, or an image file that can be written")
        pairs = [(source, output / below.with_suffix(".png")) for path in inputs for source, below in _expand(path, output)]
    jobs = [Job(source, tuple(_named(target, t, len(tradeoffs) > 1) for t in tradeoffs)) for source, target in pairs]
    _refuse_clashes(jobs, overwrite)
    return jobs


def restore_files(
    restorer: Restorer, jobs: Sequence[Job], tradeoffs: Tradeoffs, *, seed: int = 0, done: Callable[[Path], None]
) -> list[str]:
    """Do the jobs; an image that cannot be read, restored or written is passed over. A result appears only when it is complete.

    Args:
        done: called with each input, restored or not.

    Returns:
        one line for each input that was not restored.
    """
    from distillkit.data.images import write_picture

    failures = []
    for job in jobs:
        try:
            results = restorer(job.source, list(tradeoffs), seed=seed)
            for result, target in zip(results, job.targets, strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_picture(result, target)
        except (DistillkitError, OSError) as e:
            failures.append(str(e) if str(job.source) in str(e) else f"{job.source} - {e}")
        done(job.source)
    return failures


def _expand(path: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    """Images that ``path`` stands for, and their places below the output folder; earlier results in ``output`` are none of them."""
    if path.is_file():
        yield path, Path(path.name)
        return
    pattern = glob.has_magic(str(path)) and not path.exists()
    if pattern:
        parts = path.parts
        plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base = Path(*parts[:plain])
        found = sorted(p for p in base.glob(str(Path(*parts[plain:]))) if p.is_file())
    else:
        _refuse_missing([path])
        base, found = path, sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    within = output.absolute()
    found = [p for p in found if base.absolute() == within or within not in p.absolute().parents]
    if not found:
        raise DataError(f"{path} - {'matches no file' if pattern else 'holds no images'}")
    for p in found:
        yield p, p.relative_to(base)


def _named(target: Path, tradeoff: float | None, several: bool) -> Path:
    return target.with_name(f"{target.stem}_t{tradeoff:g}{target.suffix}") if several else target


def _refuse_missing(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} - no such file or folder")


def _refuse_clashes(jobs: Sequence[Job], overwrite: bool) -> None:
    targets = [target for job in jobs for target in job.targets]
    if doubled := [target for target, n in Counter(targets).items() if n > 1]:
        raise DataError(f"{min(doubled)} - two results would be written there; restore the inputs into different folders")
    sources = {os.path.realpath(job.source) for job in jobs}
    if own := [target for target in targets if os.path.realpath(target) in sources]:
        raise DataError(f"{own[0]} - is an input, which a result would replace; name another output")
    existing = [target for target in targets if target.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise DistillkitError(f"{existing[0]}{more} - exists; pass --overwrite to replace it")
