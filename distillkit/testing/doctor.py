"""What ``distillkit doctor`` examines."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distillkit.console import progress_bar
from distillkit.environment import unmet_requirements, versions
from distillkit.plugins.manager import load_plugins

if TYPE_CHECKING:
    from distillkit.recipe.load import ResolvedRecipe

IMPORTS = ("torch", "torchvision", "diffusers", "peft", "accelerate", "datasets", "lpips")


class Finding(NamedTuple):
    """A line of what was found."""

    label: str
    text: str
    is_problem: bool = False

    def __str__(self) -> str:
        return f"{self.label:<13}{self.text}"


def diagnose() -> list[Finding]:
    """Examine this machine and its packages.

    It imports what a run imports, so that a broken pair of versions shows here.
    """
    problems = [Finding("PROBLEM", problem, is_problem=True) for problem in _find_problems()]
    facts = [Finding(label, fact) for label, fact in _list_facts()]
    return facts + problems


def diagnose_recipe(resolved: ResolvedRecipe) -> list[Finding]:
    """Look for the files that a recipe needs. The network is not asked."""
    # Imported here: most uses of this module have no recipe.
    from distillkit.runs.preflight import command_line, list_needs

    needs = list_needs(resolved)
    found = [Finding("recipe", str(resolved.source))]
    found += [Finding("present", line) for line in needs.present]
    found += [Finding("MISSING", line, is_problem=True) for line in needs.missing]
    if needs.weight_bytes:
        size = (
            f"at most {needs.weight_bytes / 2**30:.1f} GiB of memory, by the sizes of their files"
        )
        found.append(Finding("weights", size))
    if needs.missing:
        found.append(
            Finding("next", f"fetch what can be fetched: {command_line('fetch', resolved)}")
        )
    if needs.can_train:
        found.append(
            Finding("next", f"memory and time of a step: {command_line('advise', resolved)}")
        )
    return found


def _list_facts() -> Iterator[tuple[str, str]]:
    """List labeled facts about machine, packages and plugins."""
    yield (
        "python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    )
    yield from versions().items()
    for device in _list_devices():
        yield "device", device
    if _is_torchvision_foreign():
        yield (
            "note",
            "torchvision was built for another torch: models and metrics work here, "
            "torchvision.ops and torchvision.io do not",
        )
    free = shutil.disk_usage(Path.cwd()).free
    yield "disk", f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    for plugin in load_plugins():
        if not plugin.error:
            yield "plugin", f"{plugin.name} ({plugin.distribution})"
        if plugin.slow:
            yield "note", f"{plugin} {plugin.slow}"


def _find_problems() -> Iterator[str]:
    yield from _import_problems()
    for need in unmet_requirements(requires("distillkit") or []):
        yield f"distillkit {need}"
    for plugin in load_plugins():
        if plugin.error:
            yield plugin.complaint
        for problem in (*plugin.problems, *plugin.unmet_requirements()):
            yield f"{plugin} {problem}"


def _import_problems() -> Iterator[str]:
    for name in progress_bar(IMPORTS, unit="package", desc="importing"):
        try:
            importlib.import_module(name)
        except Exception as e:  # a broken binary may raise anything
            yield f"{name} cannot be imported: {type(e).__name__}: {e}"


def _is_torchvision_foreign() -> bool:
    """Whether torchvision was built for another torch, which distillkit copes with."""
    try:
        from torchvision.extension import _has_ops  # type: ignore[import-untyped]
    except Exception:  # reported among the import problems
        return False
    return not _has_ops()


def _list_devices() -> Iterator[str]:
    import torch

    yield f"cpu, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
