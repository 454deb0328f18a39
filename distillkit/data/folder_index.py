"""Folders of images, listed once and then only checked for changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from distillkit.errors import DataError, DiskError, first_line
from distillkit.files.atomic import write_file
from distillkit.files.listing import find_files

Stamps = dict[str, list[int]]
"""Modification time (ns) and size (bytes) of every folder and metadata file, by its path."""


def load_folder(folder: Path) -> datasets.Dataset:
    """List the images below a folder, or take the list of last time.

    Listing a million files takes minutes. Adding, removing and renaming files changes the time of
    their folder: where no folder has changed, nor any metadata file, the list still holds. It lies
    in the cache of ``datasets``.

    Raises:
        DataError: No such folder, no images in it, or a metadata file that cannot be used.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} - no such folder; imagefolder is a folder of images, relative to where the "
            "command runs"
        )
    index = _index_file(folder)
    dataset = _read_index(index)
    if dataset is None:
        # Before the listing: what changes meanwhile is then noticed next time.
        stamps = _stamp(folder)
        dataset = _list_images(folder)
        _write_index(index, stamps, dataset)
    return dataset


def _index_file(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    cache = Path(datasets.config.HF_DATASETS_CACHE).expanduser()
    return cache / "distillkit-folders" / f"{name}.json"


def _read_index(index: Path) -> datasets.Dataset | None:
    """Read a list of images; None where there is none, or a folder has changed since."""
    try:
        stored = json.loads(index.read_text())
        if any(_stat(path) != stamp for path, stamp in stored["stamps"].items()):
            return None
        tables = [datasets.Dataset.from_file(path) for path in stored["tables"]]
        return datasets.concatenate_datasets(tables)
    # Somebody emptied the cache, or the file is damaged or an older version's.
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _write_index(index: Path, stamps: Stamps, dataset: datasets.Dataset) -> None:
    tables = [file["filename"] for file in dataset.cache_files]
    if not tables:
        return
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        write_file(index, json.dumps({"stamps": stamps, "tables": tables}))
    except (OSError, DiskError):
        # The list is only there to save time.
        return


def _stamp(folder: Path) -> Stamps:
    stamps = {}
    for path, _, files in os.walk(folder, followlinks=True):
        stamps[path] = _stat(path)
        for name in files:
            if name.startswith("metadata."):
                file = os.path.join(path, name)  # noqa: PTH118
                stamps[file] = _stat(file)
    return stamps


def _stat(path: str) -> list[int]:
    status = os.stat(path)  # noqa: PTH116
    return [status.st_mtime_ns, status.st_size]


def _list_images(folder: Path) -> datasets.Dataset:
    images = find_files(folder)
    if not images:
        raise DataError(f"{folder} - no images in this folder")
    suffixes = {path.suffix.lower() for path in images}
    if not suffixes.issubset(ImageFolder.EXTENSIONS) and not any(folder.rglob("metadata.*")):
        # The library would pass over formats that it does not know, such as AVIF.
        return datasets.Dataset.from_dict({"image": [str(path) for path in images]})
    # Stated as one split: or else folders called "train" or "test" would become splits.
    files = {"train": f"{_escape(folder)}/**"}
    try:
        with no_progress_bars():
            return datasets.load_dataset(
                "imagefolder", data_files=files, split="train", drop_labels=True
            )
    except Exception as error:
        raise DataError(
            f"{folder} - cannot be loaded as a folder of images: {first_line(error)}"
        ) from error


def _escape(folder: Path) -> str:
    """Write a folder as a glob that matches nothing else."""
    return re.sub(r"([*?[])", r"[\1]", str(folder))


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Show no progress bars for files that are already here."""
    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()
