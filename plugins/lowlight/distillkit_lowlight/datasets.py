"""The LOL data sets as pairs, from folders as published or from parquet files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillkit import IMAGE_FILES, DistillkitError, has_suffix

if TYPE_CHECKING:
    from datasets import Dataset

    from distillkit_lowlight.options import LOLOptions

Split = Literal["train", "test"]

LOW_NAMES = {"low", "input"}
"""Names of the folder, or column, of the low-light images."""
NORMAL_NAMES = {"normal", "high", "target"}
"""Names of the folder, or column, of the normal-light images."""
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "test": ("test", "validation"),
}
"""How names of parquet files call a split."""


@dataclass(frozen=True)
class PublishedDataset:
    """How a data set looks as published.

    Pairs lie in ``<root>/<one of parents>/<one of the split's folders>/``, in one folder named as
    in :data:`LOW_NAMES` and one named as in :data:`NORMAL_NAMES`. The case of names does not
    matter.
    """

    name: str
    parents: tuple[str, ...]
    folders: dict[Split, tuple[str, ...]]
    pairs: dict[Split, int]
    """Number of pairs of each split."""
    size: tuple[int, int]
    """Height and width of every image."""
    overlaps: str | None = None
    """Name of another data set that has photographs of this one."""


LOL_V1 = PublishedDataset(
    name="LOL v1",
    parents=(".", "LOLv1", "LOL-v1"),
    folders={"train": ("our485", "train"), "test": ("eval15", "test")},
    pairs={"train": 485, "test": 15},
    size=(400, 600),
    overlaps="LOL v2-real",
)
LOL_V2_REAL = PublishedDataset(
    name="LOL v2-real",
    parents=("Real_captured", "LOLv2/Real_captured", "LOL-v2/Real_captured", "."),
    folders={"train": ("train",), "test": ("test",)},
    pairs={"train": 689, "test": 100},
    size=(400, 600),
    overlaps="LOL v1",
)
LOL_V2_SYN = PublishedDataset(
    name="LOL v2-syn",
    parents=("Synthetic", "LOLv2/Synthetic", "LOL-v2/Synthetic", "."),
    folders={"train": ("train",), "test": ("test",)},
    pairs={"train": 900, "test": 100},
    size=(384, 384),
)


def lol_v1(options: LOLOptions) -> Dataset:
    """Open LOL v1."""
    return load(LOL_V1, options.root, options.split, check=options.check)


def lol_v2_real(options: LOLOptions) -> Dataset:
    """Open LOL v2-real."""
    return load(LOL_V2_REAL, options.root, options.split, check=options.check)


def lol_v2_syn(options: LOLOptions) -> Dataset:
    """Open LOL v2-syn."""
    return load(LOL_V2_SYN, options.root, options.split, check=options.check)


def load(
    published: PublishedDataset,
    root: Path,
    split: Split,
    *,
    check: bool = True,
) -> Dataset:
    """Load the pairs of a data set, in the order of their names.

    Args:
        published: The data set.
        root: Its folder, or the folder that contains it; or a folder of parquet files, such as a
            copy of a Hub's dataset.
        split: The split to load.
        check: Require the published number of pairs and image size.

    Returns:
        A ``datasets.Dataset`` with the columns ``gt`` and ``lq``.

    Raises:
        DistillkitError: Folders or files are missing, an image has no partner, or (with ``check``)
            number or size differ from the published ones.
    """
    from datasets import Image

    files = _find_parquet_files(root, split)
    if files:
        source = root
        pairs = _read_parquet(files)
    else:
        low, normal = _find_folders(published, root, split)
        source = low.parent
        pairs = _read_folders(low, normal)
    if check:
        _check_number(len(pairs), published, split, source)
    # Images stay encoded until a run reads them: their sizes are in the headers of the files.
    for row, pair in enumerate(pairs):
        lq = _StoredImage.from_column(pair, "lq", f"{source} row {row}")
        gt = _StoredImage.from_column(pair, "gt", f"{source} row {row}")
        _check_names(lq, gt, f"{source} row {row}")
        _check_sizes(lq, gt, published if check else None)
    if published.overlaps:
        _warn_of_overlap(published)
    return pairs.cast_column("gt", Image()).cast_column("lq", Image())


def _warn_of_overlap(published: PublishedDataset) -> None:
    # A warning and no error: either data set alone is fine.
    warnings.warn(
        f"{published.name} and {published.overlaps} share photographs, also across their train and "
        "test splits: never train on one and test on the other",
        stacklevel=3,
    )


# Parquet files


def _find_parquet_files(root: Path, split: Split) -> list[Path]:
    """List the parquet files that are named after a split, or lie in a folder that is.

    Such a file is ``data/train-00000-of-00001.parquet`` or ``train/0000.parquet``.
    """
    names = "|".join(SPLIT_NAMES[split])
    pattern = re.compile(rf"({names})(?![a-z])")

    def belongs(file: Path) -> bool:
        return bool(pattern.match(file.name) or pattern.fullmatch(file.parent.name))

    return sorted(file for file in root.rglob("*.parquet") if belongs(file))


def _read_parquet(files: list[Path]) -> Dataset:
    """Read rows of pairs; their images are not decoded."""
    from datasets import Dataset, Image

    try:
        rows = Dataset.from_parquet([str(file) for file in files])
    except Exception as e:  # arrow has an error of its own for each kind of damage
        raise DistillkitError(f"{files[0].parent} - cannot be read as parquet: {e}") from e
    columns = {
        _find_column(rows.column_names, NORMAL_NAMES | {"gt"}, files[0]): "gt",
        _find_column(rows.column_names, LOW_NAMES | {"lq"}, files[0]): "lq",
    }
    rows = rows.select_columns(list(columns)).rename_columns(columns)
    encoded = Image(decode=False)
    return rows.cast_column("gt", encoded).cast_column("lq", encoded)


def _find_column(columns: list[str], names: set[str], file: Path) -> str:
    matches = [column for column in columns if column.lower() in names]
    if len(matches) != 1:
        raise DistillkitError(
            f"{file} - its columns are {', '.join(columns)}: "
            f"exactly one must be called {' or '.join(sorted(names))}"
        )
    return matches[0]


# Folders


def _read_folders(low: Path, normal: Path) -> Dataset:
    """List the pairs of two folders; their images are not decoded."""
    from datasets import Dataset, Features, Image

    pairs = _pair_by_name(low, normal)
    columns = {
        "gt": [str(gt) for _, gt in pairs],
        "lq": [str(lq) for lq, _ in pairs],
    }
    encoded = Image(decode=False)
    return Dataset.from_dict(columns, features=Features({"gt": encoded, "lq": encoded}))


def _find_folders(
    published: PublishedDataset,
    root: Path,
    split: Split,
) -> tuple[Path, Path]:
    """Find the folders of low-light and normal-light images."""
    for parent in published.parents:
        for split_folder in _subfolders(_descend(root, parent), published.folders[split]):
            low = next(_subfolders(split_folder, LOW_NAMES), None)
            normal = next(_subfolders(split_folder, NORMAL_NAMES), None)
            if low and normal:
                return low, normal
    layouts = [
        f"{parent}/{folder}" for parent in published.parents for folder in published.folders[split]
    ]
    raise DistillkitError(
        f"{root} - the {split} split of {published.name} is not there: "
        f"looked for a folder {' or '.join(layouts).replace('./', '')} "
        f"with subfolders {'/'.join(sorted(LOW_NAMES))} and {'/'.join(sorted(NORMAL_NAMES))}, "
        f"and for parquet files named {split}-*"
    )


def _descend(folder: Path, relative: str) -> Path:
    """Join two paths, matching names in whatever case they have on disk.

    The result does not exist if a folder on the way does not.
    """
    for name in Path(relative).parts:
        folder = next(_subfolders(folder, (name,)), folder / name)
    return folder


def _subfolders(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """List the subfolders with one of some names, in whatever case."""
    if not folder.is_dir():
        return
    wanted = {name.lower() for name in names}
    for path in sorted(folder.iterdir()):
        if path.name.lower() in wanted and path.is_dir():
            yield path


def _pair_by_name(low: Path, normal: Path) -> list[tuple[Path, Path]]:
    """Pair the images of two folders by their common names, in order."""
    low_images = _index_by_name(low)
    normal_images = _index_by_name(normal)
    unpaired = low_images.keys() ^ normal_images.keys()
    if unpaired:
        images = low_images | normal_images
        paths = sorted(str(images[name]) for name in unpaired)
        raise DistillkitError(
            f"{low.parent} - images without a partner of the same name: {_list_some(paths)}"
        )
    if not low_images:
        raise DistillkitError(f"{low} - no images")
    return [(low_images[name], normal_images[name]) for name in sorted(low_images)]


def _list_some(paths: list[str]) -> str:
    shown = ", ".join(paths[:3])
    hidden = len(paths) - 3
    if hidden > 0:
        shown += f" and {hidden} more"
    return shown


def _index_by_name(folder: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not has_suffix(path, IMAGE_FILES.readable):
            continue
        name = _common_name(path)
        if name in images:
            raise DistillkitError(
                f"{path} - has the same name as {images[name].name}; pairs cannot be told apart"
            )
        images[name] = path
    return images


def _common_name(path: Path) -> str:
    """Take the part of a file's name that both images of a pair share.

    It is ``00690`` for ``low00690.png`` and ``normal00690.png``.
    """
    return re.sub(r"^(low|normal|high)(?=\d)", "", path.stem.lower())


# Checks


@dataclass(frozen=True)
class _StoredImage:
    """An image that is not decoded: bytes, or the path of a file."""

    label: str
    path: Path | None
    content: bytes | None

    @classmethod
    def from_column(
        cls,
        pair: dict[str, Any],
        column: str,
        row: str,
    ) -> _StoredImage:
        path = pair[column]["path"]
        return cls(
            label=path or f"{row} {column}",
            path=Path(path) if path else None,
            content=pair[column]["bytes"],
        )

    def size(self) -> tuple[int, int]:
        """Read height and width.

        Raises:
            DistillkitError: The file is not a readable image.
        """
        from PIL import Image

        try:
            with Image.open(self._source()) as image:
                return image.height, image.width
        except OSError as e:
            raise DistillkitError(f"{self.label} - not a readable image: {e}") from e

    def _source(self) -> io.BytesIO | Path:
        if self.content:
            return io.BytesIO(self.content)
        assert self.path is not None
        return self.path


def _check_number(
    pairs: int,
    published: PublishedDataset,
    split: Split,
    source: Path,
) -> None:
    expected = published.pairs[split]
    if pairs != expected:
        raise DistillkitError(
            f"{source} - {pairs} pairs, but the {split} split of {published.name} has {expected}; "
            "set check = false to use them all the same"
        )


def _check_names(lq: _StoredImage, gt: _StoredImage, row: str) -> None:
    if not lq.path or not gt.path:
        return
    if _common_name(lq.path) != _common_name(gt.path):
        raise DistillkitError(
            f"{row} - {lq.label} is paired with {gt.label}, which is another image by its name"
        )


def _check_sizes(
    lq: _StoredImage,
    gt: _StoredImage,
    published: PublishedDataset | None,
) -> None:
    """Compare the sizes of a pair with each other, and with the published size."""
    lq_size = lq.size()
    gt_size = gt.size()
    if lq_size != gt_size:
        partner = Path(gt.label).name
        raise DistillkitError(
            f"{lq.label} - {_format_size(lq_size)}, "
            f"but its partner {partner} is {_format_size(gt_size)}"
        )
    if published and lq_size != published.size:
        raise DistillkitError(
            f"{lq.label} - {_format_size(lq_size)}, "
            f"but {published.name} is {_format_size(published.size)}; "
            "set check = false to use it all the same"
        )


def _format_size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{height} x {width}"
