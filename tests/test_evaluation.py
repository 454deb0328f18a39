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
from matplotlib.figure import Figure
from PIL import Image

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.errors import DataError, DiskError, DistillkitError, WeightsError
from distillkit.evaluation.gallery import Gallery, image_title, sort_for_display
from distillkit.evaluation.protocol import (
    EvaluationSettings,
    Method,
    available_metrics,
    bicubic_method,
    evaluate,
    linear_combinations,
)
from distillkit.evaluation.results import Results
from distillkit.files.atomic import write_file
from distillkit.files.images import to_uint8
from distillkit.metrics.base import FullReference, from_uint8
from distillkit.metrics.distortion import psnr
from distillkit.report.documents import evaluation_markdown
from distillkit.report.files import write_evaluation
from distillkit.report.losses import draw_losses
from distillkit.report.notes import cost_note
from distillkit.report.page import write_report
from distillkit.report.tables import cost_cells, cost_columns, difference_table
from distillkit.report.tradeoff import leave_out_far_point

BLUR = FullReference(
    "roughness",
    "difference of horizontal gradients, no border crop",
    lambda a, b: (
        a.diff(dim=-1).abs().mean((1, 2, 3)) - b.diff(dim=-1).abs().mean((1, 2, 3))
    ).abs(),
    higher_is_better=False,
    differentiable=True,
    perceptual=True,
)


def items(photos: int = 3, crops: int = 2, size: int = 12):
    for p in range(photos):
        for c in range(crops):
            g = torch.Generator().manual_seed(100 * p + c)
            gt = torch.rand(1, 3, size, size, generator=g) * 1.6 - 0.8
            yield EvaluationPair(f"photo{p}.png#{c}", torch.nn.functional.avg_pool2d(gt, 2), gt)


def evaluate_toy(methods, images, metrics, observe=None, **settings) -> Results:
    return evaluate(
        methods, images, metrics, EvaluationSettings("toy", **settings), observe=observe
    )


def blend(name: str, tradeoff: float | None, weight: float, nfe: int = 1) -> Method:
    """Nearest enlargement, plus noise that the weight takes away."""

    def restore(item, lq, generator):
        big = torch.nn.functional.interpolate(lq, scale_factor=2)
        return big + (1 - weight) * 0.3 * torch.randn(big.shape, generator=generator)

    return Method(name, tradeoff, nfe, restore)


KEYS = (
    *(
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
    ),
    *(
        "reference",
        "difference",
        "difference_low",
        "difference_high",
        "nfe",
        "seconds",
        "parameters",
        "trainable",
    ),
)
METHODS = (
    blend("fidelity", None, 1.0, nfe=4),
    blend("realness", None, 0.0),
    bicubic_method(2),
    *(blend("student", t, t) for t in (0.0, 0.5, 1.0)),
)


@pytest.fixture(scope="module")
def evaluated() -> tuple[Results, Gallery]:
    gallery = Gallery(limit=2)
    absent = {"lpips-vgg": "/nowhere/trunk.pth - not here"}
    teachers = ("fidelity", "realness")
    options = {
        "seed": 1,
        "combine": teachers,
        "alphas": (0.25, 0.5),
        "absent": absent,
        "observe": gallery,
    }
    options |= {"reference": "bicubic", "device": "cpu: a test"}
    return evaluate_toy(METHODS, items(), [psnr(), BLUR], **options), gallery


@pytest.fixture
def results(evaluated) -> Results:
    return evaluated[0]


def test_rows_have_the_keys_of_a_run_folder_and_nothing_else(results):
    rows = results.rows()
    assert {tuple(row) for row in rows} == {KEYS}
    seen = {(row["method"], row["tradeoff"]): row["nfe"] for row in rows if row["metric"] == "psnr"}
    assert seen == {
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
    image = METHODS[2].restore(name, lq, torch.Generator())
    assert results.values["bicubic", "psnr"][0] == pytest.approx(
        psnr()(from_uint8(to_uint8(image)), gt).item(), abs=1e-5
    )
    saved = from_uint8(to_uint8(image))
    assert results.values["bicubic", "roughness"][0] == pytest.approx(
        BLUR(saved, from_uint8(to_uint8(gt))).item(), abs=1e-7
    )


def test_linear_combinations_weigh_the_faithful_image_with_alpha():
    faithful, realistic = (
        torch.full((1, 3, 2, 2), 200, dtype=torch.uint8),
        torch.full((1, 3, 2, 2), 100, dtype=torch.uint8),
    )
    combined = linear_combinations(faithful, realistic, (0.0, 0.25, 1.0))
    assert {k: int(v[0, 0, 0, 0]) for k, v in combined.items()} == {
        "linear:0": 100,
        "linear:0.25": 125,
        "linear:1": 200,
    }


def test_draws_depend_on_seed_item_and_method_only(results):
    again = evaluate_toy(METHODS[1:2], list(items())[::-1], [psnr()], seed=1)
    assert (
        again.values["realness", "psnr"][::-1].tolist()
        == results.values["realness", "psnr"].tolist()
    )
    other = evaluate_toy(METHODS[1:2], items(), [psnr()], seed=2)
    assert (other.values["realness", "psnr"] != results.values["realness", "psnr"]).all()


def test_several_seeds_give_their_mean_and_its_deviation(results):
    options = {"combine": ("fidelity", "realness"), "alphas": (0.5,)}
    one, two = (
        evaluate_toy(METHODS[:3], items(), [psnr()], seed=seed, **options) for seed in (1, 2)
    )
    several, key = Results.over_seeds([one, two]), ("realness", "psnr")
    assert several.seeds == 2 and one.seeds == 1
    np.testing.assert_allclose(several.values[key], (one.values[key] + two.values[key]) / 2)
    assert several.deviation(*key) == pytest.approx(
        np.std([alone.values[key].mean() for alone in (one, two)], ddof=1)
    )
    assert several.deviation(*key) > 0 and several.deviation("bicubic", "psnr") == 0
    assert one.deviation(*key) is None and Results.over_seeds([one]) is one
    assert any("mean of 2 seeds" in row["protocol"] for row in several.rows())
    table = evaluation_markdown(several, (), ())
    assert "mean of 2 seeds" in table and f"(sd {several.deviation(*key):.2f})" in table
    assert "(sd" not in evaluation_markdown(results, (), ())
    assert Results.from_json(several.to_json()).deviation(*key) == several.deviation(*key)


def test_a_student_has_the_same_draws_at_every_tradeoff():
    drawn = []

    def restore(item, lq, generator):
        drawn.append(torch.randn(4, generator=generator))
        return torch.nn.functional.interpolate(lq, scale_factor=2)

    evaluate_toy([Method("student", t, 1, restore) for t in (0.0, 1.0)], items(1, 2), [psnr()])
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_method_cannot_change_what_the_next_one_sees():
    def vandal(item, lq, generator):
        return torch.nn.functional.interpolate(lq.zero_(), scale_factor=2)

    honest = bicubic_method(2)
    alone = evaluate_toy([honest], items(), [psnr()])
    after = evaluate_toy([Method("vandal", None, 1, vandal), honest], items(), [psnr()])
    assert after.values["bicubic", "psnr"].tolist() == alone.values["bicubic", "psnr"].tolist()


def test_non_finite_output_and_wrong_sizes_name_method_and_image():
    broken = Method("student", 0.5, 1, lambda item, lq, g: torch.full((1, 3, 12, 12), math.nan))
    with pytest.raises(
        DistillkitError, match=r"student@0\.5 on photo0\.png#0 - output is not finite"
    ):
        evaluate_toy([broken], items(), [psnr()])
    small = Method("realness", None, 1, lambda item, lq, g: lq)
    with pytest.raises(
        DistillkitError, match=r"realness on photo0\.png#0 - output is \(1, 3, 6, 6\)"
    ):
        evaluate_toy([small], items(), [psnr()])


def test_a_metric_that_is_not_a_number_is_never_averaged():
    silly = FullReference(
        "silly", "none", lambda a, b: a.mean((1, 2, 3)) * math.nan, False, False, True
    )
    with pytest.raises(DistillkitError, match=r"bicubic on photo0\.png#0 - metric silly is nan"):
        evaluate_toy([bicubic_method(2)], items(), [silly])


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
    monkeypatch.setattr("distillkit.evaluation.protocol.PIXELS_PER_BATCH", 1)
    one_by_one = evaluate_toy(METHODS, items(), [psnr(), BLUR], seed=1)
    for key, values in one_by_one.values.items():
        np.testing.assert_allclose(values, results.values[key], atol=1e-6)
    mixed = evaluate_toy(
        METHODS,
        [*items(1, 1), next(items(1, 1, size=20))._replace(name="large")],
        [psnr()],
    )
    assert mixed.items == ("photo0.png#0", "large")


def test_psnr_is_measured_even_if_nobody_asked():
    found = evaluate_toy([bicubic_method(2)], items(), [BLUR])
    assert [m.name for m in found.metrics] == ["psnr", "roughness"]
    assert found.fidelity == "psnr"


def test_absent_weights_become_cells_that_say_so():
    def missing():
        raise WeightsError("/nowhere/trunk.pth - not here")

    metrics, absent = available_metrics({"psnr": psnr, "lpips-vgg": missing})
    found = evaluate_toy([bicubic_method(2)], items(), metrics, absent=absent)
    assert absent == {"lpips-vgg": "/nowhere/trunk.pth - not here"}
    (row,) = [row for row in found.rows() if row["metric"] == "lpips-vgg"]
    assert row["mean"] is None and row["n"] == 0 and row["protocol"] == "weights absent"


def test_results_survive_json(results):
    again = Results.from_json(results.to_json())
    assert again.rows() == results.rows()
    assert again.teachers == results.teachers
    assert again.at_equal("roughness") == results.at_equal("roughness")


# Files

HISTORY = [
    {"stage": stage, "step": step, "loss": 1 / step, "l2": 0.5 / step, "lr": 1e-4}
    for stage, steps in (("stage1", range(10, 100, 10)), ("stage2", range(110, 200, 10)))
    for step in steps
]


def report(run_dir, evaluated, **changes) -> str:
    given = {
        "trained_against": ["roughness"],
        "recipe_toml": "name = 'toy'",
        "manifest": {},
        "history": HISTORY,
    } | changes
    return write_report(run_dir, *evaluated, **given).read_text()


class Page(HTMLParser):
    """Attributes that load something, and the tags that are open at the end."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.loads += [
            value
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action") and value
        ]
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
    assert [float(line["mean"]) if line["mean"] else None for line in lines] == [
        row["mean"] for row in rows
    ]
    assert Results.from_json((tmp_path / "per_image.json").read_text()).rows() == rows


def test_the_table_labels_trained_and_held_out_metrics_and_prints_no_number_without_weights(
    tmp_path, evaluated
):
    write_evaluation(*evaluated, tmp_path, ["roughness"])
    table = (tmp_path / "table.md").read_text()
    assert "roughness ↓ (trained against)" in table
    lines = [
        line for line in table.partition("## Differences")[0].splitlines() if line.startswith("| ")
    ]
    assert all(
        line.endswith("| weights absent |")
        for line in lines
        if re.match(r"\| (bicubic|student|linear)", line)
    )
    assert "FAILED" in table or "passed" in table
    assert "3 photos" in table
    write_evaluation(*evaluated, tmp_path, [])
    assert "roughness ↓ (held out)" in (tmp_path / "table.md").read_text()


def test_the_pictures_are_pictures(tmp_path, evaluated):
    write_evaluation(*evaluated, tmp_path, ["roughness"])
    figure = np.array(Image.open(tmp_path / "comparison.png"))
    assert figure.shape == (
        26 + 2 * 192 + 6,
        8 * 192 + 7 * 6,
        3,
    )  # input, bicubic, 2 teachers, student at 3 tradeoffs, truth
    first = evaluated[1].photos["photo0.png"]
    left = 7 * (192 + 6)
    assert (figure[26, left] == first["gt"][:, 0, 0].numpy()).all()
    assert (figure[26 + 191, left + 191] == first["gt"][:, -1, -1].numpy()).all()
    plot = np.array(Image.open(tmp_path / "tradeoff.png").convert("RGB"))
    blue = np.abs(plot.astype(int) - [0x21, 0x86, 0xD0]).sum(-1) < 20
    assert blue.sum() > 500  # the student's curve is drawn


def test_every_mean_has_an_interval_and_a_paired_difference_from_the_reference(results):
    for row in results.rows():
        if row["mean"] is None:
            continue
        assert row["ci_low"] <= row["mean"] <= row["ci_high"] and row["reference"] == "bicubic"
        difference = row["mean"] - next(
            r["mean"]
            for r in results.rows()
            if (r["method"], r["metric"]) == ("bicubic", row["metric"]) and r["mean"] is not None
        )
        assert row["difference"] == pytest.approx(difference, abs=1e-6)
        assert (
            row["difference_low"] <= row["difference"] + 1e-9
            and row["difference"] <= row["difference_high"] + 1e-9
        )
    header, rows = difference_table(results)
    assert (
        header == ["method", "tradeoff", "psnr", "roughness"]
        and len(rows) == len(results.methods) - 1
    )
    assert difference_table(replace(results, reference=None)) is None
    with pytest.raises(DistillkitError, match='did you mean "bicubic"'):
        evaluate_toy([bicubic_method(2)], items(), [psnr()], reference="bicubik")


def test_costs_are_measured_and_a_combination_costs_what_its_parts_do(tmp_path, evaluated):
    results = evaluated[0]
    seconds = {e.label: e.seconds for e in results.methods}
    assert all(s > 0 for s in seconds.values())
    assert seconds["linear:0.5"] == pytest.approx(seconds["fidelity"] + seconds["realness"])
    assert results.method("linear:0.5").nfe == 5 and results.method("linear:0.5").parameters is None
    assert results.method("bicubic").parameters == 0
    assert cost_columns(results) == ["NFE", "seconds per image", "parameters"]
    write_evaluation(*evaluated, tmp_path, [])
    table = (tmp_path / "table.md").read_text()
    assert (
        "| seconds per image |" in table and "cpu: a test" in table and "| trained |" not in table
    )


def test_costs_that_nobody_knows_have_no_column():
    files = Method(
        "theirs",
        None,
        None,
        lambda item, lq, g: torch.nn.functional.interpolate(lq, scale_factor=2),
    )
    found = evaluate_toy([files], items(), [psnr()])
    assert found.methods[0].seconds is None and cost_columns(found) == [] and cost_note(found) == ""
    known = replace(
        found,
        methods=(replace(found.methods[0], parameters=865_910_000, trainable=8500, nfe=1),),
    )
    assert cost_cells(known, known.methods[0]) == ["1", "865.9 M", "8.5 k"]


def test_a_gallery_keeps_one_crop_a_photo_without_the_combinations(evaluated):
    photos = evaluated[1].photos
    assert list(photos) == ["photo0.png", "photo1.png"]
    assert set(photos["photo0.png"]) == {"lq", "gt", *(m.label for m in METHODS)}
    assert sort_for_display(list(photos["photo0.png"]), ("fidelity", "realness")) == [
        *("lq", "bicubic", "fidelity", "realness", "student@0", "student@0.5", "student@1", "gt")
    ]
    assert sort_for_display(["student@1", "gt", "soup@1", "soup@0", "student@0", "lq"], None) == [
        *("lq", "soup@0", "soup@1", "student@0", "student@1", "gt")
    ]
    assert [
        image_title(label, ("fidelity", "realness")) for label in ("lq", "fidelity", "student@0.5")
    ] == [*("input", "fidelity teacher", "student 0.5")]


def test_a_gallery_cuts_the_same_region_of_every_image():
    gt = torch.arange(40 * 60).view(1, 40, 60).expand(3, -1, -1)
    gallery = Gallery(limit=1, side=30)
    gallery("a", {"lq": gt[:, ::4, ::4], "gt": gt, "student": gt})
    (shown,) = gallery.photos.values()
    assert shown["gt"].shape == (3, 28, 28) and shown["lq"].shape == (3, 7, 7)
    assert torch.equal(shown["gt"][:, ::4, ::4], shown["lq"])


def test_the_report_is_one_well_formed_page_that_loads_nothing(tmp_path, evaluated):
    html = report(tmp_path, evaluated)
    page = Page(html)
    assert page.open == []
    assert len(page.loads) == 5 and all(
        value.startswith("data:image/png;base64,") for value in page.loads
    )
    assert not re.search(r"https?://", html)
    assert html.count("weights absent") == 8  # a cell of each method
    assert "not measured: /nowhere/trunk.pth" in html
    assert "trained against" in html


def test_the_report_shows_what_a_recipe_says_and_runs_none_of_it(tmp_path, evaluated):
    hostile = "</pre><script>alert(1)</script>"
    html = report(
        tmp_path, evaluated, recipe_toml=hostile, manifest={"python": {"version": "<b>3.11</b>"}}
    )
    assert hostile not in html and "&lt;script&gt;alert(1)" in html
    assert "python.version" in html and "<b>3.11" not in html


def test_the_viewer_has_every_photo_at_every_tradeoff(tmp_path, evaluated):
    html = report(tmp_path, evaluated)
    data = json.loads(
        re.search(r'<script type="application/json" id="viewer">(.*?)</script>', html, re.DOTALL)[1]
    )
    assert [photo["name"] for photo in data["photos"]] == ["photo0.png", "photo1.png"]
    assert [point["tradeoff"] for point in data["sweep"]] == [0, 0.5, 1]
    assert {point["label"] for point in data["sweep"]} < set(data["photos"][0]["images"])
    assert [label for label, _ in data["labels"]] == sort_for_display(
        list(data["photos"][0]["images"]), ("fidelity", "realness")
    )
    assert data["photos"][0]["size"] == [12, 12]


def test_a_report_without_training_or_a_knob_leaves_those_parts_out(tmp_path):
    gallery = Gallery()
    only = evaluate_toy([bicubic_method(2)], items(), [psnr()], observe=gallery)
    html = report(tmp_path, (only, gallery), history=[])
    assert Page(html).open == []
    for part in ("<h2>Training", "<h2>Checks", "minus that of a baseline"):
        assert part not in html


def test_losses_that_are_missing_or_not_finite_are_left_out():
    gaps = [*HISTORY, {"stage": "stage1", "step": 95, "loss": math.nan, "l2": None, "gate": 1.0}]
    assert draw_losses(gaps) not in (None, draw_losses(HISTORY))
    assert draw_losses([]) is None


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_file(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(
        DiskError,
        match=r"metrics\.json - cannot be written: No space left on device; .* free space",
    ):
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
    assert low < 1 and high > 3 and (low < far < high) == (not framed)
    assert axis.get_ylim() == before
