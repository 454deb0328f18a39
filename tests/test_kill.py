"""``kill -9`` at any moment, then ``--resume``: the end is that of an uninterrupted run."""

import json
import random
import signal
import subprocess
import sys
import time
import warnings

import torch
from interruption import weights_of

from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.checkpoint import Checkpoints

EVERY = 2
"""Steps between checkpoints."""
KILLS = 20
STAGE1_STEPS = 8
STEPS = 40
SEED = 0
SETS = [
    f"stage1.steps={STAGE1_STEPS}",
    f"stage2.steps={STEPS - STAGE1_STEPS}",
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
    if save.calls == {optimizer}:
        os.truncate(path, os.path.getsize(path) // 2)
        die()

count.lines = save.calls = 0
Trainer._backward, Trainer.train, checkpoint.torch.save = backward, train, save
"""
"""Kills the process before the ``line``-th line of the engine that it executes while training, or
when the file of the ``optimizer``-th checkpoint's optimizer is half written. It writes down which
steps begin, and how many lines were executed before each."""


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def losses_of(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def newest_step(out):
    """The step of the newest checkpoint, 0 without one. Nothing that was renamed is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = Checkpoints(out / "checkpoints", 1, writes=False).newest()
    if newest is None:
        return 0
    return newest.step


def draw_moments(interval):
    """Draw when to kill, in an order drawn, too.

    Args:
        interval: Lines from one checkpoint to the next.
    """
    draw = random.Random(SEED)
    moments = [{"optimizer": n % 2 + 1} for n in range(6)]
    while len(moments) < KILLS:
        moments.append({"line": draw.randrange(1, 3 * interval // 2)})
    draw.shuffle(moments)
    return moments


def test_killed_twenty_times_at_random_moments_equals_uninterrupted(fork_server, recipe, tmp_path):
    journal = tmp_path / "journal"

    def resume(out, line=0, optimizer=0):
        """Run ``distillkit run --resume``; return its exit code and the steps that it began."""
        journal.write_text("")
        sets = [argument for text in SETS for argument in ("--set", text)]
        setup = WATCHED.format(journal=str(journal), line=line, optimizer=optimizer)
        ended = fork_server("run", recipe, *sets, "--out", out, "--resume", setup=setup)
        (code,) = ended["codes"]
        assert code in (0, -signal.SIGKILL), ended["outputs"]
        begun = [line.split() for line in journal.read_text().splitlines()]
        return code, [(int(step), int(lines)) for step, lines in begun]

    code, begun = resume(tmp_path / "whole")
    assert code == 0
    assert [step for step, _ in begun] == list(range(STEPS))
    # A step of stage 1 executes the most lines: with its interval some kills leave that stage.
    lines = begun[STAGE1_STEPS - 1][1] - begun[0][1]
    interval = EVERY * lines // (STAGE1_STEPS - 1)

    out = tmp_path / "killed"
    saved = begun_steps = 0
    for moment in draw_moments(interval):
        code, begun = resume(out, **moment)
        assert code == -signal.SIGKILL
        if begun:
            first, last = begun[0][0], begun[-1][0]
            assert first == saved
            assert begun_steps - first <= EVERY, f"{begun_steps - first} steps are lost"
            begun_steps = last + 1
        assert newest_step(out) >= saved
        saved = newest_step(out)
    # The kills fell into both stages.
    assert STAGE1_STEPS < saved < STEPS

    code, begun = resume(out)
    assert code == 0
    assert begun[0][0] == saved
    assert begun_steps - saved <= EVERY
    assert newest_step(out) == STEPS
    assert_same(weights_of(out), weights_of(tmp_path / "whole"))
    assert losses_of(out) == losses_of(tmp_path / "whole")


HANG = """
import pathlib, time, toy_plugin

def hang(n):
    if n == 5:
        pathlib.Path({marker!r}).touch()
        time.sleep(1000)

toy_plugin.Halve.on_call = staticmethod(hang)
"""


def test_a_real_process_killed_from_outside_is_resumed(installed_toys, recipe, tmp_path):
    out = tmp_path / "killed"
    marker = tmp_path / "marker"
    arguments = [str(recipe), "--set", "data.eval=[]", "--out", str(out), "--resume"]
    command = [sys.executable, "-m", "distillkit", "run", *arguments]
    environment = installed_toys | {"FIRST": HANG.format(marker=str(marker))}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not marker.exists() and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    assert not (out / "student").exists()

    subprocess.run(command, env=installed_toys, check=True, capture_output=True)
    run_recipe(load_recipe(recipe, ["data.eval=[]"]), tmp_path / "whole")
    assert_same(weights_of(out), weights_of(tmp_path / "whole"))
