"""What a run says while it trains: a progress bar or plain lines, ``metrics.jsonl``, trackers, and the plugins' observers."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from distillkit.files.atomic import append_text, write_file

DIVERGED = 10.0
"""Times the loss that a stage began with."""


class RunLog:
    """Writes one JSON object a logged step: ``stage``, ``step`` (global), ``loss``, its terms and ``grad_norm`` (none where no step
    was finite), ``lr``, ``seconds``, and with a cache ``cache_hits`` (share of lookups) and ``cache_saved`` (seconds), both since
    the line before."""

    def __init__(self, path: Path, accelerator: Accelerator, observe: Callable[..., None]) -> None:
        self._path, self._accelerator, self._observe = path, accelerator, observe
        self.nonfinite_path = path.with_name("nonfinite.jsonl")
        self._bar: tqdm[Any] | None = None
        self._started = 0.0
        self._bound: float | None = None

    def rewind(self, step: int) -> None:
        """Forget lines after global step ``step``: a resumed run writes them again."""
        if not (self._accelerator.is_main_process and self._path.exists()):
            return
        kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= step]
        write_file(self._path, "".join(f"{line}\n" for line in kept))

    def begin(self, stage: str, done: int, total: int) -> None:
        """A stage of ``total`` steps starts, ``done`` of them made before."""
        self._stage, self._done, self._total = stage, done, total
        self._started, self._first, self._bound = time.monotonic(), done, None
        if self._accelerator.is_main_process and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=stage, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values``, their mean over all processes, at global step ``step`` everywhere. All processes call it, one writes."""
        found = gather_object([values])
        values = {k: statistics.fmean(v[k] for v in found if k in v) for k in values}
        if not self._accelerator.is_main_process:
            return
        append_text(self._path, json.dumps({"stage": self._stage, "step": step, **values}) + "\n")
        self._accelerator.log({f"{self._stage}/{k}": v for k, v in values.items()}, step=step)
        self._observe("distillkit_step", stage=self._stage, step=step, terms=dict(values))
        shown = {
            k: f"{v:.4f}"
            for k, v in values.items()
            if k not in ("lr", "seconds", "loader_wait", "cache_saved")
        }
        if self._bar is not None:
            self._bar.set_postfix(shown)
        else:
            pace = (self._done - self._first) / max(time.monotonic() - self._started, 1e-9)
            eta = (self._total - self._done) / max(pace, 1e-9)
            terms = "  ".join(f"{k} {v}" for k, v in shown.items())
            self.say(
                f"{self._stage} {self._done}/{self._total}  {terms}  {pace:.1f} steps/s  ETA {_clock(eta)}"
            )
        if "loss" in values:
            self._notice_divergence(values["loss"])

    def _notice_divergence(self, loss: float) -> None:
        """Say, once a stage, that the loss has risen far above that of the first line."""
        if self._bound is None:
            self._bound = DIVERGED * loss
        elif loss > self._bound > 0:
            began, self._bound = self._bound / DIVERGED, math.inf
            self.say(
                f"warning: {self._stage} step {self._done}: the loss is {loss:.3g}, {loss / began:.3g} times what it began with "
                f"({began:.3g}): the training has probably diverged; lower {self._stage}.learning_rate and start from an earlier "
                "checkpoint by --fork"
            )

    def saved(self, path: Path, step: int) -> None:
        """A checkpoint is on disk."""
        self._observe("distillkit_checkpoint", path=path, step=step)

    def nonfinite(self, step: int, ids: Sequence[str], terms: Mapping[str, float]) -> None:
        """Write down a step whose loss or gradient was not finite, one line a process. All processes call it, one writes."""
        rank = self._accelerator.process_index
        lines = gather_object(
            [
                {
                    "step": step,
                    "rank": rank,
                    "ids": list(ids),
                    "terms": {k: str(v) for k, v in terms.items()},
                }
            ]
        )
        if not self._accelerator.is_main_process:
            return
        append_text(self.nonfinite_path, "".join(json.dumps(line) + "\n" for line in lines))
        drawn = ", ".join(i for line in lines for i in line["ids"])
        self.say(
            f"step {step}: the loss is not finite, the step is skipped ({drawn}); see {self.nonfinite_path}"
        )

    def say(self, text: str) -> None:
        """A line to the person at the terminal, on standard error."""
        if self._accelerator.is_main_process:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def end(self) -> None:
        """The stage is over, or was left."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a line cut off by a kill


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
