"""Calls of the page wait in a queue; the first one is worked on, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from distillkit_demo.service import Answer, OnTile

Work = Callable[[OnTile], Answer]


class StoppedError(Exception):
    """The caller has left."""


class Job:
    """A call in a queue."""

    def __init__(self) -> None:
        self.done = 0
        """Tiles that are finished."""
        self.tiles = 0
        """All tiles; 0 before the first is finished."""
        self.future: Future[Answer]
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Give up, after the tile that is worked on."""
        self._stopped.set()
        self.future.cancel()

    def on_tile(self, done: int, tiles: int) -> None:
        """Note how far the work is.

        Raises:
            StoppedError: Nobody waits for it.
        """
        self.done = done
        self.tiles = tiles
        if self._stopped.is_set():
            raise StoppedError


class CallQueue:
    """Works on one job at a time, in the order of their arrival."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._worker = ThreadPoolExecutor(1)

    def join(self, work: Work) -> Job:
        """Add work at the end of the queue."""
        job = Job()
        self._jobs.append(job)
        job.future = self._worker.submit(work, job.on_tile)
        job.future.add_done_callback(lambda _: self._jobs.remove(job))
        return job

    def count_in_front(self, job: Job) -> int:
        """Count the jobs that are worked on before this one."""
        jobs = list(self._jobs)
        return jobs.index(job) if job in jobs else 0

    def close(self) -> None:
        """Stop all jobs; the running one ends after its tile."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        for job in list(self._jobs):
            job.stop()
