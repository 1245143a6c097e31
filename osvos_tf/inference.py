"""From frames to probabilities and masks, streamed: memory does not grow with the video."""

import numpy as np

# Above one half, because the class-balanced loss counts the rarer class, the object, as heavily as
# the background. Best or within 0.01 J of it in what we measured; the authors used 0.64 and 0.76.
DEFAULT_THRESHOLD = 0.7


def predict_frames(frames, predict, *, batch_size=4):
    """Yields the probability of every frame, in order.

    Args:
        frames: iterable of (name, frame), frame uint8 RGB [height, width, 3], all of one size;
            read only as far ahead as one batch.
        predict: callable from uint8 [batch, height, width, 3] to float32 probabilities
            [batch, height, width, 1]: a predictor's `predict_on_batch`, or a serving client.
        batch_size: frames per call; the last call may have fewer.

    Yields:
        (name, frame, probability), probability float32 [height, width] in 0..1.
    """
    batch = []
    for pair in frames:
        batch.append(pair)
        if len(batch) == batch_size:
            yield from _predict_batch(batch, predict)
            batch = []
    if batch:
        yield from _predict_batch(batch, predict)


def to_mask(probability, threshold=DEFAULT_THRESHOLD):
    """Returns uint8 0/1 of the probability's shape: 1 where it is above the threshold."""
    return (probability > threshold).astype(np.uint8)


def _predict_batch(batch, predict):
    probabilities = np.asarray(predict(np.stack([frame for _, frame in batch])))
    for (name, frame), probability in zip(batch, probabilities, strict=True):
        yield name, frame, probability[..., 0]
