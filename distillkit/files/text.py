"""Read text files that users wrote in any editor."""

from __future__ import annotations

import codecs
from pathlib import Path

from distillkit.errors import DataError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Read a text in UTF-8, with or without a byte order mark, with any ends of lines.

    Raises:
        DataError: It has another encoding; the text says what to do, without the path.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    if content.startswith(_UTF_16):
        raise DataError("is in UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"not a text file in UTF-8 (see line {line}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
