"""Run one recipe over a grid of settings, and put all runs into one table."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.console import logger
from distillkit.errors import DistillkitError, RecipeError
from distillkit.evaluation.metric_rows import read_metric_rows
from distillkit.evaluation.results import STUDENT
from distillkit.files.atomic import write_file
from distillkit.recipe.dump import format_value
from distillkit.recipe.load import ResolvedRecipe, load_recipe
from distillkit.report.documents import csv_text, fill_template
from distillkit.report.tables import metric_table


@dataclass(frozen=True)
class SweepRun:
    """A run of the recipe with one combination of the grids' values."""

    folder: Path
    settings: dict[str, str]
    """TOML values by key path."""
    resolved: ResolvedRecipe

    @property
    def status(self) -> str:
        """``finished``, ``interrupted``, ``failed``, ``running``, or ``new``."""
        try:
            manifest = (self.folder / "manifest.json").read_text()
        except FileNotFoundError:
            return "new"
        return json.loads(manifest)["status"]


Outcome = tuple[SweepRun, str | None]
"""A run that has ended, and why it failed; None where it did not."""


def plan_sweep(
    recipe: str,
    grids: Sequence[str],
    overrides: Sequence[str],
    out: Path,
) -> list[SweepRun]:
    """Resolve the recipe for every combination of the grids' values, in order.

    Args:
        recipe: The recipe's file or name.
        grids: Texts ``"key.path=1.6,1.8,2.0"``, TOML values with commas between them.
        overrides: ``--set`` changes that all runs share.
        out: Folder of the runs' folders.

    Raises:
        RecipeError: Every problem of every run.
        DistillkitError: A grid that cannot be read, or grids that do not give separate runs.
    """
    values_by_key = dict(map(_parse_grid, grids))
    if len(values_by_key) < len(grids):
        raise DistillkitError("--grid - each key once")
    runs = []
    problems: list[str] = []
    for values in itertools.product(*values_by_key.values()):
        settings = dict(zip(values_by_key, values, strict=True))
        changes = [f"{key}={value}" for key, value in settings.items()]
        folder = out / _folder_name(changes)
        try:
            resolved = load_recipe(recipe, [*overrides, *changes])
        except RecipeError as e:
            problems += str(e).splitlines()
        else:
            runs.append(SweepRun(folder, settings, resolved))
    if problems:
        # Every run repeats the problems of what they share.
        raise RecipeError("\n".join(dict.fromkeys(problems)))
    _check_separate(runs)
    return runs


def run_in_turn(runs: Sequence[SweepRun]) -> Iterator[Outcome]:
    """Execute one run after the other, in this process."""
    from distillkit.runs.run import run_recipe

    for number, run in enumerate(runs, 1):
        logger.info(f"run {number} of {len(runs)}: {run.folder}")
        recipe_file = run.folder / "recipe.toml"
        failure = None
        try:
            run_recipe(run.resolved, run.folder, resume=recipe_file.exists())
        except DistillkitError as e:
            failure = str(e)
        yield run, failure


def run_sweep(
    runs: Sequence[SweepRun],
    out: Path,
    executor: Callable[[Sequence[SweepRun]], Iterator[Outcome]] = run_in_turn,
) -> list[str]:
    """Run what is not finished, each from its newest checkpoint.

    The summary is updated after each run. A finished run is only evaluated again, where its
    recipe has changed in what leaves its steps as they are, such as the metrics. An interrupted
    sweep can be called again and resumes.

    Args:
        runs: The runs of the sweep.
        out: The folder of the summary.
        executor: Executes runs; yields each when it has ended.

    Returns:
        A line for each run that failed.

    Raises:
        DistillkitError: A folder holds a run with other steps; nothing has been run then.
    """
    # Imported here, for torch comes with it and a wrong grid is refused without it.
    from distillkit.runs.folder import check_folder

    # Every folder is checked before the first run starts.
    unfinished = []
    for run in runs:
        is_changed = check_folder(run.folder, run.resolved, resume=True)
        if is_changed or run.status != "finished":
            unfinished.append(run)
    failures = []
    write_summary(runs, out)
    for run, failure in executor(unfinished):
        if failure is not None:
            failures.append(f"{run.folder} - {failure}")
        write_summary(runs, out)
    return failures


def write_summary(runs: Sequence[SweepRun], out: Path) -> None:
    """Write ``summary.md``, ``summary.csv`` and ``summary.json`` into ``out``.

    They hold the student of every finished run at each tradeoff.
    """
    rows = []
    for run in runs:
        rows += _student_rows(run)
    unfinished = [run for run in runs if run.status != "finished"]
    markdown = fill_template(
        "summary.md.j2",
        finished=len(runs) - len(unfinished),
        unfinished=unfinished,
        main_table=metric_table(rows, [*runs[0].settings, "tradeoff"], _summary_cell),
    )
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(rows, indent=1)
    write_file(out / "summary.json", f"{content}\n")
    write_file(out / "summary.md", markdown)
    if rows:
        write_file(out / "summary.csv", csv_text(rows))


def _summary_cell(row: Mapping[str, Any]) -> str:
    """Write ``24.3100 [24.08, 24.55]``, or why there is no number."""
    if row["mean"] is None:
        return row["protocol"]
    mean = f"{row['mean']:.4f}"
    low = row["ci_low"]
    high = row["ci_high"]
    if low is None:
        return mean
    return f"{mean} [{low:.4g}, {high:.4g}]"


def _student_rows(run: SweepRun) -> list[dict[str, Any]]:
    """Read the student's results of a finished run, and add its settings."""
    if run.status != "finished":
        return []
    rows = []
    for row in read_metric_rows(run.folder):
        if row["method"] == STUDENT:
            row["folder"] = run.folder.name
            rows.append({**run.settings, **row})
    return rows


def _check_separate(runs: Sequence[SweepRun]) -> None:
    folders = {run.folder for run in runs}
    if len(folders) < len(runs):
        problem = "two runs would have the same folder"
        advice = "values may not be equal, or differ in signs only"
        raise DistillkitError(f"--grid - {problem}: {advice}")


def _parse_grid(text: str) -> tuple[str, list[str]]:
    """Split ``"a.b=1,2"`` into ``"a.b"`` and ``["1", "2"]``.

    TOML strings and lists stay in one piece.
    """
    key, equals, values_text = text.partition("=")
    try:
        document = tomllib.loads(f"values = [{values_text}]")
    except tomllib.TOMLDecodeError as e:
        example = '--grid \'stage2.target="reconstruction","teacher"\''
        expected = f"expected KEY=VALUE,VALUE,... in TOML; strings need quotes: {example}"
        raise DistillkitError(f"--grid {text} - {expected}") from e
    key = key.strip()
    values = [format_value(value) for value in document["values"]]
    if not (key and equals and values):
        raise DistillkitError(f"--grid {text} - expected KEY=VALUE,VALUE,...")
    return key, values


def _folder_name(changes: Sequence[str]) -> str:
    """Name a folder by its settings: ``stage1.weights.fidelity=1.6,seed=0``."""
    # Quotes and brackets of TOML values do not belong into a folder's name.
    name = ",".join(changes)
    return re.sub(r"[^\w.=,+-]+", "_", name).strip("_")
