"""Restoring files and folders of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distillkit.data.images import read_image, write_image
from distillkit.errors import DataError, DistillkitError
from distillkit.inference.restorer import Restorer

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def plan(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pairs of an input file and where its result goes.

    One file goes to ``output`` itself where that has an image's suffix; anything else goes into the folder ``output``, folders
    mirrored.

    Raises:
        DataError: an input that does not exist, a folder without images, or several inputs for one output file.
    """
    single = len(inputs) == 1 and inputs[0].is_file()
    if output.suffix.lower() in SUFFIXES:
        if not single:
            raise DataError(f"{output} - is one file, but {len(inputs)} inputs or a folder were given; name an output folder")
        return [(inputs[0], output)]
    pairs = [pair for path in inputs for pair in _expand(path, output)]
    targets = [target for _, target in pairs]
    doubled = {t for t in targets if targets.count(t) > 1} if len(set(targets)) < len(targets) else set()
    if doubled:
        raise DataError(f"{min(doubled)} - two inputs would be written there; restore them into different folders")
    return pairs


def restore_files(
    restorer: Restorer, pairs: Sequence[tuple[Path, Path]], tradeoff: float, *, overwrite: bool, done: Callable[[Path], None]
) -> list[str]:
    """Restore each pair of :func:`plan`; an unreadable image is passed over.

    Args:
        overwrite: replace existing results. done: called with each input, restored or not.

    Returns:
        one line for each input that was not restored.

    Raises:
        DistillkitError: an output exists and ``overwrite`` is False; nothing was written.
    """
    existing = [target for _, target in pairs if target.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise DistillkitError(f"{existing[0]}{more} - exists; pass --overwrite to replace it")
    failures = []
    for source, target in pairs:
        try:
            restored = restorer.restore(read_image(source)[None], tradeoff)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(restored[0], target)
        except DataError as e:
            failures.append(str(e))
        done(source)
    return failures


def _expand(path: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    if path.is_file():
        yield path, output / path.with_suffix(".png").name
        return
    if not path.is_dir():
        raise DataError(f"{path} - no such file or folder")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{path} - holds no images")
    for p in found:
        yield p, output / p.relative_to(path).with_suffix(".png")
