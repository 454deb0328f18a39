"""Where a result came from: versions, machine, command. Written beside it as ``manifest.json``."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from distillkit.environment import peak_memory, versions
from distillkit.errors import DiskError, DistillkitError
from distillkit.files.atomic import write_file


class Manifest:
    """The ``manifest.json`` of a run, rewritten whole at every change. A resumed run adds to the one that is there.

    Args:
        writes: whether this process writes the file (only one does).
    """

    def __init__(self, path: Path, writes: bool = True, **facts: Any) -> None:
        self._path, self._writes = path, writes
        before = _read(path) if writes and path.exists() else {"started": _now()}
        self.facts: dict[str, Any] = {
            **before,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "packages": versions(),
            "status": "running",
            **facts,
        }
        self.write()

    def write(self, **facts: Any) -> None:
        """Add ``facts`` and put the file on disk, whole or not at all.

        Raises:
            DiskError: it could not be written.
        """
        self.facts |= facts
        if self._writes:
            write_file(self._path, json.dumps(self.facts, indent=2, default=str) + "\n")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to ``seconds[name]``."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds: dict[str, float] = self.facts.get("seconds", {})
            self.facts["seconds"] = seconds | {
                name: round(seconds.get(name, 0) + time.monotonic() - started, 2)
            }
        self.write()

    def close(self, status: str) -> None:
        """The run is over: ``"finished"``; or ``"interrupted"`` or ``"failed"``, which a full disk may keep from being written."""
        with nullcontext() if status == "finished" else suppress(DiskError):
            self.write(status=status, ended=_now(), peak_memory_bytes=peak_memory())


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as e:
        raise DistillkitError(
            f"{path} - damaged: {e}; it says where the run came from; delete it, then --resume"
        ) from e


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
