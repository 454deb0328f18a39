"""The training figure: loss terms over steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from distillkit.report.style import ALL_COLORS, encode_figure, figure_style

NOT_A_LOSS = frozenset({"stage", "step", "lr", "grad_norm", "seconds", "loader_wait"})
"""Keys of ``metrics.jsonl`` that are not loss terms."""

Curves = dict[str, list[tuple[float, float]]]
"""(step, value) pairs by loss term."""


def draw_losses(history: Iterable[Mapping[str, Any]], *, dark: bool = False) -> bytes | None:
    """Draw the loss terms over steps, one panel for each stage.

    Thin lines are the values as logged, thick ones their running means. Values that are not finite
    are left out.

    Args:
        history: the lines of ``metrics.jsonl``.
        dark: for a dark page.

    Returns:
        A PNG file, or None if nothing was logged.
    """
    lines_by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for line in history:
        lines_by_stage.setdefault(str(line["stage"]), []).append(line)
    if not lines_by_stage:
        return None
    with figure_style(dark):
        figure = Figure(figsize=(5.4 * len(lines_by_stage), 4.2), layout="constrained")
        panels = figure.subplots(1, len(lines_by_stage), squeeze=False)[0]
        for axis, (stage, lines) in zip(panels, lines_by_stage.items(), strict=True):
            _draw_panel(axis, _loss_curves(lines))
            axis.set_title(stage, loc="left", fontweight="bold", fontsize=11)
        return encode_figure(figure)


def _loss_curves(lines: Sequence[Mapping[str, Any]]) -> Curves:
    curves: Curves = {}
    for line in lines:
        for name, value in line.items():
            if name in NOT_A_LOSS or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                curves.setdefault(name, []).append((line["step"], value))
    terms = [name for name in curves if name != "loss"]
    # The total of a single term repeats it.
    if len(terms) == 1 and curves.get("loss") == curves[terms[0]]:
        del curves["loss"]
    return curves


def _draw_panel(axis: Axes, curves: Curves) -> None:
    axis.set_xlabel("step")
    if not curves:
        return
    for (name, points), color in zip(curves.items(), itertools.cycle(ALL_COLORS), strict=False):
        width, order = 1.5, 2
        if name == "loss":  # the total stands out
            width, order = 2.4, 3
        steps, values = np.array(points, dtype=float).T
        axis.plot(steps, values, color=color, lw=0.8, alpha=0.3)
        axis.plot(steps, _smooth(values), color=color, lw=width, label=name, zorder=order)
    smallest = min(value for points in curves.values() for _, value in points)
    if smallest > 0:
        _use_log_scale(axis)
    below = (0.5, -0.17)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=below)


def _use_log_scale(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _smooth(values: np.ndarray) -> np.ndarray:
    """Take running means over a tenth of the curve, over less near its ends."""
    half = max(1, len(values) // 20)
    means = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    return np.array(means)
