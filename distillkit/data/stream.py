"""Parquet files that are read while they are used, on the Hub or here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distillkit.errors import DataError

if TYPE_CHECKING:
    from datasets import IterableDataset

_KEPT = 64
"""Last rows kept in memory, so that they can be read again without restarting the stream."""


class Stream:
    """Rows by their position, read in order; every epoch has an order of its own.

    Row ``position`` is always the same one: a reader that begins in the middle skips what comes
    before. Readers in other processes therefore never share a row, if they read different
    positions. Thread-safe; a pickled copy begins to read by itself.

    Args:
        dataset: The rows.
        rows: How many there are.
        shuffle_buffer: Rows among which the next one is drawn at random; 0: in the files' order.
    """

    def __init__(self, dataset: IterableDataset, rows: int, shuffle_buffer: int) -> None:
        self._dataset = dataset
        self._rows = rows
        self._shuffle_buffer = shuffle_buffer
        self._lock = threading.Lock()
        self._reader: Iterator[dict[str, Any]] | None = None
        self._kept: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._next = 0

    def __reduce__(self) -> tuple[type[Stream], tuple[IterableDataset, int, int]]:
        return Stream, (self._dataset, self._rows, self._shuffle_buffer)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Read a row; positions from ``len`` on are in the next epochs."""
        with self._lock:
            first_kept = self._next - len(self._kept)
            same_epoch = position // self._rows == (self._next - 1) // self._rows
            if self._reader is None or position < first_kept or not same_epoch:
                self._begin(position)
            while self._next <= position:
                self._read_row()
            return self._kept[position - self._next]

    def _begin(self, position: int) -> None:
        """Start to read at a position."""
        epoch, place = divmod(position, self._rows)
        dataset = self._dataset
        if self._shuffle_buffer:
            dataset = dataset.shuffle(seed=epoch, buffer_size=self._shuffle_buffer)
        # Not by iterating over it, which in a worker would leave out the other workers' files.
        self._reader = dataset.skip(place).iter(batch_size=1)
        self._kept.clear()
        self._next = position

    def _read_row(self) -> None:
        assert self._reader is not None
        batch = next(self._reader, None)
        if batch is None:
            raise DataError(
                f"the stream ended at row {self._next % self._rows} of {self._rows}: its files "
                "have changed since they were counted; start the command again"
            )
        self._kept.append({column: values[0] for column, values in batch.items()})
        self._next += 1
