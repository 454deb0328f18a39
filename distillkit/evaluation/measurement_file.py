"""Values of single images on disk, so that an interrupted comparison loses none of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from distillkit.files.atomic import append_text, write_file

ItemValues = Mapping[str, Mapping[str, float]]
"""Metric name -> method label -> value."""


class MeasurementFile:
    """A file of lines, one for each image, written as the images are measured.

    A line is used only where its key is that of the image now. The key has to depend on everything
    that the values depend on.

    Args:
        path: A ``.jsonl`` file, new or of an earlier command.
        key_of: Returns an item's key.
    """

    def __init__(self, path: Path, key_of: Callable[[str], str]) -> None:
        self._path = path
        self._key_of = key_of
        self._lines = _read_lines(path)
        # The file is rewritten without a last line that a killed process left incomplete: the next
        # line would be appended to it.
        write_file(path, "".join(self._lines.values()))

    def find(self, item: str) -> ItemValues:
        """Return the values of an image that the file has; empty where it has none."""
        line = self._lines.get(self._key_of(item))
        if line is None:
            return {}
        return json.loads(line)["values"]

    def add(self, item: str, values: ItemValues) -> None:
        """Append an image's values, unless the file has the same ones."""
        key = self._key_of(item)
        content = {"key": key, "item": item, "values": values}
        line = json.dumps(content, allow_nan=False) + "\n"
        if self._lines.get(key) != line:
            append_text(self._path, line)
            self._lines[key] = line


def _read_lines(path: Path) -> dict[str, str]:
    """Read the complete lines by key; of several with one key the last counts."""
    if not path.exists():
        return {}
    lines = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            key = json.loads(line)["key"]
        except (ValueError, KeyError, TypeError):
            continue
        if line.endswith("\n"):
            lines[key] = line
    return lines
