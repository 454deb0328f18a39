"""Report the progress of a run, to the user and into ``metrics.jsonl``.

Trackers and plugins get the values, too.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from distillkit.console import logger, progress_bar, shows_bars
from distillkit.files.atomic import append_text, write_file

if TYPE_CHECKING:
    from tqdm import tqdm

NONFINITE = "nonfinite.jsonl"
"""The file of a run in which skipped steps are."""
DIVERGENCE_FACTOR = 10.0
"""A logged loss counts as high from this many times the stage's first ones on."""
DIVERGED_LINES = 2
"""Number of high lines in a row that is warned of: a single one may be an unusual batch."""
FIRST_LINES = 5
"""Number of first lines whose mean loss is compared with: one may be small by chance."""
NOT_SHOWN = ("lr", "seconds", "loader_wait", "loss_scale", "cache_saved")
"""Values that are logged but not shown in the terminal."""


class RunLog:
    """The log of a run.

    One JSON object for each logged step: ``stage``, ``step`` (global), ``loss``, its terms and
    ``grad_norm`` (absent where no step was finite), ``lr``, ``seconds``, with fp16 ``loss_scale``,
    and with a cache ``cache_hits`` (share of lookups) and ``cache_saved`` (seconds), both since the
    last line.

    Args:
        path: The file.
        accelerator: The accelerator of the run; only its main process writes and shows anything.
        observe: Calls the plugins' observers.
    """

    def __init__(
        self,
        path: Path,
        accelerator: Accelerator,
        observe: Callable[..., None],
    ) -> None:
        self._path = path
        self._accelerator = accelerator
        self._observe = observe
        self.nonfinite_path = path.with_name(NONFINITE)
        self._bar: tqdm[Any] | None = None
        self._started = 0.0
        self._first_losses: list[float] = []
        self._high_in_a_row = 0

    def rewind(self, step: int) -> None:
        """Remove lines after a global step; a resumed run writes them again."""
        if not (self._accelerator.is_main_process and self._path.exists()):
            return
        kept = ""
        for line in self._path.read_text().splitlines():
            if _step_of(line) <= step:
                kept += f"{line}\n"
        write_file(self._path, kept)

    def begin(
        self,
        stage: str,
        done: int,
        total: int,
    ) -> None:
        """Begin a stage.

        Args:
            stage: Its name.
            done: Steps of earlier runs.
            total: All steps of the stage.
        """
        self._stage = stage
        self._done = done
        self._total = total
        self._started = time.monotonic()
        self._done_before = done
        self._first_losses = []
        self._high_in_a_row = 0
        if self._accelerator.is_main_process and shows_bars():
            self._bar = progress_bar(total=total, initial=done, desc=stage, unit="step")

    def advance(self) -> None:
        """Count one more step."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log values, averaged over all processes. All processes call it.

        Args:
            step: Global step.
            values: By name.
        """
        means = _mean_by_name(gather_object([values]))
        if not self._accelerator.is_main_process:
            return
        line = json.dumps({"stage": self._stage, "step": step, **means})
        append_text(self._path, f"{line}\n")
        self._accelerator.log(
            {f"{self._stage}/{name}": value for name, value in means.items()},
            step=step,
        )
        # Plugins get a copy: they may keep or change it.
        self._observe("distillkit_step", stage=self._stage, step=step, terms=dict(means))
        self._show(means)
        if "loss" in means:
            self._warn_of_divergence(means["loss"])

    def announce_checkpoint(self, path: Path, step: int) -> None:
        """Let plugins know of a checkpoint that has been written."""
        self._observe("distillkit_checkpoint", path=path, step=step)

    def write_nonfinite(
        self,
        step: int,
        ids: Sequence[str],
        terms: Mapping[str, float],
    ) -> None:
        """Record a step that was not finite. All processes call it.

        Args:
            step: Global step.
            ids: The ids of the images of this process.
            terms: The terms of the loss, by name.
        """
        entry = {
            "step": step,
            "rank": self._accelerator.process_index,
            "ids": list(ids),
            # As text: JSON has no infinity and no NaN.
            "terms": {name: str(value) for name, value in terms.items()},
        }
        entries = gather_object([entry])
        if not self._accelerator.is_main_process:
            return
        lines = ""
        drawn = []
        for entry in entries:
            lines += json.dumps(entry) + "\n"
            drawn += entry["ids"]
        append_text(self.nonfinite_path, lines)
        self.warning(
            f"step {step}: the loss or its gradient is not finite, the step is skipped "
            f"({', '.join(drawn)}); see {self.nonfinite_path}"
        )

    def info(self, text: str) -> None:
        """Show a line to the user."""
        if self._accelerator.is_main_process:
            logger.info(text)

    def warning(self, text: str) -> None:
        """Show a warning to the user."""
        if self._accelerator.is_main_process:
            logger.warning(text)

    def end(self) -> None:
        """End the stage, whether it is complete or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, values: Mapping[str, float]) -> None:
        shown = {}
        for name, value in values.items():
            if name not in NOT_SHOWN:
                shown[name] = f"{value:.4f}"
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        elapsed = time.monotonic() - self._started
        pace = (self._done - self._done_before) / max(elapsed, 1e-9)
        remaining = (self._total - self._done) / max(pace, 1e-9)
        terms = [f"{name} {value}" for name, value in shown.items()]
        fields = [
            f"{self._stage} {self._done}/{self._total}",
            *terms,
            f"{pace:.1f} steps/s",
            f"ETA {_format_time(remaining)}",
        ]
        self.info("  ".join(fields))

    def _warn_of_divergence(self, loss: float) -> None:
        """Warn, once a stage, of a loss that stays far above the mean of the first lines."""
        if len(self._first_losses) < FIRST_LINES:
            self._first_losses.append(loss)
            return
        if self._high_in_a_row == DIVERGED_LINES:
            return
        first = statistics.fmean(self._first_losses)
        is_high = loss > DIVERGENCE_FACTOR * first > 0
        self._high_in_a_row = self._high_in_a_row + 1 if is_high else 0
        if self._high_in_a_row < DIVERGED_LINES:
            return
        self.warning(
            f"{self._stage} step {self._done}: the loss is {loss:.3g}, "
            f"{loss / first:.3g} times what it began with ({first:.3g}), after a line that was as "
            "high: the training has probably diverged; lower "
            f"{self._stage}.learning_rate and start from an earlier checkpoint with --fork"
        )


def _mean_by_name(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the processes' values, for the names of the first process."""
    means = {}
    for name in values[0]:
        present = [one[name] for one in values if name in one]
        means[name] = statistics.fmean(present)
    return means


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a line that a kill cut off


def _format_time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
