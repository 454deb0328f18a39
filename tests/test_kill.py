"""``kill -9`` in the middle of things, then ``--resume``: the end is that of an uninterrupted run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distillkit.recipe.load import load_recipe
from distillkit.run import run_recipe

KILLER = """
import os, signal
import distillkit.training.checkpoint as checkpoint
import toy_plugin
from toy_plugin import *

moment, number = os.environ.get("KILL", "never 0").split()
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if moment == "step":
    toy_plugin.Halve.on_call = staticmethod(lambda n: die() if n == int(number) else None)
if moment == "save":  # while a checkpoint is half written
    real, saves = checkpoint.torch.save, []

    def save(*args):
        saves.append(1)
        real(*args)
        if len(saves) == int(number):
            die()

    checkpoint.torch.save = save
"""


@pytest.fixture
def run(tmp_path, recipe):
    """``run(kill)`` -> exit code of ``distillkit run --resume`` in a process of its own, killed at that moment."""
    site = tmp_path / "site"
    info = site / "distillkit_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "killer.py").write_text(KILLER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distillkit-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[distillkit]\ntoy = killer\n")

    def run(kill: str) -> int:
        paths = os.pathsep.join([str(site), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-c", "from distillkit.cli import main; main()", "run", str(recipe), "--resume"]
        environment = os.environ | {"PYTHONPATH": paths, "KILL": kill}
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "killed")], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    return run


def test_killed_three_times_and_resumed_equals_uninterrupted(run, recipe, tmp_path):
    held_out = 3  # inputs that the degradation makes before the first step
    killed = [run(f"step {held_out + 4}"), run("save 2"), run(f"step {held_out + 4}")]
    assert killed == [-signal.SIGKILL] * 3
    out = tmp_path / "killed"
    steps = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert "step-00000006" in steps and not (out / "student").exists()  # the third kill fell into stage 2
    assert run("never 0") == 0
    run_recipe(load_recipe(recipe), tmp_path / "whole")
    for name in ("stage1.safetensors", "stage2.safetensors"):
        a, b = (load_file(folder / "student" / name) for folder in (out, tmp_path / "whole"))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert (out / "metrics.jsonl").read_text().count("\n") == 5
