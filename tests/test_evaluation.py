"""The evaluation protocol and the files written from its results."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.diffusion.model import ModelInput
from distillkit.errors import DataError, DiskError, DistillkitError, WeightsError
from distillkit.evaluation.gallery import (
    Gallery,
    crop_detail,
    difference_map,
    image_title,
    sort_for_display,
)
from distillkit.evaluation.measuring import measure
from distillkit.evaluation.protocol import (
    EvaluationSettings,
    Method,
    available_metrics,
    bicubic_method,
    evaluate,
    linear_combinations,
)
from distillkit.evaluation.results import AbsentMetric, Results
from distillkit.files.atomic import write_file
from distillkit.files.images import to_uint8
from distillkit.metrics.base import FullReference, from_uint8
from distillkit.metrics.distortion import psnr
from distillkit.report.documents import evaluation_markdown
from distillkit.report.files import write_evaluation
from distillkit.report.losses import draw_losses
from distillkit.report.notes import color_note, cost_note
from distillkit.report.page import EvaluatedSet, write_report
from distillkit.report.style import STUDENT_COLOR
from distillkit.report.tables import cost_cells, cost_columns, difference_table
from distillkit.report.tradeoff import draw_tradeoff, leave_out_far_point


def roughness(image: torch.Tensor) -> torch.Tensor:
    return image.diff(dim=-1).abs().mean((1, 2, 3))


ROUGHNESS = FullReference(
    name="roughness",
    protocol="difference of horizontal gradients, no border crop",
    function=lambda restored, gt: (roughness(restored) - roughness(gt)).abs(),
    higher_is_better=False,
    differentiable=True,
    perceptual=True,
)


def items(photos: int = 3, crops: int = 2, size: int = 12):
    for p in range(photos):
        for c in range(crops):
            g = torch.Generator().manual_seed(100 * p + c)
            gt = torch.rand(1, 3, size, size, generator=g) * 1.6 - 0.8
            yield EvaluationPair(f"photo{p}.png#{c}", F.avg_pool2d(gt, 2), gt)


def evaluate_toy(methods, images, metrics, observe=None, **settings) -> Results:
    toy = EvaluationSettings("toy", **settings)
    return evaluate(methods, images, metrics, toy, observe=observe)


def blend(name: str, tradeoff: float | None, weight: float, nfe: int = 1) -> Method:
    """Nearest enlargement, plus noise that the weight takes away."""

    def restore(item, inputs, generator):
        enlarged = F.interpolate(inputs.lq, scale_factor=2)
        noise = torch.randn(enlarged.shape, generator=generator)
        return enlarged + (1 - weight) * 0.3 * noise

    return Method(name, tradeoff, nfe, restore)


KEYS = (
    "method",
    "tradeoff",
    "dataset",
    "metric",
    "protocol",
    "mean",
    "sem",
    "ci_low",
    "ci_high",
    "n",
    "reference",
    "difference",
    "difference_low",
    "difference_high",
    "nfe",
    "seconds",
    "parameters",
    "trainable",
)
METHODS = (
    blend("fidelity", None, 1.0, nfe=4),
    blend("realness", None, 0.0),
    bicubic_method(2),
    blend("student", 0.0, 0.0),
    blend("student", 0.5, 0.5),
    blend("student", 1.0, 1.0),
)


TRUNK_ABSENT = AbsentMetric(
    reason="/nowhere/trunk.pth - not here; to get it: fetch it",
    summary="weights absent: fetch it",
)


@pytest.fixture(scope="module")
def evaluated() -> tuple[Results, Gallery]:
    gallery = Gallery(limit=2)
    settings = {
        "seed": 1,
        "combine": {"linear": ("fidelity", "realness")},
        "alphas": (0.25, 0.5),
        "reference": "bicubic",
        "device": "cpu: a test",
        "absent": {"lpips-vgg": TRUNK_ABSENT},
    }
    results = evaluate_toy(METHODS, items(), [psnr(), ROUGHNESS], observe=gallery, **settings)
    return results, gallery


@pytest.fixture
def results(evaluated) -> Results:
    return evaluated[0]


def test_rows_have_the_keys_of_a_run_folder_and_nothing_else(results):
    rows = results.rows()
    assert {tuple(row) for row in rows} == {KEYS}
    nfe = {}
    for row in rows:
        nfe[row["method"], row["tradeoff"]] = row["nfe"]
    assert nfe == {
        ("fidelity", None): 4,
        ("realness", None): 1,
        ("bicubic", None): 0,
        ("student", 0.0): 1,
        ("student", 0.5): 1,
        ("student", 1.0): 1,
        ("linear:0.25", None): 5,
        ("linear:0.5", None): 5,
    }
    measured = [row for row in rows if row["metric"] != "lpips-vgg"]
    assert {row["n"] for row in measured} == {6}
    assert all("clustered by photo" in row["protocol"] for row in measured)


def test_values_are_those_of_the_saved_8_bit_images(results):
    name, lq, gt, _ = next(items())
    assert results.items[0] == name
    image = METHODS[2].restore(name, ModelInput(lq), torch.Generator())
    saved = from_uint8(to_uint8(image))
    saved_gt = from_uint8(to_uint8(gt))
    expected = psnr()(saved, gt).item()
    assert results.values["bicubic", "psnr"][0] == pytest.approx(expected, abs=1e-5)
    expected = ROUGHNESS(saved, saved_gt).item()
    assert results.values["bicubic", "roughness"][0] == pytest.approx(expected, abs=1e-7)


def test_linear_combinations_weigh_the_faithful_image_with_alpha():
    faithful = torch.full((1, 3, 2, 2), 200, dtype=torch.uint8)
    realistic = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    combinations = linear_combinations("linear", faithful, realistic, (0.0, 0.25, 1.0))
    pixels = {name: int(image[0, 0, 0, 0]) for name, image in combinations.items()}
    assert pixels == {"linear:0": 100, "linear:0.25": 125, "linear:1": 200}


def test_draws_depend_on_seed_item_and_method_only(results):
    key = ("realness", "psnr")
    backwards = list(items())[::-1]
    alone = evaluate_toy(METHODS[1:2], backwards, [psnr()], seed=1)
    assert alone.values[key][::-1].tolist() == results.values[key].tolist()
    other_seed = evaluate_toy(METHODS[1:2], items(), [psnr()], seed=2)
    assert (other_seed.values[key] != results.values[key]).all()


def test_several_seeds_give_their_mean_and_its_deviation(results):
    settings = {"combine": {"linear": ("fidelity", "realness")}, "alphas": (0.5,)}
    one = evaluate_toy(METHODS[:3], items(), [psnr()], seed=1, **settings)
    two = evaluate_toy(METHODS[:3], items(), [psnr()], seed=2, **settings)
    several = Results.over_seeds([one, two])
    assert (one.seeds, several.seeds) == (1, 2)
    assert Results.over_seeds([one]) is one

    key = ("realness", "psnr")
    np.testing.assert_allclose(several.values[key], (one.values[key] + two.values[key]) / 2)
    means = [one.values[key].mean(), two.values[key].mean()]
    deviation = several.deviation(*key)
    assert deviation == pytest.approx(np.std(means, ddof=1))
    assert deviation > 0
    assert several.deviation("bicubic", "psnr") == 0
    assert one.deviation(*key) is None
    assert Results.from_json(several.to_json()).deviation(*key) == deviation

    assert any("mean of 2 seeds" in row["protocol"] for row in several.rows())
    table = evaluation_markdown(several, (), ())
    assert "mean of 2 seeds" in table
    assert f"(sd {deviation:.2f})" in table
    assert "(sd" not in evaluation_markdown(results, (), ())


def test_a_student_has_the_same_draws_at_every_tradeoff():
    drawn = []

    def restore(item, inputs, generator):
        lq = inputs.lq
        drawn.append(torch.randn(4, generator=generator))
        return F.interpolate(lq, scale_factor=2)

    student = [Method("student", 0.0, 1, restore), Method("student", 1.0, 1, restore)]
    evaluate_toy(student, items(1, 2), [psnr()])
    first_at_0, first_at_1, second_at_0, second_at_1 = drawn
    assert torch.equal(first_at_0, first_at_1)
    assert torch.equal(second_at_0, second_at_1)
    assert not torch.equal(first_at_0, second_at_0)


def test_a_method_cannot_change_what_the_next_one_sees():
    def vandal(item, inputs, generator):
        return F.interpolate(inputs.lq.zero_(), scale_factor=2)

    honest = bicubic_method(2)
    alone = evaluate_toy([honest], items(), [psnr()])
    after = evaluate_toy([Method("vandal", None, 1, vandal), honest], items(), [psnr()])
    assert after.values["bicubic", "psnr"].tolist() == alone.values["bicubic", "psnr"].tolist()


def test_non_finite_output_and_wrong_sizes_name_method_and_image():
    broken = Method("student", 0.5, 1, lambda item, inputs, g: torch.full((1, 3, 12, 12), math.nan))
    problem = r"student@0\.5 on photo0\.png#0 - output is not finite"
    with pytest.raises(DistillkitError, match=problem):
        evaluate_toy([broken], items(), [psnr()])
    small = Method("realness", None, 1, lambda item, inputs, g: inputs.lq)
    problem = r"realness on photo0\.png#0 - output is \(1, 3, 6, 6\)"
    with pytest.raises(DistillkitError, match=problem):
        evaluate_toy([small], items(), [psnr()])


def failing(name: str, fails: set[float]) -> FullReference:
    """Return a metric that raises for images of these sums."""

    def measure(restored, gt):
        if any(round(image.sum().item(), 3) in fails for image in restored):
            raise RuntimeError("kernel panic\nin line 2")
        return roughness(restored)

    return replace(ROUGHNESS, name=name, function=measure)


def test_a_metric_that_fails_costs_the_cells_of_its_image_and_nothing_else():
    images = list(items())
    broken_item = images[2]
    enlarged = bicubic_method(2).restore(broken_item.name, ModelInput(broken_item.lq), None)
    seen = round(from_uint8(to_uint8(enlarged)).sum().item(), 3)
    metrics = [psnr(), ROUGHNESS, failing("fails", {seen})]
    results = evaluate_toy(METHODS, images, metrics, reference="bicubic")
    failed = [(cell.item, cell.method, cell.metric) for cell in results.unmeasured]
    assert failed == [(broken_item.name, "bicubic", "fails")]
    assert results.unmeasured[0].reason == "RuntimeError: kernel panic"
    assert np.isnan(results.values["bicubic", "fails"]).tolist() == [
        item.name == broken_item.name for item in images
    ]
    values = results.values["bicubic", "fails"]
    assert results.summary("bicubic", "fails").mean == pytest.approx(np.nanmean(values))
    assert results.count("bicubic", "fails") == 5
    assert np.isfinite(results.values["realness", "fails"]).all()
    differences = results.values["realness", "fails"] - values
    assert results.paired("realness", "bicubic", "fails").mean == np.nanmean(differences)
    (row,) = [r for r in results.rows() if (r["method"], r["metric"]) == ("bicubic", "fails")]
    assert row["n"] == 5
    table = evaluation_markdown(results, (), ())
    assert f"- fails on {broken_item.name} (bicubic): RuntimeError: kernel panic" in table
    assert "5 of 6 images" in table
    again = Results.from_json(results.to_json())
    assert again.rows() == results.rows()
    assert again.unmeasured == results.unmeasured
    assert all(gap.difference is None or gap.difference.mean for gap in results.at_equal("fails"))


def test_gaps_are_of_the_images_that_every_point_has(evaluated):
    results = evaluated[0]
    values = {key: column.copy() for key, column in results.values.items()}
    values["student@0.5", "roughness"][1] = math.nan
    kept = [0, 2, 3, 4, 5]
    fewer = replace(
        results,
        items=tuple(results.items[i] for i in kept),
        values={key: column[kept] for key, column in results.values.items()},
    )
    gaps = replace(results, values=values).at_equal("roughness")
    assert gaps == fewer.at_equal("roughness")
    assert gaps != results.at_equal("roughness")


def test_a_metric_without_any_number_is_named_in_its_cell():
    silly = replace(ROUGHNESS, name="silly", function=lambda a, b: roughness(a) * math.nan)
    results = evaluate_toy([bicubic_method(2)], items(), [psnr(), silly])
    (row,) = [row for row in results.rows() if row["metric"] == "silly"]
    assert (row["mean"], row["n"]) == (None, 0)
    table = evaluation_markdown(results, (), ())
    assert "| not measured |" in table
    assert "silly on photo0.png#0 (all methods): its value is nan" in table


def test_one_failed_seed_takes_the_image_out_of_the_mean_over_seeds():
    one = evaluate_toy([bicubic_method(2)], items(), [psnr()])
    values = {key: column.copy() for key, column in one.values.items()}
    values["bicubic", "psnr"][0] = math.nan
    several = Results.over_seeds([one, replace(one, values=values)])
    assert several.count("bicubic", "psnr") == 5
    assert several.deviation("bicubic", "psnr") == 0


class Count:
    """A metric of sets: the number of images; one of them it cannot read."""

    name = "count"
    protocol = "a count"
    higher_is_better = False
    differentiable = False
    perceptual = True

    def __init__(self, unreadable=None):
        self.unreadable = unreadable
        self.calls = 0

    def features(self, images):
        self.calls += 1
        if self.calls == self.unreadable:
            raise RuntimeError("cannot read it")
        return torch.ones(1, 1)

    def distance(self, restored, gt):
        return float(len(restored))


def test_a_metric_of_sets_that_fails_on_an_image_costs_that_methods_cell():
    methods = [bicubic_method(2), METHODS[1]]
    results = evaluate_toy(methods, items(), [psnr(), Count(unreadable=4)])
    assert math.isnan(results.values["bicubic", "count"])
    assert results.values["realness", "count"] == 6
    (cell,) = results.unmeasured
    assert (cell.item, cell.method) == ("", "bicubic")
    assert cell.reason == "photo0.png#1: RuntimeError: cannot read it"


def test_items_must_exist_and_have_names_of_their_own():
    with pytest.raises(DataError, match="no images"):
        evaluate_toy(METHODS, [], [psnr()])
    with pytest.raises(DataError, match="two images"):
        evaluate_toy(METHODS, [*items(1, 1), *items(1, 1)], [psnr()])
    with pytest.raises(ValueError, match="share a name"):
        evaluate_toy(METHODS, items(), [psnr(), psnr()])
    with pytest.raises(ValueError, match="share a label"):
        evaluate_toy([METHODS[0], METHODS[0]], items(), [psnr()])


def test_images_of_different_sizes_and_many_at_once_are_measured_alike(results, monkeypatch):
    monkeypatch.setattr("distillkit.evaluation.measuring.PIXELS_PER_BATCH", 1)
    one_by_one = evaluate_toy(METHODS, items(), [psnr(), ROUGHNESS], seed=1)
    for key, values in one_by_one.values.items():
        np.testing.assert_allclose(values, results.values[key], atol=1e-6)
    small = next(items())
    large = next(items(size=20))._replace(name="large")
    mixed = evaluate_toy(METHODS, [small, large], [psnr()])
    assert mixed.items == ("photo0.png#0", "large")


def test_the_features_of_a_ground_truth_are_computed_once(monkeypatch):
    monkeypatch.setattr("distillkit.evaluation.measuring.PIXELS_PER_BATCH", 1)
    seen = []

    def remember(images):
        seen.append(images)
        return images

    (item,) = items(1, 1)
    images = {f"{value}": torch.full_like(item.gt, value).byte() for value in (0, 100, 200)}
    measured = measure(replace(ROUGHNESS, features=remember), images, item.gt)
    assert measured == measure(ROUGHNESS, images, item.gt)
    gt = from_uint8(to_uint8(item.gt))
    assert [torch.equal(image, gt) for image in seen].count(True) == 1
    assert len(seen) == 1 + len(images)


def test_psnr_is_measured_even_if_nobody_asked():
    results = evaluate_toy([bicubic_method(2)], items(), [ROUGHNESS])
    assert [metric.name for metric in results.metrics] == ["psnr", "roughness"]
    assert results.fidelity == "psnr"


def test_absent_weights_become_cells_that_say_so():
    def missing():
        raise WeightsError("/nowhere/trunk.pth - not here", "fetch it")

    metrics, absent = available_metrics({"psnr": psnr, "lpips-vgg": missing})
    results = evaluate_toy([bicubic_method(2)], items(), metrics, absent=absent)
    assert absent == {"lpips-vgg": TRUNK_ABSENT}
    (row,) = [row for row in results.rows() if row["metric"] == "lpips-vgg"]
    assert (row["mean"], row["n"], row["protocol"]) == (None, 0, "weights absent: fetch it")


def test_results_survive_json(results):
    again = Results.from_json(results.to_json())
    assert again.rows() == results.rows()
    assert again.teachers == results.teachers
    assert again.at_equal("roughness") == results.at_equal("roughness")


# Files


def logged(stage: str, step: int) -> dict[str, str | float]:
    return {"stage": stage, "step": step, "loss": 1 / step, "l2": 0.5 / step, "lr": 1e-4}


HISTORY = [
    *(logged("stage1", step) for step in range(10, 100, 10)),
    *(logged("stage2", step) for step in range(110, 200, 10)),
]


def report(run_dir, evaluated, **changes) -> str:
    arguments = {
        "trained_against": ["roughness"],
        "recipe_toml": "name = 'toy'",
        "manifest": {},
        "history": HISTORY,
    }
    arguments |= changes
    write_evaluation(*evaluated, run_dir / "evaluation", arguments["trained_against"])
    sets = [EvaluatedSet(*evaluated, run_dir / "evaluation")]
    return write_report(run_dir, sets, **arguments).read_text()


class Page(HTMLParser):
    """Attributes that load something, and the tags that are open at the end."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action") and value:
                self.loads.append(value)
        if tag not in ("meta", "img", "input", "br", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_an_evaluation_folder_holds_the_promised_files(tmp_path, evaluated):
    write_evaluation(*evaluated, tmp_path, ["roughness"])
    files = {
        "metrics.json",
        "metrics.csv",
        "table.md",
        "tradeoff.png",
        "comparison.png",
        "per_image.json",
    }
    assert {p.name for p in tmp_path.iterdir()} == files
    rows = json.loads((tmp_path / "metrics.json").read_text())
    assert rows == evaluated[0].rows()
    lines = list(csv.DictReader(io.StringIO((tmp_path / "metrics.csv").read_text())))
    assert [line["method"] for line in lines] == [row["method"] for row in rows]
    means = ["" if row["mean"] is None else str(row["mean"]) for row in rows]
    assert [line["mean"] for line in lines] == means
    assert Results.from_json((tmp_path / "per_image.json").read_text()).rows() == rows


def test_the_table_labels_trained_and_held_out_metrics_and_prints_no_number_without_weights(
    tmp_path, evaluated
):
    write_evaluation(*evaluated, tmp_path, ["roughness"])
    table = (tmp_path / "table.md").read_text()
    assert "roughness ↓ (trained against)" in table
    main_table, _, _ = table.partition("## Differences")
    rows = re.findall(r"^\| (?:bicubic|student|linear).*$", main_table, re.MULTILINE)
    assert len(rows) == 6
    assert all(row.endswith("| weights absent: fetch it |") for row in rows)
    assert "refused" in table
    assert "3 photos" in table
    write_evaluation(*evaluated, tmp_path, [])
    assert "roughness ↓ (held out)" in (tmp_path / "table.md").read_text()


def test_the_pictures_are_pictures(tmp_path, evaluated):
    write_evaluation(*evaluated, tmp_path, ["roughness"])
    figure = np.array(Image.open(tmp_path / "comparison.png"))
    height = 26 + 2 * 192 + 6
    width = 8 * 192 + 7 * 6  # input, bicubic, 2 teachers, student at 3 tradeoffs, truth
    assert figure.shape == (height, width, 3)
    first = next(iter(evaluated[1].pictures.values())).detail
    left = 7 * (192 + 6)
    assert (figure[26, left] == first["gt"][:, 0, 0].numpy()).all()
    assert (figure[26 + 191, left + 191] == first["gt"][:, -1, -1].numpy()).all()
    plot = np.array(Image.open(tmp_path / "tradeoff.png").convert("RGB"))
    blue = np.abs(plot.astype(int) - [0x21, 0x86, 0xD0]).sum(-1) < 20
    assert blue.sum() > 500  # the student's curve is drawn


def test_every_mean_has_an_interval_and_a_paired_difference_from_the_reference(results):
    rows = [row for row in results.rows() if row["mean"] is not None]
    of_bicubic = {row["metric"]: row["mean"] for row in rows if row["method"] == "bicubic"}
    for row in rows:
        assert row["ci_low"] <= row["mean"] <= row["ci_high"]
        assert row["reference"] == "bicubic"
        difference = row["mean"] - of_bicubic[row["metric"]]
        assert row["difference"] == pytest.approx(difference, abs=1e-6)
        assert row["difference_low"] <= row["difference"] + 1e-9
        assert row["difference"] <= row["difference_high"] + 1e-9


def test_the_differences_are_a_table(results):
    header, rows = difference_table(results)
    assert header == ["method", "tradeoff", "psnr", "roughness"]
    assert len(rows) == len(results.methods) - 1
    fixed = replace(results, methods=results.methods[:3])
    assert difference_table(fixed).header == ["method", "psnr", "roughness"]
    assert difference_table(replace(results, reference=None)) is None
    with pytest.raises(DistillkitError, match='did you mean "bicubic"'):
        evaluate_toy([bicubic_method(2)], items(), [psnr()], reference="bicubik")


def test_costs_are_measured_and_a_combination_costs_what_both_methods_do(tmp_path, evaluated):
    results = evaluated[0]
    seconds = {method.label: method.seconds for method in results.methods}
    assert all(s > 0 for s in seconds.values())
    assert seconds["linear:0.5"] == pytest.approx(seconds["fidelity"] + seconds["realness"])
    assert results.method("linear:0.5").nfe == 5
    assert results.method("linear:0.5").parameters is None
    assert results.method("bicubic").parameters == 0
    assert cost_columns(results) == ["NFE", "seconds per image", "parameters"]
    write_evaluation(*evaluated, tmp_path, [])
    table = (tmp_path / "table.md").read_text()
    assert "| seconds per image |" in table
    assert "cpu: a test" in table
    assert "| trained |" not in table


def test_unknown_costs_have_no_column():
    files = replace(bicubic_method(2), name="theirs", nfe=None, parameters=None)
    results = evaluate_toy([files], items(), [psnr()])
    (method,) = results.methods
    assert method.seconds is None
    assert cost_columns(results) == []
    assert cost_note(results) == ""
    method = replace(method, parameters=865_910_000, trainable=8500, nfe=1)
    results = replace(results, methods=(method,))
    assert cost_cells(results, method) == ["1", "865.9 M", "8.5 k"]


def test_one_color_fix_is_for_every_image_that_is_restored_here():
    def darken(name, nfe):
        def restore(item, inputs, generator):
            return F.interpolate(inputs.lq, scale_factor=2) * 0.5 - 0.4

        return Method(name, None, nfe, restore)

    methods = [darken("fidelity", 1), darken("realness", 15), darken("files", None)]
    gallery = Gallery(limit=1)
    settings = {"combine": {"linear": ("fidelity", "realness")}, "alphas": (0.5,)}
    results = evaluate_toy(
        methods, items(1, 1), [psnr()], observe=gallery, color_fix="adain", **settings
    )
    images = next(iter(gallery.pictures.values())).whole

    def error_of(label):
        means = images[label].float().mean((1, 2)) - images["lq"].float().mean((1, 2))
        return means.abs().max()

    assert error_of("fidelity") < 1
    assert error_of("realness") < 1
    # What is read from a folder is measured as it is.
    assert error_of("files") > 20
    assert results.mean("linear:0.5", "psnr") == results.mean("fidelity", "psnr")
    assert results.mean("fidelity", "psnr") > results.mean("files", "psnr") + 3
    assert Results.from_json(results.to_json()).color_fix == "adain"
    assert "(adain)" in color_note(results)
    assert color_note(evaluate_toy(methods, items(1, 1), [psnr()])) == ""


def flat(value, height=12, width=12):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def test_a_gallery_keeps_the_photos_on_which_the_methods_differ_most():
    gallery = Gallery(limit=2)
    differences = {"a#0": 3, "a#1": 9, "b#0": 1, "c#0": 50, "d#0": 2, "e#0": 0, "c#1": 20}
    for item, difference in differences.items():
        images = {"gt": flat(100), "one": flat(100), "two": flat(100 + difference)}
        gallery(item, {**images, "linear:0.5": flat(0)})
    # One item a photo, the largest difference first; combinations are not shown.
    assert list(gallery.pictures) == ["c#0", "a#1"]
    assert set(gallery.pictures["c#0"].whole) == {"gt", "one", "two"}
    assert gallery.pictures["c#0"].difference == pytest.approx(25, abs=0.1)


def test_a_single_method_is_held_against_the_ground_truth():
    gallery = Gallery(limit=1)
    for item, error in (("a", 2), ("b", 8), ("c", 4)):
        gallery(item, {"gt": flat(100), "one": flat(100 + error)})
    assert list(gallery.pictures) == ["b"]


def test_pictures_are_whole_and_reduced_only_where_a_page_could_not_hold_them(monkeypatch):
    images = {"gt": flat(7, 40, 60), "lq": flat(7, 10, 15), "one": flat(9, 40, 60)}
    gallery = Gallery()
    gallery("a", images)
    picture = gallery.pictures["a"]
    assert picture.reduction == 1
    assert all(torch.equal(picture.whole[label], images[label]) for label in images)
    monkeypatch.setattr("distillkit.evaluation.gallery.MAX_PIXELS", 270)
    gallery = Gallery()
    gallery("a", images)
    picture = gallery.pictures["a"]
    assert picture.reduction == 3
    assert picture.whole["gt"].shape == (3, 13, 20)
    assert picture.whole["one"].unique().tolist() == [9]
    assert picture.whole["lq"].shape == (3, 10, 15)


def test_images_are_sorted_and_titled_for_display(evaluated):
    teachers = ("fidelity", "realness")
    labels = list(next(iter(evaluated[1].pictures.values())).whole)
    assert sort_for_display(labels, teachers) == [
        "lq",
        "bicubic",
        "fidelity",
        "realness",
        "student@0",
        "student@0.5",
        "student@1",
        "gt",
    ]
    labels = ["student@1", "gt", "soup@1", "soup@0", "student@0", "lq"]
    in_order = ["lq", "soup@0", "soup@1", "student@0", "student@1", "gt"]
    assert sort_for_display(labels, None) == in_order
    assert image_title("lq", teachers) == "input"
    assert image_title("fidelity", teachers) == "fidelity teacher"
    assert image_title("student@0.5", teachers) == "student 0.5"


def test_a_detail_is_the_same_region_of_every_image_where_methods_differ_most():
    gt = torch.arange(40 * 60, dtype=torch.float32).view(1, 40, 60).expand(3, -1, -1)
    one = gt.clone()
    one[:, 30:, 45:] += 50
    images = {"lq": gt[:, ::4, ::4], "gt": gt, "one": one, "two": gt}
    shown = crop_detail(images, difference_map(images), side=18)
    # 18 pixels are 4 of the input; the corner that differs is 16 x 16 of them, from row 24 on.
    assert shown["gt"].shape == (3, 16, 16)
    assert shown["lq"].shape == (3, 4, 4)
    assert torch.equal(shown["gt"], gt[:, 24:, 44:])
    assert torch.equal(shown["gt"][:, ::4, ::4], shown["lq"])


def test_the_report_is_one_well_formed_page_that_loads_nothing(tmp_path, evaluated):
    html = report(tmp_path, evaluated)
    page = Page(html)
    assert page.open == []
    # Tradeoff, comparison and losses.
    assert len(page.loads) == 3
    assert all(value.startswith("data:image/png;base64,") for value in page.loads)
    assert not re.search(r"https?://", html)
    assert html.count("weights absent: fetch it") == 8  # a cell of each method
    assert "not measured: /nowhere/trunk.pth" in html
    assert "trained against" in html


def test_the_report_shows_what_a_recipe_says_and_runs_none_of_it(tmp_path, evaluated):
    hostile = "</pre><script>alert(1)</script>"
    manifest = {"python": {"version": "<b>3.11</b>"}}
    html = report(tmp_path, evaluated, recipe_toml=hostile, manifest=manifest)
    assert hostile not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "python.version" in html
    assert "<b>3.11" not in html


def data_of(html, id):
    script = rf'<script type="application/json" id="{id}">(.*?)</script>'
    return json.loads(re.search(script, html, re.DOTALL)[1])


def test_the_viewer_has_every_photo_at_every_tradeoff(tmp_path, evaluated):
    data = data_of(report(tmp_path, evaluated), "viewer")
    assert [photo["name"] for photo in data["photos"]] == list(evaluated[1].pictures)
    assert len(data["photos"]) == 2
    assert list(data["curves"]) == ["student"]
    assert [point["tradeoff"] for point in data["curves"]["student"]] == [0, 0.5, 1]
    images = list(data["photos"][0]["images"])
    assert {point["label"] for point in data["curves"]["student"]} < set(images)
    in_order = sort_for_display(images, ("fidelity", "realness"))
    assert [label for label, _ in data["labels"]] == in_order
    assert data["photos"][0]["size"] == [12, 12]
    assert data["photos"][0]["reduction"] == 1


def test_large_pictures_are_small_files_and_the_page_says_so(tmp_path, evaluated, monkeypatch):
    exact = report(tmp_path, evaluated)
    assert "stored as JPEG" not in exact
    monkeypatch.setattr("distillkit.report.comparison.MAX_LOSSLESS_PIXELS", 100)
    monkeypatch.setattr("distillkit.report.page.MAX_LOSSLESS_PIXELS", 100)
    html = report(tmp_path, evaluated)
    assert "stored as JPEG" in html
    images = data_of(html, "viewer")["photos"][0]["images"]
    assert images["student@0"].startswith("data:image/jpeg;base64,")
    # The input is small enough.
    assert images["lq"].startswith("data:image/png;base64,")


def test_the_page_has_the_values_of_every_image(tmp_path, evaluated):
    results = evaluated[0]
    values = {key: column.copy() for key, column in results.values.items()}
    values["bicubic", "psnr"][2] = math.nan
    data = data_of(report(tmp_path, (replace(results, values=values), evaluated[1])), "per-image")
    assert data["items"] == list(results.items)
    titles = ["bicubic", "fidelity teacher", "realness teacher"]
    assert data["methods"] == [*titles, "student 0", "student 0.5", "student 1"]
    psnr_values, roughness_values = data["metrics"]
    assert (psnr_values["name"], psnr_values["higher"]) == ("psnr", True)
    assert (roughness_values["name"], roughness_values["higher"]) == ("roughness", False)
    assert psnr_values["columns"][0][2] is None
    assert psnr_values["columns"][0][1] == pytest.approx(values["bicubic", "psnr"][1], abs=1e-3)


def test_every_cell_carries_its_head_for_a_narrow_page(tmp_path, evaluated):
    html = report(tmp_path, evaluated)
    assert '<td data-head="roughness ↓ (trained against)">' in html
    assert '<td data-head="lpips-vgg">weights absent: fetch it</td>' in html


def test_a_report_without_training_or_a_tradeoff_leaves_those_parts_out(tmp_path):
    gallery = Gallery()
    results = evaluate_toy([bicubic_method(2)], items(), [psnr()], observe=gallery)
    write_evaluation(results, gallery, tmp_path)
    html = report(tmp_path, (results, gallery), history=[])
    assert Page(html).open == []
    parts = ("Training", "Checks", "Fidelity and realism", "All metrics", "Quality, time")
    for part in (*(f"<h2>{part}" for part in parts), "minus that of a baseline"):
        assert part not in html
    assert "Numbers along the curve" not in html
    assert data_of(html, "viewer")["curves"] == {}
    assert not (tmp_path / "tradeoff.png").exists()


def test_a_figure_is_drawn_only_where_there_is_something_to_compare(evaluated):
    results = evaluated[0]
    assert draw_tradeoff(results, ()) is not None
    assert draw_tradeoff(replace(results, methods=results.methods[:1], combined={}), ()) is None
    values = {key: column * math.nan for key, column in results.values.items()}
    values |= {key: column for key, column in results.values.items() if key[1] == "psnr"}
    assert draw_tradeoff(replace(results, values=values), ()) is None
    # One method without a mean is left out; the others are drawn.
    values = dict(results.values)
    values["fidelity", "roughness"] = values["fidelity", "roughness"] * math.nan
    values["student@0.5", "roughness"] = values["student@0.5", "roughness"] * math.nan
    assert draw_tradeoff(replace(results, values=values), ()) is not None
    assert draw_losses([{"stage": "stage1", "step": 1, "loss": math.nan}]) is None


def test_costs_of_folders_are_no_headline(tmp_path, evaluated):
    results = evaluated[0]
    assert "network evaluations per image (NFE)</span>" in report(tmp_path, evaluated)
    unknown = tuple(replace(method, nfe=None) for method in results.methods)
    html = report(tmp_path, (replace(results, methods=unknown), evaluated[1]))
    assert "network evaluations per image (NFE)</span>" not in html
    assert "<b>None" not in html


def test_losses_that_are_missing_or_not_finite_are_left_out():
    gaps = [*HISTORY, {"stage": "stage1", "step": 95, "loss": math.nan, "l2": None, "gate": 1.0}]
    assert draw_losses(gaps) not in (None, draw_losses(HISTORY))
    assert draw_losses([]) is None


def test_a_loss_that_was_logged_once_is_drawn():
    png = draw_losses([{"stage": "stage1", "step": 30, "loss": 0.5}])
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    # Above the legend, which stands in the lowest part.
    panel = pixels[: int(0.8 * len(pixels))]
    color = [int(STUDENT_COLOR[i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(panel - color).max(axis=2) < 10).sum() > 20


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_file(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    problem = r"metrics\.json - cannot be written: No space left on device; .* free space"
    with pytest.raises(DiskError, match=problem):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(("far", "framed"), [(5.0, False), (8.0, True), (-9.0, True)])
def test_a_point_far_from_the_curves_is_left_out_of_the_frame(far, framed):
    axis = Figure().subplots()
    axis.plot([1.0, 3.0, far], [1.0, 3.0, 2.0], ".")
    before = axis.get_ylim()
    leave_out_far_point(axis, ([far], [2.0]), ([1.0, 3.0], [1.0, 3.0]))
    low, high = axis.get_xlim()
    assert low < 1
    assert high > 3
    assert (low < far < high) == (not framed)
    assert axis.get_ylim() == before
