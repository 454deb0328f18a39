"""A metric chart: all metrics of a few methods as a radar (CTSR, Fig. 1c)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillkit.evaluation.gallery import image_title
from distillkit.evaluation.metric_roles import is_trained_against
from distillkit.evaluation.results import MeasuredMetric, MethodRow, Results
from distillkit.report.style import encode_figure, figure_style, method_color
from distillkit.report.tables import mean_values

MAX_METHODS = 7
INNER_RING = 0.12
"""Radius of a metric's worst mean; its best mean is at radius 1."""


def draw_radar(results: Results, trained_against: Collection[str]) -> bytes | None:
    """Draw one axis for each metric.

    An axis reaches from the worst mean shown (inner ring) to the best (rim). The axes are
    relative to the methods shown: an area compares these methods and nothing else.

    Args:
        results: What was measured.
        trained_against: Names of the metrics that the student was trained against.

    Returns:
        A PNG file, or None with under three metrics that all have measured, or two methods.
    """
    methods = select_methods(results)
    metrics = [metric for metric in results.metrics if _is_complete(results, methods, metric)]
    if len(metrics) < 3 or len(methods) < 2:
        return None
    angles = np.linspace(0, 2 * math.pi, len(metrics), endpoint=False)
    with figure_style():
        figure = Figure(figsize=(9.6, 6.4))
        # The margins are room for the names of the axes.
        axis = figure.add_axes(
            (0.2, 0.2, 0.6, 0.66),
            projection="polar",
            theta_offset=math.pi / 2,
            theta_direction=-1,
        )
        radii = []
        names = []
        for metric in metrics:
            means = np.array(mean_values(results, methods, metric.name))
            radii.append(_radii(means, metric))
            names.append(_axis_name(metric, means, trained_against))
        _draw_methods(axis, results, methods, angles, np.transpose(radii))
        _name_axes(axis, angles, names)
        axis.set_yticks([INNER_RING, 0.56, 1.0], [])
        axis.set_ylim(0, 1.04)
        figure.legend(loc="lower center", ncols=4)
        return encode_figure(figure)


def select_methods(results: Results) -> list[MethodRow]:
    """Choose the student and the methods with a fixed tradeoff.

    Of the student's tradeoffs it shows the first, the middle and the last, so that lines stay
    apart; of linear combinations none.
    """
    student = results.sweep()
    if len(student) > 3:
        middle = len(student) // 2
        student = [student[0], student[middle], student[-1]]
    fixed = []
    for method in results.methods:
        if method.tradeoff is None and not method.is_combination:
            fixed.append(method)
    room = MAX_METHODS - len(student)
    return [*fixed[:room], *student]


def _is_complete(
    results: Results,
    methods: Sequence[MethodRow],
    metric: MeasuredMetric,
) -> bool:
    """Whether a metric has a mean for each method, without which its axis cannot be drawn."""
    return bool(np.isfinite(mean_values(results, methods, metric.name)).all())


def _radii(means: np.ndarray, metric: MeasuredMetric) -> np.ndarray:
    """Scale the means of a metric to radii, the best to the rim."""
    sign = 1 if metric.higher_is_better else -1
    signed = means * sign
    worst = signed.min()
    best = signed.max()
    if best == worst:
        return np.ones_like(means)
    shares = (signed - worst) / (best - worst)
    return INNER_RING + 0.88 * shares


def _draw_methods(
    axis: Axes,
    results: Results,
    methods: Sequence[MethodRow],
    angles: np.ndarray,
    radii: np.ndarray,
) -> None:
    # A closed line ends where it began.
    closed_angles = np.append(angles, angles[0])
    student_lines = itertools.cycle(("-", "--", ":"))
    for method, values in zip(methods, radii, strict=True):
        line = "-"
        if method.tradeoff is not None:
            line = next(student_lines)
        closed_values = np.append(values, values[0])
        color = method_color(results, method.name)
        axis.plot(
            closed_angles,
            closed_values,
            line,
            color=color,
            lw=2,
            label=image_title(method.label, results.teachers),
        )
        axis.fill(closed_angles, closed_values, color=color, alpha=0.06)


def _axis_name(
    metric: MeasuredMetric,
    means: np.ndarray,
    trained_against: Collection[str],
) -> str:
    """Name a metric with its direction, its worst and best mean, its role."""
    arrow = "↓"
    worst = means.max()
    best = means.min()
    if metric.higher_is_better:
        arrow = "↑"
        worst, best = best, worst
    digits = 3
    if np.abs(means).max() >= 10:
        digits = 2
    lines = [
        f"{metric.name} {arrow}",
        f"{worst:.{digits}f} to {best:.{digits}f}",
    ]
    if is_trained_against(metric.name, trained_against):
        lines.append("trained against")
    return "\n".join(lines)


def _name_axes(
    axis: Axes,
    angles: np.ndarray,
    names: Sequence[str],
) -> None:
    axis.set_xticks(angles, names)
    axis.tick_params(axis="x", pad=10)
    for text, angle in zip(axis.get_xticklabels(), angles, strict=True):
        text.set_horizontalalignment(_side_of_rim(angle))


def _side_of_rim(angle: float) -> Literal["left", "center", "right"]:
    """Align a name so that it stands beside the rim, not across it."""
    if abs(math.sin(angle)) < 0.1:
        return "center"
    if math.sin(angle) > 0:
        return "left"
    return "right"
