"""Training in mixed precision, and the loss scale of float16."""

import json

import pytest
import torch
from interruption import assert_resumed_equals_uninterrupted, weights_of

from distillkit import DistillkitError
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.checkpoint import read_checkpoint
from distillkit.training.loop import Trainer
from distillkit.training.per_term_backward import backward_per_term

FP16 = ["training.mixed_precision='fp16'", "data.eval=[]"]
FIRST_SCALE = 2.0**16
EVERY_STEP = [
    "training.checkpointing_steps=1",
    "training.checkpoints_total_limit=99",
    "training.logging_steps=1",
]
STEEP = "stage1.reconstruction.l2_weight=1e5"
"""A loss whose gradient is more than float16 holds until the scale is small enough."""


def read_log(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture
def enlarge_loss(monkeypatch):
    """Multiply the reconstruction loss by a factor in some calls, counted from 1."""

    def enlarge(factor, is_enlarged):
        compute = ReconstructionLoss.__call__
        calls = []

        def computed(self, *args, **kwargs):
            calls.append(1)
            losses = compute(self, *args, **kwargs)
            if not is_enlarged(len(calls)):
                return losses
            return {name: loss * factor for name, loss in losses.items()}

        monkeypatch.setattr(ReconstructionLoss, "__call__", computed)

    return enlarge


@pytest.fixture(params=[False, True], ids=["unfused", "fused"])
def fused(request, monkeypatch):
    """With a fused optimizer, as on a GPU, a skipped step shows one step later."""
    always = property(lambda trainer: request.param, lambda trainer, value: None)
    monkeypatch.setattr(Trainer, "fused", always, raising=False)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.005)])
def test_mixed_precision_follows_float32(recipe, tmp_path, precision, tolerance):
    sets = ["data.eval=[]", "stage1.learning_rate=1e-3", "stage2.learning_rate=1e-3"]
    run_recipe(load_recipe(recipe, sets), tmp_path / "plain")
    mixed = [*sets, f"training.mixed_precision='{precision}'"]
    run_recipe(load_recipe(recipe, mixed), tmp_path / "mixed")
    difference = largest_difference(weights_of(tmp_path / "plain"), weights_of(tmp_path / "mixed"))
    assert 0 < difference < tolerance


@pytest.mark.usefixtures("fused")
def test_an_overflow_halves_the_scale_and_skips_the_step(recipe, tmp_path, enlarge_loss):
    """The one in step 3 is no loss that is not finite, and leaves the average alone."""
    enlarge_loss(1e9, lambda call: call == 3)
    run = tmp_path / "run"
    once = "training.max_nonfinite_steps=1"
    run_recipe(load_recipe(recipe, [*FP16, *EVERY_STEP, once, "stage2.steps=0"]), run)

    checkpoints = [read_checkpoint(path) for path in sorted((run / "checkpoints").iterdir())]
    scales = [checkpoint.optimizer()["loss_scale"]["scale"] for checkpoint in checkpoints]
    assert scales == 2 * [FIRST_SCALE] + 4 * [FIRST_SCALE / 2]
    assert [line["loss_scale"] for line in read_log(run)] == scales

    trained = [checkpoint.tensors() for checkpoint in checkpoints]
    averages = [checkpoint.average() for checkpoint in checkpoints]
    for values in (trained, averages):
        assert largest_difference(values[1], values[2]) == 0
        assert largest_difference(values[2], values[3]) > 0
    assert largest_difference(trained[2], averages[2]) > 0
    assert not (run / "nonfinite.jsonl").exists()


@pytest.mark.usefixtures("fused")
def test_a_gradient_that_no_scale_cures_ends_the_run(recipe, tmp_path, enlarge_loss):
    enlarge_loss(1e20, lambda call: True)
    sets = [*FP16, *EVERY_STEP, "stage1.steps=30", "training.max_nonfinite_steps=3"]
    with pytest.raises(DistillkitError, match="3 non-finite losses in a row"):
        run_recipe(load_recipe(recipe, sets), tmp_path / "run")
    counted = (tmp_path / "run/nonfinite.jsonl").read_text().splitlines()
    # 2^16 is halved 16 times before that is said to be of no use.
    assert [json.loads(line)["step"] for line in counted] == [16, 17, 18]


def test_a_loss_that_is_not_finite_counts_whatever_the_scale(recipe, tmp_path, enlarge_loss):
    enlarge_loss(float("nan"), lambda call: call > 1)
    with pytest.raises(DistillkitError, match="stage1 step 3 - 2 non-finite losses in a row"):
        run_recipe(load_recipe(recipe, [*FP16, "training.max_nonfinite_steps=2"]), tmp_path / "run")


def test_interrupted_and_resumed_equals_uninterrupted(recipe, tmp_path, monkeypatch):
    """A scale that began anew would skip steps again."""
    sets = ["training.mixed_precision='fp16'", STEEP, "training.logging_steps=1"]
    resolved = load_recipe(recipe, sets)
    batches = (2, 5, 8)
    assert_resumed_equals_uninterrupted(resolved, tmp_path, monkeypatch, *batches)
    whole = [line["loss_scale"] for line in read_log(tmp_path / "whole")]
    assert whole[5] < FIRST_SCALE
    for at in batches:
        assert [line["loss_scale"] for line in read_log(tmp_path / f"cut{at}")] == whole


def test_a_run_in_float32_continues_in_float16(recipe, tmp_path):
    sets = ["data.eval=[]", "stage2.steps=0"]
    run_recipe(load_recipe(recipe, [*sets, "stage1.steps=4"]), tmp_path / "run")
    resolved = load_recipe(recipe, [*FP16, *sets])
    run_recipe(resolved, tmp_path / "fork", fork=tmp_path / "run")
    assert read_log(tmp_path / "fork")[-1]["loss_scale"] == FIRST_SCALE


def test_per_term_backward_trains_the_same_student(recipe, tmp_path):
    sets = [*FP16, "stage2.steps=0"]
    run_recipe(load_recipe(recipe, sets), tmp_path / "whole")
    run_recipe(load_recipe(recipe, [*sets, "training.per_term_backward=true"]), tmp_path / "terms")
    difference = largest_difference(weights_of(tmp_path / "whole"), weights_of(tmp_path / "terms"))
    assert difference < 1e-3


def test_a_gradient_per_term_does_not_vanish_in_float16():
    weight = torch.ones(4, requires_grad=True)
    latent = (2 * weight).half()

    def compute(leaf):
        return {"a": 1e-9 * leaf.float().sum(), "b": 2e-9 * leaf.float().sum()}

    def gradient_of(terms, scale):
        (gradient,) = torch.autograd.grad(scale * sum(terms.values()), weight, retain_graph=True)
        return gradient / scale

    scale = torch.tensor(FIRST_SCALE)
    whole = gradient_of(compute(latent), scale)
    assert whole.tolist() == pytest.approx(4 * [6e-9], rel=1e-3)
    per_term = backward_per_term(compute, [latent], [], scale)
    assert torch.equal(gradient_of(per_term, scale), whole)
    one = torch.ones(())
    assert not gradient_of(compute(latent), one).any()


def test_runs_of_one_process_may_differ_in_precision(recipe, tmp_path):
    losses = {}
    for precision in ("no", "bf16", "fp16"):
        sets = [f"training.mixed_precision='{precision}'", "data.eval=[]", "stage2.steps=0"]
        run_recipe(load_recipe(recipe, sets), tmp_path / precision)
        losses[precision] = read_log(tmp_path / precision)[0]["loss"]
    assert len(set(losses.values())) == 3
