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


def assert_resumed_equals_uninterrupted(resolved, tmp_path, monkeypatch, *batches):
    """Run a toy recipe whole and interrupted, and compare the students bit for bit.

    The run ``whole`` is not interrupted; each ``cut`` gets SIGTERM when the toy degradation makes
    the batch of this number, and is resumed.
    """
    run_recipe(resolved, tmp_path / "whole")
    whole = weights_of(tmp_path / "whole")
    assert {stage for stage, _ in whole} == {"stage1", "stage2"}
    for at in batches:
        cut = tmp_path / f"cut{at}"
        _run_in_two_parts(resolved, cut, monkeypatch, at)
        weights = weights_of(cut)
        assert whole.keys() == weights.keys()
        for name in whole:
            assert torch.equal(whole[name], weights[name]), (at, name)


def _run_in_two_parts(resolved, out, monkeypatch, at):
    def strike(calls):
        if calls == HELD_OUT + at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(toy_plugin.Halve, "calls", 0)
    monkeypatch.setattr(toy_plugin.Halve, "on_call", staticmethod(strike))
    with pytest.raises(Interrupted):
        run_recipe(resolved, out)
    monkeypatch.setattr(toy_plugin.Halve, "on_call", staticmethod(lambda calls: None))
    run_recipe(resolved, out, resume=True)
