"""Look after the feature cache between runs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from distillkit.console import progress_bar
from distillkit.training.feature_store import CachedFeature, FeatureStore, default_folder

SECONDS_PER_DAY = 86_400.0


class CacheUse(NamedTuple):
    """How much the cache holds of one kind of features."""

    kind: str
    entries: int
    size: int
    """Bytes."""
    last_used: float
    """Seconds since the epoch."""


def measure_cache(folder: Path | None) -> list[CacheUse]:
    """Measure what the cache holds, by kind."""
    by_kind: dict[str, list[CachedFeature]] = defaultdict(list)
    for feature in _open_store(folder).features():
        by_kind[feature.kind].append(feature)
    uses = []
    for kind, features in sorted(by_kind.items()):
        last_used = max(feature.last_used for feature in features)
        uses.append(CacheUse(kind, len(features), _size(features), last_used))
    return uses


def format_cache(uses: Sequence[CacheUse], folder: Path | None) -> Iterator[str]:
    """Yield a line for each kind, and one for all: how many, how large, when last used."""
    yield f"{'kind':<12}{'entries':>9}{'MiB':>11}  last used"
    for use in uses:
        local_time = time.localtime(use.last_used)
        note = time.strftime("%Y-%m-%d %H:%M", local_time)
        yield _row(use.kind, use.entries, use.size, note)
    entries = sum(use.entries for use in uses)
    size = sum(use.size for use in uses)
    yield _row("all", entries, size, str(_open_store(folder).folder))


def find_damaged(folder: Path | None) -> tuple[int, list[Path]]:
    """Read every cached feature; count them and list the damaged ones."""
    features = list(_open_store(folder).features())
    damaged = []
    for feature in progress_bar(features, unit="file", desc="reading"):
        if feature.read_metadata() is None:
            damaged.append(feature.path)
    return len(features), damaged


def prune(folder: Path | None, unwanted: Callable[[CachedFeature], bool]) -> str:
    """Delete unwanted features and unfinished files, and say how much."""
    store = _open_store(folder)
    every = progress_bar(store.features(), unit="file", desc="reading")
    features = [feature for feature in every if unwanted(feature)]
    store.remove(features)
    return (
        f"removed {len(features)} entries, {_size(features) / 2**20:.1f} MiB, from {store.folder}"
    )


def unused_for(days: float) -> Callable[[CachedFeature], bool]:
    """Make a function that tests whether a feature was last used more than ``days`` ago."""
    oldest = time.time() - days * SECONDS_PER_DAY

    def is_unused(feature: CachedFeature) -> bool:
        return feature.last_used < oldest

    return is_unused


def _open_store(folder: Path | None) -> FeatureStore:
    return FeatureStore(folder or default_folder(), limit=0)


def _row(kind: str, entries: int, size: int, note: str) -> str:
    return f"{kind:<12}{entries:>9}{size / 2**20:>11.1f}  {note}"


def _size(features: Sequence[CachedFeature]) -> int:
    return sum(feature.size for feature in features)
