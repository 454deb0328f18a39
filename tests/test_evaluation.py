"""The evaluation protocol, the statistics of its results, and the files written from them."""

import json
import math

import numpy as np
import pytest
import torch

from distillkit.errors import DataError, DistillkitError, WeightsError
from distillkit.evaluation.claims import claims
from distillkit.evaluation.metrics import FullReference, from_uint8, psnr, to_uint8
from distillkit.evaluation.protocol import Method, available_metrics, bicubic_method, evaluate, linear_combinations
from distillkit.evaluation.results import Entry, Measure, Results
from distillkit.evaluation.statistics import photo_of, standard_error

BLUR = FullReference(
    "roughness",
    "difference of horizontal gradients, no border crop",
    lambda a, b: (a.diff(dim=-1).abs().mean((1, 2, 3)) - b.diff(dim=-1).abs().mean((1, 2, 3))).abs(),
    higher_is_better=False,
    differentiable=True,
    perceptual=True,
)


def items(photos: int = 3, crops: int = 2, size: int = 12):
    for p in range(photos):
        for c in range(crops):
            g = torch.Generator().manual_seed(100 * p + c)
            gt = torch.rand(1, 3, size, size, generator=g) * 1.6 - 0.8
            yield f"photo{p}.png#{c}", torch.nn.functional.avg_pool2d(gt, 2), gt


def blend(name: str, tradeoff: float | None, weight: float, passes: int = 1) -> Method:
    """Nearest enlargement, plus noise that the weight takes away."""

    def restore(lq, generator):
        big = torch.nn.functional.interpolate(lq, scale_factor=2)
        return big + (1 - weight) * 0.3 * torch.randn(big.shape, generator=generator)

    return Method(name, tradeoff, passes, restore)


METHODS = (
    blend("fidelity", None, 1.0, passes=4),
    blend("realness", None, 0.0),
    bicubic_method(2),
    *(blend("student", t, t) for t in (0.0, 0.5, 1.0)),
)


@pytest.fixture(scope="module")
def results() -> Results:
    return evaluate(METHODS, items(), [psnr(), BLUR], dataset="toy", seed=1, combine=("fidelity", "realness"), alphas=(0.25, 0.5))


def test_rows_have_the_keys_of_a_run_folder_and_nothing_else(results):
    rows = results.rows()
    assert {tuple(row) for row in rows} == {("method", "tradeoff", "dataset", "metric", "protocol", "mean", "sem", "n", "passes")}
    seen = {(row["method"], row["tradeoff"]): row["passes"] for row in rows if row["metric"] == "psnr"}
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
    assert {row["n"] for row in rows} == {6}
    assert all("clustered by photo" in row["protocol"] for row in rows)


def test_values_are_those_of_the_saved_8_bit_images(results):
    name, lq, gt = next(items())
    assert results.items[0] == name
    image = METHODS[2].restore(lq, torch.Generator())
    assert results.values["bicubic", "psnr"][0] == pytest.approx(psnr()(from_uint8(to_uint8(image)), gt).item(), abs=1e-5)
    saved = from_uint8(to_uint8(image))
    assert results.values["bicubic", "roughness"][0] == pytest.approx(BLUR(saved, from_uint8(to_uint8(gt))).item(), abs=1e-7)


def test_linear_combinations_weigh_the_faithful_image_with_alpha():
    faithful, realistic = torch.full((1, 3, 2, 2), 200, dtype=torch.uint8), torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    combined = linear_combinations(faithful, realistic, (0.0, 0.25, 1.0))
    assert {k: int(v[0, 0, 0, 0]) for k, v in combined.items()} == {"linear:0": 100, "linear:0.25": 125, "linear:1": 200}


def test_draws_depend_on_seed_item_and_method_only(results):
    again = evaluate(METHODS[1:2], list(items())[::-1], [psnr()], dataset="toy", seed=1)
    assert again.values["realness", "psnr"][::-1].tolist() == results.values["realness", "psnr"].tolist()
    other = evaluate(METHODS[1:2], items(), [psnr()], dataset="toy", seed=2)
    assert (other.values["realness", "psnr"] != results.values["realness", "psnr"]).all()


def test_a_student_has_the_same_draws_at_every_tradeoff():
    drawn = []

    def restore(lq, generator):
        drawn.append(torch.randn(4, generator=generator))
        return torch.nn.functional.interpolate(lq, scale_factor=2)

    evaluate([Method("student", t, 1, restore) for t in (0.0, 1.0)], items(1, 2), [psnr()], dataset="toy")
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_method_cannot_change_what_the_next_one_sees():
    def vandal(lq, generator):
        return torch.nn.functional.interpolate(lq.zero_(), scale_factor=2)

    honest = bicubic_method(2)
    alone = evaluate([honest], items(), [psnr()], dataset="toy")
    after = evaluate([Method("vandal", None, 1, vandal), honest], items(), [psnr()], dataset="toy")
    assert after.values["bicubic", "psnr"].tolist() == alone.values["bicubic", "psnr"].tolist()


def test_non_finite_output_and_wrong_sizes_name_method_and_image():
    broken = Method("student", 0.5, 1, lambda lq, g: torch.full((1, 3, 12, 12), math.nan))
    with pytest.raises(DistillkitError, match=r"student@0\.5 on photo0\.png#0 - output is not finite"):
        evaluate([broken], items(), [psnr()], dataset="toy")
    small = Method("realness", None, 1, lambda lq, g: lq)
    with pytest.raises(DistillkitError, match=r"realness on photo0\.png#0 - output is \(1, 3, 6, 6\)"):
        evaluate([small], items(), [psnr()], dataset="toy")


def test_a_metric_that_is_not_a_number_is_never_averaged():
    silly = FullReference("silly", "none", lambda a, b: a.mean((1, 2, 3)) * math.nan, False, False, True)
    with pytest.raises(DistillkitError, match=r"bicubic on photo0\.png#0 - metric silly is nan"):
        evaluate([bicubic_method(2)], items(), [silly], dataset="toy")


def test_items_must_exist_and_have_names_of_their_own():
    with pytest.raises(DataError, match="no images"):
        evaluate(METHODS, [], [psnr()], dataset="toy")
    with pytest.raises(DataError, match="two images"):
        evaluate(METHODS, [*items(1, 1), *items(1, 1)], [psnr()], dataset="toy")
    with pytest.raises(ValueError, match="share a label"):
        evaluate([METHODS[0], METHODS[0]], items(), [psnr()], dataset="toy")


def test_images_of_different_sizes_and_many_at_once_are_measured_alike(results, monkeypatch):
    monkeypatch.setattr("distillkit.evaluation.protocol.PIXELS_PER_PASS", 1)
    one_by_one = evaluate(METHODS, items(), [psnr(), BLUR], dataset="toy", seed=1)
    for key, values in one_by_one.values.items():
        np.testing.assert_allclose(values, results.values[key], atol=1e-6)
    mixed = evaluate(METHODS, [*items(1, 1), ("large", *next(items(1, 1, size=20))[1:])], [psnr()], dataset="toy")
    assert mixed.items == ("photo0.png#0", "large")


def test_absent_weights_become_cells_that_say_so():
    def missing():
        raise WeightsError("/nowhere/trunk.pth - not here")

    metrics, absent = available_metrics({"psnr": psnr, "lpips-vgg": missing})
    found = evaluate([bicubic_method(2)], items(), metrics, dataset="toy", absent=absent)
    assert absent == {"lpips-vgg": "/nowhere/trunk.pth - not here"}
    (row,) = [row for row in found.rows() if row["metric"] == "lpips-vgg"]
    assert row["mean"] is None and row["n"] == 0 and row["protocol"] == "weights absent"


def test_results_survive_json(results):
    again = Results.from_json(results.to_json())
    assert again.rows() == results.rows()
    assert again.teachers == results.teachers
    assert again.at_equal("roughness") == results.at_equal("roughness")


# Statistics


def test_standard_error_of_independent_values_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=20)
    assert standard_error(values, [str(i) for i in range(20)]) == pytest.approx(values.std(ddof=1) / math.sqrt(20))


def test_standard_error_counts_photos_not_crops():
    photos = np.random.default_rng(0).normal(size=6)
    copies = np.repeat(photos, 10)
    groups = np.repeat([f"p{i}" for i in range(6)], 10)
    assert standard_error(copies, groups) == pytest.approx(photos.std(ddof=1) / math.sqrt(6))
    assert standard_error(copies, ["one"] * 60) is None


def test_standard_error_covers_the_truth_as_often_as_it_should():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 4)
    inside = 0
    for _ in range(1000):
        values = np.repeat(rng.normal(size=12), 4) + 0.5 * rng.normal(size=48)
        inside += abs(values.mean()) < 2.2 * standard_error(values, groups)  # 2.2: Student's t with 11 degrees of freedom, 95 %
    assert 0.92 < inside / 1000 < 0.98


def test_the_photo_of_a_crop():
    assert [photo_of(n) for n in ("a.png#3", "a.png", "a#b.png#0")] == ["a.png", "a.png", "a#b.png"]


def made_up(student: list[tuple[float, float]], spread: float = 0.0, photos: int = 8, noise: float = 0.02) -> Results:
    """Teachers at (distance .1, 20 dB) and (.5, 24 dB), their curve a straight line; the student's (distance, dB) as given."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=photos)
    places = {"realness": (0.1, 20.0), "linear:0.5": (0.3, 22.0), "fidelity": (0.5, 24.0)}
    places |= {f"student@{t:g}": place for t, place in zip(np.linspace(0, 1, len(student)), student, strict=True)}
    values = {}
    for label, (distance, db) in places.items():
        own = noise * rng.normal(size=(2, photos))
        own -= own.mean(1, keepdims=True)
        values[label, "d"] = distance + spread * 0.05 * (common - common.mean()) + 0.1 * own[0]
        values[label, "psnr"] = db + spread * (common - common.mean()) + own[1]
    entries = [Entry(n, None, 1) for n in ("realness", "fidelity", "linear:0.5")]
    entries += [Entry("student", float(t), 1) for t in np.linspace(0, 1, len(student))]
    metrics = (Measure("psnr", "", True, False), Measure("d", "", False, True))
    names = tuple(f"p{i}" for i in range(photos))
    return Results("made up", names, tuple(entries), metrics, values, ("fidelity", "realness"))


GOOD = [(0.2, 22.0), (0.3, 22.8), (0.4, 23.5)]


def test_paired_differences_forget_what_the_images_share():
    found = made_up(GOOD, spread=3.0)
    difference = found.paired("student@1", "student@0", "psnr")
    assert difference.mean == pytest.approx(1.5)
    assert difference.sem < 0.02 < 0.5 < found.summary("student@1", "psnr").sem


def test_the_gap_at_equal_distance_is_measured_against_the_interpolated_combination():
    gaps = made_up(GOOD, noise=0.0).at_equal("d")
    assert [g.difference.mean for g in gaps] == pytest.approx([1.0, 0.8, 0.5])
    assert [g.distance for g in gaps] == pytest.approx([0.2, 0.3, 0.4])


def test_the_error_of_the_gap_allows_for_the_distance_being_a_sample_mean():
    found = made_up(GOOD, spread=1.0, noise=0.0)
    gap = found.at_equal("d")[0].difference
    assert gap.sem == pytest.approx(0, abs=1e-9)  # what all images share cancels
    shifted = dict(found.values)
    moved = np.linspace(-0.01, 0.01, len(found.items))
    shifted["student@0", "d"] = shifted["student@0", "d"] + moved
    again = Results(found.dataset, found.items, found.entries, found.metrics, shifted, found.teachers)
    assert again.at_equal("d")[0].difference.sem == pytest.approx(10 * moved.std(ddof=1) / math.sqrt(len(moved)))  # slope 10 dB


def test_no_gap_where_no_combination_reaches_the_distance():
    gaps = made_up([(0.05, 21.0), (0.3, 22.8), (0.6, 24.5)]).at_equal("d")
    assert [g.difference is None for g in gaps] == [True, False, True]


def test_claims_hold_for_a_good_student():
    found = claims(made_up(GOOD), trained=["d"])
    assert [c.passed for c in found] == [True] * 6
    assert found[-1].value == pytest.approx(0.5, abs=0.01)
    assert "trained against" in found[-1].statement


@pytest.mark.parametrize(
    ("student", "missed", "says"),
    [
        ([(0.2, 22.8), (0.3, 22.7), (0.4, 23.5)], [0], "missed by 0.090 dB"),
        ([(0.31, 22.8), (0.3, 23.1), (0.4, 23.5)], [1], "missed by 0.0090"),
        ([(0.2, 22.0), (0.21, 22.1), (0.22, 22.2)], [4], "missed by 0.300 dB"),
        ([(0.2, 22.0), (0.3, 22.8), (0.48, 23.9)], [5], "missed by 0.200 dB"),
        ([(0.01, 23.0), (0.02, 23.5), (0.03, 24.0)], [5], "not measurable"),
    ],
)
def test_a_missed_claim_is_missed_and_says_by_how_much(student, missed, says):
    found = claims(made_up(student, noise=1e-9), trained=["d"])
    assert [i for i, c in enumerate(found) if not c.passed] == missed
    assert says in str(found[missed[0]])
    assert str(found[missed[0]]).startswith("MISSED")


def test_without_standard_errors_the_ends_are_not_said_to_differ():
    found = claims(made_up(GOOD, photos=1), trained=["d"])
    ends = [c for c in found if "paired standard error" in c.statement]
    assert len(ends) == 2 and not any(c.passed for c in ends)
    assert json.dumps(made_up(GOOD, photos=1).rows(), allow_nan=False)
