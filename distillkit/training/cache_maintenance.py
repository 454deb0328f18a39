"""Looking after the cache between runs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from distillkit.training.feature_store import Entry, Store, default_folder

DAY = 86_400.0


def listing(folder: Path | None) -> Iterator[str]:
    """A line for each kind of entry: how many, how large, when last used."""
    store = Store(folder or default_folder(), 0)
    by_kind: dict[str, list[Entry]] = defaultdict(list)
    for entry in store.entries():
        by_kind[entry.kind].append(entry)
    yield f"{'kind':<12}{'entries':>9}{'MiB':>11}  last used"
    for kind, entries in sorted(by_kind.items()):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(e.used for e in entries)))
        yield f"{kind:<12}{len(entries):>9}{_mib(entries):>11.1f}  {used}"
    everything = [e for entries in by_kind.values() for e in entries]
    yield f"{'all':<12}{len(everything):>9}{_mib(everything):>11.1f}  {store.folder}"


def damaged(folder: Path | None) -> tuple[int, list[Path]]:
    """Reads every entry: how many there are, and those whose content is not what was written."""
    entries = list(Store(folder or default_folder(), 0).entries())
    return len(entries), [e.path for e in entries if e.metadata() is None]


def prune(folder: Path | None, unwanted: Callable[[Entry], bool]) -> str:
    """Delete the entries that are unwanted, and whatever was left half written."""
    store = Store(folder or default_folder(), 0)
    entries = [e for e in store.entries() if unwanted(e)]
    store.remove(*entries)
    return f"removed {len(entries)} entries, {_mib(entries):.1f} MiB, from {store.folder}"


def unused_for(days: float) -> Callable[[Entry], bool]:
    """Whether an entry was last used longer ago than that."""
    oldest = time.time() - days * DAY
    return lambda entry: entry.used < oldest


def _mib(entries: list[Entry]) -> float:
    return sum(e.size for e in entries) / 2**20
