"""The rows of ``metrics.json`` of a run's evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError, first_line

METRICS_FILE = "metrics.json"


def find_metrics_files(folder: Path) -> list[Path]:
    """Find the files with the means of all evaluation sets.

    Args:
        folder: ``evaluation`` of a run. The only set has its file there, several have a folder
            each.
    """
    return sorted([*folder.glob(METRICS_FILE), *folder.glob(f"*/{METRICS_FILE}")])


def read_metric_rows(run: Path) -> list[dict[str, Any]]:
    """Read the rows of all evaluation sets of a run; ``dataset`` names the set of a row.

    Returns:
        The rows; none where the run was not evaluated.

    Raises:
        DistillkitError: A file is damaged.
    """
    rows = []
    for file in find_metrics_files(run / "evaluation"):
        try:
            rows += json.loads(file.read_text())
        except ValueError as e:
            raise DistillkitError(
                f"{file} - damaged ({first_line(e)}); evaluate again with: "
                f"distillkit evaluate {run}"
            ) from e
    return rows
