"""Standard errors, paired differences, gaps at equal distance, and the checks of a sweep."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import bootstrap

from distillkit.evaluation import statistics
from distillkit.evaluation.checks import check_sweep
from distillkit.evaluation.results import MeasuredMetric, MethodRow, Results
from distillkit.evaluation.statistics import confidence_interval, photo_of, standard_error


def test_standard_error_of_independent_values_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=20)
    assert standard_error(values, [str(i) for i in range(20)]) == pytest.approx(
        values.std(ddof=1) / math.sqrt(20)
    )


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
        inside += abs(values.mean()) < 2.2 * standard_error(
            values, groups
        )  # 2.2: Student's t with 11 degrees of freedom, 95 %
    assert 0.92 < inside / 1000 < 0.98


def test_an_interval_draws_photos_not_crops_and_repeats():
    photos = np.random.default_rng(0).normal(size=30)
    names = [f"p{i}" for i in range(30)]
    low, high = confidence_interval(photos, names)
    assert (low, high) == confidence_interval(photos, names)
    assert (low, high) == pytest.approx(
        confidence_interval(np.repeat(photos, 5), np.repeat(names, 5))
    )
    assert high - low == pytest.approx(2 * 1.96 * photos.std() / math.sqrt(30), rel=0.1)
    assert confidence_interval(np.ones(3), ["a", "b", "c"]) == (1, 1)
    assert confidence_interval(photos, ["one"] * 30) is None


def test_an_interval_covers_the_truth_as_often_as_it_should():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 3)
    inside = 0
    for _ in range(400):
        low, high = confidence_interval(
            np.repeat(rng.normal(size=40), 3) + 0.5 * rng.normal(size=120), groups
        )
        inside += low < 0 < high
    assert 0.90 < inside / 400 < 0.97


def test_an_interval_is_scipys_bca():
    values = np.random.default_rng(3).exponential(size=40)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, rng=0).confidence_interval
    assert confidence_interval(values, [str(i) for i in range(40)]) == pytest.approx(
        tuple(theirs), abs=0.02
    )


def test_an_interval_is_scipys_bca_to_the_last_digits_on_the_same_draws():
    rng = np.random.default_rng(3)
    photos = np.repeat(np.arange(30), rng.integers(1, 6, size=30))
    values = rng.exponential(size=len(photos))
    sums = np.bincount(photos, weights=values)
    sizes = np.bincount(photos)
    draws = statistics._draws(30)
    ours_means = SimpleNamespace(bootstrap_distribution=draws @ sums / (draws @ sizes))
    theirs = bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        n_resamples=0,
        bootstrap_result=ours_means,
    ).confidence_interval
    names = [f"{photo:02}" for photo in photos]  # in the order of their numbers
    assert confidence_interval(values, names) == pytest.approx(tuple(theirs), rel=1e-12)


def test_the_photo_of_a_crop():
    assert [photo_of(n) for n in ("a.png#3", "a.png", "a#b.png#0")] == ["a.png", "a.png", "a#b.png"]


def made_up(
    student: list[tuple[float, float]], spread: float = 0.0, photos: int = 8, noise: float = 0.02
) -> Results:
    """Teachers at (distance .1, 20 dB) and (.5, 24 dB), their curve a straight line; the student's (distance, dB) as given."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=photos)
    places = {"realness": (0.1, 20.0), "linear:0.5": (0.3, 22.0), "fidelity": (0.5, 24.0)}
    places |= {
        f"student@{t:g}": place
        for t, place in zip(np.linspace(0, 1, len(student)), student, strict=True)
    }
    values = {}
    for label, (distance, db) in places.items():
        own = noise * rng.normal(size=(2, photos))
        own -= own.mean(1, keepdims=True)
        values[label, "d"] = distance + spread * 0.05 * (common - common.mean()) + 0.1 * own[0]
        values[label, "psnr"] = db + spread * (common - common.mean()) + own[1]
    methods = [MethodRow(n, None, 1) for n in ("realness", "fidelity", "linear:0.5")]
    methods += [MethodRow("student", float(t), 1) for t in np.linspace(0, 1, len(student))]
    metrics = (MeasuredMetric("psnr", "", True, False), MeasuredMetric("d", "", False, True))
    names = tuple(f"p{i}" for i in range(photos))
    return Results("made up", names, tuple(methods), metrics, values, ("fidelity", "realness"))


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
    again = Results(
        found.dataset, found.items, found.methods, found.metrics, shifted, found.teachers
    )
    assert again.at_equal("d")[0].difference.sem == pytest.approx(
        10 * moved.std(ddof=1) / math.sqrt(len(moved))
    )  # slope 10 dB


def test_the_gap_to_another_method_with_a_knob():
    found = made_up(GOOD, noise=0.0)
    ends = {0.0: (0.2, 21.5), 1.0: (0.4, 23.5)}
    values = dict(found.values)
    for t, (distance, db) in ends.items():
        values[f"soup@{t:g}", "d"], values[f"soup@{t:g}", "psnr"] = (
            np.full(8, distance),
            np.full(8, db),
        )
    methods = (*found.methods, *(MethodRow("soup", t, 1) for t in ends))
    again = Results(found.dataset, found.items, methods, found.metrics, values, found.teachers)
    assert again.baselines() == ["linear", "soup"]
    assert [g.difference.mean for g in again.at_equal("d", "soup")] == pytest.approx(
        [0.5, 0.3, 0.0], abs=1e-9
    )
    assert [g.difference.mean for g in again.at_equal("d")] == pytest.approx([1.0, 0.8, 0.5])


def test_no_gap_where_no_combination_reaches_the_distance():
    gaps = made_up([(0.05, 21.0), (0.3, 22.8), (0.6, 24.5)]).at_equal("d")
    assert [g.difference is None for g in gaps] == [True, False, True]


def test_a_good_student_passes_every_check():
    found = check_sweep(made_up(GOOD), trained=["d"])
    assert [c.passed for c in found] == [True] * 6
    assert found[-1].value == pytest.approx(0.5, abs=0.01)
    assert "trained against" in found[-1].statement


@pytest.mark.parametrize(
    ("student", "failed", "says"),
    [
        ([(0.2, 22.8), (0.3, 22.7), (0.4, 23.5)], [0], "missed by 0.090 dB"),
        ([(0.31, 22.8), (0.3, 23.1), (0.4, 23.5)], [1], "missed by 0.0090"),
        ([(0.2, 22.0), (0.21, 22.1), (0.22, 22.2)], [4], "missed by 0.300 dB"),
        ([(0.2, 22.0), (0.3, 22.8), (0.48, 23.9)], [5], "missed by 0.200 dB"),
        ([(0.01, 23.0), (0.02, 23.5), (0.03, 24.0)], [5], "not measurable"),
    ],
)
def test_a_failed_check_says_by_how_much(student, failed, says):
    found = check_sweep(made_up(student, noise=1e-9), trained=["d"])
    assert [i for i, c in enumerate(found) if not c.passed] == failed
    assert says in str(found[failed[0]])
    assert str(found[failed[0]]).startswith("FAILED")


def test_every_psnr_is_checked():
    found = made_up(GOOD)
    metrics = (*found.metrics, MeasuredMetric("psnr-other", "", True, False))
    values = found.values | {
        (e.label, "psnr-other"): -found.values[e.label, "psnr"] for e in found.methods
    }
    again = Results(found.dataset, found.items, found.methods, metrics, values, found.teachers)
    assert (again.fidelity, again.psnrs) == ("psnr", ["psnr", "psnr-other"])
    assert [
        c.statement.split()[0] for c in check_sweep(again, trained=["d"]) if "never" in c.statement
    ] == ["psnr", "psnr-other", "d"]
    assert [i for i, c in enumerate(check_sweep(again, trained=["d"])) if not c.passed] == [1, 4]
    for own, other in zip(found.at_equal("d"), again.at_equal("d", psnr="psnr-other"), strict=True):
        assert other.difference.mean == pytest.approx(-own.difference.mean)


def test_without_standard_errors_the_ends_are_not_said_to_differ():
    found = check_sweep(made_up(GOOD, photos=1), trained=["d"])
    ends = [c for c in found if "paired standard error" in c.statement]
    assert len(ends) == 2 and not any(c.passed for c in ends)
    assert json.dumps(made_up(GOOD, photos=1).rows(), allow_nan=False)
