"""The look that all figures share: colors, a light and a dark style, PNG files.

Color-blind readers can tell the colors apart (after Okabe and Ito).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from distillkit.evaluation.results import STUDENT, Results

BLUE = "#2186d0"
ORANGE = "#D55E00"
GREEN = "#009E73"
GRAY = "#8a8f98"

STUDENT_COLOR = BLUE
FAITHFUL_COLOR = ORANGE
REALISTIC_COLOR = GREEN
BICUBIC_COLOR = GRAY
OTHER_COLORS = ("#CC79A7", "#E69F00", "#56B4E9", GRAY, "#B8A800")
"""Of methods that have no color of their own, in turn."""
ALL_COLORS = (BLUE, ORANGE, GREEN, *OTHER_COLORS)

LIGHT_TEXT, LIGHT_BACKGROUND = "#22262d", "#ffffff"
DARK_TEXT, DARK_BACKGROUND = "#d6dae1", "#16191f"


@contextmanager
def figure_style(dark: bool) -> Iterator[None]:
    """Draw figures of the block for a light or a dark page."""
    text, background = LIGHT_TEXT, LIGHT_BACKGROUND
    if dark:
        text, background = DARK_TEXT, DARK_BACKGROUND
    settings: dict[Any, Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "font.size": 10,
        "grid.alpha": 0.15,
        "grid.linewidth": 0.6,
        "figure.facecolor": background,
        "axes.facecolor": background,
        "savefig.facecolor": background,
        "text.color": text,
        "axes.labelcolor": text,
        "axes.edgecolor": text,
        "grid.color": text,
        "xtick.color": text,
        "ytick.color": text,
    }
    with matplotlib.rc_context(settings):
        yield


def encode_figure(figure: Figure) -> bytes:
    """Encode a figure as a PNG file.

    Matplotlib's version is left out of it, so that equal figures are equal files.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def method_color(results: Results, name: str) -> str:
    """Choose a method's color: the same one in all metric charts."""
    colors = {STUDENT: STUDENT_COLOR, "bicubic": BICUBIC_COLOR}
    if results.teachers is not None:
        faithful, realistic = results.teachers
        colors[faithful] = FAITHFUL_COLOR
        colors[realistic] = REALISTIC_COLOR
    if name in colors:
        return colors[name]
    names = dict.fromkeys(entry.name for entry in results.entries)
    others = [other for other in names if other not in colors]
    return OTHER_COLORS[others.index(name) % len(OTHER_COLORS)]
