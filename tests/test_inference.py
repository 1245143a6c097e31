"""Streaming: order, batches, and how far ahead frames are read."""

import numpy as np
import pytest

from osvos_tf import inference


def brightness(frames):
    """A predict callable: the probability is the red channel."""
    return frames[..., :1].astype(np.float32) / 255


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_every_frame_comes_back_in_order(count):
    frames = [(f"{i:05d}", np.full((3, 5, 3), 10 * i, np.uint8)) for i in range(count)]
    results = list(inference.predict_frames(frames, brightness, batch_size=3))
    assert [name for name, _, _ in results] == [name for name, _ in frames]
    for (_, given), (_, frame, probability) in zip(frames, results, strict=True):
        np.testing.assert_array_equal(frame, given)
        np.testing.assert_array_equal(probability, brightness(given)[..., 0])


def test_frames_are_read_one_batch_ahead():
    read = []

    def frames():
        for i in range(100):
            read.append(i)
            yield str(i), np.zeros((2, 2, 3), np.uint8)

    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return brightness(batch)

    for done, _ in enumerate(inference.predict_frames(frames(), predict, batch_size=8), start=1):
        assert len(read) <= done + 7
    assert sizes == [8] * 12 + [4]


def test_mask_is_above_the_threshold():
    probability = np.array([[0.2, 0.5, 0.71]], np.float32)
    np.testing.assert_array_equal(inference.to_mask(probability), [[0, 0, 1]])
    np.testing.assert_array_equal(inference.to_mask(probability, 0.5), [[0, 0, 1]])
    np.testing.assert_array_equal(inference.to_mask(probability, 0.1), [[1, 1, 1]])
    assert inference.to_mask(probability).dtype == np.uint8
