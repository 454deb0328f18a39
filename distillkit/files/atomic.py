"""Write files and folders that appear complete or not at all.

Imports no torch.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from distillkit.errors import DiskError, first_line

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""The system's codes for a full disk and a full quota."""
MIN_FREE_BYTES = 1 << 16
"""A disk with less free space counts as full."""

_MACHINE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_UNFINISHED = re.compile(rf".+\.{_MACHINE}-(\d+)\.part")
"""Names of what a process of this machine has not finished, with the process's number."""
LONGEST_NAME = 255 - len(".") - len(".01234567-4194304.part")
"""Bytes in the name of a file, if the temporary one beside it is to have a name, too."""


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to ``path`` afterwards.

    Readers see the old file or the complete new one. After an error nothing is left.

    Args:
        path: The file to write, or to replace.
        sync: Flush to the disk before renaming. Without it a power failure may leave an empty
            file, which is good enough for files whose content is verified when they are read.

    Yields:
        The temporary path, in the same folder.

    Raises:
        DiskError: The file cannot be written.
    """
    temporary = name_temporary(path)
    with explain_disk_errors(path):
        try:
            yield temporary
            _allow_usual_access(temporary)
            if sync:
                flush_to_disk(temporary)
            temporary.replace(path)
            if sync:
                flush_to_disk(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def atomic_dir(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill; after the block it is renamed to ``path``.

    Args:
        path: The folder to write.
        replace: Whether a folder that is already there is replaced. An empty one always is.

    Yields:
        The temporary folder, beside ``path``.

    Raises:
        DiskError: The folder cannot be written, or is there and not to be replaced.
    """
    temporary = name_temporary(path)
    with explain_disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            try:
                yield temporary
            except DiskError as error:
                # It names a file of the temporary folder, which nobody knows.
                raise DiskError(path, error.reason, error.advice) from error
            # Content first: a folder must not get its name before its files are on the disk.
            for entry in temporary.rglob("*"):
                _allow_usual_access(entry)
                flush_to_disk(entry)
            flush_to_disk(temporary)
            if replace:
                shutil.rmtree(path, ignore_errors=True)
            # Windows does not rename over an empty folder, as other systems do.
            with suppress(OSError):
                path.rmdir()
            temporary.rename(path)
            # Only now would the new name survive a power failure.
            flush_to_disk(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give an empty folder outside of the user's; delete it afterwards."""
    parent = tempfile.gettempdir()
    _clear_leftovers(parent)
    suffix = f".{_MACHINE}-{os.getpid()}.part"
    folder = Path(tempfile.mkdtemp(prefix="distillkit.", suffix=suffix, dir=parent)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _allow_usual_access(path: Path) -> None:
    """Give a file the access rights that the umask gives to new files.

    safetensors writes files that only their owner may read, and no server of another user.
    """
    if path.is_file():
        path.chmod(path.stat().st_mode | (0o666 & ~_umask()))


# Read once: the system call that reads the umask sets it, for all threads.
@functools.cache
def _umask() -> int:
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


def name_temporary(path: Path) -> Path:
    """Return the temporary path that ``path`` is written under, in the same folder.

    It contains the process's number, for several may write the same file. Unfinished files of
    killed processes in the folder are removed first.
    """
    _clear_leftovers(str(path.parent))
    return path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}.part")


# once for each folder: to list a large one takes its time
@functools.cache
def _clear_leftovers(folder: str) -> None:
    """Remove the unfinished files in a folder of processes of this machine that have ended."""
    # On Windows, os.kill with signal 0 would end the process.
    if os.name == "nt":
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            unfinished = _UNFINISHED.fullmatch(entry.name)
            if unfinished is None or _is_alive(int(unfinished[1])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    Path(entry.path).unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


def write_file(path: Path, content: str | bytes) -> None:
    """Write a small file, complete or not at all.

    Raises:
        DiskError: It cannot be written.
    """
    if isinstance(content, str):
        content = content.encode()
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, before any work is done for it.

    Nothing is left there. Of a folder that does not exist yet, the nearest parent is tried.

    Raises:
        DiskError: No file can be made in it.
    """
    candidates = [folder, *folder.absolute().parents]
    existing = next(path for path in candidates if path.exists())
    with explain_disk_errors(folder), tempfile.TemporaryFile(dir=existing):
        pass


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file, all of it or nothing.

    Raises:
        DiskError: It cannot be written.
    """
    remaining = text.encode()
    with explain_disk_errors(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while remaining:
                remaining = remaining[file.write(remaining) :]
        except OSError:
            # A part of the text may have been written before the disk was full.
            file.truncate(end)
            raise


def flush_to_disk(path: Path) -> None:
    """Make the system write a file, or a folder's list of files, to disk."""
    access = os.O_RDONLY
    if os.name == "nt":
        # Windows opens no folders, and flushes no files that were opened for reading.
        if path.is_dir():
            return
        access = os.O_RDWR
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of writing into one that names the file and the way out.

    Raises:
        DiskError: In place of an error of the system or of safetensors.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _disk_error(path, error) from error


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn a full disk, whoever meets it, into an error that says what to do.

    Args:
        folder: Where most of the block's files are written; named where the error names no file.

    Raises:
        DiskError: In place of the system's error for a full disk; every other error passes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise _disk_error(Path(error.filename or folder), error) from error


def _disk_error(path: Path, error: Exception) -> DiskError:
    reason = _reason(error, path.parent)
    if reason not in map(os.strerror, FULL_DISK):
        return DiskError(path, reason)
    advice = "nothing is half written: free space, then repeat the command, a run with --resume"
    return DiskError(path, reason, advice)


def _reason(error: Exception, folder: Path) -> str:
    """Say in a few words why something could not be written to a folder."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    # Each package words a full disk in its own way; most quote the system's words.
    for code in FULL_DISK:
        if os.strerror(code) in str(error):
            return os.strerror(code)
    with suppress(OSError):
        if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
            return os.strerror(errno.ENOSPC)
    return first_line(error)
