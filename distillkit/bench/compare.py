"""Settings against each other: each in a process of its own, so that memory is its own, and in turn, so that a machine that
drifts does so for all."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError

AS_IT_IS = "as it is"


def compare(
    recipe: Path,
    sets: Sequence[str],
    alternatives: Sequence[str],
    *,
    steps: int,
    warmup: int = 2,
    rounds: int = 1,
    look: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Measure a recipe as it is, then with each alternative, ``rounds`` times in turn.

    Args:
        sets: ``--set`` texts that hold for every row. alternatives: ``KEY=VALUE``, or several with ``;`` between them.

    Raises:
        DistillkitError: one of the measurements failed; its own message follows.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name, settings in ((AS_IT_IS, []), *((text, text.split(";")) for text in alternatives)):
            own = [*sets, *(s.strip() for s in settings)]
            rows.setdefault(name, []).append(
                measure_apart(recipe, own, steps, warmup=warmup, look=look)
            )
    return rows


def measure_apart(
    recipe: Path, sets: Sequence[str], steps: int, *, warmup: int, look: bool = True
) -> dict[str, Any]:
    """:func:`distillkit.bench.recipe.bench` in a process of its own, without restoring.

    Raises:
        DistillkitError: it failed; its own message follows.
    """
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        kept = Path(folder) / "bench.json"
        options = [x for s in sets for x in ("--set", s)]
        command = [
            sys.executable,
            "-m",
            "distillkit",
            "bench",
            str(recipe),
            *options,
            "--steps",
            str(steps),
        ]
        command += [
            "--warmup",
            str(warmup),
            "--images",
            "0",
            "--json",
            str(kept),
            "--look" if look else "--no-look",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not kept.is_file():
            said = (
                done.stderr.strip().removeprefix("error: ")
                or f"exit status {done.returncode} (killed: out of memory?)"
            )
            raise DistillkitError(f"{' '.join(sets) or recipe} - could not be measured: {said}")
        return json.loads(kept.read_text())
