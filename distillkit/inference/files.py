"""Restoring files and folders of files: images, and videos that are named."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.errors import DataError, DistillkitError

if TYPE_CHECKING:
    from distillkit.inference.restorer import Restorer

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
"""What is taken for an image in a folder. A file that is named is tried whatever its suffix."""
WRITABLE = SUFFIXES - {".gif"}
VIDEOS = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}
"""What a video's suffix stands for when it is written: container and codec."""
VIDEO_SUFFIXES = {*VIDEOS, ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp"}
"""What is taken for a video."""
Tradeoffs = Sequence[float | None]
"""None is the student's own."""


@dataclass(frozen=True)
class Job:
    """One image or video, and where its results go: one a tradeoff."""

    source: Path
    targets: tuple[Path, ...]


def plan(
    inputs: Sequence[Path], output: Path, tradeoffs: Tradeoffs = (None,), *, overwrite: bool = False
) -> list[Job]:
    """What there is to do; reads no image and writes nothing.

    One file goes to ``output`` itself where that has the suffix of its kind. All else goes into the folder ``output``, images as
    PNG and videos, which are not looked for in folders, as MP4. Folders are mirrored below it, and so are those that a pattern
    (``"photos/**/*.jpg"``) goes through. Results of several tradeoffs are told apart by ``_t0.5`` behind the name.

    Args:
        overwrite: replace existing results.

    Raises:
        DataError: an input that does not exist, a folder without images, several inputs for one result, a video for an image, or a
            result in the place of an input. DistillkitError: a result exists and ``overwrite`` is False, the folder is a file, or
            there is a video and no PyAV.
    """
    if output.suffix.lower() in {*WRITABLE, *VIDEOS} and not output.is_dir():
        if len(inputs) != 1 or not inputs[0].is_file():
            _refuse_missing(inputs)
            raise DataError(
                f"{output} - is one file, but there are several inputs, a folder or a pattern; name an output folder"
            )
        if (output.suffix.lower() in VIDEOS) != _is_video(inputs[0]):
            raise DataError(
                f"{inputs[0]} - is {'a video' if _is_video(inputs[0]) else 'no video'}, but {output} is not"
            )
        pairs = [(inputs[0], output)]
    else:
        if output.exists() and not output.is_dir():
            raise DistillkitError(
                f"{output} - is a file; name an output folder, or an image file that can be written"
            )
        found = [pair for path in inputs for pair in _expand(path, output)]
        pairs = [
            (source, output / below.with_suffix(".mp4" if _is_video(source) else ".png"))
            for source, below in found
        ]
    jobs = [
        Job(source, tuple(_named(target, t, len(tradeoffs) > 1) for t in tradeoffs))
        for source, target in pairs
    ]
    _refuse_clashes(jobs, overwrite)
    if any(_is_video(job.source) for job in jobs) and find_spec("av") is None:
        raise DistillkitError(
            "videos need PyAV, which is not installed: pip install 'distillkit[video]'"
        )
    return jobs


def restore_files(
    restorer: Restorer,
    jobs: Sequence[Job],
    tradeoffs: Tradeoffs,
    *,
    seed: int = 0,
    done: Callable[[Path], None],
) -> list[str]:
    """Do the jobs; an image that cannot be read, restored or written is passed over. A result appears only when it is complete.

    Args:
        done: called with each input, restored or not.

    Returns:
        one line for each input that was not restored.
    """
    from distillkit.files.images import write_picture
    from distillkit.inference.video import restore_video

    failures = []
    for job in jobs:
        try:
            if _is_video(job.source):
                restore_video(restorer, job.source, job.targets, tradeoffs, seed=seed)
                continue
            results = restorer(job.source, list(tradeoffs), seed=seed)
            for result, target in zip(results, job.targets, strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_picture(result, target)
        except (DistillkitError, OSError) as e:
            failures.append(str(e) if str(job.source) in str(e) else f"{job.source} - {e}")
        finally:
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
        base, found = (
            path,
            sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()),
        )
    within = output.absolute()
    found = [p for p in found if base.absolute() == within or within not in p.absolute().parents]
    if not found:
        raise DataError(f"{path} - {'matches no file' if pattern else 'holds no images'}")
    for p in found:
        yield p, p.relative_to(base)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _named(target: Path, tradeoff: float | None, several: bool) -> Path:
    return target.with_name(f"{target.stem}_t{tradeoff:g}{target.suffix}") if several else target


def _refuse_missing(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} - no such file or folder")


def _refuse_clashes(jobs: Sequence[Job], overwrite: bool) -> None:
    targets = [target for job in jobs for target in job.targets]
    if doubled := [target for target, n in Counter(targets).items() if n > 1]:
        raise DataError(
            f"{min(doubled)} - two results would be written there; restore the inputs into different folders"
        )
    sources = {os.path.realpath(job.source) for job in jobs}
    if own := [target for target in targets if os.path.realpath(target) in sources]:
        raise DataError(
            f"{own[0]} - is an input, which a result would replace; name another output"
        )
    existing = [target for target in targets if target.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise DistillkitError(f"{existing[0]}{more} - exists; pass --overwrite to replace it")
