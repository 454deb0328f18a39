"""Files of tensors that are found by key, checked by hash when they are read, and bounded in size. Imports no torch."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
"""Of the files and of what their keys are made of: entries of another format are never found."""
ROOM = 0.9
"""Entries that make way leave the store this full, so that room need not be made for each new one."""

Metadata = dict[str, str]
_NAME = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.safetensors")


@dataclass(frozen=True)
class Entry:
    """One file of a store."""

    path: Path
    size: int
    used: float
    """When it was written or last read, seconds since the epoch."""

    @property
    def kind(self) -> str:
        """As its header says, which is not checked; ``"damaged"`` where it says nothing."""
        try:
            with self.path.open("rb") as file:
                return str(
                    json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"][
                        "kind"
                    ]
                )
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
            return "damaged"

    def metadata(self) -> Metadata | None:
        """``key``, ``kind``, ``seconds`` (what computing it took); None for a damaged file."""
        try:
            return opened(self.path.read_bytes(), self.path.stem)
        except OSError:
            return None


def default_folder() -> Path:
    """``$DISTILLKIT_CACHE``, else ``$XDG_CACHE_HOME/distillkit``, else ``~/.cache/distillkit``."""
    if own := os.environ.get("DISTILLKIT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distillkit"


class Store:
    """A folder of entries, shared by any number of processes.

    A file appears whole or not at all. When there is no room for a new entry, those that were last used before this store was
    opened are removed, the oldest first. What was used since stays, and once nothing else is left nothing more is written: a run
    that goes round through more entries than fit would find none of them again if the oldest always made way.

    Args:
        folder: made at the first write. limit: bytes, over all entries.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.damaged = 0
        """Entries that were found damaged, and removed."""
        self.full = False
        """Whether nothing more is written."""
        self._opened = time.time()

    def read(self, key: str) -> tuple[bytes, Metadata] | None:
        """The file of ``key`` and its metadata; None where there is none, or only a damaged one, which is removed."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        metadata = opened(raw, key)
        with suppress(OSError):
            os.utime(path) if metadata else path.unlink()
        if metadata is None:
            self.damaged += 1
            warnings.warn(f"{path} - damaged cache entry, made anew", stacklevel=2)
            return None
        return raw, metadata

    def write(self, key: str, raw: bytes) -> None:
        """Keep ``raw``, as :func:`sealed` made it, if there is room. A disk that cannot be written is warned of once."""
        if self.full or len(raw) > self.limit:
            return
        path = self._path(key)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".bytes").open("a+") as ledger:
                fcntl.flock(ledger, fcntl.LOCK_EX)
                ledger.seek(0)
                text = ledger.read()
                total = int(text) if text.isdecimal() else sum(e.size for e in self.entries())
                if total + len(raw) > self.limit:
                    total = self._make_room(len(raw))
                self.full = total + len(raw) > self.limit
                keep = not self.full and not path.exists()
                ledger.truncate(0)
                ledger.write(str(total + keep * len(raw)))
                ledger.flush()
                if keep:
                    temporary.write_bytes(raw)
                    temporary.replace(path)
        except OSError as e:
            self.full = True
            with suppress(OSError):
                temporary.unlink()
            warnings.warn(
                f"{self.folder} - the cache cannot be written ({e.strerror or e}); going on without",
                stacklevel=2,
            )

    def entries(self) -> Iterator[Entry]:
        """Every entry, in no order."""
        for path in self.folder.glob("??/*.safetensors"):
            with suppress(FileNotFoundError):
                if not _NAME.fullmatch(f"{path.parent.name}/{path.name}"):
                    continue
                found = path.stat()
                yield Entry(path, found.st_size, found.st_mtime)

    def remove(self, *entries: Entry) -> None:
        """Delete ``entries``, and what a killed process left half written; the size is counted anew at the next write."""
        for path in [
            *(entry.path for entry in entries),
            *self.folder.glob("??/*.part"),
            self.folder / ".bytes",
        ]:
            path.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> int:
        """Remove what this run has not used until ``wanted`` bytes fit; the size that is left."""
        entries = sorted(self.entries(), key=lambda e: e.used)
        total = sum(e.size for e in entries)
        for entry in entries:
            if total + wanted <= ROOM * self.limit or entry.used >= self._opened:
                break
            entry.path.unlink(missing_ok=True)
            total -= entry.size
        return total

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def sealed(raw: bytes, metadata: Metadata) -> bytes:
    """The content of a safetensors file with ``metadata`` in its header, and a hash of all of it."""
    header, data = _parts(raw)
    header["__metadata__"] = {**metadata, "format": str(FORMAT)}
    header["__metadata__"]["sha256"] = _digest(header, data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def opened(raw: bytes, key: str) -> Metadata | None:
    """The metadata of what :func:`sealed` returned; None if a byte of it changed, or it is another key's or format's."""
    try:
        header, data = _parts(raw)
        metadata = header["__metadata__"]
        whole = metadata.pop("sha256") == _digest(header, data)
        return (
            metadata
            if whole and metadata["key"] == key and metadata["format"] == str(FORMAT)
            else None
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def _digest(header: dict[str, Any], data: bytes) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()
