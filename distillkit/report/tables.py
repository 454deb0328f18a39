"""The results as tables: rows for a spreadsheet, Markdown for people, cells for the report."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distillkit.evaluation.checks import Check
from distillkit.evaluation.results import STUDENT, Difference, Entry, Results, why_absent

MEANING = (
    "±: standard error; in brackets: 95 % bootstrap interval over photos. Those of two methods do not tell whether they differ, "
    "for photos differ more than methods. Compare paired differences."
)
DIFFERENCES = "Mean over the images ± standard error, 95 % bootstrap interval over photos: one that holds 0 shows no difference."
NO_GAP = "linear: linear combinations of two methods' images. none: the baseline does not reach the student's distance."


@dataclass(frozen=True)
class Column:
    """The head of a metric's column."""

    metric: str
    arrow: str
    role: str
    """``trained against``, ``held out``, or empty for a distortion measure that was not trained against."""


@dataclass(frozen=True)
class Cell:
    """A number with its standard error, or why there is none; and the 95 % interval."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()


def columns(results: Results, trained: Collection[str]) -> list[Column]:
    """One per metric, those with absent weights last."""
    measured = [
        Column(m.name, "↑" if m.higher_is_better else "↓", _role(m.name, m.perceptual, trained))
        for m in results.metrics
    ]
    return [*measured, *(Column(name, "", "") for name in results.absent)]


def cells(results: Results, entry: Entry) -> list[Cell]:
    """``mean ± standard error``, ``(sd ...)`` over several seeds and interval per column; where there is no number, why."""
    measured = []
    for m in results.metrics:
        digits, sd = decimals(results, m.name), results.deviation(entry.label, m.name)
        one = cell(results.summary(entry.label, m.name), digits)
        measured.append(
            one if sd is None else replace(one, text=f"{one.text} (sd {sd:.{digits}f})")
        )
    return [*measured, *(Cell(why_absent(reason)) for reason in results.absent.values())]


def cell(value: Difference, digits: int, sign: str = "") -> Cell:
    """``24.31 ± 0.12`` and ``[24.08, 24.55]``; ``sign="+"`` for differences."""
    if value.interval is None:
        return Cell(number(value, digits, sign))
    low, high = value.interval
    return Cell(number(value, digits, sign), f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]")


def cost_columns(results: Results) -> list[str]:
    """Heads of the columns of :func:`costs`: those that have anything to say."""
    heads = {
        "nfe": "nfe",
        "seconds": "seconds per image",
        "parameters": "parameters",
        "trainable": "trained",
    }
    return [
        head
        for name, head in heads.items()
        if any(getattr(e, name) is not None for e in results.entries)
    ]


def costs(results: Results, entry: Entry) -> list[str]:
    """Network passes, median seconds, parameters and trained ones of an entry; empty where unknown."""
    shown = {
        "nfe": f"{entry.nfe}",
        "seconds per image": "" if entry.seconds is None else f"{entry.seconds:.3g}",
        "parameters": _count_of(entry.parameters),
        "trained": _count_of(entry.trainable),
    }
    return [
        "" if head == "nfe" and entry.nfe is None else shown[head] for head in cost_columns(results)
    ]


def cost_note(results: Results) -> str:
    """What the seconds are, in a sentence; empty where none were measured."""
    if all(e.seconds is None for e in results.entries):
        return ""
    where = f" on {results.device}" if results.device else ""
    return f"Seconds: median over the images{where}, encoding and decoding included, loading left out. Parameters: of all networks."


def difference_table(results: Results) -> tuple[list[str], list[list[str]]] | None:
    """Header and rows: paired differences from the reference; None without a reference, or with nothing to compare it with."""
    measures = [m for m in results.metrics if not m.of_set]
    others = [e for e in ordered(results) if e.label != results.reference]
    if results.reference is None or not others:
        return None
    rows = []
    for e in others:
        found = [
            (results.paired(e.label, results.reference, m.name), decimals(results, m.name))
            for m in measures
        ]
        rows.append(
            [
                e.name,
                _tradeoff(e),
                *(str(cell(difference, digits, "+")) for difference, digits in found),
            ]
        )
    return ["method", "tradeoff", *(m.name for m in measures)], rows


def decimals(results: Results, metric: str) -> int:
    """Two for metrics with large values, such as dB, four for those of the size of a distance."""
    return (
        2 if max(abs(results.values[e.label, metric].mean()) for e in results.entries) >= 5 else 4
    )


def number(value: Difference, digits: int, sign: str = "") -> str:
    """``24.31 ± 0.12``; ``sign="+"`` for differences."""
    return f"{value.mean:{sign}.{digits}f}" + (
        "" if value.sem is None else f" ± {value.sem:.{digits}f}"
    )


def ordered(results: Results) -> list[Entry]:
    """Baselines, teachers, combinations, then methods with a knob by tradeoff, the student last."""
    fixed = [e for e in results.entries if e.tradeoff is None]
    fixed.sort(key=lambda e: (e.is_combination, e.label in (results.teachers or ())))
    return [
        *fixed,
        *sorted(
            (e for e in results.entries if e.tradeoff is not None),
            key=lambda e: (e.name == STUDENT, e.name, e.tradeoff),
        ),
    ]


def uncertainty(results: Results) -> str:
    """What the standard errors and deviations mean."""
    images, photos = len(results.items), len(set(results.photos))
    drawn = (
        f" Each number is the mean of {results.seeds} seeds, sd its standard deviation over them."
        if results.seeds > 1
        else ""
    )
    if photos < 2:
        return f"{_count(images, 'image')} of one photo: no standard errors, for one photo says nothing of others.{drawn}"
    clustered = (
        "" if images == photos else f" of {photos} photos; standard errors are clustered by photo"
    )
    few = f"; with {photos} photos they are rough (to about {100 / (2 * (photos - 1)) ** 0.5:.0f} %), and intervals too narrow"
    few = few if photos < 10 else ""
    return (
        f"{_count(images, 'image')}{clustered or '; standard errors are over images'}{few}.{drawn}"
    )


def to_csv(results: Results) -> str:
    """The rows of ``metrics.json`` as CSV; null is an empty cell."""
    return as_csv(results.rows())


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys, of which there is one at least, below a line of the keys."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_markdown(results: Results, trained: Collection[str], checked: Sequence[Check]) -> str:
    """The table, the gaps to the linear combinations, the claims and the protocols."""
    heads = [
        " ".join(filter(None, [c.metric, c.arrow, f"({c.role})" if c.role else ""]))
        for c in columns(results, trained)
    ]
    lines = [f"# Evaluation on {results.dataset}", "", uncertainty(results), ""]
    lines += as_markdown(
        ["method", "tradeoff", *cost_columns(results), *heads],
        [
            [e.name, _tradeoff(e), *costs(results, e), *map(str, cells(results, e))]
            for e in ordered(results)
        ],
    )
    lines += ["", f"{MEANING} {cost_note(results)}".strip()]
    if (differences := difference_table(results)) is not None:
        lines += [
            "",
            f"## Differences from {results.reference} (paired)",
            "",
            *as_markdown(*differences),
            "",
            DIFFERENCES,
        ]
    if results.baselines() and results.sweep():
        lines += [
            "",
            "## PSNR of the student minus that of a baseline, at equal distance (dB, paired)",
            "",
        ]
        lines += [*as_markdown(*gap_table(results)), "", NO_GAP]
    if checked:
        lines += ["", "## Claims", "", *(f"- {claim}" for claim in checked)]
    lines += ["", "## Protocols", "", *(f"- {m.name}: {m.protocol}" for m in results.metrics)]
    lines += [
        f"- {name}: {why_absent(reason)} ({reason})" for name, reason in results.absent.items()
    ]
    return "\n".join(lines) + "\n"


def gap_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the gap at each tradeoff, by PSNR, perceptual metric and baseline; "none" where it does not exist."""
    header = ["gap in", "at equal", "above", *(f"tradeoff {e.tradeoff:g}" for e in results.sweep())]
    rows = []
    for psnr, measure, baseline in itertools.product(
        results.psnrs, results.perceptual, results.baselines()
    ):
        gaps = [gap.difference for gap in results.at_equal(measure.name, baseline, psnr)]
        rows.append(
            [
                psnr,
                measure.name,
                baseline,
                *("none" if d is None else number(d, 2, "+") for d in gaps),
            ]
        )
    return header, rows


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(v.replace("|", "\\|") for v in values) + " |"

    return [line(header), line(["---"] * len(header)), *map(line, rows)]


def _tradeoff(entry: Entry) -> str:
    return "" if entry.tradeoff is None else f"{entry.tradeoff:g}"


def _count_of(parameters: int | None) -> str:
    """``865.9 M``, ``8.5 M``, ``120 k``."""
    if parameters is None:
        return ""
    if parameters < 100_000:
        return f"{parameters / 1e3:.1f} k" if parameters else "0"
    return f"{parameters / 1e6:.1f} M" if parameters >= 1_000_000 else f"{parameters / 1e3:.0f} k"


def _role(name: str, perceptual: bool, trained: Collection[str]) -> str:
    return "trained against" if name in trained else "held out" if perceptual else ""


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" + ("" if n == 1 else "s")
