"""Execute the runs of a sweep as jobs of submitit, on a Slurm cluster or on this machine."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.console import logger
from distillkit.errors import DistillkitError

if TYPE_CHECKING:
    from distillkit.runs.sweep import SweepRun

DAY = 24 * 60
"""Minutes that a job may take unless an option says otherwise; submitit's own are five."""
POLL_SECONDS = 1


class JobExecutor:
    """Submits runs, each as the command ``distillkit run``.

    Args:
        cluster: ``"slurm"``, or ``"local"`` for processes of this machine.
        options: ``"KEY=VALUE"`` texts, parameters of submitit in TOML.
        folder: For the jobs' scripts and logs.

    Raises:
        DistillkitError: Submitit is not installed, the cluster is not reached from here, or an
            option is not one of submitit's.
    """

    def __init__(self, cluster: str, options: Sequence[str], folder: Path) -> None:
        parameters = {"name": "sweep", "timeout_min": DAY, **_parse_options(options)}
        try:
            import submitit
        except ModuleNotFoundError as e:
            what = f"--executor {cluster} - needs submitit"
            raise DistillkitError(f"{what}: pip install 'distillkit[sweep]'") from e
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster)
        except RuntimeError as e:
            raise DistillkitError(f"--executor {cluster} - {e}") from e
        try:
            self._executor.update_parameters(**parameters)
        except (NameError, AssertionError, ValueError) as e:
            raise DistillkitError(f"--job - {e}") from e

    def __call__(self, runs: Sequence[SweepRun]) -> Iterator[tuple[SweepRun, str | None]]:
        """Submit all runs at once; yield each when its job has ended, and why it failed."""
        from submitit.helpers import CommandFunction, as_completed

        run_of_job = {}
        for run in runs:
            job = self._executor.submit(CommandFunction(_command(run)))
            logger.info(f"job {job.job_id}: {run.folder}")
            run_of_job[job] = run
        for job in as_completed(list(run_of_job), poll_frequency=POLL_SECONDS):
            failure = None
            if job.exception() is not None:
                failure = f"job {job.job_id} failed; its error output is in {job.paths.stderr}"
            yield run_of_job[job], failure


def _command(run: SweepRun) -> list[str]:
    """Write the command that makes a run, from its newest checkpoint where it has one."""
    command = [sys.executable, "-m", "distillkit", "run", run.resolved.source]
    for override in run.resolved.overrides:
        command += ["--set", override]
    return [*command, "--out", str(run.folder), "--resume"]


def _parse_options(texts: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in texts:
        try:
            options |= tomllib.loads(text)
        except tomllib.TOMLDecodeError as e:
            example = "--job 'slurm_partition=\"gpu\"'"
            problem = f"expected KEY=VALUE in TOML; strings need quotes: {example}"
            raise DistillkitError(f"--job {text} - {problem}") from e
    return options
