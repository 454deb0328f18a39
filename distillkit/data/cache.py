"""Decoded images kept in memory, because decoding a file takes longer than cutting a crop."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from distillkit.data.sources import BadImageError, Example

Key = tuple[int, int]
"""Number of the source, index in it."""


class ImageCache:
    """The examples used last, up to ``limit`` bytes, and which images are bad. Safe across threads; its pickled copy is empty."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Key, Example | BadImageError] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int]]:
        return ImageCache, (self.limit,)

    def get(self, key: Key, read: Callable[[], Example]) -> Example:
        """What is kept under ``key``, or else what ``read`` returns or raises (:class:`BadImageError`)."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is not None:
                self._kept[key] = found
        if found is None:
            found = self._keep(key, read)
        if isinstance(found, BadImageError):
            raise BadImageError(found.id, found.reason)
        return found

    def _keep(self, key: Key, read: Callable[[], Example]) -> Example | BadImageError:
        value: Example | BadImageError
        try:
            value = read()
        except BadImageError as error:
            value = BadImageError(error.id, error.reason)  # without the frames of its traceback
        with self._lock:
            if key not in self._kept and _size(value) <= self.limit:
                self._kept[key] = value
                self._size += _size(value)
            while self._size > self.limit:
                self._size -= _size(self._kept.popitem(last=False)[1])
        return value


def _size(value: Example | BadImageError) -> int:
    if isinstance(value, BadImageError):
        return 0
    return value.gt.nbytes + (0 if value.lq is None else value.lq.nbytes)
