"""Plan where restored files go, and restore them one after another. Planning needs no torch."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillkit.errors import DataError, DistillkitError
from distillkit.files.atomic import LONGEST_NAME, check_writable
from distillkit.files.listing import IMAGE_SUFFIXES, find_files, is_apple_double

if TYPE_CHECKING:
    from PIL import Image

    from distillkit.inference.faithful_map import FaithfulMap
    from distillkit.inference.restorer import Restorer

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}
    | {".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp"}
)
_OTHER_FILES = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".svg", ".pdf", ".eps", ".ps", ".ico", ".exr", ".hdr"}
    | {".txt", ".zip", ".tar", ".gz", ".json", ".html", ".mp3", ".wav"}
)
UNREADABLE_PHOTOS = frozenset(
    {".heic", ".heif", ".jxl"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef"}
)
"""Photographs of phones and cameras that folders hold, too, and that no command reads."""
_FILE_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES | _OTHER_FILES
"""An output path with one of these suffixes means a file, unless it is an existing folder."""
Existing = Literal["refuse", "replace", "skip"]
"""What to do with results that exist: raise an error, overwrite them, or skip their files."""
Tradeoffs = Sequence[Any]
"""Each entry makes one result: a number, a map, a :class:`~distillkit.FaithfulMap`, which makes the
map of each image, or None for the student's own tradeoff."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that a command restores, such as images."""

    name: str
    """Singular, for messages."""
    readable: frozenset[str]
    """Suffixes that folders are searched for. A file that is named is tried whatever its suffix."""
    writable: frozenset[str]
    """Suffixes that a result may have."""
    default: str
    """The suffix of results in a folder."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Error texts by suffix, for files of another kind: what they are, and which command restores
    them."""
    check: str | None = None
    """``"module:function"`` of (source, targets), called for every file before the model is loaded.

    It raises a DistillkitError if the file cannot be restored to its targets.
    """


IMAGE_FILES = FileKind(
    name="image",
    readable=IMAGE_SUFFIXES,
    writable=frozenset(
        {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp"}
    ),
    default=".png",
    check="distillkit.inference.files:check_image",
    refused=dict.fromkeys(
        VIDEO_SUFFIXES,
        "is a video; `distillkit restore-video` restores it (pip install 'distillkit[video]')",
    ),
)


@dataclass(frozen=True)
class FileJob:
    """One input file, and the files to write, one for each tradeoff."""

    source: Path
    targets: tuple[Path, ...]
    indices: tuple[int, ...]
    """For each target, the index of its tradeoff in the list that was planned with."""


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shares of the input files, so that several machines divide the work."""

    number: int
    """From 1 to ``count``."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse ``"2/8"``, the second of eight shares.

        Raises:
            DistillkitError: It is not two numbers, or the first is not from 1 to the second.
        """
        numbers = re.fullmatch(r"(\d+)/(\d+)", text)
        if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
            raise DistillkitError(
                f"--shard {text} - expected NUMBER/COUNT with a number from 1 to the count, as "
                "1/4, 2/4, 3/4 and 4/4"
            )
        return cls(int(numbers[1]), int(numbers[2]))

    def select(self, jobs: Sequence[FileJob]) -> list[FileJob]:
        """Take this share of all jobs: every ``count``-th one, in the order of their paths.

        The shares depend on the paths only, so machines need no communication to agree on them.
        """
        ordered = sorted(jobs, key=lambda job: os.fspath(job.source))
        return ordered[self.number - 1 :: self.count]


ALL_FILES = Shard(1, 1)


def plan_files(
    inputs: Sequence[Path],
    output: Path,
    tradeoffs: Tradeoffs = (None,),
    *,
    kind: FileKind = IMAGE_FILES,
    existing: Existing = "refuse",
    shard: Shard = ALL_FILES,
) -> list[FileJob]:
    """Decide where the result of each file goes; read no content and write nothing.

    A single file goes to ``output`` itself if that has a suffix of the kind. Everything else goes
    into the folder ``output``, with the kind's default suffix. Folders are mirrored below it, and
    so are those that a pattern (``"photos/**/*.jpg"``) goes through. The results of several
    tradeoffs get ``_t0.5`` behind the name.

    Args:
        inputs: Files, folders and patterns.
        output: A file or a folder, existing or new.
        tradeoffs: Every file gets one result for each.
        kind: The suffixes that are searched for, and those that can be written.
        existing: Whether results that exist are refused, replaced or left out of the jobs.
        shard: The share of the files to plan for. Its results may not replace an input of any
            share, and two results of one name are refused whatever their shares.

    Raises:
        DataError: An input does not exist or is of another kind, a folder cannot be read or holds
            no such files, several inputs have one result, or a result would replace an input.
        DiskError: A result's folder cannot be written to.
        DistillkitError: A result exists and may not be replaced, its name is too long, the folder
            is a file, or the output is a file of a kind that is not written.
    """
    if output.suffix.lower() in kind.writable and not output.is_dir():
        pairs = [(_only_file(inputs, output), output)]
    else:
        pairs = _plan_folder(inputs, output, kind)
    _refuse_other_kinds([source for source, _ in pairs], kind)
    _refuse_unknown_output(output, kind)
    every = tuple(range(len(tradeoffs)))
    jobs = [FileJob(source, _add_tradeoffs(target, tradeoffs), every) for source, target in pairs]
    _refuse_shared_targets(jobs)
    inputs_of_all = [job.source for job in jobs]
    # Before finished files are left out: shares must not move while other machines finish files.
    jobs = shard.select(jobs)
    _refuse_targets_that_are_inputs(jobs, inputs_of_all)
    if existing == "refuse":
        _refuse_existing_targets(jobs)
    if existing == "skip":
        jobs = _leave_out_finished(jobs)
    _refuse_unwritable_targets(jobs)
    return jobs


def find_unreadable_photos(inputs: Sequence[Path]) -> list[Path]:
    """List the photographs in the folders among ``inputs`` that :func:`plan_files` leaves out.

    Raises:
        DataError: A folder cannot be read.
    """
    folders = [path for path in inputs if path.is_dir()]
    return [photo for folder in folders for photo in find_files(folder, UNREADABLE_PHOTOS)]


def plan_maps(
    inputs: Sequence[Path], output: Path, jobs: Sequence[FileJob], existing: Existing = "refuse"
) -> dict[Path, Path]:
    """Decide where the tradeoff map of each job's source goes, by the rules of :func:`plan_files`.

    With ``existing="skip"``, maps that exist are replaced: they are made with the missing results.

    Args:
        inputs: As of :func:`plan_files`.
        output: The file or folder of the maps.
        jobs: The jobs whose sources need a map.
        existing: As of :func:`plan_files`.

    Returns:
        The file of each map, by the job's source.

    Raises:
        DistillkitError: As :func:`plan_files`, a map would be written where a result is, or the
            maps of an earlier call are among the inputs.
    """
    planned = {job.source: job for job in plan_files(inputs, output, existing="replace")}
    sources = [job.source for job in jobs]
    for source in sources:
        if source not in planned:
            raise DistillkitError(
                f"{source} - lies in {output}, where the maps go; name a folder outside of the "
                "inputs"
            )
    maps = [planned[source] for source in sources]
    if existing == "refuse":
        _refuse_existing_targets(maps)
    results = set(_targets(jobs))
    for target in _targets(maps):
        if target in results:
            raise DistillkitError(
                f"{target} - the result would be written there, and its map as well; name another "
                "file or folder for the maps"
            )
    return {job.source: job.targets[0] for job in maps}


def check_image(source: Path, targets: Sequence[Path]) -> None:
    """Check an image by its header, without decoding it.

    Raises:
        DataError: It is not an image or cannot be read, or it has transparency and the format of a
            target does not.
    """
    from distillkit.files.images import has_opacity, refuse_without_opacity

    if not has_opacity(source):
        return
    for target in targets:
        refuse_without_opacity(target)


def run_jobs(work: Callable[[FileJob], None], jobs: Iterable[FileJob]) -> list[str]:
    """Call ``work`` with each job, and continue after those that fail.

    Returns:
        A line for each file whose job raised a DistillkitError or an OSError.
    """
    failures = []
    for job in jobs:
        try:
            work(job)
        except (DistillkitError, OSError) as e:
            reason = str(e)
            if str(job.source) not in reason:
                reason = f"{job.source} - {reason}"
            failures.append(reason)
    return failures


def restore_image(
    restorer: Restorer,
    source: Path,
    targets: Sequence[Path],
    tradeoffs: Tradeoffs,
    *,
    seed: int = 0,
    map_target: Path | None = None,
) -> list[str]:
    """Restore one image file. A result appears only when it is complete.

    Args:
        restorer: What to restore with.
        source: The image.
        targets: The files to write, one for each tradeoff; folders are made.
        tradeoffs: 0 is most realistic, 1 most faithful; or one :class:`~distillkit.FaithfulMap`.
        seed: Seed of a student that draws noise.
        map_target: The file to write the map to that a FaithfulMap makes; None writes none.

    Returns:
        Lines for the user: frames that are left out, a map in which nothing is faithful.

    Raises:
        DistillkitError: The image cannot be read, restored or written.
    """
    from distillkit.files.images import count_frames, write_picture

    notes: list[str] = []
    if callable(tradeoffs[0]):
        tradeoff_map, notes = _make_map(tradeoffs[0], source, map_target)
        tradeoffs = [tradeoff_map]
    results = restorer(source, list(tradeoffs), seed=seed)
    for result, target in zip(results, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_picture(result, target)
    frames = count_frames(source)
    if frames > 1:
        notes.append(f"{source} - {frames} frames; the first is restored")
    return notes


def _make_map(
    faithful: FaithfulMap, source: Path, target: Path | None
) -> tuple[Image.Image, list[str]]:
    """Make the tradeoff map of an image file, and write it where ``target`` is given.

    Returns:
        The map, and notes for the user: one where nothing was found.
    """
    from distillkit.files.images import write_picture

    tradeoff_map = faithful(source)
    # Before the result: what has a result is skipped by a later call.
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_picture(tradeoff_map, target)
    if faithful.found_something(tradeoff_map):
        return tradeoff_map, []
    return tradeoff_map, [f"{source} - {faithful.nothing_found_note}"]


def _only_file(inputs: Sequence[Path], output: Path) -> Path:
    if len(inputs) == 1 and inputs[0].is_file():
        return inputs[0]
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path} - no such file or folder")
    raise DataError(
        f"{output} - is one file, but there are several inputs, a folder or a pattern; "
        "name an output folder"
    )


def _plan_folder(inputs: Sequence[Path], output: Path, kind: FileKind) -> list[tuple[Path, Path]]:
    """Pair every input file with its result in the folder ``output``."""
    if output.exists() and not output.is_dir():
        suffixes = ", ".join(sorted(kind.writable))
        raise DistillkitError(
            f"{output} - is a file; name an output folder, or a file that ends in {suffixes}"
        )
    pairs = []
    for path in inputs:
        base, sources = _find_sources(path, output, kind)
        for source in sources:
            mirrored = output / source.relative_to(base)
            pairs.append((source, mirrored.with_suffix(kind.default)))
    return pairs


def _find_sources(path: Path, output: Path, kind: FileKind) -> tuple[Path, list[Path]]:
    """Return the folder that is mirrored in the output, and the files that an input stands for."""
    if path.is_file():
        return path.parent, [path]
    if path.exists():
        base = path
        found = find_files(path, kind.readable)
        problem = f"holds no {kind.name}s"
    elif glob.has_magic(str(path)):
        base, pattern = _split_pattern(path)
        found = [p for p in base.glob(pattern) if not is_apple_double(p)]
        problem = "matches no file"
    else:
        raise DataError(f"{path} - no such file or folder")
    files = sorted(p for p in found if p.is_file())
    sources = _leave_out_results(files, base, output)
    if not sources:
        raise DataError(f"{path} - {problem}")
    return base, sources


def _split_pattern(path: Path) -> tuple[Path, str]:
    """Split off the folders in front of the first wildcard."""
    wildcards = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
    base = path.parts[: wildcards[0]]
    pattern = path.parts[wildcards[0] :]
    return Path(*base), str(Path(*pattern))


def _leave_out_results(files: list[Path], base: Path, output: Path) -> list[Path]:
    """Drop the files in ``output``, which an earlier call wrote, unless it is searched itself."""
    folder = output.absolute()
    if base.absolute() == folder:
        return files
    return [file for file in files if folder not in file.absolute().parents]


def _add_tradeoffs(target: Path, tradeoffs: Tradeoffs) -> tuple[Path, ...]:
    if len(tradeoffs) == 1:
        return (target,)
    names = [f"{target.stem}_t{tradeoff:g}{target.suffix}" for tradeoff in tradeoffs]
    return tuple(target.with_name(name) for name in names)


def _refuse_other_kinds(sources: Iterable[Path], kind: FileKind) -> None:
    for source in sources:
        advice = kind.refused.get(source.suffix.lower())
        if advice is not None:
            raise DataError(f"{source} - {advice}")


def _refuse_unknown_output(output: Path, kind: FileKind) -> None:
    suffix = output.suffix.lower()
    if suffix in _FILE_SUFFIXES - kind.writable and not output.exists():
        known = ", ".join(sorted(kind.writable))
        raise DistillkitError(
            f"{output} - cannot write {suffix}; use one of {known}, or make a folder of that name"
        )


def _refuse_shared_targets(jobs: Iterable[FileJob]) -> None:
    sources = defaultdict(list)
    for job in jobs:
        for target in job.targets:
            sources[target].append(job.source)
    for target, sharing in sorted(sources.items()):
        if len(sharing) > 1 and len(set(sharing)) == 1:
            raise DataError(
                f"{target} - two results of {sharing[0]} would be written there; name each input "
                "once, and each tradeoff"
            )
        if len(sharing) > 1:
            raise DataError(
                f"{target} - two results would be written there, of {sharing[0]} and "
                f"{sharing[1]}; restore each by its name, into different folders"
            )


def _refuse_targets_that_are_inputs(jobs: Sequence[FileJob], sources: Iterable[Path]) -> None:
    # A link may lead from the output folder to an input.
    real_path = _PathResolver()
    real_sources = {real_path(source) for source in sources}
    for target in _targets(jobs):
        if real_path(target) in real_sources:
            raise DataError(
                f"{target} - is an input, which a result would replace; name another output"
            )


class _PathResolver:
    """Resolve links as ``os.path.realpath`` does, each folder once: a million files are in few."""

    def __init__(self) -> None:
        self._folders: dict[Path, str] = {}

    def __call__(self, path: Path) -> str:
        if path.is_symlink():
            return os.path.realpath(path)
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return f"{self._folders[folder]}{os.sep}{path.name}"


def _refuse_existing_targets(jobs: Iterable[FileJob]) -> None:
    existing = [target for target in _targets(jobs) if target.exists()]
    if not existing:
        return
    which = f"{existing[0]} - exists"
    if len(existing) > 1:
        which = f"{existing[0]} and {len(existing) - 1} more - exist"
    raise DistillkitError(
        f"{which}; pass --overwrite to replace it, or --skip-existing to make only what is missing"
    )


def _leave_out_finished(jobs: Iterable[FileJob]) -> list[FileJob]:
    """Keep what has no result yet; results appear only when they are complete."""
    unfinished = []
    for job in jobs:
        pairs = zip(job.targets, job.indices, strict=True)
        missing = [(target, index) for target, index in pairs if not target.exists()]
        if missing:
            targets, indices = zip(*missing, strict=True)
            unfinished.append(FileJob(job.source, targets, indices))
    return unfinished


def _refuse_unwritable_targets(jobs: Iterable[FileJob]) -> None:
    for target in _targets(jobs):
        if len(os.fsencode(target.name)) > LONGEST_NAME:
            raise DistillkitError(
                f"{target} - the name is too long; it may have {LONGEST_NAME} bytes. Name an "
                "output file"
            )
        if target.is_dir():
            raise DistillkitError(f"{target} - is a folder; a result would have that name")
    for folder in {target.parent for target in _targets(jobs)}:
        check_writable(folder)


def _targets(jobs: Iterable[FileJob]) -> Iterator[Path]:
    for job in jobs:
        yield from job.targets
