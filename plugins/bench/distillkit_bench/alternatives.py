"""Measure alternative settings of a recipe.

Each measurement is a process of its own, so that memory is its own. Settings are measured in turn,
so that a machine that slows down does so for all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from distillkit import DistillkitError

AS_IT_IS = "as it is"
"""The row of the recipe without an alternative."""


def measure_alternatives(
    recipe: str,
    overrides: Sequence[str],
    alternatives: Sequence[str],
    *,
    steps: int,
    warmup: int = 2,
    rounds: int = 1,
    breakdown: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Measure a recipe as it is, then with each alternative.

    Args:
        recipe: The recipe's file or name.
        overrides: ``--set`` texts that hold for every row.
        alternatives: ``KEY=VALUE``, or several with ``;`` between them.
        steps: Timed steps of each stage.
        warmup: Steps before them.
        rounds: Times that everything is measured in turn.
        breakdown: Make three more steps, for time by phase, NFE and FLOPs.

    Returns:
        By row, a measurement of each round.

    Raises:
        DistillkitError: One of the measurements failed; its own message follows.
    """
    settings_of_rows: dict[str, list[str]] = {AS_IT_IS: []}
    for alternative in alternatives:
        settings_of_rows[alternative] = [text.strip() for text in alternative.split(";")]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in settings_of_rows}
    for _ in range(rounds):
        for name, settings in settings_of_rows.items():
            measurement = measure_in_subprocess(
                recipe,
                [*overrides, *settings],
                steps,
                warmup=warmup,
                breakdown=breakdown,
            )
            rows[name].append(measurement)
    return rows


def measure_in_subprocess(
    recipe: str,
    overrides: Sequence[str],
    steps: int,
    *,
    warmup: int,
    breakdown: bool = True,
) -> dict[str, Any]:
    """Measure a recipe in a process of its own, without restoring.

    Args:
        recipe: The recipe's file or name.
        overrides: ``--set`` texts.
        steps: Timed steps of each stage.
        warmup: Steps before them.
        breakdown: Make three more steps, for time by phase, NFE and FLOPs.

    Returns:
        See :func:`distillkit_bench.recipe.measure_recipe`.

    Raises:
        DistillkitError: It failed; its own message follows.
    """
    command = [sys.executable, "-m", "distillkit", "bench", recipe, "--json"]
    for override in overrides:
        command += ["--set", override]
    command += ["--steps", str(steps), "--warmup", str(warmup), "--images", "0"]
    if not breakdown:
        command.append("--no-breakdown")
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        return json.loads(process.stdout)
    reason = process.stderr.strip().removeprefix("error: ")
    if not reason:
        reason = f"exit status {process.returncode} (killed: out of memory?)"
    raise DistillkitError(f"{' '.join(overrides) or recipe} - could not be measured: {reason}")
