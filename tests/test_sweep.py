"""A recipe over a grid: cells are checked first, run once each, resumed, and put into one table."""

import csv
import json
import sys

import pytest

from distillkit.cli import main as cli
from distillkit.errors import DistillkitError, Interrupted
from distillkit.runs import run

GRID = ("--grid", "stage1.weights.fidelity=1,2.5", "--grid", "stage1.learning_rate=1e-2")
SMALL = (
    "--set",
    "stage1.steps=2",
    "--set",
    "stage2.steps=0",
    "--set",
    "evaluation.metrics=['psnr']",
)


@pytest.fixture
def sweep(monkeypatch, capfd, recipe, tmp_path):
    """``sweep("--grid", ...)`` -> exit code, standard output, standard error; into ``tmp_path / "sweep"``."""

    def call(*arguments):
        line = ["distillkit", "sweep", recipe, *arguments, "--out", tmp_path / "sweep"]
        monkeypatch.setattr(sys, "argv", [*map(str, line)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture
def started(monkeypatch):
    """The folders of the runs that were started; ``started.at[n]`` is raised instead of the n-th run."""

    class Started(list):
        at: dict[int, BaseException] = {}  # noqa: RUF012

    folders, real = Started(), run.run_recipe

    def recorded(resolved, out, *, resume=False):
        folders.append(out.name)
        if len(folders) in folders.at:
            raise folders.at[len(folders)]
        return real(resolved, out, resume=resume)

    monkeypatch.setattr(run, "run_recipe", recorded)
    return folders


def test_a_sweep_runs_every_cell_once_and_makes_a_table(sweep, started, tmp_path):
    code, said, told = sweep(*GRID, *SMALL)
    assert code == 0 and "summary.md" in said, told
    names = [
        "stage1.weights.fidelity=1,stage1.learning_rate=0.01",
        "stage1.weights.fidelity=2.5,stage1.learning_rate=0.01",
    ]
    assert started == names
    rows = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert [row["folder"] for row in rows] == names and {row["metric"] for row in rows} == {"psnr"}
    own = json.loads((tmp_path / "sweep" / names[1] / "evaluation" / "metrics.json").read_text())
    assert rows[1]["mean"] == next(row["mean"] for row in own if row["method"] == "student")
    with (tmp_path / "sweep" / "summary.csv").open() as file:
        assert [row["stage1.weights.fidelity"] for row in csv.DictReader(file)] == ["1", "2.5"]
    table = (tmp_path / "sweep" / "summary.md").read_text()
    assert "2 of 2 runs" in table and "| 2.5 | 0.01 | 0 |" in table and "not finished" not in table
    assert sweep(*GRID, *SMALL)[0] == 0 and len(started) == 2
    code, _, _ = sweep("--grid", "stage1.weights.fidelity=1,2.5,4", *GRID[2:], *SMALL)
    assert code == 0 and started[2:] == ["stage1.weights.fidelity=4,stage1.learning_rate=0.01"]


def test_an_interrupted_sweep_goes_on(sweep, started, tmp_path):
    started.at = {2: Interrupted("stopped")}
    code, _, told = sweep(*GRID, *SMALL)
    assert code == 130 and "stopped" in told
    table = (tmp_path / "sweep" / "summary.md").read_text()
    assert "1 of 2 runs" in table and "not finished (new): stage1.weights.fidelity=2.5" in table
    (manifest,) = (tmp_path / "sweep").glob("*=1,*/manifest.json")
    manifest.write_text(
        manifest.read_text().replace('"finished"', '"running"')
    )  # as a killed process leaves it
    assert sweep(*GRID, *SMALL)[0] == 0
    assert len(started) == 4 and "2 of 2 runs" in (tmp_path / "sweep" / "summary.md").read_text()


def test_a_cell_that_fails_is_named_and_the_others_run(sweep, started, tmp_path):
    started.at = {1: DistillkitError("no luck")}
    code, _, told = sweep(*GRID, *SMALL)
    assert code == 1 and "failed: " in told and "no luck" in told and len(started) == 2
    assert "1 of 2 runs" in (tmp_path / "sweep" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (
            ["stage1.weights.fidelityy=1,2"],
            'stage1.weights.fidelityy - unknown key; did you mean "fidelity"?',
        ),
        (["stage1.weights.fidelity=1,-2"], "stage1.weights.fidelity - "),
        (["stage1.weights.fidelity=1,many"], "expected KEY=VALUE,VALUE"),
        (["stage1.weights.fidelity"], "expected KEY=VALUE,VALUE"),
        (["seed=1,1"], "the same folder"),
        (["seed=1", "seed=2"], "each key once"),
        (["training.mixed_precision='no','bf16'"], "a process has one precision"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(sweep, started, tmp_path, grid, says):
    code, _, told = sweep(*(x for text in grid for x in ("--grid", text)))
    assert code == 2 and says in told and "Traceback" not in told
    assert started == [] and not (tmp_path / "sweep").exists()


def test_finished_cells_are_judged_again_by_a_recipe_of_other_metrics_only(
    sweep, started, tmp_path
):
    assert sweep(*GRID, *SMALL)[0] == 0
    code, _, told = sweep(*GRID, *SMALL[:-1], "evaluation.metrics=['ssim']")
    assert (
        code == 0 and 'evaluation.metrics.0.use: "distillkit/psnr" -> "distillkit/ssim"' in told
    ), told
    rows = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert len({(row["folder"], row["metric"]) for row in rows}) == 4  # PSNR is always measured


def test_a_folder_of_another_recipe_is_refused_before_anything_runs(sweep, started, tmp_path):
    assert sweep(*GRID, *SMALL)[0] == 0
    code, _, told = sweep(*GRID, *SMALL, "--set", "seed=5")
    assert code == 2 and "seed: 0 -> 5" in told and len(started) == 2
