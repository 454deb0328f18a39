"""Decoded images kept in memory.

Decoding a file takes longer than cutting a crop.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from distillkit.data.sources import BadImageError, Example

Key = tuple[int, int]
"""Number of the source, index in it."""


class ImageCache:
    """The examples used last, and which images are bad.

    Thread-safe; a pickled copy is empty.

    Args:
        limit: Bytes of the images that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Key, Example | BadImageError] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int]]:
        return ImageCache, (self.limit,)

    def get(self, key: Key, read: Callable[[], Example]) -> Example:
        """Return the kept example of a key, or read it and keep it.

        Raises:
            BadImageError: ``read`` raised it, now or before.
        """
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
        if value is None:
            # Outside the lock: two threads may decode the same image, but none waits for another.
            value = self._read(read)
            self._keep(key, value)
        if isinstance(value, BadImageError):
            raise BadImageError(value.id, value.reason)
        return value

    def _read(self, read: Callable[[], Example]) -> Example | BadImageError:
        try:
            return read()
        except BadImageError as error:
            # A new one, without the traceback, whose frames hold the image.
            return BadImageError(error.id, error.reason)

    def _keep(self, key: Key, value: Example | BadImageError) -> None:
        size = _size_of(value)
        with self._lock:
            if key not in self._kept and size <= self.limit:
                self._kept[key] = value
                self._size += size
            while self._size > self.limit:
                _, oldest = self._kept.popitem(last=False)
                self._size -= _size_of(oldest)


def _size_of(value: Example | BadImageError) -> int:
    if isinstance(value, BadImageError):
        return 0
    return sum(image.nbytes for image in (value.gt, value.lq) if image is not None)
