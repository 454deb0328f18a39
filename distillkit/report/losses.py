"""The training figure: loss terms over steps."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from distillkit.report.style import ALL_COLORS, encode_figure, figure_style, make_panels

NOT_A_LOSS = frozenset({"stage", "step", "lr", "grad_norm", "seconds", "loader_wait", "loss_scale"})
"""Keys of ``metrics.jsonl`` that are not loss terms."""

Curves = dict[str, list[tuple[float, float]]]
"""(step, value) pairs by loss term."""


def draw_losses(history: Iterable[Mapping[str, Any]]) -> bytes | None:
    """Draw the loss terms over steps, one panel for each stage.

    Thin lines are the values as logged, thick ones their running means. Values that are not finite
    are left out.

    Args:
        history: The lines of ``metrics.jsonl``.

    Returns:
        A PNG file, or None if no finite value was logged.
    """
    lines_by_stage = defaultdict(list)
    for line in history:
        lines_by_stage[str(line["stage"])].append(line)
    curves_by_stage = {}
    for stage, lines in lines_by_stage.items():
        curves = _loss_curves(lines)
        if curves:
            curves_by_stage[stage] = curves
    if not curves_by_stage:
        return None
    count = len(curves_by_stage)
    with figure_style():
        figure, panels = make_panels(count, 5.4 * count, 4.2)
        for axis, (stage, curves) in zip(panels, curves_by_stage.items(), strict=True):
            axis.set_title(stage)
            axis.set_xlabel("step")
            _draw_curves(axis, curves)
        return encode_figure(figure)


def _loss_curves(lines: Sequence[Mapping[str, Any]]) -> Curves:
    curves = defaultdict(list)
    for line in lines:
        step = line["step"]
        for name, value in line.items():
            if name in NOT_A_LOSS:
                continue
            if isinstance(value, int | float) and math.isfinite(value):
                curves[name].append((step, value))
    # The total of a single term repeats it.
    if len(curves) == 2 and "loss" in curves:
        first, second = curves.values()
        if first == second:
            del curves["loss"]
    return curves


def _draw_curves(axis: Axes, curves: Curves) -> None:
    colors = itertools.cycle(ALL_COLORS)
    for (name, points), color in zip(curves.items(), colors, strict=False):
        # Noise stays visible, but pale; the running mean is what to look at.
        steps, values = np.array(points, dtype=float).T
        axis.plot(steps, values, color=color, lw=0.8, alpha=0.3)
        width = 1.5
        order = 2
        if name == "loss":
            # The total stands out.
            width = 2.4
            order = 3
        axis.plot(
            steps,
            _smooth(values),
            color=color,
            lw=width,
            # A stage that logged once has no line.
            marker="o" if len(points) == 1 else "",
            label=name,
            zorder=order,
        )
    # Terms differ by decades, but a log scale has no place for 0.
    if _all_positive(curves):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    # Below the panel, for terms are many and curves fill the panel.
    axis.legend(
        fontsize=8,
        ncols=3,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
    )


def _all_positive(curves: Curves) -> bool:
    for points in curves.values():
        for _, value in points:
            if value <= 0:
                return False
    return True


def _smooth(values: np.ndarray) -> np.ndarray:
    """Take running means over a tenth of the curve, over less near its ends."""
    half = max(1, len(values) // 20)
    means = []
    for i in range(len(values)):
        start = max(0, i - half)
        window = values[start : i + half + 1]
        means.append(window.mean())
    return np.array(means)
