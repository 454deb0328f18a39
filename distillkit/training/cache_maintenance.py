"""Look after the feature cache between runs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distillkit.training.feature_store import CachedFeature, FeatureStore, default_folder

SECONDS_PER_DAY = 86_400.0


def cache_table(folder: Path | None) -> Iterator[str]:
    """Yield a line for each kind: how many, how large, when last used."""
    store = _open_store(folder)
    by_kind: dict[str, list[CachedFeature]] = defaultdict(list)
    everything = []
    for feature in store.features():
        by_kind[feature.kind].append(feature)
        everything.append(feature)
    yield f"{'kind':<12}{'entries':>9}{'MiB':>11}  last used"
    for kind, features in sorted(by_kind.items()):
        last_used = max(feature.last_used for feature in features)
        local_time = time.localtime(last_used)
        yield _row(kind, features, time.strftime("%Y-%m-%d %H:%M", local_time))
    yield _row("all", everything, str(store.folder))


def find_damaged(folder: Path | None) -> tuple[int, list[Path]]:
    """Read every cached feature; count them and list the damaged ones."""
    features = list(_open_store(folder).features())
    damaged = [feature.path for feature in features if feature.read_metadata() is None]
    return len(features), damaged


def prune(folder: Path | None, unwanted: Callable[[CachedFeature], bool]) -> str:
    """Delete unwanted features and unfinished files, and say how much."""
    store = _open_store(folder)
    features = [feature for feature in store.features() if unwanted(feature)]
    store.remove(features)
    return f"removed {len(features)} entries, {_mib(features):.1f} MiB, from {store.folder}"


def unused_for(days: float) -> Callable[[CachedFeature], bool]:
    """Make a test of whether a feature has not been used for so many days."""
    oldest = time.time() - days * SECONDS_PER_DAY

    def is_unused(feature: CachedFeature) -> bool:
        return feature.last_used < oldest

    return is_unused


def _open_store(folder: Path | None) -> FeatureStore:
    return FeatureStore(folder or default_folder(), limit=0)


def _row(
    kind: str,
    features: Sequence[CachedFeature],
    note: str,
) -> str:
    count = len(features)
    size = _mib(features)
    return f"{kind:<12}{count:>9}{size:>11.1f}  {note}"


def _mib(features: Sequence[CachedFeature]) -> float:
    return sum(feature.size for feature in features) / 2**20
