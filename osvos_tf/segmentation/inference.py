"""From frames to probabilities and masks, streamed: memory does not grow with the video."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from osvos_tf.network import DEFAULT_THRESHOLD

T = TypeVar("T")
R = TypeVar("R")
# From uint8 [batch, height, width, 3] to float32 [batch, height, width, 1], or a dict of those.
Predict = Callable[[np.ndarray], Any]

BATCH_SIZE = 4  # frames in one call of the network


def predict_frames(
    frames: Iterable[tuple[str, np.ndarray]], predict: Predict, *, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Yields the probability of every frame, in order.

    Args:
        frames: iterable of (name, frame), frame uint8 RGB [height, width, 3], all of one size;
            read only as far ahead as one batch.
        predict: callable from uint8 [batch, height, width, 3] to float32 probabilities
            [batch, height, width, 1], or a dict of them: a predictor's or a two-stream model's
            `predict_on_batch`, or a serving client.
        batch_size: frames per call; the last call may have fewer.

    Yields:
        (name, frame, probability), probability float32 [height, width, 1] in 0..1, or a dict of
        such.
    """
    for batch in batched(frames, batch_size):
        predicted = predict(np.stack([frame for _, frame in batch]))
        for (name, frame), probability in zip(batch, unbatched(predicted), strict=True):
            yield name, frame, probability


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields the items in lists of `size`; the last one may have fewer."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def read_ahead(items: Iterable[T], *, ahead: int = 4) -> Iterator[T]:
    """Yields the items of an iterable, drawn in a thread beside the caller, `ahead` at most."""
    iterator, end = iter(items), object()
    waiting: collections.deque[concurrent.futures.Future[Any]]
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        waiting = collections.deque(thread.submit(next, iterator, end) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, iterator, end))
            yield item


def to_mask(probability: np.ndarray, threshold: float = DEFAULT_THRESHOLD) -> np.ndarray:
    """Returns uint8 0/1 of the probability's shape: 1 where it is above the threshold."""
    return (probability > threshold).astype(np.uint8)


def sharpness(probability: np.ndarray, mask: np.ndarray) -> float:
    """Returns the overlap of a soft and a hard mask, 0..1: sum of minima over sum of maxima.

    Args:
        probability: float32 [height, width] in 0..1.
        mask: bool or integer [height, width], above 0 where the object is.
    """
    inside = float(probability[mask > 0].sum())
    outside = float(probability.sum()) - inside
    area = int(np.count_nonzero(mask))
    return inside / (area + outside) if area else 0.0


def unbatched(predicted: Any) -> Iterator[Any]:
    """Yields [height, width, ...] of each frame of [batch, height, width, ...], or of a dict."""
    if isinstance(predicted, dict):
        streams = zip(*map(unbatched, predicted.values()), strict=True)
        yield from (dict(zip(predicted, maps, strict=True)) for maps in streams)
    else:
        yield from np.array(predicted)  # a copy, which may be changed
