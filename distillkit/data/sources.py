"""Sources of photographs: Hugging Face datasets, decoded here.

So every kind of file is read alike. Nothing here imports ``datasets``: see
:mod:`~distillkit.data.opening`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from distillkit.data.stream import Stream
from distillkit.errors import DataError
from distillkit.files.images import ImageSource, decode_image, upright_size

if TYPE_CHECKING:
    from datasets import Dataset

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

    caption: str | None = None
    """Texts about the images; a null stands for none."""

    @property
    def label(self) -> str:
        """The column whose files name the images."""
        column = self.image or self.lq
        assert column is not None, "a source has images"
        return column


class HubDataset(NamedTuple):
    """One split of a dataset repository, as a recipe names it."""

    name: str
    """``owner/name``."""
    revision: str | None = None
    """Branch, tag or commit; None: the default branch."""
    config: str | None = None
    """Configuration of the repository; None: its only or default one."""
    split: str = "train"

    def __str__(self) -> str:
        parts = [self.name]
        if self.config is not None:
            parts.append(f"configuration {self.config!r}")
        if self.revision is not None:
            parts.append(f"revision {self.revision!r}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Source:
    """Images of one dataset, read by index.

    :func:`~distillkit.data.opening.open_source` makes one.
    """

    name: str
    dataset: Dataset | Stream
    columns: Columns
    folder: Path | None = None
    """File names are given relative to it."""
    hub: HubDataset | None = None
    """What it is on the Hub; its revision is the commit that was read."""
    zoom_out: float = 1.0
    """Training crops are cut up to this many times as large as ``crop_size``, then shrunk to it."""

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
        """Describe the images, for the manifest of a run."""
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
            BadImageError: One of them cannot be read.
        """
        id, gt, lq, row = self._read(index, decode_image)
        caption = None
        if self.columns.caption is not None:
            caption = row[self.columns.caption]
        return Example(id, gt, lq, caption)

    def read_sizes(self, index: int) -> Sizes:
        """Read height and width of an image and its partner, from their headers.

        Raises:
            BadImageError: One of the headers cannot be read.
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


def check_bad_fraction(
    source: Source,
    bad: dict[str, str],
    max_bad_fraction: float,
) -> None:
    """Refuse a source with too many unusable images.

    Args:
        source: The images.
        bad: Id of each unusable image, and why it is.
        max_bad_fraction: The share that is allowed.

    Raises:
        DataError: It names the first of them.
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
