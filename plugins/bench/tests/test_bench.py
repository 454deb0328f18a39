"""What ``distillkit bench`` reports: counts and arithmetic. How fast anything is, no test says."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from distillkit import DistillkitError, load_recipe, prepare_stages
from distillkit_bench import alternatives
from distillkit_bench.device import measure_copy, measure_matmul
from distillkit_bench.phases import PHASES, PhaseClock
from distillkit_bench.recipe import measure_recipe
from distillkit_bench.report import format_comparison, format_measurement
from distillkit_bench.train import make_flop_counter, measure_stage

CPU = torch.device("cpu")
QUICKSTART = "mini/paper_sr4x"
TWO_SPACES = ("stage2.target='teacher'", "teachers.fidelity.space='unshuffle'")


@pytest.fixture(autouse=True)
def ceilings(monkeypatch):
    """Measured once, in a test of their own."""
    monkeypatch.setattr("distillkit_bench.recipe.measure_matmul", lambda *_: 1e10)
    monkeypatch.setattr("distillkit_bench.recipe.measure_copy", lambda *_: 1e9)


def test_ceilings_are_measured():
    assert 1e8 < measure_matmul(CPU, torch.float32, 0.01) < 1e15
    assert 1e7 < measure_copy(CPU, 0.01) < 1e14


def test_ceilings_of_a_cpu_are_of_the_seconds_that_it_computed(monkeypatch):
    computed = itertools.count(step=0.25)
    monkeypatch.setattr("distillkit_bench.device.time.process_time", lambda: next(computed))
    assert measure_matmul(CPU, torch.float32, 0.01) == 2 * 1024**3 / 0.25
    assert measure_copy(CPU, 0.01) == 2 * 2**28 / 0.25


def test_the_share_of_a_ceiling_is_of_cpu_seconds_on_a_cpu(recipe):
    results = measure(recipe)
    stage = results["stages"]["stage1"]
    stage |= {"ms": 4000.0, "cpu_ms": 2000.0, "flops": 10**10}
    (line,) = [x for x in format_measurement(results).splitlines() if x.startswith("stage1   ")][:1]
    assert line.split()[4] == "50%"
    results["machine"]["on_cpu"] = False
    (line,) = [x for x in format_measurement(results).splitlines() if x.startswith("stage1   ")][:1]
    assert line.split()[4] == "25%"


def measure(recipe, *overrides):
    return measure_recipe(load_recipe(recipe, overrides), steps=2, warmup=1, images=1)


def test_nfe_is_that_of_the_algorithm(recipe):
    stages = measure(recipe, *TWO_SPACES)["stages"]
    stage1 = stages["stage1"]["nfe"]
    assert (stage1["student"], stage1["fidelity"], stage1["realness"]) == (3, 2, 2)
    stage2 = stages["stage2"]["nfe"]
    assert (stage2["student"], stage2["fidelity"]) == (2, 1)


def test_twice_the_batch_takes_twice_the_flops_at_the_same_nfe(recipe):
    once = measure(recipe, *TWO_SPACES)["stages"]
    twice = measure(recipe, *TWO_SPACES, "data.batch_size=4")["stages"]
    for stage in ("stage1", "stage2"):
        assert once[stage]["flops"] > 0
        assert twice[stage]["flops"] == 2 * once[stage]["flops"]
        assert twice[stage]["nfe"] == once[stage]["nfe"]


def test_flops_are_counted_with_per_term_backward(recipe):
    plain = measure(recipe)["stages"]["stage1"]["flops"]
    per_term = measure(recipe, "training.per_term_backward=true")["stages"]["stage1"]["flops"]
    # At least as many: the trained weights' gradient is taken once for each teacher.
    assert 0 < plain <= per_term < 2 * plain


def test_shares_add_up_and_the_results_are_plain_data(recipe):
    results = json.loads(json.dumps(measure(recipe)))
    keys = {"recipe", "sha256", "crop", "batch", "machine", "ceilings", "models"}
    assert set(results) == keys | {"stages", "restore"}
    for stage in results["stages"].values():
        assert sum(stage["phases"].values()) == pytest.approx(1)
        assert tuple(stage["phases"]) == PHASES
        assert stage["images_per_s"] == pytest.approx(2000 / stage["ms"])
        assert len(stage["ms_all"]) == 2
        assert 0 <= stage["loader_wait"] <= 1
        assert stage["peak_memory"] > 2**27
    assert results["machine"]["packages"]["torch"] in format_measurement(results)
    assert results["sha256"] != measure(recipe, "seed=5")["sha256"]


def test_a_network_of_the_variant_alone_is_counted_too(recipe):
    assert measure(recipe, "stage2.variant='oftsr'")["stages"]["stage2"]["nfe"]["other"] == 2


def test_an_instant_counts_for_the_innermost_phase_and_backward_is_not_divided(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("distillkit_bench.phases.time.perf_counter", lambda: next(now))
    clock = PhaseClock(CPU)
    with clock.inside("loss"):  # 1 second of data before it
        with clock.inside("student"):
            pass
        with clock.inside("backward"), clock.inside("student"):
            clock.count("student", 4)
    clock.set_outermost("optimizer")
    assert clock.nfe == {}
    counted = {phase: seconds for phase, seconds in clock.seconds.items() if seconds}
    assert counted == {"data": 2, "loss": 3, "student": 1, "backward": 3}


def test_attention_on_a_cpu_is_counted():
    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    with make_flop_counter() as counter:
        out = F.scaled_dot_product_attention(q, q, q)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * (2 * 2 * 8 * 8 * 4)
    assert counter.get_total_flops() == forward + 5 * forward // 2


def test_nothing_stays_behind_on_the_models(recipe):
    for prepared in prepare_stages(load_recipe(recipe)):
        models = prepared.models
        owners = [models, models.student, models.student.codec, *models.teachers.values()]
        measure_stage(prepared, 16, warmup=0, steps=1)
        for owner in owners:
            assert not {"forward", "generate", "encode", "prepare"} & set(vars(owner))


def test_the_clock_and_the_counter_are_put_away_when_a_step_fails(recipe, monkeypatch):
    prepared = next(prepare_stages(load_recipe(recipe)))
    steps = iter(range(3))
    plain = prepared.models.prepare

    def fail_later(*arguments):
        if next(steps) == 2:
            raise RuntimeError("no luck")
        return plain(*arguments)

    monkeypatch.setitem(vars(prepared.models), "prepare", fail_later)
    with pytest.raises(RuntimeError, match="no luck"):
        measure_stage(prepared, 16, warmup=0, steps=1)
    assert vars(prepared.models)["prepare"] is fail_later
    assert "generate" not in vars(prepared.models.student)


def row(ms, cpu_ms, memory, on_cpu=True):
    stage = {"ms": ms, "cpu_ms": cpu_ms, "flops": 2e9, "peak_memory": memory * 2**30}
    return {"machine": {"on_cpu": on_cpu}, "stages": {"stage1": stage}}


def test_settings_are_measured_in_turn(monkeypatch):
    measured = []

    def measure_in_subprocess(recipe, overrides, *_, **__):
        measured.append(overrides)
        return row(8, 8, 1)

    monkeypatch.setattr(alternatives, "measure_in_subprocess", measure_in_subprocess)
    rows = alternatives.measure_alternatives(
        Path("r.toml"), ["seed=1"], ["a=1; b=2"], steps=1, rounds=2
    )
    assert measured == [["seed=1"], ["seed=1", "a=1", "b=2"]] * 2
    assert [len(measurements) for measurements in rows.values()] == [2, 2]


def test_settings_are_compared_by_their_medians():
    rows = {
        "as it is": [row(100, 90, 2), row(300, 80, 4), row(200, 100, 3)],
        "x=1": [row(200, 45, 1)],
    }
    line = format_comparison(rows).splitlines()[2].split()
    assert line == ["stage1", "200.0", "45.0", "2.00x", "2.0", "1.00", "0.33x", "x=1"]
    on_gpu = {"as it is": [row(100, 90, 2, on_cpu=False)], "x=1": [row(200, 45, 1, on_cpu=False)]}
    assert "0.50x" in format_comparison(on_gpu).splitlines()[2]


def test_a_setting_that_cannot_be_measured_says_why():
    reason = "stage1.steps=-1 - could not be measured: --set  stage1.steps - "
    with pytest.raises(DistillkitError, match=reason):
        alternatives.measure_in_subprocess(QUICKSTART, ["stage1.steps=-1"], 1, warmup=0)


def test_on_the_command_line(distillkit, recipe):
    outcome = distillkit("bench", str(recipe), "--steps", "1", "--no-breakdown")
    assert outcome.code == 0
    assert "stage2" in outcome.out
    outcome = distillkit("bench", str(recipe), "--steps", "1", "--no-breakdown", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["recipe"] == "toy"
