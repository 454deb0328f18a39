"""Restore one file after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from distillkit_runtime.errors import RestoreError
from distillkit_runtime.pictures import count_frames, has_opacity
from distillkit_runtime.plans import Job
from distillkit_runtime.restorer import Restorer
from distillkit_runtime.writing import refuse_without_opacity, write_picture


def check_files(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    """Sort out, by the headers, what cannot be restored, before a student is opened.

    Returns:
        The jobs that remain, and a line for each that does not.
    """
    remaining = []

    def check_file(job: Job) -> None:
        if has_opacity(job.source):
            refuse_without_opacity(job.target)
        remaining.append(job)

    failures = _do_each(check_file, jobs)
    return remaining, failures


def restore_files(restorer: Restorer, jobs: Sequence[Job], tradeoff: Any) -> list[str]:
    """Restore pictures; one that cannot be read, restored or written is passed over.

    Returns:
        One line for each picture that failed.
    """

    def restore_next(job: Job) -> None:
        restore_file(restorer, job, tradeoff)

    return _do_each(restore_next, _announced(jobs))


def restore_file(restorer: Restorer, job: Job, tradeoff: Any) -> None:
    """Restore one picture; its result appears only when it is complete.

    Raises:
        RestoreError: It cannot be read, restored or written.
    """
    write_picture(restorer(job.source, tradeoff), job.target)
    frames = count_frames(job.source)
    if frames > 1:
        print(f"{job.source} - {frames} frames; the first is restored", file=sys.stderr)


def _announced(jobs: Sequence[Job]) -> Iterator[Job]:
    """Yield jobs; where somebody watches, say which one is next."""
    is_watched = len(jobs) > 1 and sys.stderr.isatty()
    for number, job in enumerate(jobs, 1):
        if is_watched:
            print(f"{number}/{len(jobs)} {job.source}", file=sys.stderr)
        yield job


def _do_each(work: Callable[[Job], None], jobs: Iterable[Job]) -> list[str]:
    """Do some work for each job; return a line for each that failed."""
    failures = []
    for job in jobs:
        try:
            work(job)
        except RestoreError as e:
            reason = str(e)
            if str(job.source) not in reason:
                reason = f"{job.source} - {reason}"
            failures.append(reason)
    return failures
