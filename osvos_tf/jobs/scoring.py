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
from osvos_tf.media.masks import VOID, ids_in, read_labels


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
) -> Iterator[tuple[tuple[str, str], tuple[report.SequenceResult, ...]]]:
    """Yields the `SequenceResult`s of each task, as they come, computed on all cores.

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


def score_sequence(task: Task) -> tuple[report.SequenceResult, ...]:
    """Scores one sequence of one method; may run in a separate process.

    Where both the annotations and the results have ids of several objects, each object is scored
    on its own; else all of them together as one.
    """
    frames = task.sequence.frames
    truth, ids = _read([annotation(frame) for frame in frames])
    size = truth.shape[1:]
    scored = [index for index, path in enumerate(task.paths, start=1) if path]
    results = [read_result(path, size) for path in task.paths if path]
    labels = np.zeros_like(truth)
    labels[scored] = [found for found, _ in results]
    void = truth == VOID
    objects = ids if len(ids) > 1 and any(has_ids for _, has_ids in results) else (None,)
    return tuple(
        report.SequenceResult(
            task.sequence.name,
            tuple(frames[index].name for index in scored),
            _scores(is_object(labels, id_), is_object(truth, id_), void, scored),
            expected=tuple(frame.name for frame in frames[1:-1]),
            object=id_,
        )
        for id_ in objects
    )


def is_object(labels: np.ndarray, id_: int | None) -> np.ndarray:
    """Returns where labels show an object, bool; None: any."""
    return (labels > 0) & (labels != VOID) if id_ is None else labels == id_


def _scores(
    masks: np.ndarray, truth: np.ndarray, void: np.ndarray, scored: list[int]
) -> metrics.SequenceScores:
    """Scores bool masks [frames, height, width], of which only some frames count."""
    some_void = void if void.any() else None
    if len(scored) == len(truth) - 2:
        return metrics.sequence_scores(masks, truth, some_void)
    # T compares neighbours, so a sequence with gaps has none.
    arrays = masks[scored], truth[scored], None if some_void is None else void[scored]
    return metrics.SequenceScores(
        np.asarray(metrics.region_similarity(*arrays)),
        np.asarray(metrics.boundary_accuracy(*arrays)),
        np.nan,
    )


def _read(paths: list[pathlib.Path]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns label maps, uint8 [frames, height, width], and the ids in them; none: no ids."""
    read = [read_labels(path) for path in paths]
    labels = np.stack([labels for labels, _ in read])
    has_ids = any(has_ids for _, has_ids in read)
    return labels, tuple(ids_in(labels)) if has_ids else ()


def annotation(frame: davis.Frame) -> pathlib.Path:
    """Returns the path of a frame's annotation."""
    assert frame.mask is not None  # `davis.read_split` has looked
    return frame.mask


def read_result(path: pathlib.Path, size: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Reads a result mask, see `masks.read_labels`; void counts as background."""
    labels, has_ids = read_labels(path)
    if labels.shape != size:
        raise InputError(
            f"Mask {path} is {describe_size(labels.shape)}, the annotation is "
            f"{describe_size(size)}. Results must have the frames' own size."
        )
    return np.where(labels == VOID, 0, labels), has_ids
