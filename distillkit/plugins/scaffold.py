"""Writes a new plugin: a package that works, to be changed.

Its files are those of ``templates/common``, and of the folder of its kind; where both have a file,
the kind's counts. In their names and texts ``myplugin`` stands for the name of the plugin.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from distillkit.errors import DistillkitError, did_you_mean
from distillkit.files.atomic import atomic_dir

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".template"
PLACEHOLDER = "myplugin"

KINDS = (
    "output-teacher",
    "score-teacher",
    "student",
    "degradation",
    "metric",
    "dataset",
    "mask",
    "command",
)


def write_plugin(name: str, kind: str, folder: Path | None, taken: Container[str]) -> Path:
    """Write the package of a new plugin, complete or not at all.

    Args:
        name: The name of the plugin: lower-case letters and digits, with ``-`` or ``_`` between
            words.
        kind: One of :data:`KINDS`.
        folder: The folder of the package; default: ``distillkit-<name>`` in the working folder.
        taken: Names of plugins that there are.

    Returns:
        The folder.

    Raises:
        DistillkitError: The name or the kind cannot be used, or the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        what = "expected lower-case letters and digits, with '-' or '_' between words"
        raise DistillkitError(f'"{name}" cannot be the name of a plugin; {what}')
    if name in taken:
        raise DistillkitError(f'a plugin "{name}" is installed already; choose another name')
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise DistillkitError(f"--kind {kind} - expected {known}{did_you_mean(kind, KINDS)}")
    folder = folder or Path(f"distillkit-{_with_hyphens(name)}")
    if folder.exists():
        raise DistillkitError(f"{folder} - exists already; choose another folder with -o")
    with atomic_dir(folder) as new:
        for below, template in _templates(kind).items():
            file = new / _fill_in(below, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = template.read_text(encoding="utf-8")
            file.write_text(_fill_in(text, name), encoding="utf-8")
    return folder


def _templates(kind: str) -> dict[str, Path]:
    """List the templates of a kind, each by the path of the file that it becomes."""
    found = {}
    for folder in (TEMPLATES / "common", TEMPLATES / kind):
        for path in sorted(folder.rglob(f"*{SUFFIX}")):
            below = path.relative_to(folder).as_posix()
            found[below.removesuffix(SUFFIX)] = path
    return found


def _fill_in(text: str, name: str) -> str:
    """Put the plugin's name into a template, or into its path."""
    module = name.replace("-", "_")
    names = {
        f"distillkit_{PLACEHOLDER}": f"distillkit_{module}",
        f"test_{PLACEHOLDER}": f"test_{module}",
        f"distillkit-{PLACEHOLDER}": f"distillkit-{_with_hyphens(name)}",
        PLACEHOLDER: name,
    }
    # In one pass: the plugin's own name may hold the placeholder.
    pattern = "|".join(map(re.escape, names))
    return re.sub(pattern, lambda found: names[found[0]], text)


def _with_hyphens(name: str) -> str:
    return name.replace("_", "-")
