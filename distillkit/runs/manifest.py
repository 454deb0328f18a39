"""The origin of a result: versions, machine, command.

It is written beside the result as ``manifest.json``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distillkit.environment import peak_memory, versions
from distillkit.errors import DiskError, DistillkitError
from distillkit.files.atomic import write_file


class Manifest:
    """The ``manifest.json`` of a run, rewritten at every change.

    A resumed run adds to it.

    Args:
        path: The file.
        writes: Whether this process writes the file (only one does).
        facts: Further entries.
    """

    def __init__(
        self,
        path: Path,
        writes: bool = True,
        **facts: Any,
    ) -> None:
        self._path = path
        self._writes = writes
        former = {"started": timestamp()}
        if writes and path.exists():
            former = _read(path)
        self.facts: dict[str, Any] = {
            **former,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "packages": versions(),
            "status": "running",
            **facts,
        }
        self.write()

    def write(self, **facts: Any) -> None:
        """Add entries and write the file.

        Raises:
            DiskError: It cannot be written.
        """
        self.facts |= facts
        if self._writes:
            text = json.dumps(self.facts, indent=2, default=str)
            write_file(self._path, f"{text}\n")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to ``seconds[name]``."""
        started = time.monotonic()
        try:
            yield
        finally:
            # A resumed run adds to the seconds of the former ones.
            seconds: dict[str, float] = self.facts.setdefault("seconds", {})
            total = seconds.get(name, 0) + time.monotonic() - started
            seconds[name] = round(total, 2)
        self.write()

    def close(self, status: str) -> None:
        """Record the end of the run.

        Args:
            status: ``"finished"``, ``"interrupted"`` or ``"failed"``.

        Raises:
            DiskError: The run has finished, and that cannot be written. What ended another run may
                well be a full disk: that error is more important than this one.
        """
        facts = {"status": status, "ended": timestamp(), "peak_memory_bytes": peak_memory()}
        if status == "finished":
            self.write(**facts)
        else:
            with suppress(DiskError):
                self.write(**facts)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DistillkitError(
            f"{path} - damaged: {error}; it says where the run came from; delete it, then --resume"
        ) from error


def timestamp() -> str:
    """Return the time now, with the zone's offset."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
