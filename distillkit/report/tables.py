"""The tables of an evaluation, for its Markdown file and its page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distillkit.evaluation.metric_roles import metric_role
from distillkit.evaluation.results import STUDENT, MeasuredMetric, MethodRow, Results
from distillkit.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, and a small note below or behind it."""

    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.note}".strip()


class Table(NamedTuple):
    """A table of texts and cells."""

    header: list[Any]
    rows: list[list[Any]]


def metric_table(
    rows: Sequence[Mapping[str, Any]],
    heads: Sequence[str],
    write: Callable[[Mapping[str, Any]], str],
) -> Table:
    """Lay out rows of ``metrics.json``: a column for each metric, a line for the rest.

    Args:
        rows: The rows of one run or of several.
        heads: Keys of the rows that become the first columns. Rows with equal values there share a
            line. ``dataset`` is added where there are several.
        write: Returns the text of a row's cell.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    if len({row["dataset"] for row in rows}) > 1:
        heads = ["dataset", *heads]
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        texts = {**row, "tradeoff": tradeoff_text(row["tradeoff"])}
        key = tuple(texts[name] for name in heads)
        # Runs may differ in their metrics: a cell stays empty where one was not measured.
        cells = lines.setdefault(key, [""] * len(metrics))
        cells[metrics.index(row["metric"])] = write(row)
    return Table([*heads, *metrics], [[*key, *cells] for key, cells in lines.items()])


def main_table(results: Results, trained_against: Collection[str]) -> Table:
    """List costs and metrics, a row for each method and tradeoff."""
    header: list[Any] = [*_name_heads(results), *cost_columns(results)]
    for metric in results.metrics:
        header.append(metric_head(metric, trained_against))
    header += results.absent
    rows = []
    for method in ordered_methods(results):
        row = [
            *_name_cells(results, method),
            *cost_cells(results, method),
            *metric_cells(results, method),
        ]
        rows.append(row)
    return Table(header, rows)


def difference_table(results: Results) -> Table | None:
    """Compare all methods with the reference, in pairs.

    Returns:
        The table, or None without a reference, or with nothing to compare it with.
    """
    reference = results.reference
    if reference is None or len(results.methods) < 2:
        return None
    metrics = [metric.name for metric in results.metrics if not metric.of_set]
    rows = []
    for method in ordered_methods(results):
        if method.label == reference:
            continue
        row = _name_cells(results, method)
        for metric in metrics:
            difference = results.paired(method.label, reference, metric)
            digits = decimals(results, metric)
            row.append(number_cell(difference, digits, "+"))
        rows.append(row)
    return Table([*_name_heads(results), *metrics], rows)


def gap_table(results: Results) -> Table | None:
    """List the PSNR gap to every baseline at each of the student's tradeoffs.

    Returns:
        The table, "none" where a gap does not exist; or None without a student or a baseline.
    """
    sweep = results.sweep()
    baselines = results.baselines()
    if not sweep or not baselines:
        return None
    kinds = itertools.product(
        results.psnrs,
        results.perceptual,
        baselines,
    )
    rows = []
    for psnr, metric, baseline in kinds:
        row = [psnr, metric.name, baseline]
        for gap in results.at_equal(metric.name, baseline, psnr):
            if gap.difference is None:
                row.append("none")
            else:
                cell = number_cell(gap.difference, 2, "+")
                row.append(cell.text)
        rows.append(row)
    header = ["gap in", "at equal", "above"]
    for method in sweep:
        header.append(f"tradeoff {method.tradeoff:g}")
    return Table(header, rows)


def metric_head(metric: MeasuredMetric, trained_against: Collection[str]) -> Cell:
    """Head a metric's column with its direction and its role."""
    text = f"{metric.name} ↓"
    if metric.higher_is_better:
        text = f"{metric.name} ↑"
    role = metric_role(metric, trained_against)
    if not role:
        return Cell(text)
    return Cell(text, f"({role})")


def metric_cells(results: Results, method: MethodRow) -> list[Cell]:
    """Fill the metric columns of a method.

    A metric that was not measured gets the reason instead of a mean.
    """
    cells = []
    for metric in results.metrics:
        digits = decimals(results, metric.name)
        summary = results.summary(method.label, metric.name)
        cell = number_cell(summary, digits)
        count = results.count(method.label, metric.name)
        if 0 < count < len(results.items):
            cell = Cell(cell.text, f"{cell.note} {count} of {len(results.items)} images".strip())
        deviation = results.deviation(method.label, metric.name)
        if deviation is not None:
            spread = f"(sd {deviation:.{digits}f})"
            cell = Cell(f"{cell.text} {spread}", cell.note)
        cells.append(cell)
    for absent in results.absent.values():
        cells.append(Cell(absent.summary))
    return cells


def cost_columns(results: Results) -> list[str]:
    """Head a column for each cost that is known of any method."""
    heads = []
    for head, (name, _) in COSTS.items():
        costs = [getattr(method, name) for method in results.methods]
        if costs.count(None) < len(costs):
            heads.append(head)
    return heads


def cost_cells(results: Results, method: MethodRow) -> list[str]:
    """Fill the cost columns of a method; a cost that is not known is empty."""
    cells = []
    for head in cost_columns(results):
        name, write = COSTS[head]
        cost = getattr(method, name)
        text = ""
        if cost is not None:
            text = write(cost)
        cells.append(text)
    return cells


def _name_heads(results: Results) -> list[str]:
    if _has_tradeoffs(results):
        return ["method", "tradeoff"]
    return ["method"]


def _name_cells(results: Results, method: MethodRow) -> list[Any]:
    if _has_tradeoffs(results):
        return [method.name, tradeoff_text(method.tradeoff)]
    return [method.name]


def _has_tradeoffs(results: Results) -> bool:
    return any(method.tradeoff is not None for method in results.methods)


def parameters_text(count: int) -> str:
    """Write ``865.9 M``, ``120 k``, ``8.5 k`` or ``0``."""
    if count == 0:
        return "0"
    if count < 100_000:
        return f"{count / 1e3:.1f} k"
    if count < 1_000_000:
        return f"{count / 1e3:.0f} k"
    return f"{count / 1e6:.1f} M"


COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "NFE": ("nfe", str),
    "seconds per image": ("seconds", "{:.3g}".format),
    "parameters": ("parameters", parameters_text),
    "trained": ("trainable", parameters_text),
}
"""The attribute of a method below each head, and how to write it."""


def tradeoff_text(tradeoff: float | None) -> str:
    """Write ``0.5``, or nothing."""
    if tradeoff is None:
        return ""
    return f"{tradeoff:g}"


def number_cell(
    value: Estimate,
    digits: int,
    sign: str = "",
) -> Cell:
    """Write ``24.31 ± 0.12`` and ``[24.08, 24.55]``.

    Args:
        value: A mean with its error and interval; NaN where nothing was measured.
        digits: Decimals of all numbers.
        sign: ``"+"`` for differences.
    """
    if math.isnan(value.mean):
        return Cell("not measured")
    text = f"{value.mean:{sign}.{digits}f}"
    if value.sem is not None:
        text += f" ± {value.sem:.{digits}f}"
    if value.interval is None:
        return Cell(text)
    bounds = [f"{bound:{sign}.{digits}f}" for bound in value.interval]
    return Cell(text, f"[{', '.join(bounds)}]")


def decimals(results: Results, metric: str) -> int:
    """Choose the decimals: two for large values, such as dB, else four."""
    means = mean_values(results, results.methods, metric)
    # NaN, where a metric failed, is never the larger one.
    if any(abs(mean) >= 5 for mean in means):
        return 2
    return 4


def mean_values(results: Results, methods: Iterable[MethodRow], metric: str) -> list[float]:
    """Return a metric's mean over the images for each method; NaN where it has none."""
    return [results.mean(method.label, metric) for method in methods]


def ordered_methods(results: Results) -> list[MethodRow]:
    """Sort the methods for reading.

    Baselines come first, then teachers, combinations, and methods by tradeoff, the student last.
    """

    def place(method: MethodRow) -> tuple[Any, ...]:
        if method.tradeoff is None:
            # Teachers stand next to their combinations and the student.
            is_teacher = method.label in (results.teachers or ())
            return False, method.is_combination, is_teacher
        is_student = method.name == STUDENT
        return True, is_student, method.name, method.tradeoff

    return sorted(results.methods, key=place)
