"""A metric chart: quality, time and size as bubbles (CTSR, Fig. 1b)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from distillkit.evaluation.gallery import image_title
from distillkit.evaluation.results import MeasuredMetric, MethodRow, Results
from distillkit.report.style import encode_figure, figure_style, make_panels, method_color
from distillkit.report.tables import mean_values

MAX_PANELS = 3


def draw_bubbles(results: Results) -> bytes | None:
    """Draw quality over seconds per image.

    There is one panel for each of the first metrics. Bubble areas grow with the parameters of
    all networks that a method takes. A method with several tradeoffs stands at its median time.

    Args:
        results: What was measured.

    Returns:
        A PNG file, or None with under two methods whose time and size are known.
    """
    methods = [method for method in results.methods if _has_costs(method)]
    if len(methods) < 2:
        return None
    metrics = [m for m in results.metrics if m.name == results.fidelity]
    metrics += results.perceptual
    metrics = metrics[:MAX_PANELS]
    count = len(metrics)
    with figure_style():
        width = max(5.4, 3.6 * count)
        figure, panels = make_panels(count, width, 4.2)
        for axis, metric in zip(panels, metrics, strict=True):
            _draw_methods(axis, results, methods, metric)
            _label_panel(axis, metric)
        _add_legend(figure, panels[0])
        return encode_figure(figure)


def _has_costs(method: MethodRow) -> bool:
    if method.is_combination or method.parameters is None:
        return False
    return bool(method.seconds)


def _draw_methods(
    axis: Axes,
    results: Results,
    methods: Sequence[MethodRow],
    metric: MeasuredMetric,
) -> None:
    # A method without parameters, such as bicubic enlargement, gets the smallest bubble.
    largest = max(method.parameters or 1 for method in methods)
    for name in sorted({method.name for method in methods}):
        own = [method for method in methods if method.name == name]
        own.sort(key=lambda method: method.tradeoff or 0.0)
        means = mean_values(results, own, metric.name)
        if np.isfinite(means).all():
            area = 30 + 1500 * (own[0].parameters or 0) / largest
            _draw_method(axis, results, own, means, area)


def _draw_method(
    axis: Axes,
    results: Results,
    rows: Sequence[MethodRow],
    means: Sequence[float],
    area: float,
) -> None:
    """Draw the bubbles of a method, one above the other: one for each of its tradeoffs."""
    name = rows[0].name
    title = image_title(name, results.teachers)
    seconds = np.median([row.seconds for row in rows])
    axis.scatter(
        [seconds] * len(rows),
        means,
        s=[area] * len(rows),
        color=method_color(results, name),
        alpha=0.35,
        edgecolors=matplotlib.rcParams["text.color"],
        lw=0.8,
        label=f"{title} ({_millions(rows[0].parameters or 0)})",
    )
    # Only the first and the last tradeoff are written: bubbles between them overlap.
    ends = [(rows[0], means[0]), (rows[-1], means[-1])]
    _write_tradeoffs(axis, seconds, ends)


def _write_tradeoffs(
    axis: Axes,
    seconds: float,
    points: Sequence[tuple[MethodRow, float]],
) -> None:
    for method, mean in points:
        if method.tradeoff is not None:
            axis.annotate(
                f"{method.tradeoff:g}",
                (seconds, mean),
                ha="center",
                va="center",
                fontsize=9,
            )


def _label_panel(axis: Axes, metric: MeasuredMetric) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("seconds per image  (better to the left)")
    better = "upwards" if metric.higher_is_better else "downwards"
    axis.set_ylabel(f"{metric.name}  (better {better})")
    axis.margins(0.25)


def _add_legend(figure: Figure, axis: Axes) -> None:
    legend = figure.legend(
        *axis.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
    )
    # Markers of one size: as large as the bubbles they would cover the names.
    for handle in legend.legend_handles:
        handle.set_sizes([60])  # type: ignore[union-attr]


def _millions(parameters: int) -> str:
    if parameters == 0:
        return "no parameters"
    return f"{parameters / 1e6:.3g} M"
