"""An evaluation as Markdown and CSV, and the content it shares with the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from distillkit.evaluation.checks import Check
from distillkit.evaluation.results import Results
from distillkit.report import notes, tables


def fill_template(name: str, **content: Any) -> str:
    """Fill a file of ``report/templates``.

    Values are escaped in HTML, not in Markdown.
    """
    environment = Environment(
        loader=PackageLoader("distillkit.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,  # a misspelled name is an error, not a gap in the text
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(content)


def evaluation_markdown(
    results: Results,
    trained_against: Collection[str],
    checks: Sequence[Check],
) -> str:
    """Write the tables, the checks and the protocols."""
    content = evaluation_content(results, trained_against, checks)
    return fill_template("table.md.j2", **content)


def evaluation_content(
    results: Results,
    trained_against: Collection[str],
    checks: Sequence[Check],
) -> dict[str, Any]:
    """Collect what Markdown and the page both show."""
    notes_below = [notes.INTERVAL_NOTE, notes.color_note(results), notes.cost_note(results)]
    return {
        "results": results,
        "main_table": tables.main_table(results, trained_against),
        "difference_table": tables.difference_table(results),
        "gap_table": tables.gap_table(results),
        "checks": checks,
        "uncertainty_note": notes.uncertainty_note(results),
        "main_note": " ".join(filter(None, notes_below)),
        "difference_note": notes.DIFFERENCE_NOTE,
        "gap_note": notes.GAP_NOTE,
        "start_note": notes.start_note(results),
        "failures": notes.failure_notes(results),
    }


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV, below a line of their keys.

    Args:
        rows: At least one; all have the same keys. None becomes an empty cell.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
