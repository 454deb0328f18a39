"""Files of tensors, found by key, verified, and bounded in total size.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from distillkit.errors import DiskError
from distillkit.files.atomic import atomic_file, explain_disk_errors

FORMAT = 1
"""Of the files and of their keys: files of another format are never found."""
FILLED_AFTER_CLEARING = 0.9
"""Share of the limit that stays filled when old files make room, so that it lasts a while."""

Metadata = dict[str, str]
_NAME = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.safetensors")
_TOTAL_SIZE = ".bytes"
"""File with the size of the whole store, so that not every write has to add it up."""
_LOCK = ".lock"


@dataclass(frozen=True)
class CachedFeature:
    """One file of a store."""

    path: Path
    size: int
    """Bytes."""
    last_used: float
    """When it was written or last read, seconds since the epoch."""

    @property
    def kind(self) -> str:
        """The kind that its unverified header states, or ``"damaged"``."""
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            return str(header["__metadata__"]["kind"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
            return "damaged"

    def read_metadata(self) -> Metadata | None:
        """Read the file and return its verified metadata; None if damaged."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        return verified_metadata(content, self.path.stem)


def default_folder() -> Path:
    """Find the folder of the cache on this machine.

    It is ``$DISTILLKIT_CACHE``, else ``$XDG_CACHE_HOME/distillkit``, else ``~/.cache/distillkit``.
    """
    folder = os.environ.get("DISTILLKIT_CACHE")
    if folder:
        return Path(folder).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "distillkit"


class FeatureStore:
    """A folder of cached features, shared by any number of processes.

    A file appears complete or not at all. When a new one does not fit, files make room that were
    last used before this store was opened, the oldest first. Files used since then stay, and once
    only those are left nothing more is written: a run that cycles through more features than fit
    would never find one again if the oldest always made room.

    Args:
        folder: Created at the first write.
        limit: Bytes, over all files.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.damaged = 0
        """Damaged files that were found and removed."""
        self.full = False
        """Whether nothing more is written."""
        self._opened_at = time.time()

    def read(self, key: str) -> tuple[bytes, Metadata] | None:
        """Return the content and the metadata of a file; None where it is missing or damaged.

        A damaged file is removed.
        """
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        metadata = verified_metadata(content, key)
        if metadata is None:
            self.damaged += 1
            warnings.warn(f"{path} - damaged cache entry, computed again", stacklevel=2)
            with suppress(OSError):
                path.unlink()
            return None
        # The time of its last use decides what makes room.
        with suppress(OSError):
            os.utime(path)
        return content, metadata

    def write(self, key: str, content: bytes) -> None:
        """Keep a file, if there is room.

        A disk that cannot be written is warned of once.

        Args:
            key: 64 hexadecimal digits.
            content: Made by :func:`with_checksum`.
        """
        if self.full or len(content) > self.limit:
            return
        try:
            with explain_disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / _LOCK):
                    self._write_locked(self._path(key), content)
        except (DiskError, NotImplementedError) as error:
            # NotImplementedError: the folder's file system has no locks.
            self.full = True
            reason = error.reason if isinstance(error, DiskError) else error
            warnings.warn(
                f"{self.folder} - the cache cannot be written ({reason}); going on without",
                stacklevel=2,
            )

    def features(self) -> Iterator[CachedFeature]:
        """List every file, in no order."""
        for path in self.folder.glob("??/*.safetensors"):
            # Other people's files in the folder are left alone.
            if not _NAME.fullmatch(f"{path.parent.name}/{path.name}"):
                continue
            # Another process may remove it meanwhile.
            with suppress(FileNotFoundError):
                status = path.stat()
                yield CachedFeature(path, status.st_size, status.st_mtime)

    def remove(self, features: Iterable[CachedFeature]) -> None:
        """Delete files, and those that killed processes left unfinished."""
        for feature in list(features):
            feature.path.unlink(missing_ok=True)
        for unfinished in self.folder.glob("??/*.part"):
            unfinished.unlink(missing_ok=True)
        # The next write adds the sizes up again.
        (self.folder / _TOTAL_SIZE).unlink(missing_ok=True)

    def _write_locked(self, path: Path, content: bytes) -> None:
        size_file = self.folder / _TOTAL_SIZE
        total = self._total_size(size_file)
        if total + len(content) > self.limit:
            total = self._make_room(len(content))
        self.full = total + len(content) > self.limit
        if self.full or path.exists():
            size_file.write_text(str(total))
            return
        # The size first: a kill in between leaves it too large, never too small.
        size_file.write_text(str(total + len(content)))
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path, sync=False) as temporary:
            temporary.write_bytes(content)

    def _total_size(self, size_file: Path) -> int:
        try:
            return int(size_file.read_text())
        except (FileNotFoundError, ValueError):
            return sum(feature.size for feature in self.features())

    def _make_room(self, needed: int) -> int:
        """Remove files not used since the store was opened.

        Returns the size that is left.
        """
        features = sorted(self.features(), key=lambda feature: feature.last_used)
        total = sum(feature.size for feature in features)
        for feature in features:
            fits = total + needed <= FILLED_AFTER_CLEARING * self.limit
            if fits or feature.last_used >= self._opened_at:
                break
            feature.path.unlink(missing_ok=True)
            total -= feature.size
        return total

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def with_checksum(content: bytes, metadata: Metadata) -> bytes:
    """Put metadata and a hash into the header of a safetensors file.

    The hash is of the metadata and of all that is in the file.

    Args:
        content: The content of the file.
        metadata: ``key``, ``kind``, ``seconds`` (the time that computing the feature took).
    """
    header, data = _split(content)
    stored = {**metadata, "format": str(FORMAT)}
    header["__metadata__"] = stored
    stored["sha256"] = _digest(header, data)
    text = json.dumps(header).encode()
    # The format aligns its data to 8 bytes by spaces in the header.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def verified_metadata(content: bytes, key: str) -> Metadata | None:
    """Return the metadata of a file made by :func:`with_checksum`, if it is intact.

    Returns:
        None if a byte of the file has changed, or it is of another key or another format.
    """
    try:
        header, data = _split(content)
        metadata = header["__metadata__"]
        checksum = metadata.pop("sha256")
        if checksum != _digest(header, data):
            return None
        if metadata["key"] != key or metadata["format"] != str(FORMAT):
            return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return metadata


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a safetensors file into its header and its data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _digest(header: dict[str, Any], data: bytes) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()
