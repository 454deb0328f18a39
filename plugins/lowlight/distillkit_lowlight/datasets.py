"""The LOL data sets as paired datasets, from the folder layouts they are published in or from parquet files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillkit import DistillkitError

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "test"]

LOW = {"low", "input"}
BRIGHT = {"normal", "high", "target"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}
SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation")}
"""What a split is called in the names of parquet files."""


@dataclass(frozen=True)
class Published:
    """What a data set looks like as published; folder names are compared without regard to case.

    Pairs lie in ``<root>/<one of parents>/<one of the split's folders>/<LOW>`` and ``.../<BRIGHT>``.
    """

    name: str
    parents: tuple[str, ...]
    folders: dict[Split, tuple[str, ...]]
    pairs: dict[Split, int]
    size: tuple[int, int]
    """Height and width of every image."""
    overlaps: str | None = None


LOL_V1 = Published(
    name="LOL v1",
    parents=(".", "LOLv1", "LOL-v1"),
    folders={"train": ("our485", "train"), "test": ("eval15", "test")},
    pairs={"train": 485, "test": 15},
    size=(400, 600),
    overlaps="LOL v2-real",
)
LOL_V2_REAL = Published(
    name="LOL v2-real",
    parents=("Real_captured", "LOLv2/Real_captured", "LOL-v2/Real_captured", "."),
    folders={"train": ("train",), "test": ("test",)},
    pairs={"train": 689, "test": 100},
    size=(400, 600),
    overlaps="LOL v1",
)
LOL_V2_SYN = Published(
    name="LOL v2-syn",
    parents=("Synthetic", "LOLv2/Synthetic", "LOL-v2/Synthetic", "."),
    folders={"train": ("train",), "test": ("test",)},
    pairs={"train": 900, "test": 100},
    size=(384, 384),
)


def load(published: Published, root: Path, split: Split, *, check: bool = True) -> Dataset:
    """A ``datasets.Dataset`` of pairs, columns ``gt`` and ``lq``, in the order of their names.

    Args:
        root: the data set's folder, or the one it lies in; or a folder of parquet files, such as a copy of a Hub's dataset.
        check: require the published number of pairs and image size.

    Raises:
        DistillkitError: no such folders or files, an image without its partner, or (with ``check``) another number or size than
            published.
    """
    from datasets import Image

    files = _parquet_files(root, split)
    where, pairs = (root, _from_parquet(files)) if files else _from_folders(published, root, split)
    expected = published.pairs[split]
    if check and len(pairs) != expected:
        raise DistillkitError(
            f"{where} - {len(pairs)} pairs, but the {split} split of {published.name} has {expected}; "
            "set check = false to use them all the same"
        )
    for row, pair in enumerate(pairs):
        _check_pair(pair["lq"], pair["gt"], f"{where} row {row}", published if check else None)
    if published.overlaps:
        warnings.warn(
            f"{published.name} and {published.overlaps} share photographs, also across their train and test splits: "
            "never train on one and test on the other",
            stacklevel=2,
        )
    return pairs.cast_column("gt", Image()).cast_column("lq", Image())


def _parquet_files(root: Path, split: Split) -> list[Path]:
    """Those that are called as the split, or lie in a folder that is: ``data/train-00000-of-00001.parquet``."""
    name = re.compile(rf"({'|'.join(SPLITS[split])})(?![a-z])")
    return sorted(
        f for f in root.rglob("*.parquet") if name.match(f.name) or name.fullmatch(f.parent.name)
    )


def _from_parquet(files: list[Path]) -> Dataset:
    """Rows of pairs, their images not decoded; the columns may be called as the folders are."""
    from datasets import Dataset, Image

    try:
        rows = Dataset.from_parquet([str(file) for file in files])
    except Exception as e:  # arrow has an error of its own for each kind of damage
        raise DistillkitError(f"{files[0].parent} - cannot be read as parquet: {e}") from e
    columns = {}
    for own, names in (("gt", BRIGHT | {"gt"}), ("lq", LOW | {"lq"})):
        found = [column for column in rows.column_names if column.lower() in names]
        if len(found) != 1:
            wanted, there = " or ".join(sorted(names)), ", ".join(rows.column_names)
            raise DistillkitError(
                f"{files[0]} - its columns are {there}: exactly one must be called {wanted}"
            )
        columns[found[0]] = own
    rows = rows.select_columns(list(columns)).rename_columns(columns)
    return rows.cast_column("gt", Image(decode=False)).cast_column("lq", Image(decode=False))


def _from_folders(published: Published, root: Path, split: Split) -> tuple[Path, Dataset]:
    """The folder of the split, and its pairs, their images not decoded."""
    from datasets import Dataset, Features, Image

    low, bright = _folders(published, root, split)
    pairs = list(_pairs(low, bright))
    columns = {"gt": [str(gt) for _, gt in pairs], "lq": [str(lq) for lq, _ in pairs]}
    image = Image(decode=False)
    return low.parent, Dataset.from_dict(columns, features=Features({"gt": image, "lq": image}))


def _folders(published: Published, root: Path, split: Split) -> tuple[Path, Path]:
    for parent in published.parents:
        for split_folder in _subfolders(_descend(root, parent), published.folders[split]):
            low, bright = (
                next(_subfolders(split_folder, LOW), None),
                next(_subfolders(split_folder, BRIGHT), None),
            )
            if low and bright:
                return low, bright
    layouts = " or ".join(
        f"{parent}/{folder}" for parent in published.parents for folder in published.folders[split]
    )
    raise DistillkitError(
        f"{root} - the {split} split of {published.name} is not there: looked for a folder {layouts.replace('./', '')} "
        f"with subfolders {'/'.join(sorted(LOW))} and {'/'.join(sorted(BRIGHT))}, and for parquet files named {split}-*"
    )


def _descend(folder: Path, relative: str) -> Path:
    """``folder / relative``, each part in whatever case it is on disk; a path that does not exist where a part is missing."""
    for part in Path(relative).parts:
        folder = next(_subfolders(folder, (part,)), folder / part)
    return folder


def _subfolders(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    wanted = {name.lower() for name in names}
    if folder.is_dir():
        yield from sorted(f for f in folder.iterdir() if f.name.lower() in wanted and f.is_dir())


def _pairs(low: Path, bright: Path) -> Iterator[tuple[Path, Path]]:
    """Images of the two folders with the same name, or with the same name after a leading "low" and "normal"."""
    dark, clear = _by_key(low), _by_key(bright)
    alone = sorted(str((dark | clear)[key]) for key in dark.keys() ^ clear.keys())
    if alone:
        shown = ", ".join(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
        raise DistillkitError(f"{low.parent} - images without a partner of the same name: {shown}")
    if not dark:
        raise DistillkitError(f"{low} - no images")
    return ((dark[key], clear[key]) for key in sorted(dark))


def _by_key(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        key = _key(path)
        if key in found:
            raise DistillkitError(
                f"{path} - has the same name as {found[key].name}; pairs cannot be told apart"
            )
        found[key] = path
    return found


def _key(path: Path) -> str:
    """What both images of a pair are called."""
    return re.sub(r"^(low|normal|high)(?=\d)", "", path.stem.lower())


def _check_pair(
    lq: dict[str, Any], gt: dict[str, Any], row: str, published: Published | None
) -> None:
    """Names, where both have one, and sizes. ``row``: what an image without a name is called."""
    names = [image["path"] or f"{row} {column}" for image, column in ((lq, "lq"), (gt, "gt"))]
    if lq["path"] and gt["path"] and _key(Path(lq["path"])) != _key(Path(gt["path"])):
        raise DistillkitError(
            f"{row} - {names[0]} is paired with {names[1]}, which is another image by its name"
        )
    sizes = _size(lq, names[0]), _size(gt, names[1])
    if sizes[0] != sizes[1]:
        raise DistillkitError(
            f"{names[0]} - {_text(sizes[0])}, but its partner {Path(names[1]).name} is {_text(sizes[1])}"
        )
    if published and sizes[0] != published.size:
        raise DistillkitError(
            f"{names[0]} - {_text(sizes[0])}, but {published.name} is {_text(published.size)}; "
            "set check = false to use it all the same"
        )


def _size(content: dict[str, Any], name: str) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(
            io.BytesIO(content["bytes"]) if content["bytes"] else content["path"]
        ) as image:
            return image.height, image.width
    except OSError as e:
        raise DistillkitError(f"{name} - not a readable image: {e}") from e


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
