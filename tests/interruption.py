"""Runs that are interrupted and resumed, for the tests of what a checkpoint has to hold."""

import os
import signal

import pytest
import torch
import toy_plugin
from safetensors.torch import load_file

from distillkit.errors import Interrupted
from distillkit.runs.run import run_recipe

HELD_OUT = 3
"""Calls of the toy degradation before the first step: it makes the held-out inputs."""


def weights_of(run):
    """The tensors of a run's student, by stage and name."""
    weights = {}
    for file in sorted((run / "student").glob("*.safetensors")):
        for name, value in load_file(file).items():
            weights[file.stem, name] = value
    return weights


def assert_resumed_equals_uninterrupted(resolved, tmp_path, monkeypatch, at):
    """Run a toy recipe twice, and compare the students bit for bit.

    The run ``whole`` is not interrupted; ``cut`` gets SIGTERM when the toy degradation makes its
    batch number ``at``, and is resumed.
    """
    run_recipe(resolved, tmp_path / "whole")

    def strike(calls):
        if calls == HELD_OUT + at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(toy_plugin.Halve, "calls", 0)
    monkeypatch.setattr(toy_plugin.Halve, "on_call", staticmethod(strike))
    with pytest.raises(Interrupted):
        run_recipe(resolved, tmp_path / "cut")
    monkeypatch.setattr(toy_plugin.Halve, "on_call", staticmethod(lambda calls: None))
    run_recipe(resolved, tmp_path / "cut", resume=True)
    whole = weights_of(tmp_path / "whole")
    cut = weights_of(tmp_path / "cut")
    assert {stage for stage, _ in whole} == {"stage1", "stage2"}
    assert whole.keys() == cut.keys()
    for name in whole:
        assert torch.equal(whole[name], cut[name]), name
