"""Where photographs come from: Hugging Face datasets, whose images are decoded here so that every kind of file is read alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from distillkit.errors import DataError, did_you_mean
from distillkit.files.images import decode_image


class Example(NamedTuple):
    """A decoded image, (H, W, 3) uint8 or uint16, and its low-quality partner and its caption where the source has them."""

    id: str
    gt: np.ndarray
    lq: np.ndarray | None
    caption: str | None = None


class BadImageError(DataError):
    """One image that cannot be used; ``id`` names it and ``reason`` says why."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)
        self.id, self.reason = id, reason

    def __str__(self) -> str:
        return f"{self.id} - {self.reason}"


@dataclass(frozen=True)
class Source:
    """Images of one dataset, read by index. Made by :func:`open_source`."""

    name: str
    dataset: datasets.Dataset
    column: str
    lq_column: str | None = None
    caption_column: str | None = None
    folder: Path | None = None
    """What file names are given relative to."""

    @property
    def paired(self) -> bool:
        """Whether the source has low-quality inputs of its own."""
        return self.lq_column is not None

    def __len__(self) -> int:
        return len(self.dataset)

    def label(self, index: int) -> str:
        """The image's file name (in a folder: its path below it), or its row number where it has none."""
        return self._label(self.dataset[index], index)

    def read(self, index: int) -> Example:
        """Decode image ``index``.

        Raises:
            BadImageError: it, or its low-quality partner, cannot be read.
        """
        row = self.dataset[index]
        name = f"{self.name}[{index}] {self._label(row, index)}"
        gt = _decode(row[self.column], name, "")
        lq = (
            None
            if self.lq_column is None
            else _decode(row[self.lq_column], name, f"{self.lq_column}: ")
        )
        return Example(
            name, gt, lq, None if self.caption_column is None else row[self.caption_column]
        )

    def _label(self, row: dict[str, Any], index: int) -> str:
        path = (row[self.column] or {}).get("path")
        if not path:
            return str(index)
        if self.folder is not None and Path(path).is_relative_to(self.folder):
            return Path(path).relative_to(self.folder).as_posix()
        return Path(path).name


def open_source(
    *,
    hub: str | None = None,
    revision: str | None = None,
    split: str = "train",
    imagefolder: str | Path | None = None,
    parquet: str | None = None,
    dataset: Any = None,
    name: str | None = None,
    column: str = "image",
    lq_column: str | None = None,
    caption_column: str | None = None,
) -> Source:
    """Open one source of images; exactly one of ``hub``, ``imagefolder``, ``parquet`` and ``dataset`` is given.

    Args:
        hub: a dataset repository on the Hugging Face Hub; ``revision`` and ``split`` choose what of it. It is downloaded, or taken
            from the local cache.
        imagefolder: a folder, read recursively whatever its folders are called. A ``metadata.jsonl`` in it may name pairs
            (``{"file_name": …, "lq_file_name": …}`` makes columns ``image`` and ``lq``).
        parquet: a file or a glob.
        dataset: a map-style ``datasets.Dataset`` that somebody else built.
        name: what ids and errors call the source; default: the value of the argument that is given.
        column: of the clean images; a dataset without ``image`` but with ``gt`` and ``lq`` is taken as pairs.
        lq_column: of the low-quality inputs.
        caption_column: of texts about the images; a null stands for none.

    Raises:
        DataError: it cannot be reached or read, is empty, lacks a column, or is a stream: a stream has no image number k, so a
            resumed run could not see what an uninterrupted one would have seen.
    """
    given = {"hub": hub, "imagefolder": imagefolder, "parquet": parquet, "dataset": dataset}
    kinds = [kind for kind, value in given.items() if value is not None]
    if len(kinds) != 1:
        raise DataError(
            f"a source is exactly one of {', '.join(given)}, not {' and '.join(kinds) or 'none'}"
        )
    name = name or (str(given[kinds[0]]) if dataset is None else "dataset")
    folder = None
    if hub is not None:
        dataset = _from_hub(hub, revision, split)
    elif imagefolder is not None:
        folder = Path(imagefolder).absolute()
        dataset = _from_folder(folder)
    elif parquet is not None:
        dataset = _from_parquet(parquet)
    return _check(name, dataset, column, lq_column, caption_column, folder)


def is_cached(hub: str) -> bool:
    """Whether some version of a dataset of the Hub is ready on this machine. Never touches the network."""
    owner, _, name = hub.rpartition("/")
    folder = "___".join(filter(None, [owner, datasets.naming.camelcase_to_snakecase(name)]))
    versions = Path(datasets.config.HF_DATASETS_CACHE).expanduser().joinpath(folder).glob("*/*/*")
    return any(version.is_dir() and version.suffix != ".incomplete" for version in versions)


def hub_facts(hub: str, revision: str | None = None) -> tuple[int, str]:
    """Bytes of a dataset's repository on the Hub, and its license.

    Raises:
        DataError: the Hub cannot be reached, or has no such dataset.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(hub, revision=revision, files_metadata=True, timeout=10)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DataError(_no_such_dataset(hub, revision)) from error
    except Exception as error:  # the client raises its own, its HTTP library's and the system's
        raise DataError(_unreachable(hub)) from error
    card = info.card_data.to_dict() if info.card_data else {}
    return sum(file.size or 0 for file in info.siblings or []), str(
        card.get("license") or "unknown"
    )


def check_share(source: Source, bad: dict[str, str], max_bad_fraction: float) -> None:
    """Raise a DataError that names the first of ``bad`` (id -> reason) if they are more than this share of the source's images."""
    if len(bad) > max_bad_fraction * len(source):
        named = [f"\n  {name} - {reason}" for name, reason in bad.items()]
        raise DataError(
            f"{source.name} - {len(bad)} of {len(source)} images cannot be used, more than the allowed share of "
            f"{max_bad_fraction:g}; mend or remove them:{''.join(named[:5])}"
            + ("\n  ..." if len(named) > 5 else "")
        )


def _check(
    name: str,
    dataset: Any,
    column: str,
    lq_column: str | None,
    caption_column: str | None,
    folder: Path | None,
) -> Source:
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError(
            f"{name} - a streaming dataset cannot be resumed exactly; load it without streaming (a map-style dataset)"
        )
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{name} - a {type(dataset).__name__}, not a datasets.Dataset; choose one split"
        )
    if len(dataset) == 0:
        raise DataError(f"{name} - the dataset is empty")
    known = dataset.column_names
    if (
        column == "image"
        and lq_column is None
        and "image" not in known
        and {"gt", "lq"} <= set(known)
    ):
        column, lq_column = "gt", "lq"
    images = [column] if lq_column is None else [column, lq_column]
    columns = images if caption_column is None else [*images, caption_column]
    for wanted in columns:
        if wanted not in known:
            raise DataError(
                f"{name} - no column {wanted!r}{did_you_mean(wanted, known)}; it has {', '.join(known)}"
            )
    dataset = dataset.with_format(None).select_columns(columns)
    if caption_column is not None and getattr(
        dataset.features[caption_column], "dtype", ""
    ) not in ("string", "large_string"):
        raise DataError(
            f"{name} - column {caption_column!r} holds {dataset.features[caption_column]}, not one text an image"
        )
    for wanted in images:
        kind = dataset.features[wanted]
        try:
            dataset = dataset.cast_column(wanted, datasets.Image(decode=False))
        except Exception as error:  # arrow has an error of its own for each type
            raise DataError(
                f"{name} - column {wanted!r} holds {kind}, not images or their paths"
            ) from error
    return Source(name, dataset, column, lq_column, caption_column, folder)


def _from_hub(hub: str, revision: str | None, split: str) -> Any:
    if Path(hub).exists():
        raise DataError(
            f"{hub} - a local file or folder, not a dataset on the Hub; use imagefolder or parquet"
        )
    try:
        return datasets.load_dataset(hub, revision=revision, split=split)
    except ConnectionError as error:
        raise DataError(_unreachable(hub)) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(_no_such_dataset(hub, revision)) from error
    except Exception as error:  # the Hub client raises dozens of types
        raise DataError(
            f"{hub} (split {split!r}) - cannot be loaded: {_first_line(error)}"
        ) from error


def _unreachable(hub: str) -> str:
    return (
        f"{hub} - the Hub cannot be reached and the dataset is not in the cache; go online once, or fetch it elsewhere with "
        f'"hf download --repo-type dataset {hub}" and point imagefolder or parquet at the files'
    )


def _no_such_dataset(hub: str, revision: str | None) -> str:
    return (
        f"{hub}{'' if revision is None else '@' + revision} - no such dataset on the Hub, or one that needs a login; check its "
        'name and revision, or run "hf auth login"'
    )


def _from_folder(folder: Path) -> Any:
    if not folder.is_dir():
        raise DataError(
            f"{folder} - no such folder; imagefolder is a folder of images, relative to where the command runs"
        )
    if not any(path.suffix.lower() in Image.registered_extensions() for path in folder.rglob("*")):
        raise DataError(f"{folder} - no images in this folder")
    files = {"train": f"{_escaped(folder)}/**"}  # one split, whatever the folders are called
    try:
        with _quiet():
            return datasets.load_dataset(
                "imagefolder", data_files=files, split="train", drop_labels=True
            )
    except Exception as error:
        raise DataError(
            f"{folder} - cannot be loaded as a folder of images: {_first_line(error)}"
        ) from error


def _from_parquet(parquet: str) -> Any:
    path = Path(parquet)
    if not any(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
        raise DataError(
            f"{parquet} - no such file; parquet is a file or a glob, relative to where the command runs"
        )
    try:
        with _quiet():
            return datasets.load_dataset("parquet", data_files=parquet, split="train")
    except Exception as error:
        raise DataError(f"{parquet} - cannot be loaded as parquet: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for files that are already here."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _escaped(folder: Path) -> str:
    """``folder`` as a glob that matches nothing else."""
    return re.sub(r"([*?[])", r"[\1]", str(folder))


def _decode(value: dict[str, Any] | None, name: str, part: str) -> np.ndarray:
    content = value and (value.get("bytes") or value.get("path"))
    if not content:
        raise BadImageError(name, f"{part}the row holds no image")
    try:
        return decode_image(content, name)
    except DataError as error:
        raise BadImageError(name, part + str(error).removeprefix(f"{name} - ")) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
