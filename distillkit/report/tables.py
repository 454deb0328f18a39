"""The contents of an evaluation's tables, as text, for Markdown and for the report's page."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from distillkit.evaluation.results import STUDENT, Difference, Entry, Measure, Results, why_absent

INTERVAL_NOTE = (
    "±: standard error; in brackets: 95 % bootstrap interval over photos. "
    "Whether two methods differ cannot be read from these, for photos differ more than methods do: "
    "compare paired differences."
)
DIFFERENCE_NOTE = (
    "Mean over the images ± standard error, 95 % bootstrap interval over photos: "
    "an interval with 0 in it shows no difference."
)
GAP_NOTE = (
    "linear: linear combinations of two methods' images. "
    "none: the baseline does not reach the student's distance."
)
FEW_PHOTOS = 10
"""With fewer photos, standard errors are rough and intervals too narrow."""
COST_HEADS = {
    "nfe": "NFE",
    "seconds": "seconds per image",
    "parameters": "parameters",
    "trainable": "trained",
}
"""Heads of the cost columns, by the attribute of :class:`Entry`."""


class Table(NamedTuple):
    """A table of texts."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class MetricColumn:
    """The head of a metric's column."""

    metric: str
    arrow: str = ""
    role: str = ""

    def __str__(self) -> str:
        role = f"({self.role})" if self.role else ""
        return " ".join(part for part in (self.metric, self.arrow, role) if part)


@dataclass(frozen=True)
class Cell:
    """A number with its standard error, or why there is none; and the 95 % interval."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()


def metric_role(metric: Measure, trained_against: Collection[str]) -> str:
    """Say how far a metric can be trusted.

    Returns:
        ``trained against``, ``held out``, or nothing for a distortion measure that was not trained
        against.
    """
    if metric.name in trained_against:
        return "trained against"
    if metric.perceptual:
        return "held out"
    return ""


def metric_columns(results: Results, trained_against: Collection[str]) -> list[MetricColumn]:
    """Head a column for each metric, those that were not measured last."""
    columns = []
    for metric in results.metrics:
        arrow = "↑" if metric.higher_is_better else "↓"
        columns.append(MetricColumn(metric.name, arrow, metric_role(metric, trained_against)))
    columns += [MetricColumn(name) for name in results.absent]
    return columns


def metric_cells(results: Results, entry: Entry) -> list[Cell]:
    """Fill the metric columns of an entry: means, or the reasons why there are none."""
    cells = []
    for metric in results.metrics:
        digits = decimals(results, metric.name)
        cell = format_cell(results.summary(entry.label, metric.name), digits)
        deviation = results.deviation(entry.label, metric.name)
        if deviation is not None:
            cell = Cell(f"{cell.text} (sd {deviation:.{digits}f})", cell.interval)
        cells.append(cell)
    cells += [Cell(why_absent(reason)) for reason in results.absent.values()]
    return cells


def cost_columns(results: Results) -> list[str]:
    """Head a column for each cost that is known of any entry."""
    return [COST_HEADS[name] for name in _known_costs(results)]


def cost_cells(results: Results, entry: Entry) -> list[str]:
    """Fill the cost columns of an entry; a cost that is not known is empty."""
    texts = {
        "nfe": "" if entry.nfe is None else f"{entry.nfe}",
        "seconds": "" if entry.seconds is None else f"{entry.seconds:.3g}",
        "parameters": _parameters_text(entry.parameters),
        "trainable": _parameters_text(entry.trainable),
    }
    return [texts[name] for name in _known_costs(results)]


def cost_note(results: Results) -> str:
    """Say what the seconds and parameters count; nothing where no seconds were measured."""
    if all(entry.seconds is None for entry in results.entries):
        return ""
    device = f" on {results.device}" if results.device else ""
    return (
        f"NFE: network evaluations per image. Seconds: median over the images{device}, encoding "
        "and decoding included, loading left out. Parameters: of all networks."
    )


def uncertainty_note(results: Results) -> str:
    """Say what the standard errors and deviations are over."""
    images, photos = len(results.items), len(set(results.photos))
    note = "1 image" if images == 1 else f"{images} images"
    if photos < 2:
        note += " of one photo: no standard errors, for one photo says nothing of others"
    elif images == photos:
        note += "; standard errors are over images"
    else:
        note += f" of {photos} photos; standard errors are clustered by photo"
    if 2 <= photos < FEW_PHOTOS:
        percent = 100 / (2 * (photos - 1)) ** 0.5
        note += f"; with {photos} photos they are rough (to about {percent:.0f} %)"
        note += ", and intervals too narrow"
    note += "."
    if results.seeds > 1:
        note += f" Each number is the mean of {results.seeds} seeds, sd its standard deviation"
        note += " over them."
    return note


def difference_table(results: Results) -> Table | None:
    """Compare all entries with the reference, in pairs.

    Returns:
        The table, or None without a reference, or with nothing to compare it with.
    """
    reference = results.reference
    others = [entry for entry in ordered_entries(results) if entry.label != reference]
    if reference is None or not others:
        return None
    metrics = [metric.name for metric in results.metrics if not metric.of_set]
    rows = []
    for entry in others:
        row = [entry.name, tradeoff_text(entry.tradeoff)]
        for metric in metrics:
            difference = results.paired(entry.label, reference, metric)
            row.append(str(format_cell(difference, decimals(results, metric), "+")))
        rows.append(row)
    return Table(["method", "tradeoff", *metrics], rows)


def gap_table(results: Results) -> Table | None:
    """List the PSNR gap to every baseline at each of the student's tradeoffs.

    Returns:
        The table, "none" where a gap does not exist; or None without a student or a baseline.
    """
    sweep, baselines = results.sweep(), results.baselines()
    if not (sweep and baselines):
        return None
    tradeoffs = [f"tradeoff {entry.tradeoff:g}" for entry in sweep]
    rows = []
    for psnr, metric, baseline in itertools.product(results.psnrs, results.perceptual, baselines):
        row = [psnr, metric.name, baseline]
        for gap in results.at_equal(metric.name, baseline, psnr):
            if gap.difference is None:
                row.append("none")
            else:
                row.append(format_mean(gap.difference, 2, "+"))
        rows.append(row)
    return Table(["gap in", "at equal", "above", *tradeoffs], rows)


def ordered_entries(results: Results) -> list[Entry]:
    """Sort the entries for reading.

    Baselines come first, then teachers, combinations, and methods by tradeoff, the student last.
    """
    teachers = results.teachers or ()
    fixed = [entry for entry in results.entries if entry.tradeoff is None]
    fixed.sort(key=lambda entry: (entry.is_combination, entry.label in teachers))
    swept = [entry for entry in results.entries if entry.tradeoff is not None]
    swept.sort(key=lambda entry: (entry.name == STUDENT, entry.name, entry.tradeoff))
    return fixed + swept


def decimals(results: Results, metric: str) -> int:
    """Choose two digits for metrics with large values, such as dB, and four for distances."""
    means = [results.values[entry.label, metric].mean() for entry in results.entries]
    if max(abs(mean) for mean in means) >= 5:
        return 2
    return 4


def format_mean(value: Difference, digits: int, sign: str = "") -> str:
    """Write ``24.31 ± 0.12``; ``sign="+"`` for differences."""
    mean = f"{value.mean:{sign}.{digits}f}"
    if value.sem is None:
        return mean
    return f"{mean} ± {value.sem:.{digits}f}"


def format_cell(value: Difference, digits: int, sign: str = "") -> Cell:
    """Write ``24.31 ± 0.12`` and ``[24.08, 24.55]``; ``sign="+"`` for differences."""
    text = format_mean(value, digits, sign)
    if value.interval is None:
        return Cell(text)
    low, high = value.interval
    return Cell(text, f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]")


def tradeoff_text(tradeoff: float | None) -> str:
    """Write ``0.5``, or nothing."""
    if tradeoff is None:
        return ""
    return f"{tradeoff:g}"


def _known_costs(results: Results) -> list[str]:
    known = []
    for name in COST_HEADS:
        if any(getattr(entry, name) is not None for entry in results.entries):
            known.append(name)
    return known


def _parameters_text(count: int | None) -> str:
    """Write ``865.9 M``, ``120 k``, ``8.5 k`` or ``0``."""
    if count is None:
        return ""
    if count == 0:
        return "0"
    if count < 100_000:
        return f"{count / 1e3:.1f} k"
    if count < 1_000_000:
        return f"{count / 1e3:.0f} k"
    return f"{count / 1e6:.1f} M"
