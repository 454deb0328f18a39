"""``kill -9`` in the middle of things, then ``--resume``: the end is that of an uninterrupted run."""

import json
import random
import signal
import subprocess
import sys
import time
import warnings

import torch
from safetensors.torch import load_file

from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.checkpoint import Checkpoints

EVERY, KILLS, SEED = 2, 20, 0
SETS = [
    "stage1.steps=8",
    "stage2.steps=32",
    "data.eval=[]",
    f"training.checkpointing_steps={EVERY}",
    "training.logging_steps=1",
]

WATCHED = """
import os, signal, sys
from distillkit.training import checkpoint
from distillkit.training.loop import Trainer

engine = os.path.dirname(os.path.dirname(checkpoint.__file__))
journal = open({journal!r}, "a", buffering=1)
real_backward, real_train, real_save = Trainer._backward, Trainer.train, checkpoint.torch.save

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count(frame, event, argument):
    if not frame.f_code.co_filename.startswith(engine):
        return None
    if event == "line":
        count.lines += 1
        if count.lines == {line}:
            die()
    return count

def backward(self, module, batches, step):
    journal.write(f"{{self.stage.offset + step}} {{count.lines}}\\n")
    return real_backward(self, module, batches, step)

def train(self, *arguments):
    sys.settrace(count)
    return real_train(self, *arguments)

def save(value, path):
    real_save(value, path)
    save.calls += 1
    if save.calls == {half}:
        os.truncate(path, os.path.getsize(path) // 2)
        die()

count.lines = save.calls = 0
Trainer._backward, Trainer.train, checkpoint.torch.save = backward, train, save
"""
"""A life that ends before the ``line``-th line that the engine executes while it trains, or when the ``half``-th file of an
optimizer is half written. It writes down which steps it begins, and how many lines it has executed before each."""


def weights_of(out):
    return {
        (f.stem, k): v
        for f in sorted((out / "student").glob("*.safetensors"))
        for k, v in load_file(f).items()
    }


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses_of(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_killed_twenty_times_at_random_moments_equals_uninterrupted(fork_server, recipe, tmp_path):
    def life(out, line=0, half=0):
        """Exit code and begun steps of one more ``distillkit run --resume``."""
        journal = tmp_path / "journal"
        journal.write_text("")
        sets = [x for text in SETS for x in ("--set", text)]
        first = WATCHED.format(journal=str(journal), line=line, half=half)
        done = fork_server("run", recipe, *sets, "--out", out, "--resume", first=first)
        assert done["codes"][0] in (0, -signal.SIGKILL), done["said"]
        return done["codes"][0], [
            tuple(map(int, text.split())) for text in journal.read_text().splitlines()
        ]

    code, begun = life(tmp_path / "whole")
    assert code == 0 and [step for step, _ in begun] == list(range(40))
    # A step of stage 1 executes the most lines: with its interval some kills leave that stage.
    interval = EVERY * (begun[7][1] - begun[0][1]) // 7

    draw, out, reached, made = random.Random(SEED), tmp_path / "killed", 0, 0
    moments = [{"half": n % 2 + 1} for n in range(6)] + [
        {"line": draw.randrange(1, 3 * interval // 2)} for _ in range(KILLS - 6)
    ]
    draw.shuffle(moments)
    for moment in [*moments, {}]:
        code, begun = life(out, **moment)
        if begun:
            start = begun[0][0]
            assert start == reached and made - start <= EVERY, f"{made - start} steps lost"
            made = begun[-1][0] + 1
        assert code == (-signal.SIGKILL if moment else 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing that was renamed is damaged
            newest = Checkpoints(out / "checkpoints", 1, writes=False).newest()
        assert (newest.step if newest else 0) >= reached
        before, reached = reached, newest.step if newest else 0
    assert len(moments) == KILLS and 8 < before < reached == 40  # kills fell into both stages
    assert_same(weights_of(out), weights_of(tmp_path / "whole"))
    assert losses_of(out) == losses_of(tmp_path / "whole")


def test_a_real_process_killed_from_outside_goes_on(installed_toys, recipe, tmp_path):
    out, marker = tmp_path / "killed", tmp_path / "marker"
    hang = "import pathlib, time, toy_plugin\n"
    hang += (
        f"act = lambda n: n == 5 and (pathlib.Path({str(marker)!r}).touch(), time.sleep(1000))\n"
    )
    hang += "toy_plugin.Halve.on_call = staticmethod(act)"
    command = [
        sys.executable,
        "-m",
        "distillkit",
        "run",
        str(recipe),
        "--set",
        "data.eval=[]",
        "--out",
        str(out),
        "--resume",
    ]
    with subprocess.Popen(
        command, env=installed_toys | {"FIRST": hang}, stderr=subprocess.PIPE, text=True
    ) as process:
        while not marker.exists() and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    assert (
        json.loads((out / "manifest.json").read_text())["status"] == "running"
        and not (out / "student").exists()
    )
    subprocess.run(command, env=installed_toys, check=True, capture_output=True)
    run_recipe(load_recipe(recipe, ["data.eval=[]"]), tmp_path / "whole")
    assert_same(weights_of(out), weights_of(tmp_path / "whole"))
