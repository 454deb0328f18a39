"""Figures of all metrics at once: a radar of methods (CTSR, Fig. 1c), and bubbles of time, quality and size (Fig. 1b)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from distillkit.evaluation.gallery import caption
from distillkit.evaluation.results import STUDENT, Entry, Measure, Results
from distillkit.report.tradeoff import BLUE, FIDELITY, GREY, LINES, REALNESS, png, style

MOST = 7
"""Methods in a radar; of a knob only its ends and its middle are shown."""


def radar_png(results: Results, trained: Collection[str], *, dark: bool = False) -> bytes | None:
    """One axis a metric, from the worst of the methods shown (inner ring) to the best (rim).

    None with under three metrics or two methods.

    The axes are relative to the methods shown: an area compares these methods and nothing else.
    """
    metrics, shown = results.metrics, shown_methods(results)
    if len(metrics) < 3 or len(shown) < 2:
        return None
    angles = np.linspace(0, 2 * math.pi, len(metrics), endpoint=False)
    means = np.array([[results.summary(e.label, m.name).mean for m in metrics] for e in shown])
    signed = means * [1 if m.higher_is_better else -1 for m in metrics]
    low, high = signed.min(0), signed.max(0)
    scaled = np.where(high > low, (signed - low) / np.where(high > low, high - low, 1), 1)
    with style(dark):
        figure = Figure(figsize=(9.6, 6.4))
        axis = figure.add_axes(
            (0.2, 0.2, 0.6, 0.66), projection="polar", theta_offset=math.pi / 2, theta_direction=-1
        )
        closed = np.append(angles, angles[0])
        for entry, values, (color, line) in zip(
            shown, 0.12 + 0.88 * scaled, _styles(results, shown), strict=True
        ):
            axis.plot(
                closed,
                np.append(values, values[0]),
                line,
                color=color,
                lw=2,
                label=caption(entry.label, results.teachers),
            )
            axis.fill(closed, np.append(values, values[0]), color=color, alpha=0.06)
        axis.set_xticks(angles, [_head(m, trained, means[:, i]) for i, m in enumerate(metrics)])
        axis.tick_params(axis="x", pad=10)
        for name, angle in zip(
            axis.get_xticklabels(), angles, strict=True
        ):  # beside the rim, not across it
            name.set_horizontalalignment(
                "center"
                if abs(math.sin(angle)) < 0.1
                else "left"
                if math.sin(angle) > 0
                else "right"
            )
        axis.set_yticks([0.12, 0.56, 1.0], [])
        axis.set_ylim(0, 1.04)
        figure.legend(loc="lower center", ncols=4, frameon=False, fontsize=9)
        return png(figure)


def bubbles_png(results: Results, *, dark: bool = False) -> bytes | None:
    """Quality over seconds per image, one panel a metric, bubbles as large as the methods' parameters.

    None with under two methods to show.
    """
    entries = [
        e
        for e in results.entries
        if e.seconds and e.parameters is not None and not e.is_combination
    ]
    measures = [
        next(m for m in results.metrics if m.name == results.fidelity),
        *results.perceptual,
    ][:3]
    if len(entries) < 2:
        return None
    largest = max(1, *(e.parameters or 0 for e in entries))
    with style(dark) as text:
        figure = Figure(figsize=(max(5.4, 3.6 * len(measures)), 4.2), layout="constrained")
        for axis, m in zip(
            figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True
        ):
            for name, group in itertools.groupby(
                sorted(entries, key=lambda e: e.name), key=lambda e: e.name
            ):
                points = list(group)
                seconds = [float(np.median([e.seconds or 0 for e in points]))] * len(points)
                values = [results.summary(e.label, m.name).mean for e in points]
                sizes = [30 + 1500 * (e.parameters or 0) / largest for e in points]
                label = (
                    f"{caption(name, results.teachers)} ({_millions(points[0].parameters or 0)})"
                )
                color = _colour(results, name)
                axis.scatter(
                    seconds,
                    values,
                    s=sizes,
                    color=color,
                    alpha=0.35,
                    edgecolors=text,
                    lw=0.8,
                    label=label,
                )
                if points[0].tradeoff is not None:
                    knob = sorted((e.tradeoff or 0, y) for e, y in zip(points, values, strict=True))
                    for t, y in (knob[0], knob[-1]):
                        axis.annotate(
                            f"{t:g}", (seconds[0], y), ha="center", va="center", fontsize=9
                        )
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel("seconds per image  (better to the left)")
            axis.set_ylabel(
                f"{m.name}  (better {'upwards' if m.higher_is_better else 'downwards'})"
            )
            axis.margins(0.25)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        legend = figure.legend(
            handles, labels, loc="outside lower center", frameon=False, ncols=4, fontsize=9
        )
        for handle in legend.legend_handles:
            handle.set_sizes([60])  # type: ignore[union-attr]
        return png(figure)


def shown_methods(results: Results) -> list[Entry]:
    """Methods without a knob, and the ends and the middle of the student's; no combinations."""
    fixed = [e for e in results.entries if e.tradeoff is None and not e.is_combination]
    sweep = results.sweep()
    ends = [sweep[i] for i in sorted({0, len(sweep) // 2, len(sweep) - 1})] if sweep else []
    return [*fixed[: MOST - len(ends)], *ends]


def _styles(results: Results, shown: list[Entry]) -> list[tuple[str, str]]:
    lines = itertools.cycle(("-", "--", ":"))
    return [
        (_colour(results, e.name), next(lines) if e.tradeoff is not None else "-") for e in shown
    ]


def _colour(results: Results, name: str) -> str:
    named = {STUDENT: BLUE, "bicubic": GREY}
    if results.teachers is not None:
        named |= dict(zip(results.teachers, (FIDELITY, REALNESS), strict=True))
    others = [n for n in dict.fromkeys(e.name for e in results.entries) if n not in named]
    return named.get(name) or LINES[3:][others.index(name) % len(LINES[3:])]


def _head(measure: Measure, trained: Collection[str], means: np.ndarray) -> str:
    best, worst = (
        (means.max(), means.min()) if measure.higher_is_better else (means.min(), means.max())
    )
    role = "\ntrained against" if measure.name in trained else ""
    digits = 2 if max(abs(best), abs(worst)) >= 10 else 3
    return f"{measure.name} {'↑' if measure.higher_is_better else '↓'}\n{worst:.{digits}f} to {best:.{digits}f}{role}"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.3g} M" if parameters else "no parameters"
