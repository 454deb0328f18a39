"""A metric chart: quality, time and size of all methods as bubbles (CTSR, Fig. 1b)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from distillkit.evaluation.gallery import caption
from distillkit.evaluation.results import Entry, Measure, Results
from distillkit.report.style import encode_figure, figure_style, method_color

MAX_PANELS = 3


def draw_bubbles(results: Results, *, dark: bool = False) -> bytes | None:
    """Draw quality over seconds per image, one panel for each of the first metrics.

    Bubble areas grow with the parameters of all networks that a method takes. A method with
    several tradeoffs stands at its median time.

    Returns:
        A PNG file, or None with under two entries whose time and size are known.
    """
    entries = [entry for entry in results.entries if _has_costs(entry)]
    if len(entries) < 2:
        return None
    fidelity = next(metric for metric in results.metrics if metric.name == results.fidelity)
    metrics = [fidelity, *results.perceptual][:MAX_PANELS]
    with figure_style(dark):
        figure = Figure(figsize=(max(5.4, 3.6 * len(metrics)), 4.2), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, metric in zip(panels, metrics, strict=True):
            _draw_panel(axis, results, entries, metric)
            _label_panel(axis, metric)
        _add_legend(figure)
        return encode_figure(figure)


def _has_costs(entry: Entry) -> bool:
    return bool(entry.seconds) and entry.parameters is not None and not entry.is_combination


def _draw_panel(axis: Axes, results: Results, entries: Sequence[Entry], metric: Measure) -> None:
    largest = max(1, *(entry.parameters or 0 for entry in entries))
    for name in sorted({entry.name for entry in entries}):
        own = [entry for entry in entries if entry.name == name]
        seconds = float(np.median([entry.seconds or 0 for entry in own]))
        means = [results.summary(entry.label, metric.name).mean for entry in own]
        parameters = [entry.parameters or 0 for entry in own]
        axis.scatter(
            [seconds] * len(own),
            means,
            s=[30 + 1500 * count / largest for count in parameters],
            color=method_color(results, name),
            alpha=0.35,
            edgecolors=matplotlib.rcParams["text.color"],
            lw=0.8,
            label=f"{caption(name, results.teachers)} ({_millions(parameters[0])})",
        )
        if own[0].tradeoff is not None:
            _write_tradeoffs(axis, seconds, own, means)


def _write_tradeoffs(
    axis: Axes, seconds: float, entries: Sequence[Entry], means: Sequence[float]
) -> None:
    """Write the first and the last tradeoff of a method on their bubbles."""
    points = sorted((entry.tradeoff or 0, mean) for entry, mean in zip(entries, means, strict=True))
    for tradeoff, mean in (points[0], points[-1]):
        axis.annotate(f"{tradeoff:g}", (seconds, mean), ha="center", va="center", fontsize=9)


def _label_panel(axis: Axes, metric: Measure) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("seconds per image  (better to the left)")
    better = "upwards" if metric.higher_is_better else "downwards"
    axis.set_ylabel(f"{metric.name}  (better {better})")
    axis.margins(0.25)


def _add_legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside lower center", frameon=False, ncols=4, fontsize=9
    )
    # Markers of one size: as large as the bubbles they would cover the names.
    for handle in legend.legend_handles:
        handle.set_sizes([60])  # type: ignore[union-attr]


def _millions(parameters: int) -> str:
    if parameters == 0:
        return "no parameters"
    return f"{parameters / 1e6:.3g} M"
