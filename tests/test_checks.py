"""Standard errors, paired differences, gaps at equal distance, and the checks of a sweep."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import bootstrap

from distillkit.evaluation import statistics
from distillkit.evaluation.checks import Check, check_sweep
from distillkit.evaluation.results import Gap, MeasuredMetric, MethodRow, Results
from distillkit.evaluation.statistics import confidence_interval, photo_of, standard_error


def test_standard_error_of_independent_values_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=20)
    names = [str(i) for i in range(20)]
    usual = values.std(ddof=1) / math.sqrt(20)
    assert standard_error(values, names) == pytest.approx(usual)


def test_standard_error_counts_photos_not_crops():
    photos = np.random.default_rng(0).normal(size=6)
    copies = np.repeat(photos, 10)
    names = np.repeat([f"p{i}" for i in range(6)], 10)
    usual = photos.std(ddof=1) / math.sqrt(6)
    assert standard_error(copies, names) == pytest.approx(usual)
    assert standard_error(copies, ["one"] * 60) is None


def test_standard_error_covers_the_truth_as_often_as_it_should():
    rng = np.random.default_rng(1)
    photos = np.repeat(np.arange(12), 4)
    students_t = 2.2  # 95 %, with 11 degrees of freedom
    inside = 0
    for _ in range(1000):
        values = np.repeat(rng.normal(size=12), 4) + 0.5 * rng.normal(size=48)
        inside += abs(values.mean()) < students_t * standard_error(values, photos)
    assert 0.92 < inside / 1000 < 0.98


def test_an_interval_draws_photos_not_crops_and_repeats():
    photos = np.random.default_rng(0).normal(size=30)
    names = [f"p{i}" for i in range(30)]
    interval = confidence_interval(photos, names)
    assert interval == confidence_interval(photos, names)
    of_copies = confidence_interval(np.repeat(photos, 5), np.repeat(names, 5))
    assert interval == pytest.approx(of_copies)
    low, high = interval
    normal_width = 2 * 1.96 * photos.std() / math.sqrt(30)
    assert high - low == pytest.approx(normal_width, rel=0.1)
    assert confidence_interval(np.ones(3), ["a", "b", "c"]) == (1, 1)
    assert confidence_interval(photos, ["one"] * 30) is None


def test_an_interval_covers_the_truth_as_often_as_it_should():
    rng = np.random.default_rng(1)
    photos = np.repeat(np.arange(40), 3)
    inside = 0
    for _ in range(400):
        values = np.repeat(rng.normal(size=40), 3) + 0.5 * rng.normal(size=120)
        low, high = confidence_interval(values, photos)
        inside += low < 0 < high
    assert 0.90 < inside / 400 < 0.97


def test_an_interval_is_scipys_bca():
    values = np.random.default_rng(3).exponential(size=40)
    names = [str(i) for i in range(40)]
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, rng=0).confidence_interval
    assert confidence_interval(values, names) == pytest.approx(tuple(theirs), abs=0.02)


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
    assert photo_of("a.png#3") == "a.png"
    assert photo_of("a.png") == "a.png"
    assert photo_of("a#b.png#0") == "a#b.png"


Point = tuple[float, float]
"""Distance and dB."""


def make_results(
    student: list[Point], spread: float = 0.0, photos: int = 8, noise: float = 0.02
) -> Results:
    """Make an evaluation whose linear combinations are a straight line.

    The teachers are at (distance 0.1, 20 dB) and (0.5, 24 dB).

    Args:
        student: the student's mean distance and PSNR at each tradeoff.
        spread: how much the photos differ, in the same way for all methods.
        photos: number of photos.
        noise: how much the photos differ for each method by itself.
    """
    tradeoffs = [float(tradeoff) for tradeoff in np.linspace(0, 1, len(student))]
    methods = [MethodRow(name, None, 1) for name in ("realness", "linear:0.5", "fidelity")]
    methods += [MethodRow("student", tradeoff, 1) for tradeoff in tradeoffs]
    points = [(0.1, 20.0), (0.3, 22.0), (0.5, 24.0), *student]

    rng = np.random.default_rng(0)
    common = rng.normal(size=photos)
    common = spread * (common - common.mean())
    values = {}
    for method, (distance, db) in zip(methods, points, strict=True):
        own = noise * rng.normal(size=(2, photos))
        own -= own.mean(1, keepdims=True)
        values[method.label, "d"] = distance + 0.05 * common + 0.1 * own[0]
        values[method.label, "psnr"] = db + common + own[1]
    return Results(
        dataset="made up",
        items=tuple(f"p{i}" for i in range(photos)),
        methods=tuple(methods),
        metrics=(
            MeasuredMetric("psnr", "", higher_is_better=True, perceptual=False),
            MeasuredMetric("d", "", higher_is_better=False, perceptual=True),
        ),
        values=values,
        teachers=("fidelity", "realness"),
    )


def mean_gaps(gaps: list[Gap]) -> list[float]:
    return [gap.difference.mean for gap in gaps]


def failed_checks(checks: list[Check]) -> list[int]:
    return [position for position, check in enumerate(checks) if not check.passed]


GOOD = [(0.2, 22.0), (0.3, 22.8), (0.4, 23.5)]


def test_paired_differences_forget_what_the_images_share():
    results = make_results(GOOD, spread=3.0)
    difference = results.paired("student@1", "student@0", "psnr")
    assert difference.mean == pytest.approx(1.5)
    assert difference.sem < 0.02
    assert results.summary("student@1", "psnr").sem > 0.5


def test_the_gap_at_equal_distance_is_measured_against_the_interpolated_combination():
    gaps = make_results(GOOD, noise=0.0).at_equal("d")
    assert mean_gaps(gaps) == pytest.approx([1.0, 0.8, 0.5])
    assert [gap.distance for gap in gaps] == pytest.approx([0.2, 0.3, 0.4])


def test_the_error_of_the_gap_allows_for_the_distance_being_a_sample_mean():
    results = make_results(GOOD, spread=1.0, noise=0.0)
    gap = results.at_equal("d")[0].difference
    assert gap.sem == pytest.approx(0, abs=1e-9)  # what all images share cancels

    shift = np.linspace(-0.01, 0.01, len(results.items))
    key = ("student@0", "d")
    shifted = replace(results, values=results.values | {key: results.values[key] + shift})
    gap = shifted.at_equal("d")[0].difference
    slope = 10  # dB
    assert gap.sem == pytest.approx(slope * shift.std(ddof=1) / math.sqrt(len(shift)))


def test_the_gap_to_another_method_with_a_tradeoff():
    results = make_results(GOOD, noise=0.0)
    values = dict(results.values)
    for label, distance, db in (("soup@0", 0.2, 21.5), ("soup@1", 0.4, 23.5)):
        values[label, "d"] = np.full(8, distance)
        values[label, "psnr"] = np.full(8, db)
    soup = (MethodRow("soup", 0.0, 1), MethodRow("soup", 1.0, 1))
    results = replace(results, methods=results.methods + soup, values=values)
    assert results.baselines() == ["linear", "soup"]
    assert mean_gaps(results.at_equal("d", "soup")) == pytest.approx([0.5, 0.3, 0.0], abs=1e-9)
    assert mean_gaps(results.at_equal("d")) == pytest.approx([1.0, 0.8, 0.5])


def test_no_gap_where_no_combination_reaches_the_distance():
    gaps = make_results([(0.05, 21.0), (0.3, 22.8), (0.6, 24.5)]).at_equal("d")
    assert [gap.difference is None for gap in gaps] == [True, False, True]


def test_a_good_student_passes_every_check():
    checks = check_sweep(make_results(GOOD), trained=["d"])
    assert [check.passed for check in checks] == [True] * 6
    assert checks[-1].value == pytest.approx(0.5, abs=0.01)
    assert "trained against" in checks[-1].statement
    assert str(checks[0]).startswith("passed")


@pytest.mark.parametrize(
    ("student", "failed", "says"),
    [
        ([(0.2, 22.8), (0.3, 22.7), (0.4, 23.5)], 0, "missed by 0.090 dB"),
        ([(0.31, 22.8), (0.3, 23.1), (0.4, 23.5)], 1, "missed by 0.0090"),
        ([(0.2, 22.0), (0.21, 22.1), (0.22, 22.2)], 4, "missed by 0.300 dB"),
        ([(0.2, 22.0), (0.3, 22.8), (0.48, 23.9)], 5, "missed by 0.200 dB"),
        ([(0.01, 23.0), (0.02, 23.5), (0.03, 24.0)], 5, "not measurable"),
    ],
)
def test_a_failed_check_says_by_how_much(student, failed, says):
    checks = check_sweep(make_results(student, noise=1e-9), trained=["d"])
    assert failed_checks(checks) == [failed]
    text = str(checks[failed])
    assert text.startswith("FAILED")
    assert says in text


def test_every_psnr_is_checked():
    results = make_results(GOOD)
    other = MeasuredMetric("psnr-other", "", higher_is_better=True, perceptual=False)
    values = dict(results.values)
    for method in results.methods:
        values[method.label, "psnr-other"] = -values[method.label, "psnr"]
    results = replace(results, metrics=(*results.metrics, other), values=values)
    assert results.fidelity == "psnr"
    assert results.psnrs == ["psnr", "psnr-other"]

    checks = check_sweep(results, trained=["d"])
    steps = [check.statement for check in checks if "never" in check.statement]
    assert [statement.split()[0] for statement in steps] == ["psnr", "psnr-other", "d"]
    assert failed_checks(checks) == [1, 4]
    gaps = mean_gaps(results.at_equal("d"))
    other_gaps = mean_gaps(results.at_equal("d", psnr="psnr-other"))
    assert other_gaps == pytest.approx([-gap for gap in gaps])


def test_without_standard_errors_the_ends_are_not_said_to_differ():
    results = make_results(GOOD, photos=1)
    checks = check_sweep(results, trained=["d"])
    ends = [check for check in checks if "paired standard error" in check.statement]
    assert [check.passed for check in ends] == [False, False]
    assert json.dumps(results.rows(), allow_nan=False)
