"""Hands jobs to workers that may die: failed jobs are tried again, lost workers replaced.

Knows neither what a job is nor what a worker runs on.
"""

import collections
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

_STARTS = 2  # times in a row that a worker may fail to start, before its place stays empty


class WorkerLost(Exception):
    """A worker died, or hung and was ended; the message says how. It takes no further job."""


class Worker(Protocol):
    """Does jobs, one at a time."""

    def run(self, job: Any) -> dict[str, Any]:
        """Does one job and returns how it went; `error`, if there, is a text.

        Raises:
            WorkerLost: there will be no answer.
        """

    def close(self) -> None:
        """Ends the worker at once; may be called from any thread, more than once."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: the job.
        reply: what the last worker said, with `error` in it if the job failed.
        attempts: how often it was tried.
        seconds: wall-clock time of the last attempt.
    """

    job: Any
    reply: dict[str, Any]
    attempts: int
    seconds: float


def run(
    jobs: Sequence[Any],
    start: Callable[[int, Callable[[], bool]], Worker | None],
    slots: int,
    *,
    attempts: int = 2,
    jobs_per_worker: int | None = None,
    on_retry: Callable[[Any, dict[str, Any]], None] | None = None,
) -> Generator[Outcome, None, None]:
    """Yields an `Outcome` for each job, in the order in which they end.

    A job whose worker reports an error or is lost goes to the end of the queue, until it has had
    its attempts. Leaving the generator (`close`, an exception) ends all workers at once.

    Args:
        jobs: what is to be done.
        start: callable of (slot, is_wanted) that returns a worker once it is ready for a job, and
            None as soon as `is_wanted()` says that there is no more work for it. May raise.
        slots: how many workers there are at a time, each with its number, 0 <= slot < slots.
        attempts: how often a job is tried in all.
        jobs_per_worker: a worker is replaced by a fresh one after this many; None: never.
        on_retry: called with (job, reply) when a job is put back; from a worker's thread.
    """
    pool = _Pool(jobs, start, slots, attempts, jobs_per_worker, on_retry)
    try:
        for _ in jobs:
            yield pool.ended.get()
    finally:
        pool.stop()


class _Pool:
    """One thread for each worker, and the queue that they share."""

    def __init__(
        self,
        jobs: Sequence[Any],
        start: Callable[[int, Callable[[], bool]], Worker | None],
        slots: int,
        attempts: int,
        jobs_per_worker: int | None,
        on_retry: Callable[[Any, dict[str, Any]], None] | None,
    ) -> None:
        self.ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._start, self._attempts, self._on_retry = start, attempts, on_retry
        self._jobs_per_worker = jobs_per_worker
        self._waiting = collections.deque((job, 1) for job in jobs)  # (job, which attempt)
        self._left = len(jobs)  # jobs that have not ended
        self._open = slots  # threads that have not given up
        self._workers: set[Worker] = set()
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            workers = list(self._workers)
            self._changed.notify_all()
        for worker in workers:
            worker.close()
        for thread in self._threads:
            thread.join()

    def _is_wanted(self) -> bool:
        return self._left > 0 and not self._stopping

    def _serve(self, slot: int) -> None:
        """The life of a slot: one worker after another, until there is no more work."""
        failures = 0
        reason = ""
        while self._is_wanted() and failures < _STARTS:
            try:
                worker = self._start(slot, self._is_wanted)
            except Exception as error:  # of any kind: the engine's own, or the system's
                failures, reason = failures + 1, f"{type(error).__name__}: {error}"
                continue
            if worker is None:
                break
            failures = 0
            with self._changed:
                self._workers.add(worker)
            try:
                done = 0
                while done != self._jobs_per_worker and (task := self._take()):
                    if not self._attempt(worker, *task):
                        break
                    done += 1
            finally:
                with self._changed:
                    self._workers.discard(worker)
                worker.close()
        self._give_up(reason)

    def _take(self) -> tuple[Any, int] | None:
        """Returns a job and the number of this attempt; None when all jobs have ended."""
        with self._changed:
            # One that is under way elsewhere may come back.
            self._changed.wait_for(lambda: self._waiting or not self._is_wanted())
            return self._waiting.popleft() if self._is_wanted() else None

    def _attempt(self, worker: Worker, job: Any, attempt: int) -> bool:
        """Returns whether the worker can continue."""
        started = time.monotonic()
        lost = False
        try:
            reply = worker.run(job)
        except WorkerLost as error:
            reply, lost = {"error": str(error)}, True
        except Exception as error:  # whatever an engine raises, the others must continue
            reply, lost = {"error": f"{type(error).__name__}: {error}"}, True
        with self._changed:
            if self._stopping:
                return False
            again = bool(reply.get("error")) and attempt < self._attempts
            if again:
                self._waiting.append((job, attempt + 1))
            else:
                self._left -= 1
                self.ended.put(Outcome(job, reply, attempt, time.monotonic() - started))
            self._changed.notify_all()
        if again and self._on_retry:
            self._on_retry(job, reply)
        return not lost

    def _give_up(self, reason: str) -> None:
        """Closes a slot; the last one ends the jobs that are left."""
        with self._changed:
            self._open -= 1
            if self._open == 0 and self._is_wanted():
                for job, attempt in self._waiting:
                    reply = {"error": f"No worker could be started. {reason}"}
                    self.ended.put(Outcome(job, reply, attempt - 1, 0.0))
                self._waiting.clear()
                self._left = 0
