"""Write what a recipe's degradation makes of its photographs: pairs, as a data set."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData
from torch import Tensor

import distillkit
from distillkit.console import logger, with_progress
from distillkit.data.degradation import Degradation
from distillkit.data.evaluation_pairs import PlannedPair
from distillkit.data.sources import BadImageError, Source, check_bad_fraction
from distillkit.errors import DistillkitError, RecipeError
from distillkit.export.card_metadata import TASK, license_metadata
from distillkit.export.folder import without_folders
from distillkit.export.hub import DEFAULT_CONFIG
from distillkit.export.model_card import LOCAL_FOLDER, strictest_licenses
from distillkit.files.atomic import atomic_dir, check_writable
from distillkit.files.images import to_pil, to_uint8
from distillkit.recipe.build import build, open_evaluation_sources, open_sources, plan_pairs
from distillkit.recipe.dump import to_toml
from distillkit.recipe.load import ResolvedRecipe
from distillkit.report.documents import fill_template
from distillkit.report.tables import Table

TRAIN = "train"
TEST = "test"
KEYS = {TRAIN: "data.train", TEST: "data.eval"}
"""Where a recipe names the photographs of a split."""
GROUP_BYTES = 32 * 2**20
"""Of the images that are in memory at once, encoded."""
GROUPS_PER_FILE = 15
"""A file of half a gigabyte is uploaded in one go."""
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
"""The Hub's words for how many pairs there are: fewer than so many."""


class Split(NamedTuple):
    """Pairs that belong together."""

    config: str
    """The folder, which the Hub calls a configuration."""
    name: str
    """``train``, or ``test`` of held-out photographs."""
    pairs: Sequence[PlannedPair]
    max_bad_fraction: float
    """Share of the pairs that may be left out because their photographs are unusable."""


def write_pairs(
    resolved: ResolvedRecipe, out: Path, splits: Sequence[str] = (TRAIN, TEST)
) -> list[str]:
    """Write the pairs that a recipe's degradation makes of its photographs.

    The folder holds parquet files with the columns ``gt`` and ``lq`` (PNG, 8 bits) and, where the
    sources have captions, ``text``; a card; and the recipe. Photographs are cut as
    ``[evaluation]`` says: full images, or the crops of an evaluation. Held-out pairs are those that
    a run of the recipe evaluates on. Sources that have low-quality images are left out.

    Args:
        resolved: The recipe.
        out: The folder to write.
        splits: ``train``, of ``data.train``, and ``test``, of ``data.eval``.

    Returns:
        A line for each split, with the number of its pairs.

    Raises:
        DistillkitError: ``out`` exists, the recipe has no degradation, nothing to degrade, or too
            many unusable photographs.
    """
    if out.exists():
        raise DistillkitError(f"{out} - exists; name a new folder")
    check_writable(out)
    if resolved.degradation is None:
        raise RecipeError(f"{resolved.source} - names no degradation to make pairs with")
    degradation: Degradation = build(resolved.degradation, "cpu")
    planned = _plan(resolved, degradation, splits)
    has_captions = any(pair.source.columns.caption for split in planned for pair in split.pairs)
    written = []
    with atomic_dir(out) as folder:
        for split in planned:
            rows = _read_rows(split, has_captions)
            number = _write_split(rows, folder / split.config, split.name, _features(has_captions))
            written.append((split, number))
        card = _card(resolved, written, degradation.scale, has_captions)
        (folder / "README.md").write_text(card, encoding="utf-8")
        recipe = without_folders(resolved.to_toml())
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    return [f"{split.config}/{split.name}: {number} pairs" for split, number in written]


def _plan(resolved: ResolvedRecipe, degradation: Degradation, splits: Sequence[str]) -> list[Split]:
    """Plan the pairs of each split; only headers are read."""
    planned = []
    for (config, name), sources in _open_splits(resolved, splits).items():
        clean = [source for source in sources if _is_clean(source)]
        split = _plan_split(resolved, degradation, config, name, clean)
        if split.pairs:
            planned.append(split)
    if not planned:
        keys = " and ".join(KEYS[name] for name in splits)
        raise RecipeError(f"{resolved.source} - {keys}: no photographs to degrade")
    return planned


def _open_splits(
    resolved: ResolvedRecipe, splits: Sequence[str]
) -> dict[tuple[str, str], list[Source]]:
    """Open the sources of each configuration and split.

    Several evaluation sets are a configuration each, and so are the photographs for training.
    """
    sets = open_evaluation_sources(resolved) if TEST in splits else {}
    has_configs = len(sets) > 1
    sources: dict[tuple[str, str], list[Source]] = {}
    if TRAIN in splits:
        config = TRAIN if has_configs else DEFAULT_CONFIG
        sources[config, TRAIN] = open_sources(resolved, "train")
    for name, set_sources in sets.items():
        config = name if has_configs else DEFAULT_CONFIG
        sources[config, TEST] = set_sources
    return sources


def _plan_split(
    resolved: ResolvedRecipe,
    degradation: Degradation,
    config: str,
    name: str,
    sources: Sequence[Source],
) -> Split:
    recipe = resolved.recipe
    bad = recipe.data.max_bad_fraction if name == TRAIN else 0.0
    pairs = plan_pairs(
        resolved,
        sources,
        degradation,
        degradation.scale,
        max_bad_fraction=bad,
        on_bad=_say_left_out,
    )
    if name == TEST:
        pairs = pairs[: recipe.evaluation.max_images]
    return Split(config, name, pairs, bad)


def _say_left_out(image: str, reason: str) -> None:
    logger.warning(f"left out: {image} - {reason}")


def _is_clean(source: Source) -> bool:
    """Whether a source holds clean images only; log those that are left out."""
    if source.columns.lq is None:
        return True
    logger.info(f"left out: {source.name}, which has low-quality images of its own")
    return False


def _features(has_captions: bool) -> datasets.Features:
    columns = {"gt": datasets.Image(), "lq": datasets.Image()}
    if has_captions:
        columns["text"] = datasets.Value("string")
    return datasets.Features(columns)


def _read_rows(split: Split, has_captions: bool) -> Iterator[dict[str, Any]]:
    """Degrade the photographs of a split one by one.

    Raises:
        DataError: More unusable photographs than allowed.
    """
    bad: dict[str, str] = {}
    for planned in with_progress(split.pairs, len(split.pairs), f"degrading {split.name}"):
        try:
            pair = planned.read()
        except BadImageError as error:
            bad[error.id] = error.reason
            check_bad_fraction(planned.source, bad, split.max_bad_fraction)
            _say_left_out(error.id, error.reason)
            continue
        images = {"gt": _encode(pair.gt, pair.name), "lq": _encode(pair.lq, pair.name)}
        yield images | {"text": pair.caption} if has_captions else images


def _encode(image: Tensor, name: str) -> dict[str, Any]:
    """Write an image, (1, 3, H, W) in [-1, 1], as ``datasets`` stores one."""
    array = to_uint8(image[0]).permute(1, 2, 0).contiguous().numpy()
    content = io.BytesIO()
    to_pil(array).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{name}.png"}


def _write_split(
    rows: Iterable[dict[str, Any]], folder: Path, name: str, features: datasets.Features
) -> int:
    """Write the parquet files of a split; return the number of its rows."""
    folder.mkdir(exist_ok=True)
    schema = features.arrow_schema
    groups = _group(rows)
    total = 0
    for number in count():
        first = next(groups, None)
        if first is None:
            return total
        with pq.ParquetWriter(folder / f"{name}-{number:05d}.parquet", schema) as writer:
            for group in chain([first], islice(groups, GROUPS_PER_FILE - 1)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                total += len(group)
    raise AssertionError("the groups end")


def _group(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Collect rows until their images have some size."""
    group = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["gt"]["bytes"]) + len(row["lq"]["bytes"])
        if size >= GROUP_BYTES:
            yield group
            group = []
            size = 0
    if group:
        yield group


def _card(
    resolved: ResolvedRecipe,
    written: Sequence[tuple[Split, int]],
    scale: int,
    has_captions: bool,
) -> str:
    """Write the card of the pairs."""
    degradation = resolved.degradation
    assert degradation is not None
    sources = _list_sources(resolved, [split.name for split, _ in written])
    licenses, _ = strictest_licenses(license for _, _, license in sources)
    total = sum(number for _, number in written)
    files = [(split.config, split.name) for split, _ in written]
    return fill_template(
        "pairs_card.md.j2",
        metadata=_metadata(resolved.recipe.name, files, total, licenses),
        title=f"{resolved.recipe.name}: pairs",
        degradation=degradation.table,
        version=distillkit.__version__,
        scale=scale,
        has_captions=has_captions,
        splits=Table(
            ["configuration", "split", "pairs"],
            [[split.config, split.name, number] for split, number in written],
        ),
        files=files,
        has_configs=len({config for config, _ in files}) > 1,
        default_config=DEFAULT_CONFIG,
        folder=LOCAL_FOLDER,
        seed=resolved.recipe.seed,
        options=without_folders(to_toml(dict(degradation.table))),
        sources=Table(["split", "photographs", "license"], [list(row) for row in sources]),
    )


def _metadata(
    recipe: str, files: Sequence[tuple[str, str]], total: int, licenses: Sequence[str]
) -> str:
    """Write the card's front matter, without the lines around it."""
    configs: dict[str, list[dict[str, str]]] = {}
    for config, split in files:
        entry = {"split": split, "path": f"{config}/{split}-*.parquet"}
        configs.setdefault(config, []).append(entry)
    size = "n>1M"
    for limit, word in reversed(SIZES):
        if total < limit:
            size = word
    data = DatasetCardData(
        **license_metadata(licenses),
        task_categories=[TASK],
        size_categories=[size],
        pretty_name=f"{recipe}: pairs",
        tags=["distillkit", "image-restoration"],
        configs=[
            {
                # The one that clients take where none is named.
                "config_name": "default" if config == DEFAULT_CONFIG else config,
                "data_files": entries,
            }
            for config, entries in configs.items()
        ],
    )
    return str(data.to_yaml())


def _list_sources(resolved: ResolvedRecipe, splits: Sequence[str]) -> list[tuple[str, str, str]]:
    """List split, name and license of the sources."""
    listed = []
    for split, key in ((TRAIN, "train"), (TEST, "eval")):
        tables = getattr(resolved.recipe.data, key)
        for index, table in enumerate(tables):
            # Those were left out.
            if split not in splits or table.paired or not table.ground_truth:
                continue
            component = resolved.dataset(key, index)
            license = "unknown" if component is None else component.license
            place = table.imagefolder or table.parquet
            name = table.hub or table.use or place.name
            listed.append((split, name, license))
    return listed
