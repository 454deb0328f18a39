"""Standard errors, paired differences, gaps at equal distance, and the checks of a sweep."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import bootstrap

from distillkit.evaluation import statistics
from distillkit.evaluation.checks import Check, check_sweep
from distillkit.evaluation.metric_roles import ReportedTraining, metric_role
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
    student: list[Point], spread: float = 0.0, photos: int = 24, noise: float = 0.02
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
        combined={"linear": ("fidelity", "realness")},
    )


def mean_gaps(gaps: list[Gap]) -> list[float]:
    return [gap.difference.mean for gap in gaps]


def failed_checks(checks: list[Check]) -> list[int]:
    return [position for position, check in enumerate(checks) if check.verdict == "FAILED"]


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
        values[label, "d"] = np.full(24, distance)
        values[label, "psnr"] = np.full(24, db)
    soup = (MethodRow("soup", 0.0, 1), MethodRow("soup", 1.0, 1))
    results = replace(results, methods=results.methods + soup, values=values)
    assert results.baselines() == ["linear", "soup"]
    assert mean_gaps(results.at_equal("d", "soup")) == pytest.approx([0.5, 0.3, 0.0], abs=1e-9)
    assert mean_gaps(results.at_equal("d")) == pytest.approx([1.0, 0.8, 0.5])


def test_no_gap_only_where_no_combination_is_as_close():
    gaps = make_results([(0.05, 21.0), (0.3, 22.8), (0.6, 24.5)], noise=0.0).at_equal("d")
    assert gaps[0].difference is None
    # Farther than every combination: the best of all of them, the faithful teacher, counts.
    assert mean_gaps(gaps[1:]) == pytest.approx([0.8, 0.5])


def bend(results: Results, closest: Point) -> Results:
    """Move the combination in the middle: the curve passes distances on its way back, too."""
    distance, db = closest
    values = dict(results.values)
    values["linear:0.5", "d"] = np.full(len(results.items), distance)
    values["linear:0.5", "psnr"] = np.full(len(results.items), db)
    return replace(results, values=values)


def test_a_dominated_student_has_a_negative_gap():
    """The realistic half of such a curve is farther *and* less faithful than its middle."""
    student = [(0.09, 20.5), (0.11, 21.0), (0.6, 23.9)]
    results = bend(make_results(student, noise=0.0), (0.06, 23.0))
    gaps = results.at_equal("d")
    # At 0.09 the line from (0.06, 23) to (0.5, 24) has more than 23 dB.
    slope = 1 / 0.44
    expected = [20.5 - (23 + 0.03 * slope), 21.0 - (23 + 0.05 * slope), 23.9 - 24.0]
    assert mean_gaps(gaps) == pytest.approx(expected)


def test_the_gap_is_to_a_point_where_the_curve_falls_before_the_distance():
    """PSNR is highest at (0.3, 24.5), and falls to 24 at 0.5."""
    results = bend(make_results([(0.2, 22.0), (0.4, 24.4), (0.5, 24.4)], noise=0.0), (0.3, 24.5))
    assert mean_gaps(results.at_equal("d")) == pytest.approx([-0.25, -0.1, -0.1])


def test_the_published_low_light_table_credits_no_dominated_student():
    """Means of a table that once read +0.52 at tradeoff 1, +0.30 at 0.4 and +0.34 at 0.6."""
    curve = [
        (0.1701, 26.78), (0.1667, 26.93), (0.1629, 27.07), (0.1602, 27.20), (0.1583, 27.31),
        (0.1573, 27.40), (0.1573, 27.47), (0.1582, 27.52), (0.1600, 27.54), (0.1625, 27.54),
        (0.1652, 27.53),
    ]  # fmt: skip
    student = {0.4: (0.1686, 27.15), 0.6: (0.1654, 27.32), 1.0: (0.1672, 27.43)}
    rows = [MethodRow("realness", None, 1)]
    rows += [MethodRow(f"linear:{n / 10:g}", None, 2) for n in range(1, 10)]
    rows += [MethodRow("fidelity", None, 1)]
    rows += [MethodRow("student", tradeoff, 1) for tradeoff in student]
    values = {}
    for row, (distance, db) in zip(rows, [*curve, *student.values()], strict=True):
        values[row.label, "d"] = np.full(2, distance)
        values[row.label, "psnr"] = np.full(2, db)
    results = replace(make_results(GOOD), methods=tuple(rows), values=values, items=("a", "b"))
    assert mean_gaps(results.at_equal("d")) == pytest.approx([-0.39, -0.22, -0.11])


def test_a_metric_that_is_better_when_higher_is_compared_the_other_way():
    results = make_results(GOOD, noise=0.0)
    psnr, distance = results.metrics
    values = {key: -v if key[1] == "d" else v for key, v in results.values.items()}
    score = replace(distance, higher_is_better=True)
    other = replace(results, metrics=(psnr, score), values=values)
    assert mean_gaps(other.at_equal("d")) == pytest.approx(mean_gaps(results.at_equal("d")))
    assert [gap.distance for gap in other.at_equal("d")] == pytest.approx([-0.2, -0.3, -0.4])


def test_a_good_student_passes_every_check():
    checks = check_sweep(make_results(GOOD), trained=["d"])
    assert [check.verdict for check in checks] == ["passed"] * 6
    assert checks[-1].estimate.mean == pytest.approx(0.5, abs=0.01)
    assert "trained against" in checks[-1].statement
    assert str(checks[0]).startswith("passed")


@pytest.mark.parametrize(
    ("student", "failed", "says"),
    [
        ([(0.2, 22.8), (0.3, 22.7), (0.4, 23.5)], 0, "not all above -0.01 dB"),
        ([(0.31, 22.8), (0.3, 23.1), (0.4, 23.5)], 1, "not all above -0.001"),
        ([(0.2, 22.0), (0.21, 22.1), (0.22, 22.2)], 4, "not all above +0.5 dB"),
        ([(0.2, 22.0), (0.3, 22.8), (0.48, 23.9)], 5, "not all above +0.3 dB"),
    ],
)
def test_a_failed_check_says_what_was_needed(student, failed, says):
    checks = check_sweep(make_results(student, noise=1e-9), trained=["d"])
    assert failed_checks(checks) == [failed]
    text = str(checks[failed])
    assert text.startswith("FAILED")
    assert says in text


def test_a_check_passes_where_its_interval_does_not_where_its_mean_does():
    """The span is 0.55 dB in the mean."""
    student = [(0.2, 22.0), (0.3, 22.4), (0.4, 22.55)]
    for noise, verdict in ((0.01, "passed"), (0.2, "FAILED")):
        (span,) = [
            check
            for check in check_sweep(make_results(student, noise=noise), trained=[])
            if "spans" in check.statement
        ]
        assert span.estimate.mean == pytest.approx(0.55)
        assert span.verdict == verdict


def test_below_20_photographs_there_is_no_verdict_and_crops_do_not_count():
    for photos, verdict in ((19, "refused"), (20, "passed")):
        checks = check_sweep(make_results(GOOD, photos=photos), trained=["d"])
        assert {check.verdict for check in checks} == {verdict}
    assert "refused" in str(check_sweep(make_results(GOOD, photos=19), trained=["d"])[0])

    results = make_results(GOOD, photos=40)
    crops = tuple(f"p{i // 4}#{i % 4}" for i in range(40))
    (check, *_) = check_sweep(replace(results, items=crops), trained=["d"])
    assert check.verdict == "refused"
    assert "10 photographs, at least 20 are needed" in str(check)


@pytest.mark.parametrize("photos", [1, 2, 19, 24])
def test_checks_never_print_a_number_that_is_none(photos):
    students = [GOOD, [(0.01, 23.0), (0.02, 23.5), (0.03, 24.0)], [(0.2, 22.0)] * 3]
    for student in students:
        results = make_results(student, photos=photos, noise=0.0)
        missing = dict(results.values)
        missing["student@0", "psnr"] = np.full(photos, math.nan)
        for judged in (results, replace(results, values=missing)):
            text = "\n".join(map(str, check_sweep(judged, trained=["d"])))
            assert not re.search(r"\b(inf|nan)\b", text)


def test_a_student_closer_than_every_combination_is_not_judged_by_them():
    results = make_results([(0.01, 23.0), (0.02, 23.5), (0.03, 24.0)])
    gap = check_sweep(results, trained=["d"])[-1]
    assert gap.verdict == "refused"
    assert "no combination is as close as the student" in str(gap)


def test_reported_training_gives_no_role_to_the_rest():
    results = make_results(GOOD)
    _, metric = results.metrics
    assert metric_role(metric, []) == "held out"
    assert metric_role(metric, ["d"]) == "trained against"
    assert metric_role(metric, ReportedTraining()) == ""
    assert metric_role(metric, ReportedTraining(d="ours, student")) == (
        "ours, student trained against it"
    )
    by_ours = check_sweep(results, ReportedTraining(d="ours"))
    by_student = check_sweep(results, ReportedTraining(d="ours, student"))
    assert len(by_student) == len(by_ours) + 2
    assert "held out" not in "\n".join(map(str, by_ours))


def test_the_mix_with_the_stage_1_student_is_a_baseline_of_its_own():
    results = make_results(GOOD, noise=0.0)
    pair = {"linear-stage1": ("fidelity", "student@0")}
    results = replace(results, combined={**results.combined, **pair})
    assert results.baselines() == ["linear", "linear-stage1"]
    # From (0.2, 22) to (0.5, 24).
    gaps = mean_gaps(results.at_equal("d", "linear-stage1"))
    assert gaps == pytest.approx([0, 22.8 - (22 + 2 / 3), 23.5 - (22 + 4 / 3)], abs=1e-9)


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
    # In the negated PSNR the realistic teacher, at -20, is the best combination at any distance.
    other_gaps = mean_gaps(results.at_equal("d", psnr="psnr-other"))
    assert other_gaps == pytest.approx([-2.0, -2.8, -3.5])


def test_one_photo_is_written_as_json_without_an_interval():
    results = make_results(GOOD, photos=1)
    assert json.dumps(results.rows(), allow_nan=False)
