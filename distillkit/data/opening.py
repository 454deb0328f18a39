"""Open the Hub, a folder, parquet files or a plugin's dataset as a source of photographs.

This module and those that only it imports bring in ``datasets``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets

from distillkit.data.folder_index import load_folder
from distillkit.data.folder_pairs import load_folder_pairs
from distillkit.data.hub import load_from_hub
from distillkit.data.parquet import load_parquet
from distillkit.data.sources import Columns, HubDataset, Source
from distillkit.data.stream import Stream
from distillkit.errors import DataError, did_you_mean


def open_source(
    *,
    hub: HubDataset | None = None,
    imagefolder: str | Path | None = None,
    lq_folder: str | Path | None = None,
    parquet: str | Path | None = None,
    dataset: Any = None,
    name: str | None = None,
    columns: Columns | None = None,
    stream_buffer: int | None = None,
) -> Source:
    """Open one source of images.

    Exactly one of ``hub``, ``imagefolder``, ``parquet`` and ``dataset`` names it.

    Args:
        hub: A split of a dataset repository on the Hugging Face Hub. It is downloaded, or taken
            from the local cache.
        imagefolder: A folder, read recursively whatever its folders are called. A
            ``metadata.jsonl`` in it may name pairs (``{"file_name": …, "lq_file_name": …}`` makes
            columns ``image`` and ``lq``).
        lq_folder: The folder of low-quality partners, where that of ``imagefolder`` has the clean
            images: the source is one of pairs, by the names of the files.
        parquet: A file or a glob.
        dataset: A map-style ``datasets.Dataset`` that is built already.
        name: What ids and errors call the source; default: the value of the argument that is given.
        columns: Default: ``image``, or in a dataset without it ``gt`` and ``lq``.
        stream_buffer: Read a Hub or parquet source while it is used, shuffled within so many rows
            (0: in its own order); None: have all of it here.

    Raises:
        DataError: The source cannot be reached or read, is empty, or lacks a column; or ``dataset``
            is a stream, which has no image number k.
    """
    _check_one_is_given(hub=hub, imagefolder=imagefolder, parquet=parquet, dataset=dataset)
    if lq_folder is not None and imagefolder is None:
        raise DataError("lq_folder goes with imagefolder, the folder of the clean images")
    columns = columns or Columns()
    streaming = stream_buffer is not None
    if hub is not None:
        dataset, commit, rows = load_from_hub(hub, streaming=streaming)
        source = _make_source(name or hub.name, dataset, columns, rows, stream_buffer)
        return replace(source, hub=hub._replace(revision=commit))
    if parquet is not None:
        dataset, rows = load_parquet(str(parquet), streaming=streaming)
        return _make_source(name or str(parquet), dataset, columns, rows, stream_buffer)
    if imagefolder is not None:
        return _open_folder(Path(imagefolder), lq_folder, name or str(imagefolder), columns)
    return _make_source(name or "dataset", dataset, columns)


def _check_one_is_given(**choices: Any) -> None:
    given = [choice for choice, value in choices.items() if value is not None]
    if len(given) != 1:
        raise DataError(
            f"a source is exactly one of {', '.join(choices)}, not {' and '.join(given) or 'none'}"
        )


def _open_folder(folder: Path, lq_folder: str | Path | None, name: str, columns: Columns) -> Source:
    folder = folder.absolute()
    if lq_folder is None:
        dataset = load_folder(folder)
    else:
        dataset = load_folder_pairs(folder, Path(lq_folder).absolute())
        columns = columns._replace(lq="lq")
    return replace(_make_source(name, dataset, columns), folder=folder)


def _make_source(
    name: str,
    dataset: Any,
    columns: Columns,
    rows: int = 0,
    stream_buffer: int | None = None,
) -> Source:
    """Make a source of a map-style dataset; or of a stream of so many rows, with its buffer."""
    if stream_buffer is None:
        _check_is_complete(name, dataset)
        return _choose_columns(name, dataset, columns)
    if rows == 0:
        raise DataError(f"{name} - the dataset is empty")
    source = _choose_columns(name, dataset, columns)
    return replace(source, dataset=Stream(source.dataset, rows, stream_buffer))


def _check_is_complete(name: str, dataset: Any) -> None:
    """Refuse what is no dataset with images of known number."""
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError(
            f"{name} - a streaming dataset cannot be resumed exactly; load it without streaming (a "
            "map-style dataset)"
        )
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{name} - a {type(dataset).__name__}, not a datasets.Dataset; choose one split"
        )
    if len(dataset) == 0:
        raise DataError(f"{name} - the dataset is empty")


def _choose_columns(name: str, dataset: Any, columns: Columns) -> Source:
    """Check that the columns hold what they should, and leave out all others."""
    columns = _find_columns(name, dataset.column_names, columns)
    # Other columns would be decoded for nothing, and another format would not give plain values.
    used = [column for column in columns if column is not None]
    dataset = dataset.with_format(None).select_columns(used)
    if columns.caption is not None:
        _check_captions(name, dataset, columns.caption)
    for column in (columns.image, columns.lq):
        if column is not None:
            dataset = _without_decoding(name, dataset, column)
    return Source(name, dataset, columns)


def _find_columns(
    name: str,
    present: list[str],
    columns: Columns,
) -> Columns:
    """Check that a dataset has the columns.

    Where the default is missing, ``gt`` and ``lq`` are taken instead.
    """
    is_default = columns.image == "image" and columns.lq is None
    if is_default and "image" not in present and {"gt", "lq"} <= set(present):
        columns = columns._replace(image="gt", lq="lq")
    for column in columns:
        if column is not None and column not in present:
            raise DataError(
                f"{name} - no column {column!r}{did_you_mean(column, present)}; it has "
                f"{', '.join(present)}"
            )
    return columns


def _check_captions(
    name: str,
    dataset: datasets.Dataset,
    column: str,
) -> None:
    kind = dataset.features[column]
    if getattr(kind, "dtype", "") not in ("string", "large_string"):
        raise DataError(f"{name} - column {column!r} holds {kind}, not one text an image")


def _without_decoding(
    name: str,
    dataset: datasets.Dataset,
    column: str,
) -> datasets.Dataset:
    """Make a column give the content or the path of its images."""
    kind = dataset.features[column]
    if isinstance(kind, datasets.Value):
        _check_paths(name, dataset, column)
    try:
        return dataset.cast_column(column, datasets.Image(decode=False))
    # Arrow has an error of its own for each type.
    except Exception as error:
        raise DataError(
            f"{name} - column {column!r} holds {kind}, not images or their paths"
        ) from error


def _check_paths(name: str, dataset: datasets.Dataset, column: str) -> None:
    """Refuse a column of texts that are not the paths of files."""
    stored = [row[column] for row in dataset.take(10)]
    texts = [text for text in stored if isinstance(text, str)]
    # Some of the files may be missing: that is for the share of bad images to judge.
    if texts and not any(Path(text).is_file() for text in texts):
        raise DataError(
            f"{name} - column {column!r} holds texts ({texts[0][:40]!r}), not images or the paths "
            "of image files"
        )
