"""Tables as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from distillkit.evaluation.checks import Check
from distillkit.evaluation.results import Results, why_absent
from distillkit.report import tables
from distillkit.report.tables import Table


def evaluation_markdown(
    results: Results, trained_against: Collection[str], checks: Sequence[Check]
) -> str:
    """Write the table, paired differences, gaps to the baselines, checks and protocols."""
    lines = [f"# Evaluation on {results.dataset}", "", tables.uncertainty_note(results), ""]
    lines += markdown_lines(_main_table(results, trained_against))
    lines += ["", f"{tables.INTERVAL_NOTE} {tables.cost_note(results)}".strip()]
    differences = tables.difference_table(results)
    if differences is not None:
        lines += ["", f"## Differences from {results.reference} (paired)", ""]
        lines += [*markdown_lines(differences), "", tables.DIFFERENCE_NOTE]
    gaps = tables.gap_table(results)
    if gaps is not None:
        title = "PSNR of the student minus that of a baseline, at equal distance (dB, paired)"
        lines += ["", f"## {title}", "", *markdown_lines(gaps), "", tables.GAP_NOTE]
    if checks:
        lines += ["", "## Checks", "", *(f"- {check}" for check in checks)]
    lines += ["", "## Protocols", "", *_protocol_lines(results)]
    return "\n".join(lines) + "\n"


def markdown_lines(table: Table) -> list[str]:
    """Write a table as lines of Markdown."""
    rule = ["---"] * len(table.header)
    return [_markdown_line(row) for row in (table.header, rule, *table.rows)]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows of the same keys, at least one, below a line of the keys; None is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _main_table(results: Results, trained_against: Collection[str]) -> Table:
    costs = tables.cost_columns(results)
    metrics = [str(column) for column in tables.metric_columns(results, trained_against)]
    rows = []
    for entry in tables.ordered_entries(results):
        row = [entry.name, tables.tradeoff_text(entry.tradeoff)]
        row += tables.cost_cells(results, entry)
        row += [str(cell) for cell in tables.metric_cells(results, entry)]
        rows.append(row)
    return Table(["method", "tradeoff", *costs, *metrics], rows)


def _protocol_lines(results: Results) -> list[str]:
    lines = [f"- {metric.name}: {metric.protocol}" for metric in results.metrics]
    for name, reason in results.absent.items():
        lines.append(f"- {name}: {why_absent(reason)} ({reason})")
    return lines


def _markdown_line(cells: Sequence[str]) -> str:
    # A bar inside a cell would end it.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
