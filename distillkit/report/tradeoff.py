"""The tradeoff figure: fidelity over perceptual distance (CTSR, Fig. 1a)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from distillkit.evaluation.gallery import image_title
from distillkit.evaluation.metric_roles import add_role, metric_role
from distillkit.evaluation.results import LINEAR_STAGE1, Gap, MeasuredMetric, MethodRow, Results
from distillkit.report.style import (
    GRAY,
    STUDENT_COLOR,
    encode_figure,
    figure_style,
    make_panels,
    method_color,
)
from distillkit.report.tables import mean_values

Points = tuple[list[float], list[float]]
"""Perceptual distances, and the PSNRs there."""


def draw_tradeoff(results: Results, trained_against: Collection[str]) -> bytes | None:
    """Draw PSNR over perceptual distance.

    There is one panel for each perceptual metric. It shows the student's curve, the teachers
    and the curves of the baselines. Bars on the student's points are one standard error of the
    PSNR gap to the best linear combination at no greater distance, paired by image: unpaired bars
    would show how much photos differ from each other, not how much methods do.

    Args:
        results: What was measured.
        trained_against: Names of the metrics that the student was trained against.

    Returns:
        A PNG file, or None without a perceptual metric of two methods.
    """
    panels_content = []
    for metric in results.perceptual:
        measured = _with_means(results, metric)
        if len(measured.methods) > 1:
            panels_content.append((metric, measured))
    if not panels_content:
        return None
    count = len(panels_content)
    with figure_style():
        figure, panels = make_panels(count, 5.4 * count, 4.4)
        for axis, (metric, measured) in zip(panels, panels_content, strict=True):
            _draw_panel(axis, measured, metric)
            _label_panel(axis, results, metric, trained_against)
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
        )
        return encode_figure(figure)


def _with_means(results: Results, metric: MeasuredMetric) -> Results:
    """Leave out the methods that a metric gave no mean."""
    methods = []
    for method in results.methods:
        if math.isfinite(results.mean(method.label, metric.name)):
            methods.append(method)
    labels = {method.label for method in methods}
    combined = {}
    for curve, pair in results.combined.items():
        if labels.issuperset(pair):
            combined[curve] = pair
    return replace(results, methods=tuple(methods), combined=combined)


def _label_panel(
    axis: Axes,
    results: Results,
    metric: MeasuredMetric,
    trained_against: Collection[str],
) -> None:
    better = "right" if metric.higher_is_better else "left"
    role = metric_role(metric, trained_against)
    axis.set_title(add_role(metric.name, role))
    axis.set_xlabel(f"{metric.name}  (better to the {better})")
    axis.set_ylabel(f"{results.fidelity}, dB  (better upwards)")


def _draw_panel(
    axis: Axes,
    results: Results,
    metric: MeasuredMetric,
) -> None:
    sweep = results.sweep()
    if sweep:
        gaps = results.at_equal(metric.name)
        _draw_student(axis, _points(results, sweep, metric), gaps)
    for method in results.methods:
        if method.tradeoff is None and not method.is_combination:
            _draw_fixed_method(axis, results, method, metric)
    for name in results.baselines():
        _draw_baseline(axis, results, name, metric)
    axis.margins(0.1)
    # Bicubic enlargement may be so far from all others that they would fall into one point.
    bicubic = [method for method in results.methods if method.label == "bicubic"]
    others = [method for method in results.methods if method.label != "bicubic"]
    leave_out_far_point(
        axis,
        far=_points(results, bicubic, metric),
        near=_points(results, others, metric),
    )


def _points(
    results: Results,
    methods: Sequence[MethodRow],
    metric: MeasuredMetric,
) -> Points:
    distances = mean_values(results, methods, metric.name)
    psnrs = mean_values(results, methods, results.fidelity)
    return distances, psnrs


def _draw_student(
    axis: Axes,
    points: Points,
    gaps: Sequence[Gap],
) -> None:
    color = STUDENT_COLOR
    axis.plot(
        *points,
        "-o",
        color=color,
        lw=2.2,
        ms=6,
        label="student, by tradeoff",
    )
    for distance, psnr, gap in zip(*points, gaps, strict=True):
        axis.annotate(
            f"{gap.tradeoff:g}",
            (distance, psnr),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=9,
            color=color,
        )
        # There is no gap where the combinations do not reach, no error with one photo.
        if gap.difference is not None and gap.difference.sem is not None:
            axis.errorbar(
                distance,
                psnr,
                yerr=gap.difference.sem,
                color=color,
                capsize=3,
                lw=1.2,
            )


def _draw_fixed_method(
    axis: Axes,
    results: Results,
    method: MethodRow,
    metric: MeasuredMetric,
) -> None:
    markers = {"bicubic": "^"}
    if results.teachers is not None:
        faithful, realistic = results.teachers
        markers[faithful] = "s"
        markers[realistic] = "D"
    axis.plot(
        *_points(results, [method], metric),
        markers.get(method.label, "P"),
        color=method_color(results, method.name),
        ms=8,
        label=image_title(method.label, results.teachers),
    )


def _draw_baseline(
    axis: Axes,
    results: Results,
    name: str,
    metric: MeasuredMetric,
) -> None:
    """Draw a curve that the student is compared with."""
    if name in results.combined:
        methods = results.combinations(name)
        color = GRAY
        label = f"images of {' + '.join(results.combined[name])}"
    else:
        methods = results.sweep(name)
        color = method_color(results, name)
        label = name
    line = ".--"
    if name == LINEAR_STAGE1:
        line = ".:"
    # Behind everything else: the student's curve may lie on it.
    axis.plot(
        *_points(results, methods, metric),
        line,
        color=color,
        lw=1.4,
        ms=5,
        zorder=1,
        label=label,
    )


def leave_out_far_point(
    axis: Axes,
    far: Points,
    near: Points,
) -> None:
    """Frame the near points where the far one would make them a speck.

    That is on each axis whose range it would more than triple.

    Args:
        axis: A panel with all points drawn.
        far: At most one point.
        near: The other points.
    """
    if not far[0] or not near[0]:
        return
    for limits, (value,), others in zip(("xlim", "ylim"), far, near, strict=True):
        low = min(others)
        high = max(others)
        span = high - low
        distance = max(value - high, low - value)
        if distance > 2 * span > 0:
            margin = 0.15 * span
            axis.set(**{limits: (low - margin, high + margin)})
