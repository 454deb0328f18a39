"""The programs of ``benchmarks/`` import, and their arithmetic is right."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
from PIL import Image
from safetensors.torch import load_file, save_file

from distillkit.errors import DistillkitError
from distillkit.evaluation.results import MeasuredMetric, MethodRow, Results
from distillkit.metrics.learned import stlpips

PROGRAMS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [path.stem for path in PROGRAMS])
def test_every_program_imports(name):
    assert importlib.import_module(name).__doc__


def test_settings_are_compared_with_their_base():
    settings = importlib.import_module("settings")

    def measurement(ms, gib, loss):
        stage = {"ms_all": [ms, 2 * ms], "peak_memory": gib * 2**30, "losses": [loss, loss]}
        return {"stages": {"stage1": stage, "stage2": stage}}

    rows = [
        settings.Row("faster", ("a=1",)),
        settings.Row("exact", ("b=1",), ("base=1",)),
        settings.Row("estimate", ("c=1",), changes_estimate=True),
    ]
    measurements = {
        "": [measurement(8, 2, 1.0), measurement(9, 4, 1.0)],
        "a=1": [measurement(4, 1, 1.01), measurement(6, 1, 1.01)],
        "base=1": [measurement(8, 1, 3.0)],
        "base=1; b=1": [measurement(8, 1, 3.0)],
        "c=1": [measurement(16, 3, 5.0)],
    }
    lines = list(settings.format_table(rows, measurements))[2:]
    assert lines == [
        "| faster | 2.00x | 3.00 → 1.00 | 2.00x | 3.00 → 1.00 | within 1e-02 |",
        "| exact | 1.00x | 1.00 → 1.00 | 1.00x | 1.00 → 1.00 | the same |",
        "| estimate | 0.50x | 3.00 → 3.00 | 0.50x | 3.00 → 3.00 | another estimate |",
    ]


def test_the_blur_of_a_pair_is_found():
    blur = importlib.import_module("blur")
    degradation = importlib.import_module("distillkit_mini.degradation")
    gt = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
    for width in (0.9, 2.1):
        kernel = degradation.gaussian_kernel(torch.tensor([width]), 5.0)
        blurred = blur.filter2d(gt[None], kernel)
        lq = torch.nn.functional.avg_pool2d(blurred, 4)[0]
        assert blur.find_width(gt, 0.1 + lq) == pytest.approx(width)


def test_jpeg_is_compared_to_pillows_on_the_same_scale():
    benchmark = importlib.import_module("jpeg")
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    quality = torch.tensor([95.0])
    by_pillow = benchmark.by_pillow(ramp, quality)
    assert by_pillow.shape == ramp.shape
    assert float((by_pillow - ramp).abs().max()) < 0.02
    assert float((benchmark.jpeg(ramp, quality) - by_pillow).abs().max()) < 0.02


def test_processes_are_compared_round_by_round():
    processes = importlib.import_module("processes")
    one = [{"images_per_s": rate} for rate in (10, 20, 40)]
    two = [{"images_per_s": rate} for rate in (18, 38, 60)]
    line = processes.format_ratio({1: one, 2: two}, 2)
    assert line == "2 processes make 1.80x the images/s of one (rounds: 1.50, 1.80, 1.90)"


def test_a_small_photograph_is_continued_by_mirroring():
    restore = importlib.import_module("restore")
    photo = np.arange(6).reshape(1, 2, 3)
    wide = restore.mirror_to(photo, 2, 5)
    assert wide.shape == (2, 5, 3)
    assert wide[0, :, 0].tolist() == [0, 3, 3, 0, 0]


def test_losses_are_compared_with_those_of_the_baseline():
    ratios = importlib.import_module("ratios")
    rows = {
        "baseline": [{"stages": {"stage1": {"losses": [2.0, 4.0]}}}],
        "engine": [{"stages": {"stage1": {"losses": [2.0, 4.4]}}}],
    }
    (line,) = ratios.compare_losses(rows)
    assert line == "stage1  losses differ by at most 1.0e-01 over 2 steps  engine"


def test_the_table_compares_two_ways_on_this_machine(monkeypatch):
    table = importlib.import_module("table")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    make = table.make_restorer_of("mini/student")
    tiles = table.compare_tiles(make, 32, 1)
    assert tiles.what == "33 px in tiles of 32 against 32 px"
    assert tiles.note.startswith("tiles differ from the untiled image by ")
    rows = [
        tiles,
        table.compare_merging(make, 32, 1),
        table.compare_references(stlpips("alex"), 32, 1),
        table.compare_threads(make, 32, 1),
        table.compare_clocks(1),
        table.compare_precisions(make, 32, 1),
        table.compare_indexing(20),
    ]
    assert all(row.base > 0 and row.other > 0 for row in rows)
    assert table.fastest(iter([3.0, 2.0]).__next__, iter([1.0, 4.0]).__next__, 2) == (2.0, 1.0)


def test_the_table_says_why_a_precision_has_no_row(monkeypatch):
    table = importlib.import_module("table")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    row = table.compare_precisions(table.make_restorer_of("mini/student"), 16, 1)
    assert "does not compute in bfloat16" in row.note


def test_a_loader_that_is_late_is_waited_for(monkeypatch):
    """Each batch takes 3 s, and each step 1 s, by a clock that only they move."""
    loader = importlib.import_module("loader")
    now = [0.0]

    def advance(seconds):
        now[0] += seconds

    class Late:
        wait_seconds = 0.0

        def iterate(self, stage, first, last, micro_batches):
            for step in range(first, last):
                advance(3)
                self.wait_seconds += 3
                yield step

    monkeypatch.setattr(loader.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(loader.time, "process_time", lambda: now[0] / 2)
    monkeypatch.setattr(loader.time, "sleep", advance)
    wait, batch_ms = loader.measure_batches(Late(), 4, 1)
    assert wait == pytest.approx(3 * 4 / (4 * 4))
    assert batch_ms == pytest.approx(1000 * (3 + 1) / 2)


def test_the_loader_is_measured_with_images_of_a_folder(tmp_path):
    loader = importlib.import_module("loader")
    loader.write_photos(tmp_path, "png", 70, 80)
    feed = loader.measure_feed("mini/paper_sr4x", [], tmp_path, steps=2, pause=0)
    assert 0 <= feed.wait <= 1
    assert feed.batch_ms > 0
    assert feed.degradation_ms > 0


@pytest.fixture
def switches(monkeypatch):
    """Takes back what parts for a GPU switch, so that no other test sees it."""
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # monkeypatch would remove this setting, which is no plain attribute.
    with torch._dynamo.config.patch(disable=False):
        yield


@pytest.mark.usefixtures("switches")
def test_every_part_for_a_gpu_is_rehearsed_on_a_cpu(tmp_path):
    """In one process, which imports everything once; the next tests are of processes."""
    gpu = importlib.import_module("gpu")
    setup = gpu.Setup(tmp_path, rehearse=True)
    parts = {}
    for part in gpu.PARTS:
        gpu.write_results(part(setup), tmp_path / f"{part.__name__}.json")
        parts[part.__name__] = setup.read(part.__name__)
        assert gpu.judge(0, parts[part.__name__]) == "ok", part.__name__
    exact = parts["precision"]["losses of mini/paper_sr4x, exact"]
    # On the CPU it is compared with itself.
    assert exact["agrees"] is True
    assert exact["differ"] == 0
    assert len(exact["losses"]) == 2 * gpu.STEPS
    for name in ("train_plain", "train_default", "train_24gb"):
        stage1 = parts[name]["stage1"]
        assert stage1["ms"] > 0
        assert stage1["peak_gib"] > 0
        assert stage1["tflop"] > 0
        assert stage1["of_fp32"] > 0
    plain, default = parts["train_plain"], parts["train_default"]
    assert default["stage1"]["losses"] == pytest.approx(plain["stage1"]["losses"], rel=1e-5)
    assert parts["restore"]["64 px, fp32"]["ms"] > 0


def test_the_parts_for_a_gpu_are_put_into_one_file(tmp_path, monkeypatch):
    gpu = importlib.import_module("gpu")
    outcomes = {gpu.machine: "ok", gpu.weights: "failed", gpu.restore: "ok"}

    def run_part(setup, name, limit):
        assert 0 < limit <= gpu.PATIENCE * gpu.PARTS[getattr(gpu, name)]
        return {"status": outcomes[getattr(gpu, name)], "seconds": 1.0, "results": {"a": 1}}

    monkeypatch.setattr(gpu, "run_part", run_part)
    monkeypatch.setattr(gpu, "PARTS", {part: gpu.PARTS[part] for part in outcomes})
    assert gpu.run_parts(gpu.Setup(tmp_path, rehearse=True)) is False
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["rehearsal"] is True
    statuses = {name: part["status"] for name, part in report["parts"].items()}
    assert statuses == {"machine": "ok", "weights": "failed", "restore": "ok"}
    outcomes[gpu.weights] = "ok"
    assert gpu.run_parts(gpu.Setup(tmp_path, rehearse=True)) is True


def test_the_script_for_a_gpu_finds_its_program(tmp_path):
    script = PROGRAMS[0].with_name("gpu.sh")
    command = [script, tmp_path, "--rehearse", "--part", "weights"]
    subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, check=True)
    assert json.loads((tmp_path / "weights.json").read_text()) == {"recipe": "mini/paper_sr4x"}


def test_a_part_for_a_gpu_that_fails_costs_its_own_results_only(tmp_path, monkeypatch):
    gpu = importlib.import_module("gpu")
    setup = gpu.Setup(tmp_path, rehearse=True)
    # There is nothing to compare with: the part of the reference did not run.
    failed = gpu.run_part(setup, "compiled", 120)
    assert failed["status"] == "failed"
    assert failed["results"] == {"compiles": False}
    assert "KeyError" in failed["last_words"]
    stopped = gpu.run_part(setup, "machine", 0.01)
    assert stopped["status"] == "timed out"
    assert stopped["results"] == {}
    assert gpu.run_part(setup, "weights", 60)["status"] == "ok"


def test_losses_on_a_gpu_are_judged_by_the_largest_difference():
    gpu = importlib.import_module("gpu")
    judgement = gpu.judge_losses([1.0, 2.0], [1.0, 2.1], 0.1)
    assert judgement["agrees"]
    assert judgement["differ"] == pytest.approx(0.05)
    assert not gpu.judge_losses([1.0, 2.0], [1.0, 2.1], 0.01)["agrees"]
    skipped = gpu.judge_losses([1.0, 2.0], [float("nan"), 2.0], 0.1, skipped=1)
    assert skipped["agrees"]
    assert skipped["losses"] == [None, 2.0]
    assert not gpu.judge_losses([1.0, 2.0], [float("nan"), 2.0], 0.1)["agrees"]
    nothing = gpu.judge_losses([1.0], [float("inf")], 0.1)
    assert not nothing["agrees"]
    assert nothing["differ"] is None
    assert gpu.judge(0, {"a": {"agrees": False}}) == "disagrees"


def write_run(folder, psnr, lpips):
    """A run that judged its student on 20 photographs at tradeoff 0 and 1."""
    sweep = [MethodRow("student", 0.0, 1), MethodRow("student", 1.0, 1)]
    metrics = [
        MeasuredMetric("psnr", "", higher_is_better=True, perceptual=False),
        MeasuredMetric("lpips", "", higher_is_better=False, perceptual=True),
    ]
    values = {}
    photographs = np.linspace(-1, 1, 20)
    for row, p, d in zip(sweep, psnr, lpips, strict=True):
        values[row.label, "psnr"] = p + photographs
        values[row.label, "lpips"] = d + 0 * photographs
    items = tuple(f"{i}.png" for i in range(20))
    results = Results("set", items, tuple(sweep), tuple(metrics), values)
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "per_image.json").write_text(results.to_json())
    return folder


def test_two_runs_are_compared_at_equal_distances_over_their_seeds(tmp_path, capsys, monkeypatch):
    one = write_run(tmp_path / "one", [24.0, 26.0], [0.2, 0.3])
    two = write_run(tmp_path / "two", [24.4, 26.4], [0.2, 0.3])
    other = write_run(tmp_path / "other", [23.0, 25.0], [0.25, 0.35])
    monkeypatch.setattr(sys, "argv", ["compare.py", f"{one},{two}", str(other), "--equal"])
    importlib.import_module("compare").main()
    printed = capsys.readouterr().out
    # The mean of both seeds has 26.2 dB at .3, the other 24 dB between its two points.
    assert "tradeoff 0: no tradeoff of it is as close" in printed
    assert "tradeoff 1: +2.200 dB" in printed


def test_weights_are_interpolated_between_networks_of_one_shape(tmp_path, monkeypatch):
    mix = importlib.import_module("mix")
    monkeypatch.chdir(tmp_path)
    save_file({"w": torch.tensor([0.0, 4.0])}, "a.safetensors")
    save_file({"w": torch.tensor([1.0, 2.0])}, "b.safetensors")
    save_file({"v": torch.tensor([1.0, 2.0])}, "other.safetensors")
    monkeypatch.setattr(
        sys, "argv", ["mix", "a.safetensors", "b.safetensors", "0.25", "c.safetensors"]
    )
    mix.main()
    assert load_file("c.safetensors")["w"].tolist() == [0.25, 3.5]
    monkeypatch.setattr(
        sys, "argv", ["mix", "a.safetensors", "other.safetensors", "1", "d.safetensors"]
    )
    with pytest.raises(DistillkitError, match="not of one network"):
        mix.main()


def test_pairs_are_drawn_between_input_and_truth(tmp_path):
    strip = importlib.import_module("strip")

    class Student:
        scale = 4

        def __call__(self, pixels, tradeoffs):
            return [torch.full((3, 32, 32), tradeoff) for tradeoff in tradeoffs]

    for name, side, level in (("lq", 8, 51), ("gt", 32, 204)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (side, side), (level,) * 3).save(tmp_path / name / "0007.png")
    rows = list(strip.pair_rows(Student(), [0.0, 1.0], tmp_path, ["0007"]))
    picture = np.asarray(strip.draw(rows))
    assert list(rows[0]) == ["input, bicubic", "tradeoff 0", "tradeoff 1", "ground truth"]
    assert picture.shape == (strip.HEADING + 32, 4 * 32 + 3 * strip.GAP, 3)
    middles = picture[strip.HEADING + 16, 16 :: 32 + strip.GAP, 0]
    assert middles.tolist() == [51, 0, 255, 204]
