"""Run one recipe over a grid of settings, and put all runs into one table."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError, RecipeError
from distillkit.evaluation.results import STUDENT
from distillkit.files.atomic import write_file
from distillkit.recipe.dump import inline
from distillkit.recipe.load import ResolvedRecipe, load_recipe
from distillkit.report.markdown import csv_text, markdown_lines
from distillkit.report.tables import Table, tradeoff_text
from distillkit.runs.console import print_status

SUMMARY_NOTE = (
    "Mean over the evaluation images, 95 % bootstrap interval over photos; "
    "the noise of training is not in it."
)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: the recipe with one combination of the grids' values."""

    folder: Path
    settings: Mapping[str, str]
    """TOML values by key path."""
    resolved: ResolvedRecipe

    @property
    def status(self) -> str:
        """``finished``, ``interrupted``, ``failed``, ``running``, or ``new``."""
        try:
            return json.loads((self.folder / "manifest.json").read_text())["status"]
        except FileNotFoundError:
            return "new"


def plan_sweep(
    recipe: Path, grids: Sequence[str], overrides: Sequence[str], out: Path
) -> list[SweepRun]:
    """Resolve the recipe for every combination of the grids' values, in order.

    Args:
        recipe: the recipe's file.
        grids: texts ``"key.path=1.6,1.8,2.0"``, TOML values with commas between them.
        overrides: ``--set`` changes that all runs share.
        out: folder of the runs' folders.

    Raises:
        RecipeError: every problem of every run.
        DistillkitError: a grid that cannot be read, or grids that do not give separate runs.
    """
    values_by_key = dict(_parse_grid(text) for text in grids)
    if len(values_by_key) < len(grids):
        raise DistillkitError("--grid - each key once")
    runs = []
    problems: dict[str, None] = {}  # a dict keeps the order and drops repetitions
    for values in itertools.product(*values_by_key.values()):
        settings = dict(zip(values_by_key, values, strict=True))
        changes = [f"{key}={value}" for key, value in settings.items()]
        try:
            resolved = load_recipe(recipe, [*overrides, *changes])
        except RecipeError as e:
            problems |= dict.fromkeys(str(e).splitlines())
        else:
            runs.append(SweepRun(out / _folder_name(changes), settings, resolved))
    if problems:
        raise RecipeError("\n".join(problems))
    _check_separate(runs)
    return runs


def run_sweep(runs: Sequence[SweepRun], out: Path) -> list[str]:
    """Run what is not finished, each from its newest checkpoint; update the summary after each.

    A finished run is only evaluated again, where its recipe has changed in what leaves its steps
    as they are, such as the metrics. An interrupted sweep can be called again and resumes.

    Returns:
        A line for each run that failed.

    Raises:
        DistillkitError: a folder holds a run with other steps; nothing has been run then.
    """
    # Imported here, for torch comes with them and a wrong grid is refused without it.
    from distillkit.runs.folder import check_folder
    from distillkit.runs.run import run_recipe

    changed = [bool(check_folder(run.folder, run.resolved, resume=True)) for run in runs]
    failures = []
    for number, (run, is_changed) in enumerate(zip(runs, changed, strict=True), 1):
        if is_changed or run.status != "finished":
            print_status(f"run {number} of {len(runs)}: {run.folder}")
            was_started = (run.folder / "recipe.toml").exists()
            try:
                run_recipe(run.resolved, run.folder, resume=was_started)
            except DistillkitError as e:
                failures.append(f"{run.folder} - {e}")
        write_summary(runs, out)
    return failures


def write_summary(runs: Sequence[SweepRun], out: Path) -> None:
    """Write ``summary.md``, ``summary.csv`` and ``summary.json`` into ``out``.

    They hold the student of every finished run at each tradeoff.
    """
    rows = [row for run in runs for row in _student_rows(run)]
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "summary.json", json.dumps(rows, indent=1) + "\n")
    if rows:
        write_file(out / "summary.csv", csv_text(rows))
    write_file(out / "summary.md", _summary_markdown(runs, rows))


def _summary_markdown(runs: Sequence[SweepRun], rows: Sequence[Mapping[str, Any]]) -> str:
    unfinished = [run for run in runs if run.status != "finished"]
    lines = [f"# Sweep: {len(runs) - len(unfinished)} of {len(runs)} runs", ""]
    lines += markdown_lines(_summary_table(list(runs[0].settings), rows))
    lines += ["", SUMMARY_NOTE]
    if unfinished:
        lines.append("")
    for run in unfinished:
        lines.append(f"- not finished ({run.status}): {run.folder.name}")
    return "\n".join(lines) + "\n"


def _summary_table(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out a line for each run and tradeoff, with a column for each metric."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        settings = [row[key] for key in keys]
        line = (*settings, tradeoff_text(row["tradeoff"]))
        cells.setdefault(line, {})[row["metric"]] = _summary_cell(row)
    body = []
    for line, by_metric in cells.items():
        body.append([*line, *(by_metric.get(metric, "") for metric in metrics)])
    return Table([*keys, "tradeoff", *metrics], body)


def _summary_cell(row: Mapping[str, Any]) -> str:
    """``24.3100 [24.08, 24.55]``, or why there is no number."""
    if row["mean"] is None:
        return row["protocol"]
    if row["ci_low"] is None:
        return f"{row['mean']:.4f}"
    return f"{row['mean']:.4f} [{row['ci_low']:.4g}, {row['ci_high']:.4g}]"


def _student_rows(run: SweepRun) -> Iterator[dict[str, Any]]:
    """Read the student's rows of a finished run's ``metrics.json``, and add its settings."""
    path = run.folder / "evaluation" / "metrics.json"
    if run.status != "finished" or not path.exists():
        return
    for row in json.loads(path.read_text()):
        if row["method"] == STUDENT:
            yield {**run.settings, **row, "folder": run.folder.name}


def _check_separate(runs: Sequence[SweepRun]) -> None:
    if len({run.folder for run in runs}) < len(runs):
        problem = "two runs would have the same folder"
        advice = "values may not be equal, or differ in signs only"
        raise DistillkitError(f"--grid - {problem}: {advice}")
    if len({run.resolved.recipe.training.mixed_precision for run in runs}) > 1:
        problem = "a process has one precision; sweep each into a folder of its own"
        raise DistillkitError(f"--grid training.mixed_precision - {problem}")


def _parse_grid(text: str) -> tuple[str, list[str]]:
    """Split ``"a.b=1,2"`` into ``"a.b"`` and ``["1", "2"]``; TOML strings and lists stay whole."""
    key, equals, values_text = text.partition("=")
    try:
        values = tomllib.loads(f"values = [{values_text}]")["values"]
    except tomllib.TOMLDecodeError as e:
        example = '--grid \'stage2.target="reconstruction","teacher"\''
        expected = f"expected KEY=VALUE,VALUE,... in TOML; strings need quotes: {example}"
        raise DistillkitError(f"--grid {text} - {expected}") from e
    if not (key.strip() and equals and values):
        raise DistillkitError(f"--grid {text} - expected KEY=VALUE,VALUE,...")
    return key.strip(), [inline(value) for value in values]


def _folder_name(changes: Sequence[str]) -> str:
    """Name a folder by its settings: ``stage1.weights.fidelity=1.6,seed=0``."""
    return re.sub(r"[^\w.=,+-]+", "_", ",".join(changes)).strip("_")
