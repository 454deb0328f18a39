"""What ``distillkit doctor`` looks at."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from distillkit.environment import versions
from distillkit.plugins.manager import load_plugins

IMPORTS = ("torch", "torchvision", "diffusers", "peft", "accelerate", "datasets", "lpips")


def diagnose() -> tuple[list[str], bool]:
    """Lines to print, and whether everything is well. Imports what a run imports, so that a broken pair of versions shows here."""
    problems = [*_import_problems(), *_version_problems(requires("distillkit") or [])]
    problems += [f"{p} is broken: {p.error}" for p in load_plugins().broken]
    lines = [
        f"python       {platform.python_version()} on {platform.system()} {platform.machine()}"
    ]
    lines += [f"{name:<13}{found}" for name, found in versions().items()]
    lines += [f"{'device':<13}{device}" for device in _devices()]
    free = shutil.disk_usage(Path.cwd()).free
    lines += [f"{'note':<13}{note}" for note in _notes()]
    lines.append(f"{'disk':<13}{free / 1e9:.1f} GB free in {Path.cwd()}")
    lines += [f"{'plugin':<13}{p.name} ({p.distribution})" for p in load_plugins() if not p.error]
    lines += [f"PROBLEM      {problem}" for problem in problems] or ["all is well"]
    return lines, not problems


def _import_problems() -> Iterator[str]:
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as e:  # a broken binary raises whatever it likes
            yield f"{name} cannot be imported: {type(e).__name__}: {e}"


def _version_problems(requirements: Iterable[str]) -> Iterator[str]:
    """Packages that are absent, or older than distillkit works with."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found = versions([requirement.name])[requirement.name]
            if found == "absent" or not requirement.specifier.contains(found, prereleases=True):
                yield f"{requirement.name} is {found}, and distillkit needs {requirement}; pip install '{requirement}'"


def _notes() -> Iterator[str]:
    """Pairs of versions that are known to be bad and that distillkit copes with."""
    try:
        from torchvision.extension import _has_ops  # type: ignore[import-untyped]
    except Exception:  # reported among the import problems
        return
    if not _has_ops():
        yield "torchvision was built for another torch: models and metrics work here, torchvision.ops and torchvision.io do not"


def _devices() -> Iterator[str]:
    import torch

    yield f"cpu, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
