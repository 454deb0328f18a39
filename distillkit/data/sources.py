"""Sources of photographs: Hugging Face datasets, decoded here.

So every kind of file is read alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import numpy as np

from distillkit.data.folder_index import load_folder, no_progress_bars
from distillkit.data.hub import HubDataset, load_from_hub
from distillkit.data.stream import Stream, count_rows
from distillkit.errors import DataError, did_you_mean, first_line
from distillkit.files.images import ImageSource, decode_image, upright_size

T = TypeVar("T")


class Sizes(NamedTuple):
    """Height and width of an image and of its low-quality partner."""

    id: str
    gt: tuple[int, int] | None
    lq: tuple[int, int] | None


class Example(NamedTuple):
    """A decoded image, with what the source has besides it."""

    id: str
    gt: np.ndarray | None
    """The clean image, (H, W, 3) uint8 or uint16; None in a source without ground truth."""
    lq: np.ndarray | None
    """The low-quality image, (h, w, 3) uint8 or uint16."""
    caption: str | None = None

    @property
    def sizes(self) -> Sizes:
        """Height and width of both images."""
        return Sizes(self.id, _size(self.gt), _size(self.lq))


class BadImageError(DataError):
    """One image that cannot be used; ``id`` names it and ``reason`` says why."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)
        self.id = id
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.id} - {self.reason}"


class Columns(NamedTuple):
    """Names of a dataset's columns."""

    image: str | None = "image"
    """The clean images; None in a source without ground truth."""
    lq: str | None = None
    """The low-quality images, in a source of pairs or without ground truth."""

    @property
    def label(self) -> str:
        """The column whose files name the images."""
        column = self.image or self.lq
        assert column is not None, "a source has images"
        return column

    caption: str | None = None
    """Texts about the images; a null stands for none."""


@dataclass(frozen=True)
class Source:
    """Images of one dataset, read by index. Made by :func:`open_source`."""

    name: str
    dataset: datasets.Dataset | Stream
    columns: Columns
    folder: Path | None = None
    """File names are given relative to it."""
    hub: HubDataset | None = None
    """What it is on the Hub; its revision is the commit that was read."""

    @property
    def paired(self) -> bool:
        """Whether the source has clean images and low-quality ones of its own."""
        return self.has_ground_truth and self.columns.lq is not None

    @property
    def has_ground_truth(self) -> bool:
        """Whether the source has clean images."""
        return self.columns.image is not None

    @property
    def streamed(self) -> bool:
        """Whether its images are read in order, while they are used."""
        return isinstance(self.dataset, Stream)

    def __len__(self) -> int:
        return len(self.dataset)

    def describe(self) -> dict[str, Any]:
        """Say which images these are, for the record of a run."""
        about: dict[str, Any] = {"source": self.name, "images": len(self)}
        if self.hub is not None:
            about |= {
                "commit": self.hub.revision,
                "config": self.hub.config,
                "split": self.hub.split,
            }
        return about

    def label(self, index: int) -> str:
        """Name an image by its file, or where there is none by its row.

        In a folder the name is the path below it.
        """
        return self._label(self.dataset[index], index)

    def read(self, index: int) -> Example:
        """Decode an image and its partner.

        Raises:
            BadImageError: one of them cannot be read.
        """
        id, gt, lq, row = self._read(index, decode_image)
        caption = None
        if self.columns.caption is not None:
            caption = row[self.columns.caption]
        return Example(id, gt, lq, caption)

    def read_sizes(self, index: int) -> Sizes:
        """Read height and width of an image and its partner, from their headers.

        Raises:
            BadImageError: one of the headers cannot be read.
        """
        id, gt, lq, _ = self._read(index, upright_size)
        return Sizes(id, gt, lq)

    def _read(
        self, index: int, read: Callable[[ImageSource, str], T]
    ) -> tuple[str, T | None, T | None, dict[str, Any]]:
        """Read an image and its partner; errors name the image, and the partner's column."""
        columns = self.columns
        row = self.dataset[index]
        id = f"{self.name}[{index}] {self._label(row, index)}"
        gt = None
        if columns.image is not None:
            gt = _read_stored(row[columns.image], id, read)
        if columns.lq is None:
            return id, gt, None, row
        try:
            return id, gt, _read_stored(row[columns.lq], id, read), row
        except BadImageError as error:
            raise BadImageError(id, f"{columns.lq}: {error.reason}") from error

    def _label(self, row: dict[str, Any], index: int) -> str:
        stored = row[self.columns.label] or {}
        if not stored.get("path"):
            return str(index)
        path = Path(stored["path"])
        if self.folder is not None and path.is_relative_to(self.folder):
            return path.relative_to(self.folder).as_posix()
        return path.name


def open_source(
    *,
    hub: HubDataset | None = None,
    imagefolder: str | Path | None = None,
    parquet: str | Path | None = None,
    dataset: Any = None,
    name: str | None = None,
    columns: Columns | None = None,
    stream_buffer: int | None = None,
) -> Source:
    """Open one source of images.

    Exactly one of ``hub``, ``imagefolder``, ``parquet`` and ``dataset`` names it.

    Args:
        hub: a split of a dataset repository on the Hugging Face Hub. It is downloaded, or taken
            from the local cache.
        imagefolder: a folder, read recursively whatever its folders are called. A
            ``metadata.jsonl`` in it may name pairs (``{"file_name": …, "lq_file_name": …}`` makes
            columns ``image`` and ``lq``).
        parquet: a file or a glob.
        dataset: a map-style ``datasets.Dataset`` that somebody else built.
        name: what ids and errors call the source; default: the value of the argument that is given.
        columns: default: ``image``, or in a dataset without it ``gt`` and ``lq``.
        stream_buffer: read a Hub or parquet source while it is used, shuffled within so many rows
            (0: in its own order); None: have all of it here.

    Raises:
        DataError: the source cannot be reached or read, is empty, or lacks a column; or ``dataset``
            is a stream, which has no image number k.
    """
    _check_one_is_given(hub=hub, imagefolder=imagefolder, parquet=parquet, dataset=dataset)
    columns = columns or Columns()
    streaming = stream_buffer is not None
    if hub is not None:
        dataset, commit, rows = load_from_hub(hub, streaming=streaming)
        source = _make_source(name or hub.name, dataset, columns, rows, stream_buffer)
        return replace(source, hub=hub._replace(revision=commit))
    if parquet is not None:
        dataset, rows = _load_parquet(str(parquet), streaming=streaming)
        return _make_source(name or str(parquet), dataset, columns, rows, stream_buffer)
    if imagefolder is not None:
        folder = Path(imagefolder).absolute()
        source = _make_source(name or str(imagefolder), load_folder(folder), columns)
        return replace(source, folder=folder)
    return _make_source(name or "dataset", dataset, columns)


def _check_one_is_given(**choices: Any) -> None:
    given = [choice for choice, value in choices.items() if value is not None]
    if len(given) != 1:
        raise DataError(
            f"a source is exactly one of {', '.join(choices)}, not {' and '.join(given) or 'none'}"
        )


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


def check_share(
    source: Source,
    bad: dict[str, str],
    max_bad_fraction: float,
) -> None:
    """Refuse a source with too many unusable images.

    Args:
        source: the images.
        bad: id of each unusable image, and why it is.
        max_bad_fraction: the share that is allowed.

    Raises:
        DataError: it names the first of them.
    """
    if len(bad) <= max_bad_fraction * len(source):
        return
    lines = [
        f"{source.name} - {len(bad)} of {len(source)} images cannot be used, more than the allowed "
        f"share of {max_bad_fraction:g}; repair or remove them:"
    ]
    for id, reason in islice(bad.items(), 5):
        lines.append(f"  {id} - {reason}")
    if len(bad) > 5:
        lines.append("  ...")
    raise DataError("\n".join(lines))


def _size(image: np.ndarray | None) -> tuple[int, int] | None:
    if image is None:
        return None
    height, width = image.shape[:2]
    return height, width


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


def _load_parquet(parquet: str, *, streaming: bool) -> tuple[Any, int]:
    """Load parquet files, or prepare to stream them; return the rows and their number."""
    path = Path(parquet)
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


def _read_stored(
    stored: dict[str, Any] | None, id: str, read: Callable[[ImageSource, str], T]
) -> T:
    content = stored and (stored.get("bytes") or stored.get("path"))
    if not content:
        raise BadImageError(id, "the row holds no image")
    try:
        return read(content, id)
    except DataError as error:
        raise BadImageError(id, str(error).removeprefix(f"{id} - ")) from error
