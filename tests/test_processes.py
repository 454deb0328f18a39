"""Runs of two processes: what they compute, read and write, and how they end."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from distillkit import DistillkitError
from distillkit.recipe.load import load_recipe
from distillkit.recipe.schema import Training
from distillkit.runs.run import run_recipe
from distillkit.training.distributed import create_accelerator

WATCH = """
import os, sys
from distillkit.data.pairs import PairedBatches
out, rank = {out!r}, os.environ["RANK"]
accept = PairedBatches._accept

def note(self, made):
    with open(f"{{out}}.ids{{rank}}", "a") as f:
        f.write("\\n".join(made.batch.ids) + "\\n")
    return accept(self, made)

PairedBatches._accept = note

def watch(event, args):
    writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")) and str(args[0]).startswith(out + "/"):
        os.write(2, f"{{event}} {{args}}".encode())
        os._exit(99)

if rank == "1":
    sys.addaudithook(watch)
"""

AT_CALL = """
import os, signal
from toy_plugin import Halve

def act(n):
    if n == {n} and os.environ["RANK"] == "1":
        {what}

Halve.on_call = staticmethod(act)
"""


def weights_of(out):
    return {
        (f.stem, k): v
        for f in sorted((out / "student").glob("*.safetensors"))
        for k, v in load_file(f).items()
    }


def assert_close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "sets", [[], ["--set", "training.per_term_backward=true"]], ids=["", "term by term"]
)
def test_two_processes_make_the_steps_of_one_that_accumulates_two_batches(
    fork_server, recipe, tmp_path, sets
):
    run_recipe(load_recipe(recipe, ["training.gradient_accumulation_steps=2"]), tmp_path / "one")
    out = tmp_path / "two"
    two = fork_server(
        "run", recipe, "--out", out, *sets, processes=2, first=WATCH.format(out=str(out))
    )
    assert two["codes"] == [0, 0], two["said"]
    assert_close(weights_of(tmp_path / "one"), weights_of(out))
    one, two = (
        [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    )
    assert [x["loss"] for x in two] == pytest.approx(
        [x["loss"] for x in one], rel=1e-5
    )  # the mean over processes is logged
    assert json.loads((out / "manifest.json").read_text())["processes"] == 2

    ids = [(tmp_path / f"two.ids{rank}").read_text().splitlines() for rank in (0, 1)]
    drawn = [name for step in range(6) for own in ids for name in own[2 * step : 2 * step + 2]]
    epochs = [set(drawn[k : k + 6]) for k in range(0, 24, 6)]
    assert (
        all(len(epoch) == 6 for epoch in epochs) and len(set.union(*epochs)) == 6
    )  # none twice before each came once


def test_a_signal_to_one_process_stops_all_at_the_same_step(fork_server, recipe, tmp_path):
    out = tmp_path / "cut"
    strike = AT_CALL.format(n=3, what="os.kill(os.getpid(), signal.SIGTERM)")
    cut = fork_server("run", recipe, "--out", out, processes=2, first=strike)
    assert cut["codes"] == [130, 130] and all(
        "stopped after stage1 step 3" in said for said in cut["said"]
    ), cut
    shutil.copytree(out, tmp_path / "alone")
    assert fork_server("run", recipe, "--out", out, "--resume", processes=2)["codes"] == [0, 0]
    run_recipe(load_recipe(recipe, ["training.gradient_accumulation_steps=2"]), tmp_path / "whole")
    assert_close(weights_of(out), weights_of(tmp_path / "whole"))

    alone, with_two = (
        tmp_path / "alone",
        load_recipe(recipe, ["training.gradient_accumulation_steps=2"]),
    )
    with pytest.raises(
        DistillkitError,
        match=r"(?s)its steps .*processes: 2 -> 1 .*gradient_accumulation_steps = 2 it would be the same.*--fork",
    ):
        run_recipe(load_recipe(recipe), alone, resume=True)
    run_recipe(with_two, alone, resume=True)
    assert_close(weights_of(alone), weights_of(tmp_path / "whole"))
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["history"][-1]["changes"] == {
        "processes": [2, 1],
        "training.gradient_accumulation_steps": [1, 2],
    }


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_in_all(fork_server, recipe, tmp_path):
    spoil = AT_CALL.format(
        n=2, what="Halve.__call__ = lambda self, gt, generator: gt[..., ::2, ::2] * float('nan')"
    )
    ended = fork_server("run", recipe, "--out", tmp_path / "out", processes=2, first=spoil)
    assert ended["codes"] == [2, 2] and all(
        "3 non-finite losses in a row" in said for said in ended["said"]
    ), ended
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "nonfinite.jsonl").read_text().splitlines()
    ]
    assert [(line["step"], line["rank"], line["terms"]["l2"] == "nan") for line in lines[:2]] == [
        (3, 0, False),
        (3, 1, True),
    ]


def test_one_failing_process_ends_all_with_its_own_error(fork_server, recipe, tmp_path):
    fail = AT_CALL.format(
        n=3,
        what="from distillkit import DistillkitError; raise DistillkitError('the shelf is empty')",
    )
    ended = fork_server("run", recipe, "--out", tmp_path / "out", processes=2, first=fail)
    assert ended["codes"] == [2, 2]
    assert "error (process 1): the shelf is empty" in ended["said"][1]
    assert (
        "error (process 0): another process of this run has ended; its own message says why"
        in ended["said"][0]
    )
    assert "Traceback" not in ended["said"][0] + ended["said"][1]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "failed"


def test_torchrun_starts_the_processes_and_reports_the_one_that_failed(
    installed_toys, recipe, tmp_path
):
    fail = AT_CALL.format(n=3, what="raise OSError('the shelf fell down')")
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "distillkit",
        "run",
        str(recipe),
    ]
    done = subprocess.run(
        [sys.executable, *command, "--out", str(tmp_path / "out")],
        env=installed_toys | {"FIRST": fail},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0 and "OSError: the shelf fell down" in done.stderr
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"SLURM_STEP_NUM_TASKS": "4"},
            "SLURM_STEP_NUM_TASKS=4 asks for 4 processes, but this is one of 1",
        ),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"},
            "accelerate launch was asked for several .* torchrun",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true"},
            "ACCELERATE_USE_DEEPSPEED=true - .* cannot train adapters .* torchrun",
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP=true - .* torchrun"),
    ],
)
def test_processes_that_were_asked_for_and_are_not_there_are_missed(
    monkeypatch, tmp_path, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistillkitError, match=message):
        create_accelerator(Training(), tmp_path)
    for name in environment:
        os.environ.pop(name)
    assert create_accelerator(Training(), tmp_path).num_processes == 1
