"""Plugins that are not installed: a file of Python, named by ``--plugin my_plugin.py``."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import PluginError

FILES = "DISTILLKIT_PLUGIN_FILES"
"""Environment variable: the files, separated as in PATH.

A variable, because the processes that a command starts need them as well.
"""


@dataclass(frozen=True)
class PluginFile:
    """A file that is a plugin; it stands where an installed plugin has an entry point."""

    path: Path
    dist = None
    """No distribution brings it."""

    @property
    def name(self) -> str:
        """The plugin's name, and its module's: the file's, without ``.py``."""
        return self.path.stem

    @property
    def value(self) -> str:
        """What takes the place of a distribution's name and version: file name and hash."""
        if not self.path.is_file():
            return self.path.name
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return f"{self.path.name} sha256:{digest}"

    def load(self) -> Any:
        """Import the file as a module. Its folder becomes the last one that is searched.

        Raises:
            PluginError: The file is missing, or another module has its name.
        """
        if not self.path.is_file():
            raise PluginError(f"{self.path} - no such file; it is named by {FILES}")
        folder = str(self.path.parent)
        # Processes that load data import it once more, and it may import files beside it.
        if folder not in sys.path:
            sys.path.append(folder)
        module = importlib.import_module(self.name)
        found = getattr(module, "__file__", None)
        if found is None or not self.path.samefile(found):
            raise PluginError(f'another module is called "{self.name}"; rename the file')
        return module


def listed_files() -> list[PluginFile]:
    """List the files that the environment variable names."""
    paths = os.environ.get(FILES, "").split(os.pathsep)
    return [PluginFile(Path(path)) for path in paths if path]


def add_files(names: Iterable[str]) -> None:
    """Use files as plugins, in this process and in those that it starts.

    Raises:
        PluginError: A file is missing, or its name cannot be that of a plugin.
    """
    paths = [os.environ[FILES]] if os.environ.get(FILES) else []
    for name in names:
        path = Path(name)
        if not path.is_file():
            raise PluginError(f"--plugin {name} - no such file; expected a file of Python")
        if not re.fullmatch(r"[A-Za-z]\w*\.py", path.name, re.ASCII):
            what = "its name, which is the plugin's, is letters, digits and '_', and ends in .py"
            raise PluginError(f"--plugin {name} - {what}")
        paths.append(str(path.resolve()))
    os.environ[FILES] = os.pathsep.join(dict.fromkeys(paths))


def file_of(distribution: str) -> str | None:
    """Return the name of a plugin's file; None for an installed plugin."""
    name, _, digest = distribution.partition(" ")
    return name if digest.startswith("sha256:") else None
