"""Bound the memory that the tags of a TIFF structure take, in TIFF files and in EXIF data."""

from __future__ import annotations

import io
import struct
from typing import IO, Any

from PIL import TiffImagePlugin

_BYTES_BY_TYPE = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), start=1)) | {16: 8}
"""Bytes of one value, by the number of its type in TIFF 6.0 and (16) BigTIFF."""


def bound_tags() -> None:
    """Let Pillow refuse directories whose tags claim more bytes than the file has.

    Pillow reads the bytes of each tag when it opens a file. Tags that share their bytes make 20 GB
    out of 3 MB.
    """
    TiffImagePlugin.ImageFileDirectory_v2 = _BoundedDirectory  # type: ignore[misc]


class _BoundedDirectory(TiffImagePlugin.ImageFileDirectory_v2):
    """A directory of tags that is measured before it is read."""

    def __init__(self, ifh: bytes = b"II\x2a\0\0\0\0\0", *args: Any, **kwargs: Any) -> None:
        super().__init__(ifh, *args, **kwargs)
        order = ">" if ifh[:2] == b"MM" else "<"
        count_format, entry_format, self._inline = "H", "HHLL", 4
        if ifh[2] == 43:  # BigTIFF
            count_format, entry_format, self._inline = "Q", "HHQQ", 8
        self._count = struct.Struct(order + count_format)
        self._entry = struct.Struct(order + entry_format)

    def load(self, fp: IO[bytes]) -> None:
        start = fp.tell()
        size = fp.seek(0, io.SEEK_END)
        fp.seek(start)
        claimed = self._claimed_bytes(fp, size)
        fp.seek(start)
        if claimed > size:
            # Pillow passes this type on, and whoever opens files with it expects it.
            raise OSError(
                f"its tags claim more bytes ({claimed}) than there are ({size}): damaged, or made "
                "to fill the memory"
            )
        super().load(fp)

    def _claimed_bytes(self, fp: IO[bytes], size: int) -> int:
        """Sum up the bytes of all tags, each as far as the file reaches."""
        head = fp.read(self._count.size)
        if len(head) < self._count.size:
            return 0
        (count,) = self._count.unpack(head)
        # A count beyond the file's end is no reason to ask for the memory.
        entries = fp.read(min(count * self._entry.size, size))
        complete = len(entries) // self._entry.size * self._entry.size
        claimed = 0
        for _, kind, values, offset in self._entry.iter_unpack(entries[:complete]):
            length = values * _BYTES_BY_TYPE.get(kind, 0)
            if length > self._inline:
                claimed += max(0, min(length, size - offset))
        return claimed
