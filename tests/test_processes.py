"""Runs of two processes: what they compute, read and write, and how they end."""

import io
import json
import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from interruption import weights_of
from PIL import Image

from distillkit import DistillkitError
from distillkit.recipe.load import load_recipe
from distillkit.recipe.schema import TrainingConfig
from distillkit.runs.run import run_recipe
from distillkit.training.distributed import create_accelerator

WATCH = """
import os, sys
from distillkit.data.batches import TrainingBatches
out, rank = {out!r}, os.environ["RANK"]
accept = TrainingBatches._accept

def note(self, prepared):
    with open(f"{{out}}.ids{{rank}}", "a") as f:
        f.write("\\n".join(prepared.batch.ids) + "\\n")
    return accept(self, prepared)

TrainingBatches._accept = note

def watch(event, args):
    opens = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    writes = opens or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
    if writes and str(args[0]).startswith(out + "/"):
        os.write(2, f"{{event}} {{args}}".encode())
        os._exit(99)

if rank == "1":
    sys.addaudithook(watch)
"""
"""Notes the images that each process reads; ends the second one if it writes into the run."""

AT_CALL = """
import os, signal
from toy_plugin import Halve

def act(n):
    if n == {n} and os.environ["RANK"] == "1":
        {what}

Halve.on_call = staticmethod(act)
"""
"""Does something in the second process at its ``n``-th call of the degradation."""


def assert_close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


def losses_of(out):
    return values_of(out, "loss")


def values_of(out, name):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize(
    "sets", [[], ["--set", "training.per_term_backward=true"]], ids=["", "term by term"]
)
def test_two_processes_make_the_steps_of_one_that_accumulates_two_batches(
    fork_server, recipe, tmp_path, sets
):
    one, two = tmp_path / "one", tmp_path / "two"
    run_recipe(load_recipe(recipe, ["training.gradient_accumulation_steps=2"]), one)
    watch = WATCH.format(out=str(two))
    ended = fork_server("run", recipe, "--out", two, *sets, processes=2, setup=watch)
    assert ended["codes"] == [0, 0], ended["outputs"]
    assert_close(weights_of(one), weights_of(two))
    # What is logged is the mean over the processes.
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
    assert manifest_of(two)["processes"] == 2


def test_two_processes_have_one_loss_scale(fork_server, recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    # The first steps overflow.
    sets = ["training.mixed_precision='fp16'", "stage1.reconstruction.l2_weight=1e5"]
    run_recipe(load_recipe(recipe, [*sets, "training.gradient_accumulation_steps=2"]), one)
    options = [word for key in sets for word in ("--set", key)]
    watch = WATCH.format(out=str(two))
    ended = fork_server("run", recipe, "--out", two, *options, processes=2, setup=watch)
    assert ended["codes"] == [0, 0], ended["outputs"]
    assert_close(weights_of(one), weights_of(two))
    scales = values_of(one, "loss_scale")
    assert values_of(two, "loss_scale") == scales
    assert scales[2] < scales[0] < 2**16


def test_two_processes_share_out_the_images_of_a_step(fork_server, recipe, tmp_path):
    out = tmp_path / "two"
    watch = WATCH.format(out=str(out))
    ended = fork_server("run", recipe, "--out", out, processes=2, setup=watch)
    assert ended["codes"] == [0, 0], ended["outputs"]
    read = [(tmp_path / f"two.ids{rank}").read_text().splitlines() for rank in (0, 1)]
    drawn = []
    for step in range(6):
        for ids in read:
            drawn += ids[2 * step : 2 * step + 2]
    epochs = [set(drawn[start : start + 6]) for start in range(0, 24, 6)]
    # None of the six images comes twice before each has come once.
    assert all(len(epoch) == 6 for epoch in epochs)
    assert len(set.union(*epochs)) == 6


def test_a_signal_to_one_process_stops_all_at_the_same_step(fork_server, recipe, tmp_path):
    out, alone, whole = tmp_path / "cut", tmp_path / "alone", tmp_path / "whole"
    strike = AT_CALL.format(n=3, what="os.kill(os.getpid(), signal.SIGTERM)")
    cut = fork_server("run", recipe, "--out", out, processes=2, setup=strike)
    assert cut["codes"] == [130, 130], cut
    assert all("stopped after stage1 step 3" in output for output in cut["outputs"])
    shutil.copytree(out, alone)
    assert fork_server("run", recipe, "--out", out, "--resume", processes=2)["codes"] == [0, 0]
    run_recipe(load_recipe(recipe, ["training.gradient_accumulation_steps=2"]), whole)
    assert_close(weights_of(out), weights_of(whole))

    other_steps = (
        r"(?s)its steps .*processes: 2 -> 1 "
        r".*gradient_accumulation_steps = 2 it would be the same.*--fork"
    )
    with pytest.raises(DistillkitError, match=other_steps):
        run_recipe(load_recipe(recipe), alone, resume=True)
    same_steps = load_recipe(recipe, ["training.gradient_accumulation_steps=2"])
    run_recipe(same_steps, alone, resume=True)
    assert_close(weights_of(alone), weights_of(whole))
    assert manifest_of(alone)["history"][-1]["changes"] == {
        "processes": [2, 1],
        "training.gradient_accumulation_steps": [1, 2],
    }


def write_rows(path, numbers):
    """Write a table with one photograph for each number, which is in its name."""
    images = []
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        images.append({"bytes": content.getvalue(), "path": f"{number}.png"})
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": images}, features=features).to_parquet(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_out_a_stream_and_resume_it_where_they_were(
    fork_server, recipe, tmp_path, workers
):
    """24 rows are the images of stage 1: 6 steps of two processes with batches of two."""
    out, whole = tmp_path / "two", tmp_path / "whole"
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows/0.parquet", range(10))
    write_rows(tmp_path / "rows/1.parquet", range(10, 24))
    train = f'[{{parquet="{tmp_path}/rows/*.parquet", streaming=true, shuffle_buffer=0}}]'
    sets = [f"data.train={train}", f"data.num_workers={workers}"]
    arguments = ["run", recipe, "--out", out, "--set", sets[0], "--set", sets[1]]
    setup = WATCH.format(out=str(out))
    strike = AT_CALL.format(n=3, what="os.kill(os.getpid(), signal.SIGTERM)")
    cut = fork_server(*arguments, processes=2, setup=setup + strike)
    assert cut["codes"] == [130, 130], cut
    resumed = fork_server(*arguments, "--resume", processes=2, setup=setup)
    assert resumed["codes"] == [0, 0], resumed

    read = []
    for rank in (0, 1):
        lines = (tmp_path / f"two.ids{rank}").read_text().splitlines()
        read.append([int(line.split()[-1].removesuffix(".png")) for line in lines])
    stage1 = sorted(read[0][:12] + read[1][:12])
    assert stage1 == list(range(24))
    assert [len(of_rank) for of_rank in read] == [20, 20]
    accumulated = [*sets, "training.gradient_accumulation_steps=2"]
    run_recipe(load_recipe(recipe, accumulated), whole)
    assert_close(weights_of(out), weights_of(whole))


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_in_all(fork_server, recipe, tmp_path):
    out = tmp_path / "out"
    not_a_number = "Halve.__call__ = lambda self, gt, generator: gt[..., ::2, ::2] * float('nan')"
    spoil = AT_CALL.format(n=2, what=not_a_number)
    ended = fork_server("run", recipe, "--out", out, processes=2, setup=spoil)
    assert ended["codes"] == [2, 2], ended
    assert all("3 non-finite losses in a row" in output for output in ended["outputs"])
    lines = [json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines()]
    first = [(line["step"], line["rank"], line["terms"]["l2"] == "nan") for line in lines[:2]]
    assert first == [(3, 0, False), (3, 1, True)]


def test_one_failing_process_ends_all_with_its_own_error(fork_server, recipe, tmp_path):
    out = tmp_path / "out"
    error = "from distillkit import DistillkitError; raise DistillkitError('the shelf is empty')"
    fail = AT_CALL.format(n=3, what=error)
    ended = fork_server("run", recipe, "--out", out, processes=2, setup=fail)
    first, second = ended["outputs"]
    assert ended["codes"] == [2, 2]
    assert "error (process 1): the shelf is empty" in second
    assert "error (process 0): another process of this run has ended" in first
    assert "its own message says why" in first
    assert "Traceback" not in first + second
    assert manifest_of(out)["status"] == "failed"


def test_torchrun_starts_the_processes_and_reports_the_one_that_failed(
    installed_toys, recipe, tmp_path
):
    out = tmp_path / "out"
    fail = AT_CALL.format(n=3, what="raise OSError('the shelf fell down')")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *torchrun, "-m", "distillkit", "run", str(recipe), "--out", str(out)]
    done = subprocess.run(
        command,
        env=installed_toys | {"FIRST": fail},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0
    assert "OSError: the shelf fell down" in done.stderr
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1


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
        create_accelerator(TrainingConfig(), tmp_path)
    for name in environment:
        os.environ.pop(name)
    assert create_accelerator(TrainingConfig(), tmp_path).num_processes == 1
