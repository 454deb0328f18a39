"""The look of all figures: colors, lines, PNG files.

Color-blind readers can tell the colors apart (after Okabe and Ito). A figure is drawn once, on
white. A dark page inverts it and turns its hues back (``.chart`` in ``report.html.j2``). Every
color here has a contrast of 3 or more there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from distillkit.evaluation.results import STUDENT, Results

STUDENT_COLOR = "#2186d0"
FAITHFUL_COLOR = "#D55E00"
REALISTIC_COLOR = "#009E73"
TEXT_COLOR = "#22262d"
GRAY = "#7f848d"
OTHER_COLORS = ("#CC79A7", "#E69F00", "#56B4E9", GRAY, "#B8A800")
ALL_COLORS = (STUDENT_COLOR, FAITHFUL_COLOR, REALISTIC_COLOR, *OTHER_COLORS)


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw the figures of a block in the style of all figures."""
    settings: dict[Any, Any] = {
        "text.color": TEXT_COLOR,
        "axes.labelcolor": TEXT_COLOR,
        "axes.edgecolor": TEXT_COLOR,
        "grid.color": TEXT_COLOR,
        "xtick.color": TEXT_COLOR,
        "ytick.color": TEXT_COLOR,
        "font.size": 10,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.15,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
    with matplotlib.rc_context(settings):
        yield


def make_panels(
    count: int,
    width: float,
    height: float,
) -> tuple[Figure, np.ndarray]:
    """Make a figure with panels side by side.

    Args:
        count: Number of panels.
        width: The width of the figure, inches.
        height: The height of the figure, inches.

    Returns:
        The figure and its panels.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(1, count, squeeze=False)
    return figure, grid[0]


def encode_figure(figure: Figure) -> bytes:
    """Encode a figure as a PNG file.

    Matplotlib's version is left out of it, so that equal figures are equal files.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def method_color(results: Results, name: str) -> str:
    """Choose a method's color: the same one in all figures."""
    colors = {STUDENT: STUDENT_COLOR, "bicubic": GRAY}
    if results.teachers is not None:
        faithful, realistic = results.teachers
        colors[faithful] = FAITHFUL_COLOR
        colors[realistic] = REALISTIC_COLOR
    # All other methods get a color by their place in the results.
    next_color = 0
    for method in results.methods:
        if method.name not in colors:
            colors[method.name] = OTHER_COLORS[next_color % len(OTHER_COLORS)]
            next_color += 1
    return colors[name]
