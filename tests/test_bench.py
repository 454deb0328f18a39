"""What ``distillkit bench`` reports: counts and arithmetic. How fast anything is, no test says."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from distillkit.bench import compare as comparing
from distillkit.bench.device import copy_bandwidth, matrix_ceiling
from distillkit.bench.parts import PARTS, PartClock
from distillkit.bench.recipe import bench
from distillkit.bench.report import as_comparison, as_text
from distillkit.bench.train import CPU_ATTENTION
from distillkit.cli import main as cli
from distillkit.errors import DistillkitError
from distillkit.recipe.load import load_recipe
from distillkit.training.models import build_models

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart_sr4x.toml"


@pytest.fixture(autouse=True)
def ceilings(monkeypatch):
    """Measured once, in a test of their own."""
    monkeypatch.setattr("distillkit.bench.recipe.matrix_ceiling", lambda *_: 1e10)
    monkeypatch.setattr("distillkit.bench.recipe.copy_bandwidth", lambda *_: 1e9)


def test_ceilings_are_measured():
    cpu = torch.device("cpu")
    assert (
        1e8 < matrix_ceiling(cpu, torch.float32, 0.01) < 1e15
        and 1e7 < copy_bandwidth(cpu, 0.01) < 1e14
    )


def measured(recipe, *sets):
    return bench(load_recipe(recipe, sets), steps=2, warmup=1, images=1)


def test_passes_and_flops_are_those_of_the_algorithm(recipe):
    found = measured(recipe, "stage2.target='teacher'", "teachers.fidelity.space='unshuffle'")
    first, second = (found["stages"][stage] for stage in ("stage1", "stage2"))
    assert {k: first["passes"][k] for k in ("student", "fidelity", "realness")} == {
        "student": 3,
        "fidelity": 2,
        "realness": 2,
    }
    assert {k: second["passes"][k] for k in ("student", "fidelity")} == {
        "student": 2,
        "fidelity": 1,
    }
    twice = measured(
        recipe,
        "stage2.target='teacher'",
        "teachers.fidelity.space='unshuffle'",
        "data.batch_size=4",
    )
    for stage in ("stage1", "stage2"):
        assert twice["stages"][stage]["flops"] == 2 * found["stages"][stage]["flops"] > 0
        assert twice["stages"][stage]["passes"] == found["stages"][stage]["passes"]


def test_shares_add_up_and_the_results_are_plain_data(recipe):
    found = json.loads(json.dumps(measured(recipe)))
    assert set(found) == {
        "recipe",
        "sha256",
        "crop",
        "batch",
        "machine",
        "ceilings",
        "stages",
        "restore",
    }
    for stage in found["stages"].values():
        assert sum(stage["parts"].values()) == pytest.approx(1) and tuple(stage["parts"]) == PARTS
        assert (
            stage["images_per_s"] == pytest.approx(2000 / stage["ms"]) and len(stage["ms_all"]) == 2
        )
        assert 0 <= stage["loader_wait"] <= 1 and stage["peak_memory"] > 2**27
    assert found["machine"]["packages"]["torch"] in as_text(found)
    assert found["sha256"] != measured(recipe, "seed=5")["sha256"]


def test_a_network_that_is_none_of_the_casts_is_counted_too(recipe):
    assert measured(recipe, "stage2.variant='oftsr'")["stages"]["stage2"]["passes"]["other"] == 2


def test_an_instant_counts_for_the_innermost_part_and_backward_is_not_divided(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("distillkit.bench.parts.time.perf_counter", lambda: next(now))
    clock = PartClock(torch.device("cpu"))
    with clock.inside("loss"):  # 1 second of data before it
        with clock.inside("student"):
            pass
        with clock.inside("backward"), clock.inside("student"):
            clock.count("student", 4)
    clock.between("optimizer")
    assert clock.passes == {}
    assert {k: v for k, v in clock.seconds.items() if v} == {
        "data": 2,
        "loss": 3,
        "student": 1,
        "backward": 3,
    }


def test_attention_on_a_cpu_is_counted():
    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        out = F.scaled_dot_product_attention(q, q, q)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert (
        forward == 2 * (2 * 2 * 8 * 8 * 4)
        and counter.get_total_flops() == forward + 5 * forward // 2
    )


def test_nothing_stays_behind_on_the_models(recipe, monkeypatch):
    kept = []
    monkeypatch.setattr(
        "distillkit.bench.subject.build_models",
        lambda *a: kept.append(build_models(*a)) or kept[-1],
    )
    measured(recipe)
    for thing in (kept[0], kept[0].student, kept[0].student.codec, *kept[0].teachers.values()):
        assert not {"forward", "generate", "encode", "inputs"} & set(vars(thing))


def row(ms, cpu_ms, memory, device="cpu"):
    stage = {"ms": ms, "cpu_ms": cpu_ms, "flops": 2e9, "peak_memory": memory * 2**30}
    return {"machine": {"device": device}, "stages": {"stage1": stage}}


def test_settings_are_measured_in_turn_and_compared_by_their_medians(monkeypatch):
    asked = []
    monkeypatch.setattr(
        comparing,
        "measure_apart",
        lambda recipe, sets, *_, **__: asked.append(sets) or row(8, 8 // len(sets), 1),
    )
    rows = comparing.compare(Path("r.toml"), ["seed=1"], ["a=1; b=2"], steps=1, rounds=2)
    assert asked == [["seed=1"], ["seed=1", "a=1", "b=2"]] * 2 and [
        len(r) for r in rows.values()
    ] == [2, 2]
    rows = {
        "as it is": [row(100, 90, 2), row(300, 80, 4), row(200, 100, 3)],
        "x=1": [row(200, 45, 1)],
    }
    line = as_comparison(rows).splitlines()[2].split()
    assert line == ["stage1", "200.0", "45.0", "2.00x", "2.0", "1.00", "0.33x", "x=1"]
    on_gpu = {"as it is": [row(100, 90, 2, "cuda")], "x=1": [row(200, 45, 1, "cuda")]}
    assert "0.50x" in as_comparison(on_gpu).splitlines()[2]


def test_a_setting_that_cannot_be_measured_says_why():
    with pytest.raises(
        DistillkitError, match="stage1.steps=0 - could not be measured: --set  stage1.steps - "
    ):
        comparing.measure_apart(QUICKSTART, ["stage1.steps=0"], 1, warmup=0)


def test_on_the_command_line(recipe, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "bench.json"
    monkeypatch.setattr(
        sys, "argv", ["distillkit", "bench", str(recipe), "--steps", "1", "--json", str(kept)]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code and "stage2" in capsys.readouterr().out
    assert json.loads(kept.read_text())["recipe"] == "toy"
