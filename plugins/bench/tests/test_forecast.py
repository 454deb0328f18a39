"""What ``distillkit advise RECIPE`` predicts and advises: the arithmetic, not the measurements."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from distillkit import DistillkitError, load_recipe, prepare_stages
from distillkit_bench import advice
from distillkit_bench.forecast import (
    RecipeForecast,
    StepForecast,
    choose_crops,
    count_tensor_bytes,
    extrapolate,
    find_fitting_crop,
    find_smallest_crop,
)
from distillkit_bench.train import measure_stage

GIB = 2**30
STEP = StepForecast(
    stage="stage1",
    crops=[64, 128],
    weights={"student": GIB},
    memory_before=2 * GIB,
    states=GIB,
    activations=8 * GIB,
    seconds=3.0,
    measured_activations=2 * GIB,
    measured_seconds=0.5,
)


def test_crops_are_multiples_of_what_the_models_take():
    assert choose_crops(512, 64) == [128, 192, 256]
    assert choose_crops(512, 256) == [256]
    assert choose_crops(96, 8) == [24, 32, 48]
    assert choose_crops(256, 256) == [256]


def test_crops_hold_the_decode_crop_or_there_are_none():
    assert choose_crops(512, 16, decode_crop_size=256) == [320, 352, 384]
    assert choose_crops(512, 256, decode_crop_size=256) == [512], "one would not tell what grows"
    assert choose_crops(256, 64, decode_crop_size=512) == choose_crops(256, 64)


def test_crops_are_large_enough_for_the_losses():
    assert choose_crops(64, 4, smallest=28) == [36, 40, 48]
    assert choose_crops(512, 64, smallest=28) == [128, 192, 256]
    assert choose_crops(32, 16, smallest=28) == [32]


def test_the_losses_say_how_small_a_crop_may_be(recipe):
    distance = [
        "stage1.reconstruction.perceptual_metric='distillkit/stlpips-alex'",
        "stage1.reconstruction.perceptual_weight=1.0",
        "stage1.reconstruction.perceptual_max_shift=3",
        "data.crop_size=32",
    ]
    prepared = next(prepare_stages(load_recipe(recipe, distance)))
    smallest = find_smallest_crop(prepared)
    assert smallest == 21 + 3
    measure_stage(prepared, smallest, warmup=0, steps=1, breakdown=False)
    with pytest.raises(DistillkitError, match="too small"):
        measure_stage(prepared, smallest - 2, warmup=0, steps=1, breakdown=False)


@pytest.mark.parametrize(
    "law", [lambda n: 3.0 * n, lambda n: 100.0 + 2 * n, lambda n: 5.0 * n + 0.01 * n**2]
)
def test_lines_and_parabolas_in_pixels_are_continued(law):
    values = {side: law(side**2) for side in (16, 24, 32)}
    assert extrapolate(values, 64) == pytest.approx(law(64**2))
    assert extrapolate(values, 32) == values[32]


def test_noise_does_not_bend_the_line_and_one_value_goes_with_the_pixels():
    assert extrapolate({16: 256.0, 24: 576.0 * 1.03, 32: 1024.0}, 64) == 4096
    assert extrapolate({32: 10.0}, 64) == 40
    assert extrapolate({16: 12.0, 24: 11.0, 32: 10.0}, 64) == 40
    # The line would be below 0 at no pixels.
    assert extrapolate({16: 1.0, 32: 10.0}, 64) == 40


def test_memory_adds_up_and_settings_carry_over_in_proportion():
    assert STEP.peak == 11 * GIB
    other = STEP.rescale({"peak_memory": 4 * GIB, "memory_before": 2 * GIB, "ms": 1000})
    assert (other.activations, other.peak, other.seconds) == (4 * GIB, 7 * GIB, 6.0)


def test_the_largest_crop_that_fits():
    limit = 7.6 * GIB
    # 2 + 1 + 8 (192 / 256)^2 = 7.5
    assert find_fitting_crop([STEP], 256, 64, limit) == 192
    larger = replace(STEP, memory_before=3 * GIB)
    assert find_fitting_crop([STEP, larger], 256, 64, limit) == 128
    assert find_fitting_crop([STEP], 256, 64, 3 * GIB) is None


def test_memory_that_several_models_share_is_counted_once():
    a = nn.Linear(4, 4, bias=False)
    b = nn.Linear(4, 4)
    b.weight = nn.Parameter(a.weight.data)
    assert count_tensor_bytes({"a": a, "b": b, "c": "no module"}) == {"a": 64, "b": 16}


def savers(recipe, *overrides):
    return advice.memory_savers(load_recipe(recipe, overrides))


def test_memory_savers_come_cheapest_first(recipe):
    names = []
    for settings in savers(recipe):
        names.append([setting.partition("=")[0] for setting in settings])
    assert names == [
        ["data.batch_size", "training.gradient_accumulation_steps"],
        ["training.per_term_backward"],
        ["training.gradient_checkpointing"],
        ["training.mixed_precision"],
        ["stage1.teacher_gradient", "stage1.score_weighting"],
    ]


def test_memory_savers_are_those_not_yet_used(recipe):
    used = [
        "data.batch_size=1",
        "training.per_term_backward=true",
        "training.gradient_checkpointing=true",
        "stage1.teacher_gradient='sds'",
    ]
    assert savers(recipe, *used) == [['training.mixed_precision="bf16"']]
    used += ["training.mixed_precision='bf16'", "training.gradient_checkpointing=false"]
    recast = ["training.recast_weights=true"]
    checkpointing = ["training.recast_weights=false", "training.gradient_checkpointing=true"]
    assert savers(recipe, *used) == [recast, checkpointing]
    compiled = savers(recipe, *used, "training.compile=true")
    assert compiled == [["training.gradient_checkpointing=true"]]


@pytest.fixture
def advise(distillkit, recipe):
    """Run ``distillkit advise`` on the toy recipe."""

    def call(*arguments):
        return distillkit("advise", recipe, *arguments)

    return call


def test_a_recipe_that_fits(advise):
    outcome = advise("--memory", "64")
    assert outcome.code == 0
    for text in (
        "predicted from dry steps at crop 4, 6, 8",
        "weights: student",
        "gradients, optimizer, average",
        "activations",
        "of 64.0",
        "6 steps:",
        "disk ",
    ):
        assert text in outcome.out
    assert outcome.out.count("  total  ") == 2
    assert "TOO MUCH" not in outcome.out


def test_one_that_does_not_fit_is_told_what_to_change_until_it_does(advise, monkeypatch):
    measured = []

    def measure_in_subprocess(recipe, overrides, steps, **_):
        measured.append(list(overrides))
        peak = 0 if len(measured) == 2 else torch.iinfo(torch.int64).max
        stage = {"peak_memory": peak, "memory_before": 0, "ms": 1}
        return {"stages": {"stage1": stage, "stage2": stage}}

    monkeypatch.setattr(advice, "measure_in_subprocess", measure_in_subprocess)
    forecasts = [replace(STEP, crops=[4, 8]), replace(STEP, stage="stage2")]
    monkeypatch.setattr(
        advice, "forecast_recipe", lambda resolved: RecipeForecast(forecasts, 2, None)
    )
    outcome = advise("--memory", "10", "--set", "seed=1")
    assert outcome.code == 1
    assert outcome.out.count("of 10.0: TOO MUCH") == 2
    assert len(measured) == 2
    assert measured[1] == [
        "seed=1",
        "data.crop_size=8",
        "data.batch_size=1",
        "training.gradient_accumulation_steps=2",
        "training.per_term_backward=true",
    ]
    assert "--set training.per_term_backward=true" in outcome.out
    assert "precision" not in outcome.out


def test_the_forecast_as_json(advise):
    outcome = advise("--memory", "64", "--json")
    assert outcome.code == 0
    forecast = json.loads(outcome.out)
    assert forecast["fits"]
    assert forecast["memory_limit"] == 64 * GIB
    assert [step["stage"] for step in forecast["steps"]] == ["stage1", "stage2"]
    assert all(0 < step["peak"] < 64 * GIB for step in forecast["steps"])
    assert forecast["report"][0].startswith("recipe ")


def test_the_check_compares_prediction_and_measurement(advise, monkeypatch):
    stages = {
        "stage1": {"peak_memory": 10 * GIB, "ms": 4000},
        "stage2": {"peak_memory": 11 * GIB, "ms": 3000},
    }
    monkeypatch.setattr(advice, "measure_in_subprocess", lambda *_, **__: {"stages": stages})
    forecasts = [STEP, replace(STEP, stage="stage2")]
    monkeypatch.setattr(
        advice, "forecast_recipe", lambda resolved: RecipeForecast(forecasts, 2, None)
    )
    outcome = advise("--memory", "64", "--check")
    assert "stage1: peak predicted 11.00 GiB, measured 10.00 (+10%); " in outcome.out
    assert "step predicted 3.00 s, measured 4.00 (-25%)" in outcome.out


def test_memory_that_runs_out_in_a_dry_step_is_an_answer(advise, monkeypatch):
    def run_out_of_memory(resolved):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(advice, "forecast_recipe", run_out_of_memory)
    outcome = advise()
    assert outcome.code == 1
    assert "TOO LITTLE   memory ran out in a dry step" in outcome.out
    assert "try          --set training.gradient_checkpointing=true" in outcome.out


def test_without_its_data_nothing_is_measured(advise):
    outcome = advise("--set", "data.train=[{imagefolder='nowhere'}]")
    assert outcome.code == 2
    assert "--set  data.train.0.imagefolder - no such folder" in outcome.err
    assert "distillkit fetch" in outcome.err
    assert "  total  " not in outcome.out
