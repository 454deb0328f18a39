"""The tradeoff figure: fidelity over perceptual distance (CTSR, Fig. 1a)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillkit.evaluation.gallery import caption
from distillkit.evaluation.results import LINEAR, Entry, Gap, Measure, Results
from distillkit.report.style import (
    BICUBIC_COLOR,
    FAITHFUL_COLOR,
    GRAY,
    OTHER_COLORS,
    REALISTIC_COLOR,
    STUDENT_COLOR,
    encode_figure,
    figure_style,
)
from distillkit.report.tables import metric_role

Points = tuple[list[float], list[float]]
"""Perceptual distances, and the PSNRs there."""


def draw_tradeoff(
    results: Results, trained_against: Collection[str], *, dark: bool = False
) -> bytes:
    """Draw PSNR over perceptual distance, one panel for each perceptual metric.

    A panel shows the student's curve, the teachers and the curves of the baselines. Bars on the
    student's points are one standard error of the PSNR gap to the linear combinations at the same
    distance, paired by image: unpaired bars would show how much photos differ from each other, not
    how much methods do.

    Returns:
        A PNG file.
    """
    metrics = results.perceptual
    with figure_style(dark):
        figure = Figure(figsize=(5.4 * max(1, len(metrics)), 4.4), layout="constrained")
        if not metrics:
            figure.text(0.5, 0.5, "no perceptual metric was measured", ha="center")
            return encode_figure(figure)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, metric in zip(panels, metrics, strict=True):
            _draw_panel(axis, results, metric)
            role = metric_role(metric, trained_against)
            axis.set_title(f"{metric.name} ({role})", loc="left", fontweight="bold", fontsize=11)
            better = "right" if metric.higher_is_better else "left"
            axis.set_xlabel(f"{metric.name}  (better to the {better})")
            axis.set_ylabel(f"{results.fidelity}, dB  (better upwards)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", frameon=False, ncols=5, fontsize=9
        )
        return encode_figure(figure)


def _draw_panel(axis: Axes, results: Results, metric: Measure) -> None:
    sweep = results.sweep()
    if sweep:
        gaps = results.at_equal(metric.name)
        _draw_student(axis, _points(results, sweep, metric), gaps)
    _draw_fixed_methods(axis, results, metric)
    _draw_baselines(axis, results, metric)
    axis.margins(0.1)
    bicubic = [entry for entry in results.entries if entry.label == "bicubic"]
    others = [entry for entry in results.entries if entry.label != "bicubic"]
    leave_out_far_point(axis, _points(results, bicubic, metric), _points(results, others, metric))


def _points(results: Results, entries: Sequence[Entry], metric: Measure) -> Points:
    distances = [results.summary(entry.label, metric.name).mean for entry in entries]
    psnrs = [results.summary(entry.label, results.fidelity).mean for entry in entries]
    return distances, psnrs


def _draw_student(axis: Axes, points: Points, gaps: Sequence[Gap]) -> None:
    color = STUDENT_COLOR
    axis.plot(*points, "-o", color=color, lw=2.2, ms=6, label="student, by tradeoff")
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
        if gap.difference is not None and gap.difference.sem is not None:
            error = gap.difference.sem
            axis.errorbar(distance, psnr, yerr=error, color=color, capsize=3, lw=1.2)


def _draw_fixed_methods(axis: Axes, results: Results, metric: Measure) -> None:
    """Draw a marker for each method without a tradeoff."""
    markers = {"bicubic": ("^", BICUBIC_COLOR)}
    if results.teachers is not None:
        faithful, realistic = results.teachers
        markers[faithful] = ("s", FAITHFUL_COLOR)
        markers[realistic] = ("D", REALISTIC_COLOR)
    for entry in results.entries:
        if entry.tradeoff is not None or entry.is_combination:
            continue
        marker, color = markers.get(entry.label, ("P", GRAY))
        label = caption(entry.label, results.teachers)
        axis.plot(*_points(results, [entry], metric), marker, color=color, ms=8, label=label)


def _draw_baselines(axis: Axes, results: Results, metric: Measure) -> None:
    """Draw the curves that the student is compared with."""
    colors = itertools.cycle((GRAY, *OTHER_COLORS))
    for name, color in zip(results.baselines(), colors, strict=False):
        if name == LINEAR:
            entries = results.combinations()
            label = f"linear combinations of {' and '.join(results.teachers or ())}"
        else:
            entries = results.sweep(name)
            label = name
        points = _points(results, entries, metric)
        axis.plot(*points, ".--", color=color, lw=1.4, ms=5, zorder=1, label=label)


def leave_out_far_point(axis: Axes, far: Points, near: Points) -> None:
    """Frame the near points where the far one would make them a speck.

    That is on each axis whose range it would more than triple.

    Args:
        axis: a panel with all points drawn.
        far: at most one point.
        near: the other points.
    """
    far_x, far_y = far
    near_x, near_y = near
    if not far_x or not near_x:
        return
    if _is_far(far_x[0], near_x):
        axis.set_xlim(_frame(near_x))
    if _is_far(far_y[0], near_y):
        axis.set_ylim(_frame(near_y))


def _is_far(value: float, others: Sequence[float]) -> bool:
    low, high = min(others), max(others)
    beyond = max(value - high, low - value)
    return beyond > 2 * (high - low) > 0


def _frame(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.15 * (high - low)
    return low - margin, high + margin
