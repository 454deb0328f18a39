"""Parquet files: loaded, or counted to be streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow.parquet

from distillkit.data.folder_index import no_progress_bars
from distillkit.errors import DataError, first_line


def load_parquet(parquet: str, *, streaming: bool) -> tuple[Any, int]:
    """Load parquet files, or prepare to stream them; return the rows and their number."""
    path = Path(parquet)
    if path.is_dir():
        raise DataError(f"{parquet} - is a folder; name the files in it: {path / '*.parquet'}")
    # Path.glob takes relative patterns only.
    below_root = str(path.relative_to(path.anchor))
    if not any(Path(path.anchor).glob(below_root)):
        raise DataError(
            f"{parquet} - no such file; parquet is a file or a glob, relative to where the command "
            "runs"
        )
    try:
        with no_progress_bars():
            builder = datasets.load_dataset_builder("parquet", data_files=parquet)
            if streaming:
                return builder.as_streaming_dataset("train"), count_rows(builder, "train")
            builder.download_and_prepare()
            dataset = builder.as_dataset("train")
            return dataset, len(dataset)
    except Exception as error:
        raise DataError(f"{parquet} - cannot be loaded as parquet: {first_line(error)}") from error


def count_rows(builder: datasets.DatasetBuilder, split: str) -> int:
    """Count the rows of a split, from the footers of its files.

    Raises:
        DataError: No such split, or files that are not parquet.
    """
    splits = builder.config.data_files or {}
    if split not in splits:
        known = ", ".join(splits) or "none"
        raise DataError(f"no split {split!r} to stream; there are {known}")
    rows = 0
    for file in splits[split]:
        if not file.endswith(".parquet"):
            raise DataError(f"{file} cannot be streamed: only parquet files say how long they are")
        with fsspec.open(file, "rb") as opened:
            rows += pyarrow.parquet.read_metadata(opened).num_rows
    return rows
