"""The results as tables: rows for a spreadsheet, Markdown for people, cells for the report."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from distillkit.evaluation.claims import Claim
from distillkit.evaluation.results import STUDENT, Difference, Entry, Results, why_absent

NO_GAP = "linear: the linear combinations of the teachers. none: the baseline does not reach the student's distance."


@dataclass(frozen=True)
class Column:
    """The head of a metric's column."""

    metric: str
    arrow: str
    role: str
    """``trained against``, ``held out``, or empty for a distortion measure that was not trained against."""


def columns(results: Results, trained: Collection[str]) -> list[Column]:
    """One per metric, those with absent weights last."""
    measured = [Column(m.name, "↑" if m.higher_is_better else "↓", _role(m.name, m.perceptual, trained)) for m in results.metrics]
    return [*measured, *(Column(name, "", "") for name in results.absent)]


def cells(results: Results, entry: Entry) -> list[str]:
    """``mean ± standard error`` per column; where there is no number, why."""
    measured = [number(results.summary(entry.label, m.name), decimals(results, m.name)) for m in results.metrics]
    return [*measured, *map(why_absent, results.absent.values())]


def decimals(results: Results, metric: str) -> int:
    """Two for metrics with large values, such as dB, four for those of the size of a distance."""
    return 2 if max(abs(results.values[e.label, metric].mean()) for e in results.entries) >= 5 else 4


def number(value: Difference, digits: int, sign: str = "") -> str:
    """``24.31 ± 0.12``; ``sign="+"`` for differences."""
    return f"{value.mean:{sign}.{digits}f}" + ("" if value.sem is None else f" ± {value.sem:.{digits}f}")


def ordered(results: Results) -> list[Entry]:
    """Baselines, teachers, combinations, then methods with a knob by trade-off, the student last."""
    fixed = [e for e in results.entries if e.tradeoff is None]
    fixed.sort(key=lambda e: (e.is_combination, e.label in (results.teachers or ())))
    return [
        *fixed,
        *sorted((e for e in results.entries if e.tradeoff is not None), key=lambda e: (e.name == STUDENT, e.name, e.tradeoff)),
    ]


def uncertainty(results: Results) -> str:
    """What the standard errors mean, in a sentence."""
    images, photos = len(results.items), len(set(results.photos))
    if photos < 2:
        return f"{_count(images, 'image')} of one photo: no standard errors, for one photo says nothing of others."
    clustered = "" if images == photos else f" of {photos} photos; standard errors are clustered by photo"
    few = f"; with {photos} photos they are rough (to about {100 / (2 * (photos - 1)) ** 0.5:.0f} %)" if photos < 10 else ""
    return f"{_count(images, 'image')}{clustered or '; standard errors are over images'}{few}."


def to_csv(results: Results) -> str:
    """The rows of ``metrics.json`` as CSV; null is an empty cell."""
    rows, buffer = results.rows(), io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_markdown(results: Results, trained: Collection[str], checked: Sequence[Claim]) -> str:
    """The table, the gaps to the linear combinations, the claims and the protocols."""
    heads = [" ".join(filter(None, [c.metric, c.arrow, f"({c.role})" if c.role else ""])) for c in columns(results, trained)]
    lines = [f"# Evaluation on {results.dataset}", "", uncertainty(results), ""]
    lines += _table(
        ["method", "tradeoff", "passes", *heads],
        [[e.name, "" if e.tradeoff is None else f"{e.tradeoff:g}", str(e.passes), *cells(results, e)] for e in ordered(results)],
    )
    lines += [
        "",
        "The ± of two methods do not tell whether they differ: photos differ more than methods. Compare paired differences.",
    ]
    if results.baselines() and results.sweep():
        lines += ["", "## PSNR of the student minus that of a baseline, at equal distance (dB, paired)", ""]
        lines += [*_table(*gap_table(results)), "", NO_GAP]
    if checked:
        lines += ["", "## Claims", "", *(f"- {claim}" for claim in checked)]
    lines += ["", "## Protocols", "", *(f"- {m.name}: {m.protocol}" for m in results.metrics)]
    lines += [f"- {name}: {why_absent(reason)} ({reason})" for name, reason in results.absent.items()]
    return "\n".join(lines) + "\n"


def gap_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the gap at each trade-off, by perceptual metric and baseline; "none" where it does not exist."""
    header = ["at equal", "above", *(f"tradeoff {e.tradeoff:g}" for e in results.sweep())]
    rows = []
    for metric, baseline in itertools.product((m.name for m in results.perceptual), results.baselines()):
        gaps = [gap.difference for gap in results.at_equal(metric, baseline)]
        rows.append([metric, baseline, *("none" if d is None else number(d, 2, "+") for d in gaps)])
    return header, rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(v.replace("|", "\\|") for v in values) + " |"

    return [line(header), line(["---"] * len(header)), *map(line, rows)]


def _role(name: str, perceptual: bool, trained: Collection[str]) -> str:
    return "trained against" if name in trained else "held out" if perceptual else ""


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" + ("" if n == 1 else "s")
