"""Scoring many sequences, side by side in processes."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.evaluation import metrics, report
from osvos_tf.media.images import describe_size
from osvos_tf.media.masks import VOID, read_mask


class Task(NamedTuple):
    """One sequence of one method.

    Attributes:
        method: its name.
        sequence: a `davis.Sequence`.
        paths: the result mask of each scored frame, or None.
    """

    method: str
    sequence: davis.Sequence
    paths: tuple[pathlib.Path | None, ...]


def score_all(
    tasks: Mapping[tuple[str, str], Task],
    starting: contextlib.AbstractContextManager[Any],
) -> Iterator[tuple[tuple[str, str], report.SequenceResult]]:
    """Yields the `SequenceResult` of each task, as they come, computed on all cores.

    Processes are started within `starting`.
    """
    workers = min(len(tasks), os.cpu_count() or 1)
    if workers == 1:
        for key, task in tasks.items():
            yield key, score_sequence(task)
        return
    # The longest go first, so that none is left running alone at the end.
    order = sorted(tasks, key=lambda key: len(tasks[key].sequence.frames), reverse=True)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_become_worker
    )
    try:
        with starting, _deaf_to_interrupts():
            futures = {pool.submit(score_sequence, tasks[key]): key for key in order}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Defers Ctrl-C; processes that are started meanwhile ignore it for good."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become_worker() -> None:
    """Prepares a scoring process, and makes sure that it ends when its parent is killed."""
    cv2.setNumThreads(1)  # the processes share the cores, not OpenCV's threads

    def wait() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]  # there is one
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def score_sequence(task: Task) -> report.SequenceResult:
    """Scores one sequence of one method; may run in a separate process."""
    frames = task.sequence.frames
    truth = np.stack([read_mask(annotation(frame), picked_by=None) for frame in frames])
    void = truth == VOID
    truth = truth == 1
    masks = np.zeros_like(truth)
    scored = [index for index, path in enumerate(task.paths, start=1) if path]
    for index, path in enumerate(task.paths, start=1):
        if path:
            masks[index] = _read_result(path, truth.shape[1:])
    some_void = void if void.any() else None
    if len(scored) == len(task.paths):
        scores = metrics.sequence_scores(masks, truth, some_void)
    else:  # T compares neighbours, so a sequence with gaps has none
        arrays = masks[scored], truth[scored], None if some_void is None else void[scored]
        scores = metrics.SequenceScores(
            np.asarray(metrics.region_similarity(*arrays)),
            np.asarray(metrics.boundary_accuracy(*arrays)),
            np.nan,
        )
    return report.SequenceResult(
        task.sequence.name,
        tuple(frames[index].name for index in scored),
        scores,
        expected=tuple(frame.name for frame in frames[1:-1]),
    )


def annotation(frame: davis.Frame) -> pathlib.Path:
    """Returns the path of a frame's annotation."""
    assert frame.mask is not None  # `davis.read_split` has looked
    return frame.mask


def _read_result(path: pathlib.Path, size: tuple[int, ...]) -> np.ndarray:
    """Reads a result mask, bool [height, width]."""
    mask = read_mask(path, picked_by=None)
    if mask.shape != size:
        raise InputError(
            f"Mask {path} is {describe_size(mask.shape)}, the annotation is {describe_size(size)}. "
            "Results must have the frames' own size."
        )
    return mask == 1
