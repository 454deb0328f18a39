"""Writing files so that they appear whole or not at all, and saying what to do where that fails. Imports no torch."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from distillkit.errors import DiskError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system calls a full disk, and a full quota."""
NOTHING = 1 << 16
"""Free bytes below which a disk counts as full."""


def write_file(path: Path, content: str | bytes) -> None:
    """Write under a temporary name in the same folder, sync, then rename: readers see the old file or the whole new one.

    Raises:
        DiskError: it could not be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with written(path):
        try:
            with temporary.open("wb") as f:
                f.write(content.encode() if isinstance(content, str) else content)
                f.flush()
                os.fsync(f.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def append(path: Path, text: str) -> None:
    """Add ``text`` to the end of a file, all of it or nothing.

    Raises:
        DiskError: it could not be written.
    """
    with written(path), path.open("ab", buffering=0) as f:
        end, rest = f.seek(0, os.SEEK_END), text.encode()
        try:
            while rest:
                rest = rest[f.write(rest) :]
        except OSError:
            f.truncate(end)
            raise


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Inside the block ``path`` is written.

    Raises:
        DiskError: in place of what the system or safetensors raised, naming ``path`` and what to do.
    """
    try:
        yield
    except (OSError, SafetensorError) as e:
        raise DiskError(told(path, e)) from e


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Inside the block much is written, by other packages too, most of it in ``folder``.

    Raises:
        DiskError: in place of the system's error that a disk is full; every other error passes.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise DiskError(told(Path(e.filename or folder), e)) from e


def told(path: Path, error: Exception) -> str:
    """An error's text: that ``path`` cannot be written, why, and on a full disk what to do."""
    reason = why(error, path.parent)
    full = reason in map(os.strerror, FULL)
    return f"{path} - cannot be written: {reason}" + (
        "; nothing is half written: free space, then go on, a run by --resume" * full
    )


def why(error: Exception, folder: Path) -> str:
    """In a few words, why something could not be written to ``folder``: each package has words of its own for a full disk."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    with suppress(OSError):
        if shutil.disk_usage(folder).free < NOTHING:
            return os.strerror(errno.ENOSPC)
    return (str(error).splitlines() or [type(error).__name__])[0]
