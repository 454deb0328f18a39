"""Figures of an evaluation, as PNG bytes, for a light or a dark page, in colors that color-blind readers tell apart."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from distillkit.evaluation.gallery import caption
from distillkit.evaluation.results import LINEAR, Entry, Gap, Measure, Results

BLUE, FIDELITY, REALNESS, GREY = "#2186d0", "#D55E00", "#009E73", "#8a8f98"
LINES = ("#2186d0", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8f98", "#B8A800")
NOT_A_LOSS = frozenset({"stage", "step", "lr", "grad_norm", "seconds", "loader_wait"})


def tradeoff_png(results: Results, trained: Collection[str], *, dark: bool = False) -> bytes:
    """PSNR over perceptual distance, one panel per perceptual metric: the student's curve, the teachers, their linear combinations.

    Bars on the student's points are one standard error of the PSNR gap to the combinations at the same distance, paired by image.
    Unpaired bars would show how much photos differ from each other, not how much methods do.
    """
    panels = results.perceptual
    with style(dark) as text:
        figure = Figure(figsize=(5.4 * max(1, len(panels)), 4.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0] if panels else []
        for axis, metric in zip(axes, panels, strict=True):
            _tradeoff_panel(axis, results, metric)
            role = "trained against" if metric.name in trained else "held out"
            axis.set_title(f"{metric.name} ({role})", loc="left", fontweight="bold", fontsize=11)
            side = "right" if metric.higher_is_better else "left"
            axis.set_xlabel(f"{metric.name}  (better to the {side})")
            axis.set_ylabel(f"{results.fidelity}, dB  (better upwards)")
        if panels:
            figure.legend(
                *axes[0].get_legend_handles_labels(),
                loc="outside lower center",
                frameon=False,
                ncols=5,
                fontsize=9,
            )
        else:
            figure.text(0.5, 0.5, "no perceptual metric was measured", ha="center", color=text)
        return png(figure)


def losses_png(history: Iterable[Mapping[str, Any]], *, dark: bool = False) -> bytes | None:
    """Loss terms over steps, one panel per stage, without values that are not finite; None if nothing was logged."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for line in history:
        stages.setdefault(str(line["stage"]), []).append(line)
    if not stages:
        return None
    with style(dark):
        figure = Figure(figsize=(5.4 * len(stages), 4.2), layout="constrained")
        for axis, (stage, lines) in zip(
            figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True
        ):
            _loss_panel(axis, lines)
            axis.set_title(stage, loc="left", fontweight="bold", fontsize=11)
        return png(figure)


def _tradeoff_panel(axis: Axes, results: Results, metric: Measure) -> None:
    def at(entries: list[Entry]) -> tuple[list[float], list[float]]:
        means = [
            [results.summary(e.label, name).mean for e in entries]
            for name in (metric.name, results.fidelity)
        ]
        return means[0], means[1]

    if results.sweep():
        _student_curve(axis, *at(results.sweep()), results.at_equal(metric.name))
    markers = {"bicubic": ("^", GREY)}
    if results.teachers is not None:
        markers |= {results.teachers[0]: ("s", FIDELITY), results.teachers[1]: ("D", REALNESS)}
    for e in results.entries:
        if e.tradeoff is None and not e.is_combination:
            marker, color = markers.get(e.label, ("P", GREY))
            axis.plot(*at([e]), marker, color=color, ms=8, label=caption(e.label, results.teachers))
    for name, color in zip(results.baselines(), itertools.cycle((GREY, *LINES[3:]))):
        points, label = results.sweep(name), name
        if name == LINEAR:
            points, label = (
                results.combinations(),
                f"linear combinations of {' and '.join(results.teachers or ())}",
            )
        axis.plot(*at(points), ".--", color=color, lw=1.4, ms=5, zorder=1, label=label)
    axis.margins(0.1)
    _leave_out(
        axis,
        *at([e for e in results.entries if e.label == "bicubic"]),
        *at([e for e in results.entries if e.label != "bicubic"]),
    )


def _leave_out(
    axis: Axes, far_x: list[float], far_y: list[float], x: list[float], y: list[float]
) -> None:
    """Frame the points (x, y), where the far ones would make them a speck: they would more than triple the frame's side."""
    if not (far_x and x):
        return
    for far, near, limit in ((far_x, x, axis.set_xlim), (far_y, y, axis.set_ylim)):
        low, high = min(near), max(near)
        if max(far[0] - high, low - far[0]) > 2 * (high - low) > 0:
            limit(low - 0.15 * (high - low), high + 0.15 * (high - low))


def _student_curve(axis: Axes, x: list[float], y: list[float], gaps: list[Gap]) -> None:
    axis.plot(x, y, "-o", color=BLUE, lw=2.2, ms=6, label="student, by tradeoff")
    for px, py, gap in zip(x, y, gaps, strict=True):
        name = f"{gap.tradeoff:g}"
        axis.annotate(
            name,
            (px, py),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=9,
            color=BLUE,
        )
        if gap.difference is not None and gap.difference.sem is not None:
            axis.errorbar(px, py, yerr=gap.difference.sem, color=BLUE, capsize=3, lw=1.2)


def _loss_panel(axis: Axes, lines: list[Mapping[str, Any]]) -> None:
    numbers = [
        {k: v for k, v in line.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        for line in lines
    ]
    terms = [k for k in dict.fromkeys(k for line in numbers for k in line) if k not in NOT_A_LOSS]
    if (
        len(terms) == 2
        and "loss" in terms
        and all(line.get(terms[0]) == line.get(terms[1]) for line in numbers)
    ):
        terms.remove("loss")  # which is its one term
    for i, term in enumerate(terms):
        steps, values = np.array(
            [(line["step"], line[term]) for line in numbers if term in line], dtype=float
        ).T
        color, total = LINES[i % len(LINES)], term == "loss"
        axis.plot(steps, values, color=color, lw=0.8, alpha=0.3)
        axis.plot(
            steps,
            _smooth(values),
            color=color,
            lw=2.4 if total else 1.5,
            label=term,
            zorder=3 if total else 2,
        )
    if axis.lines and all(np.all(np.asarray(line.get_ydata()) > 0) for line in axis.lines):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("step")
    if terms:
        axis.legend(
            frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17)
        )


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a tenth of the curve, shorter at its ends."""
    half = max(1, len(values) // 20)
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


@contextmanager
def style(dark: bool) -> Iterator[str]:
    """Matplotlib's settings for a light or a dark page; gives the color of text."""
    text, back = ("#d6dae1", "#16191f") if dark else ("#22262d", "#ffffff")
    style: dict[Any, Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "font.size": 10,
    }
    style |= {"grid.alpha": 0.15, "grid.linewidth": 0.6}
    style |= dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], back)
    style |= dict.fromkeys(
        [
            "text.color",
            "axes.labelcolor",
            "axes.edgecolor",
            "grid.color",
            "xtick.color",
            "ytick.color",
        ],
        text,
    )
    with matplotlib.rc_context(style):
        yield text


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
