"""The folder that a comparison writes: never one that holds anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from distillkit.errors import DistillkitError
from distillkit.files.atomic import check_writable
from distillkit.report.files import EVALUATION_FILES

MEASUREMENTS = "measurements.jsonl"
COMPARISON_FILES = frozenset({*EVALUATION_FILES, MEASUREMENTS, "manifest.json", "report.html"})
MAX_NAMES_SHOWN = 5


def check_comparison_folder(out: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse a folder that results cannot or may not be written into.

    Args:
        out: The folder, new, empty or of an earlier comparison.
        inputs: The folders that are read, by what they are.

    Raises:
        DistillkitError: It is a run's folder, holds or belongs to the inputs, or holds files that
            no comparison wrote.
        DiskError: It cannot be written.
    """
    # The evaluation of a run would be lost.
    if (out / "recipe.toml").exists():
        advice = f"add methods to the run: distillkit evaluate {out} --method ..."
        raise DistillkitError(
            f"{out} - is a run's folder; choose another one by --out, or {advice}"
        )
    refuse_output_in_inputs(out, inputs)
    if out.is_dir():
        _refuse_foreign_files(out)
    check_writable(out)


def refuse_output_in_inputs(out: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse to write into, or below, a folder that images are read from.

    The results would replace images, or be taken for images by the next command.

    Raises:
        DistillkitError: Names both folders.
    """
    # A link may lead from the one to the other.
    above = [out.resolve(), *out.resolve().parents]
    for name, folder in inputs.items():
        if folder.resolve() in above:
            raise DistillkitError(
                f"{out} - results would be written into the images of {name} ({folder}); "
                "choose a folder outside of it"
            )


def _refuse_foreign_files(out: Path) -> None:
    # Hidden files are the file manager's, or what a killed command left.
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    foreign = names
    if _is_comparison(out / "manifest.json"):
        foreign = [name for name in names if name not in COMPARISON_FILES]
    if foreign:
        shown = ", ".join(foreign[:MAX_NAMES_SHOWN])
        hidden = len(foreign) - MAX_NAMES_SHOWN
        if hidden > 0:
            shown += f" and {hidden} more"
        raise DistillkitError(
            f"{out} - holds what no comparison wrote: {shown}; choose an empty or a new folder"
        )


def _is_comparison(manifest: Path) -> bool:
    try:
        return "comparison" in json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
