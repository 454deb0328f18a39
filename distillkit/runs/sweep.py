"""One recipe over a grid of settings: a run for each cell, and a table of all of them."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError, RecipeError
from distillkit.evaluation.results import STUDENT
from distillkit.files.atomic import write_file
from distillkit.recipe.dump import inline
from distillkit.recipe.load import ResolvedRecipe, load_recipe
from distillkit.report.tables import as_csv, as_markdown


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    folder: Path
    settings: Mapping[str, str]
    """Key path -> TOML value."""
    resolved: ResolvedRecipe

    @property
    def status(self) -> str:
        """``finished``, ``interrupted`` (or ``failed``, ``running``), or ``new``."""
        try:
            return json.loads((self.folder / "manifest.json").read_text())["status"]
        except FileNotFoundError:
            return "new"


def cells(recipe: Path, grids: Sequence[str], sets: Sequence[str], out: Path) -> list[Cell]:
    """Every combination of the grids' values, in order.

    Args:
        grids: ``"key.path=1.6,1.8,2.0"`` texts, TOML values with commas between them. sets: ``--set`` overrides of all cells.

    Raises:
        RecipeError: with every problem of every cell, before anything is run. DistillkitError: a grid that is no grid.
    """
    axes = dict(_axis(text) for text in grids)
    if len(axes) < len(grids):
        raise DistillkitError("--grid - each key once")
    made, problems = [], dict[str, None]()
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        try:
            resolved = load_recipe(
                recipe, [*sets, *(f"{key}={value}" for key, value in settings.items())]
            )
        except RecipeError as e:
            problems |= dict.fromkeys(str(e).splitlines())
        else:
            made.append(Cell(out / _name(settings), settings, resolved))
    if problems:
        raise RecipeError("\n".join(problems))
    if len({cell.folder for cell in made}) < len(made):
        raise DistillkitError(
            "--grid - two cells would have the same folder: values may not be equal, or differ in signs only"
        )
    if len({cell.resolved.recipe.training.mixed_precision for cell in made}) > 1:
        raise DistillkitError(
            "--grid training.mixed_precision - a process has one precision; sweep each into a folder of its own"
        )
    return made


def sweep(sweep_cells: Sequence[Cell], out: Path, say: Callable[[str], None]) -> list[str]:
    """Run the cells that are not finished, from where they stand, and write the summary after each.

    A finished cell whose recipe has changed, if only in what leaves its steps as they are (its metrics, say), is evaluated again.

    Returns:
        one line for each cell that failed. Interrupted, the sweep stops; called again, it goes on.

    Raises:
        DistillkitError: before anything is run, if a cell's folder holds a run with other steps.
    """
    from distillkit.runs.folder import check_folder
    from distillkit.runs.run import run_recipe

    changed = [bool(check_folder(cell.folder, cell.resolved, resume=True)) for cell in sweep_cells]
    failures = []
    for n, cell in enumerate(sweep_cells, 1):
        if cell.status != "finished" or changed[n - 1]:
            say(f"cell {n} of {len(sweep_cells)}: {cell.folder}")
            try:
                run_recipe(
                    cell.resolved, cell.folder, resume=(cell.folder / "recipe.toml").exists()
                )
            except DistillkitError as e:
                failures.append(f"{cell.folder} - {e}")
        write_summary(sweep_cells, out)
    return failures


def write_summary(sweep_cells: Sequence[Cell], out: Path) -> None:
    """``summary.md``, ``summary.csv`` and ``summary.json``: the student of every finished cell at each tradeoff."""
    rows = list(itertools.chain.from_iterable(map(_rows, sweep_cells)))
    waiting = [cell for cell in sweep_cells if cell.status != "finished"]
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "summary.json", json.dumps(rows, indent=1) + "\n")
    if rows:
        write_file(out / "summary.csv", as_csv(rows))
    lines = [f"# Sweep: {len(sweep_cells) - len(waiting)} of {len(sweep_cells)} cells", ""]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        head = (
            *(row[key] for key in sweep_cells[0].settings),
            "" if row["tradeoff"] is None else f"{row['tradeoff']:g}",
        )
        low_high = "" if row["ci_low"] is None else f" [{row['ci_low']:.4g}, {row['ci_high']:.4g}]"
        table.setdefault(head, {})[row["metric"]] = (
            row["protocol"] if row["mean"] is None else f"{row['mean']:.4f}{low_high}"
        )
    body = [[*head, *(found.get(m, "") for m in metrics)] for head, found in table.items()]
    lines += as_markdown([*sweep_cells[0].settings, "tradeoff", *metrics], body)
    lines += [
        "",
        "Mean over the evaluation images, 95 % bootstrap interval over photos; the noise of training is not in it.",
    ]
    lines += (
        ["", *(f"- not finished ({cell.status}): {cell.folder.name}" for cell in waiting)]
        if waiting
        else []
    )
    write_file(out / "summary.md", "\n".join(lines) + "\n")


def _rows(cell: Cell) -> Iterator[dict[str, Any]]:
    path = cell.folder / "evaluation" / "metrics.json"
    if cell.status == "finished" and path.exists():
        for row in json.loads(path.read_text()):
            if row["method"] == STUDENT:
                yield {**cell.settings, **row, "folder": cell.folder.name}


def _axis(text: str) -> tuple[str, list[str]]:
    """``"a.b=1,2"`` -> ``("a.b", ["1", "2"])``; TOML strings and lists stay whole."""
    key, equals, values = text.partition("=")
    try:
        parsed = tomllib.loads(f"values = [{values}]")["values"]
    except tomllib.TOMLDecodeError as e:
        what = 'expected KEY=VALUE,VALUE,... in TOML; strings need quotes: --grid \'stage2.target="reconstruction","teacher"\''
        raise DistillkitError(f"--grid {text} - {what}") from e
    if not (key.strip() and equals and parsed):
        raise DistillkitError(f"--grid {text} - expected KEY=VALUE,VALUE,...")
    return key.strip(), [inline(value) for value in parsed]


def _name(settings: Mapping[str, str]) -> str:
    """A folder's name that says the settings: ``stage1.weights.fidelity=1.6,seed=0``."""
    return re.sub(
        r"[^\w.=,+-]+", "_", ",".join(f"{key}={value}" for key, value in settings.items())
    ).strip("_")
