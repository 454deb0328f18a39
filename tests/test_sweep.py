"""Sweeps: runs are checked first, made once, resumed, put into one table."""

import csv
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from distillkit.cli import main as cli
from distillkit.errors import DistillkitError, Interrupted
from distillkit.runs import run

FIDELITY_GRID = ("--grid", "stage1.teachers.fidelity.weight=1,2.5")
RATE_GRID = ("--grid", "stage1.learning_rate=1e-2")
GRIDS = (*FIDELITY_GRID, *RATE_GRID)
FEW_STEPS = ("--set", "stage1.steps=2", "--set", "stage2.steps=0")
SMALL = (*FEW_STEPS, "--set", "evaluation.metrics=['psnr']")
FOLDERS = [
    "stage1.teachers.fidelity.weight=1,stage1.learning_rate=0.01",
    "stage1.teachers.fidelity.weight=2.5,stage1.learning_rate=0.01",
]


class Outcome(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path):
    """The folder of the sweep."""
    return tmp_path / "sweep"


@pytest.fixture
def sweep(monkeypatch, capfd, recipe, folder):
    """Run ``distillkit sweep`` with the toy recipe and more arguments."""

    def call(*arguments):
        command = ["distillkit", "sweep", recipe, *arguments, "--out", folder]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in command])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return Outcome(stopped.value.code or 0, *capfd.readouterr())

    return call


class StartedRuns(list):
    """The folders of the runs that were started, in order."""

    def __init__(self):
        super().__init__()
        self.errors = {}
        """Raised instead of the run of that number, from 1."""


@pytest.fixture
def started(monkeypatch):
    """Record every run that a sweep starts."""
    folders = StartedRuns()
    run_recipe = run.run_recipe

    def record(resolved, out, *, resume=False):
        folders.append(out.name)
        if len(folders) in folders.errors:
            raise folders.errors[len(folders)]
        return run_recipe(resolved, out, resume=resume)

    monkeypatch.setattr(run, "run_recipe", record)
    return folders


def summary_rows(folder):
    return json.loads((folder / "summary.json").read_text())


def summary_table(folder):
    return (folder / "summary.md").read_text()


def test_every_run_is_made_once_and_gets_a_row(sweep, started, folder):
    outcome = sweep(*GRIDS, *SMALL)
    assert outcome.code == 0, outcome.err
    assert "summary.md" in outcome.out
    assert started == FOLDERS
    rows = summary_rows(folder)
    assert [row["folder"] for row in rows] == FOLDERS
    assert {row["metric"] for row in rows} == {"psnr"}
    metrics = json.loads((folder / FOLDERS[1] / "evaluation" / "metrics.json").read_text())
    student = next(row for row in metrics if row["method"] == "student")
    assert rows[1]["mean"] == student["mean"]
    with (folder / "summary.csv").open() as file:
        assert [row["stage1.teachers.fidelity.weight"] for row in csv.DictReader(file)] == [
            "1",
            "2.5",
        ]
    table = summary_table(folder)
    assert "2 of 2 runs" in table
    assert "| 2.5 | 0.01 | 0 |" in table
    assert "not finished" not in table


def test_finished_runs_are_skipped_and_values_can_be_added(sweep, started):
    assert sweep(*GRIDS, *SMALL).code == 0
    assert sweep(*GRIDS, *SMALL).code == 0
    assert started == FOLDERS
    outcome = sweep("--grid", "stage1.teachers.fidelity.weight=1,2.5,4", *RATE_GRID, *SMALL)
    assert outcome.code == 0, outcome.err
    assert started[2:] == ["stage1.teachers.fidelity.weight=4,stage1.learning_rate=0.01"]


def test_an_interrupted_sweep_resumes(sweep, started, folder):
    started.errors = {2: Interrupted("stopped")}
    outcome = sweep(*GRIDS, *SMALL)
    assert outcome.code == 130
    assert "stopped" in outcome.err
    table = summary_table(folder)
    assert "1 of 2 runs" in table
    assert "not finished (new): stage1.teachers.fidelity.weight=2.5" in table
    # A killed process leaves its manifest so.
    manifest = folder / FOLDERS[0] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"'))
    assert sweep(*GRIDS, *SMALL).code == 0
    assert len(started) == 4
    assert "2 of 2 runs" in summary_table(folder)


def test_a_run_that_fails_is_named_and_the_others_are_made(sweep, started, folder):
    started.errors = {1: DistillkitError("no luck")}
    outcome = sweep(*GRIDS, *SMALL)
    assert outcome.code == 3
    assert "failed: " in outcome.err
    assert "no luck" in outcome.err
    assert len(started) == 2
    assert "1 of 2 runs" in summary_table(folder)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (
            ["stage1.teachers.fidelity.weightt=1,2"],
            'stage1.teachers.fidelity.weightt - unknown key; did you mean "weight"?',
        ),
        (["stage1.teachers.fidelity.weight=1,-2"], "stage1.teachers.fidelity.weight - "),
        (["stage1.teachers.fidelity.weight=1,many"], "expected KEY=VALUE,VALUE"),
        (["stage1.teachers.fidelity.weight"], "expected KEY=VALUE,VALUE"),
        (["seed=1,1"], "the same folder"),
        (["seed=1", "seed=2"], "each key once"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(sweep, started, folder, grids, message):
    arguments = []
    for grid in grids:
        arguments += ["--grid", grid]
    outcome = sweep(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert started == []
    assert not folder.exists()


def test_other_metrics_only_evaluate_finished_runs_again(sweep, started, folder):
    assert sweep(*GRIDS, *SMALL).code == 0
    outcome = sweep(*GRIDS, *FEW_STEPS, "--set", "evaluation.metrics=['ssim']")
    assert outcome.code == 0, outcome.err
    change = 'evaluation.metrics.0.use: "distillkit/psnr" -> "distillkit/ssim"'
    assert change in outcome.err
    # PSNR is always measured.
    measured = {(row["folder"], row["metric"]) for row in summary_rows(folder)}
    assert len(measured) == 4


def test_a_folder_of_another_recipe_is_refused_before_anything_runs(sweep, started):
    assert sweep(*GRIDS, *SMALL).code == 0
    outcome = sweep(*GRIDS, *SMALL, "--set", "seed=5")
    assert outcome.code == 2
    assert "seed: 0 -> 5" in outcome.err
    assert len(started) == 2


REASON = "pip install 'distillkit[sweep]' to test jobs"
NO_LUCK = """
import sys
if "stage1.learning_rate=0.001" in sys.argv:
    sys.exit("no luck")
"""


@pytest.fixture
def jobs(monkeypatch, installed_toys):
    """Options for jobs whose processes find the toy plugin; one of the rates fails there."""
    pytest.importorskip("submitit", reason=REASON)
    for name, value in (installed_toys | {"FIRST": NO_LUCK}).items():
        monkeypatch.setenv(name, value)
    return ("--executor", "local", "--job", "timeout_min=20")


def test_runs_are_jobs_of_submitit_and_one_that_fails_is_named(sweep, jobs, started, folder):
    outcome = sweep("--grid", "stage1.learning_rate=1e-2,1e-3", *SMALL, *jobs)
    assert outcome.code == 3, outcome.err
    # None in this process.
    assert started == []
    assert [row["folder"] for row in summary_rows(folder)] == ["stage1.learning_rate=0.01"]
    assert "1 of 2 runs" in summary_table(folder)
    (failure,) = (line for line in outcome.err.splitlines() if line.startswith("failed: "))
    assert failure.startswith(f"failed: {folder}/stage1.learning_rate=0.001 - job ")
    _, log = failure.split(" is in ")
    assert "no luck" in Path(log).read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "slurm"], "--executor slurm - "),
        (["--executor", "local", "--job", "gpus=1"], "--job - Parameter 'gpus'"),
        (["--executor", "local", "--job", 'timeout_min="1"'], '--job - Parameter "timeout_min"'),
        (["--executor", "local", "--job", "slurm_partition=gpu"], "strings need quotes"),
        (["--job", "gpus_per_node=1"], "--job - is for --executor"),
    ],
)
def test_jobs_that_cannot_be_submitted_are_refused(sweep, started, options, message, monkeypatch):
    pytest.importorskip("submitit", reason=REASON)
    # No Slurm here, wherever this runs.
    monkeypatch.setattr("shutil.which", lambda name: None)
    outcome = sweep(*GRIDS, *SMALL, *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert started == []


def test_jobs_need_submitit(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    outcome = sweep(*GRIDS, *SMALL, "--executor", "local")
    assert outcome.code == 2
    assert "pip install 'distillkit[sweep]'" in outcome.err
