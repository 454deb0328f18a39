"""What ``distillkit doctor RECIPE`` predicts and advises: the arithmetic, not the measurements."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from distillkit.bench import advice as checkup
from distillkit.bench.forecast import Forecast, fitting_crop, grown, smaller_crops
from distillkit.bench.subject import stored
from distillkit.cli import main as cli
from distillkit.recipe.load import load_recipe
from distillkit.testing.doctor import _version_problems

GIB = 2**30
STEP = Forecast("stage1", [64, 128], {"student": GIB}, 2 * GIB, GIB, 8 * GIB, 3.0, 2 * GIB, 0.5)


def test_smaller_crops_are_multiples_of_what_the_models_take():
    assert smaller_crops(512, 64) == [128, 192, 256]
    assert smaller_crops(512, 256) == [256]
    assert smaller_crops(96, 8) == [24, 32, 48]
    assert smaller_crops(256, 256) == [256]


def test_where_a_part_is_decoded_smaller_crops_hold_all_of_it_or_there_are_none():
    assert smaller_crops(512, 16, decoded=256) == [320, 352, 384]
    assert smaller_crops(512, 256, decoded=256) == [512], "one would not tell what grows"
    assert smaller_crops(256, 64, decoded=512) == smaller_crops(256, 64)


@pytest.mark.parametrize(
    "law", [lambda n: 3.0 * n, lambda n: 100.0 + 2 * n, lambda n: 5.0 * n + 0.01 * n**2]
)
def test_lines_and_parabolas_in_pixels_are_continued(law):
    found = {side: law(side**2) for side in (16, 24, 32)}
    assert grown(found, 64) == pytest.approx(law(64**2))
    assert grown(found, 32) == found[32]


def test_noise_does_not_bend_the_line_and_one_value_goes_with_the_pixels():
    assert grown({16: 256.0, 24: 576.0 * 1.03, 32: 1024.0}, 64) == 4096
    assert grown({32: 10.0}, 64) == 40
    assert grown({16: 12.0, 24: 11.0, 32: 10.0}, 64) == 40
    assert grown({16: 1.0, 32: 10.0}, 64) == 40  # the line would be below 0 at no pixels


def test_memory_adds_up_and_settings_carry_over_in_proportion():
    assert STEP.peak == 11 * GIB
    other = STEP.with_settings({"peak_memory": 4 * GIB, "held_before": 2 * GIB, "ms": 1000})
    assert (other.activations, other.peak, other.seconds) == (4 * GIB, 7 * GIB, 6.0)


def test_the_largest_crop_that_fits():
    assert fitting_crop([STEP], 256, 64, 7.6 * GIB) == 192  # 2 + 1 + 8 (192 / 256)^2 = 7.5
    assert fitting_crop([STEP, replace(STEP, before=3 * GIB)], 256, 64, 7.6 * GIB) == 128
    assert fitting_crop([STEP], 256, 64, 3 * GIB) is None


def test_memory_that_several_models_share_is_counted_once():
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
    b.weight = nn.Parameter(a.weight.data)
    assert stored({"a": a, "b": b, "c": "no module"}) == {"a": 64, "b": 16}


def test_cures_are_those_not_yet_taken_cheapest_first(recipe):
    names = [
        [s.partition("=")[0] for s in settings]
        for settings in checkup.cures(load_recipe(recipe).recipe)
    ]
    assert names == [
        ["data.batch_size", "training.gradient_accumulation_steps"],
        ["training.per_term_backward"],
        ["training.gradient_checkpointing"],
        ["training.mixed_precision"],
        ["stage1.teacher_gradient", "stage1.score_weighting"],
    ]
    sets = [
        "data.batch_size=1",
        "training.per_term_backward=true",
        "training.gradient_checkpointing=true",
        "stage1.teacher_gradient='sds'",
    ]
    assert checkup.cures(load_recipe(recipe, sets).recipe) == [['training.mixed_precision="bf16"']]
    sets = [*sets, "training.mixed_precision='bf16'", "training.gradient_checkpointing=false"]
    recast = ["training.recast_weights=true"]
    instead = ["training.recast_weights=false", "training.gradient_checkpointing=true"]
    assert checkup.cures(load_recipe(recipe, sets).recipe) == [recast, instead]
    compiled = load_recipe(recipe, [*sets, "training.compile=true"]).recipe
    assert checkup.cures(compiled) == [["training.gradient_checkpointing=true"]]


def test_packages_too_old_or_absent_are_problems():
    found = list(
        _version_problems(["torch>=1.0", "peft>=99", "no-such-package", 'other>=1; extra == "dev"'])
    )
    assert (
        len(found) == 2
        and "needs peft>=99; pip install 'peft>=99'" in found[0]
        and "no-such-package is absent" in found[1]
    )


@pytest.fixture
def doctor(recipe, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["distillkit", "doctor", str(recipe), *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, capsys.readouterr().out

    return call


def test_a_recipe_that_fits(doctor):
    code, said = doctor("--memory", "64")
    assert code == 0 and "predicted from dry steps at crop 4, 6, 8" in said
    for word in (
        "weights: student",
        "gradients, optimizer, average",
        "activations",
        "of 64.0",
        "6 steps:",
        "disk ",
    ):
        assert word in said
    assert said.count("together") == 2 and "TOO MUCH" not in said


def test_one_that_does_not_fit_is_told_what_to_change_until_it_does(doctor, monkeypatch):
    asked = []

    def measure_apart(path, sets, steps, **_):
        asked.append(sets)
        measured = {
            "peak_memory": torch.iinfo(torch.int64).max if len(asked) < 2 else 0,
            "held_before": 0,
            "ms": 1,
        }
        return {"stages": {"stage1": measured, "stage2": measured}}

    monkeypatch.setattr(checkup, "measure_apart", measure_apart)
    found = [replace(STEP, crops=[4, 8]), replace(STEP, stage="stage2")]
    monkeypatch.setattr(checkup, "_dry_steps", lambda resolved: (found, 2, None))
    code, said = doctor("--memory", "10", "--set", "seed=1")
    assert code == 1 and said.count("of 10.0: TOO MUCH") == 2
    assert asked[1] == [
        "seed=1",
        "data.crop_size=8",
        "data.batch_size=1",
        "training.gradient_accumulation_steps=2",
        "training.per_term_backward=true",
    ]
    assert (
        len(asked) == 2
        and "--set training.per_term_backward=true" in said
        and "precision" not in said
    )


def test_the_check_compares_prediction_and_measurement(doctor, monkeypatch):
    stages = {
        "stage1": {"peak_memory": 10 * GIB, "ms": 4000},
        "stage2": {"peak_memory": 11 * GIB, "ms": 3000},
    }
    monkeypatch.setattr(checkup, "measure_apart", lambda *_, **__: {"stages": stages})
    monkeypatch.setattr(
        checkup, "_dry_steps", lambda resolved: ([STEP, replace(STEP, stage="stage2")], 2, None)
    )
    said = doctor("--memory", "64", "--check")[1]
    assert (
        "stage1: peak predicted 11.00 GiB, measured 10.00 (+10%); step predicted 3.00 s, measured 4.00 (-25%)"
        in said
    )


def test_memory_that_runs_out_in_a_dry_step_is_an_answer(doctor, monkeypatch):
    def out_of_memory(resolved):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(checkup, "_dry_steps", out_of_memory)
    code, said = doctor()
    assert code == 1 and "TOO LITTLE   memory ran out in a dry step" in said
    assert "try          --set training.gradient_checkpointing=true" in said


def test_without_its_data_nothing_is_measured_and_it_says_what_cannot_be_told(doctor):
    code, said = doctor("--set", "data.train=[{imagefolder='nowhere'}]")
    assert (
        code == 1
        and "MISSING      --set  data.train.0.imagefolder - no such folder" in said
        and "not told" in said
    )
    assert "together" not in said
