"""Streaming: order, batches, and how far ahead frames are read."""

import numpy as np
import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from osvos_tf.segmentation import following, inference


def brightness(frames):
    """A predict callable: the probability is the red channel."""
    return frames[..., :1].astype(np.float32) / 255


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_every_frame_comes_back_in_order(count):
    frames = [(f"{i:05d}", np.full((3, 5, 3), 10 * i, np.uint8)) for i in range(count)]
    results = list(inference.predict_frames(frames, brightness, batch_size=3))
    assert [name for name, _, _ in results] == [name for name, _ in frames]
    for (_, source), (_, frame, probability) in zip(frames, results, strict=True):
        np.testing.assert_array_equal(frame, source)
        np.testing.assert_array_equal(probability, brightness(source))


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


def test_named_predictions_keep_their_names():
    frames = [(str(i), np.full((3, 5, 3), 10 * i, np.uint8)) for i in range(5)]

    def two(batch):
        return {"probabilities": brightness(batch), "contours": 1 - brightness(batch)}

    results = list(inference.predict_frames(frames, two, batch_size=2))
    assert len(results) == 5
    for _, frame, predicted in results:
        np.testing.assert_array_equal(predicted["probabilities"], brightness(frame))
        np.testing.assert_array_equal(predicted["contours"], 1 - brightness(frame))


SIZE = (160, 240)


def squares(corners, side=24):
    """Frames with a bright square at each corner; None: without one."""
    for number, corner in enumerate(corners):
        frame = np.zeros((*SIZE, 3), np.uint8)
        if corner is not None:
            top, left = corner
            frame[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 255
        yield str(number), frame


def at_first(mask):
    """Returns what is given where a mask annotates the first frame alone."""
    return lambda name, frame: mask[..., None] > 0 if name == "0" else None


def follow(frames, **options):
    """Returns the windows and the sizes of what was predicted, and checks what was found."""
    frames, sizes = list(frames), []

    def predict(batch):
        sizes.extend(image.shape[:2] for image in batch)
        return {"probabilities": brightness(batch)}

    results = list(following.follow_objects(frames, predict, 0.5, **options))
    assert [name for name, *_ in results] == [name for name, _ in frames]
    for (_, source), (_, frame, window, predicted) in zip(frames, results, strict=True):
        np.testing.assert_array_equal(frame, source)
        whole = window.fill(predicted["probabilities"], SIZE)
        np.testing.assert_array_equal(whole, brightness(source))
    return [window for _, _, window, _ in results], sizes


corner = st.one_of(st.none(), st.tuples(st.integers(-30, 165), st.integers(-30, 245)))


@for_any(st.lists(corner, max_size=9), st.integers(1, 5))
def test_whatever_the_object_does_it_is_found(corners, batch_size):
    """It jumps, leaves and comes back, in any batch size: what is found is the whole frame's."""
    follow(squares(corners), batch_size=batch_size)


def test_a_still_object_is_looked_for_around_where_it_was():
    windows, sizes = follow(squares([(64, 100)] * 9), batch_size=4)
    assert windows[0] == following.Window(0, 0, *SIZE)
    assert len(set(windows[4:])) == 1
    window = windows[-1]
    assert window.top <= 56 and window.bottom >= 96 and window.left <= 92 and window.right >= 132
    assert np.prod(sizes[-1]) < 0.4 * np.prod(SIZE)


def test_the_first_mask_says_where_to_begin():
    mask = np.zeros(SIZE, np.uint8)
    mask[64:88, 100:124] = 1
    windows, sizes = follow(squares([(64, 100)] * 3), given=at_first(mask))
    assert np.prod(sizes[0]) < 0.4 * np.prod(SIZE)
    assert len(sizes) >= 3
    windows, _ = follow(squares([(64, 100)]), given=at_first(np.zeros(SIZE, np.uint8)))
    assert windows == [following.Window(0, 0, *SIZE)]


def test_what_is_far_from_the_object_is_not_looked_at():
    """A second thing of the same looks, out of the window: not found, as it should be."""
    frames = list(squares([(8, 8)] * 6))
    for _, frame in frames:
        frame[120:150, 200:230] = 255
    mask = np.zeros(SIZE, np.uint8)
    mask[8:32, 8:32] = 1
    for _, _, window, predicted in following.follow_objects(
        frames, lambda batch: {"probabilities": brightness(batch)}, 0.5, at_first(mask)
    ):
        assert not window.fill(predicted["probabilities"], SIZE)[100:].any()


def test_at_the_frames_border_the_object_is_not_lost():
    _, sizes = follow(squares([(-6, 100)] * 8), batch_size=2)
    assert len(sizes) == 8  # none twice


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_read_ahead_keeps_order_and_bounds_what_is_read(count):
    read, seen = [], []

    def items():
        for i in range(count):
            read.append(i)
            yield i

    for item in inference.read_ahead(items(), ahead=3):
        seen.append(item)
        assert len(read) <= len(seen) + 3
    assert seen == list(range(count))


def test_an_error_in_read_ahead_reaches_the_caller():
    def items():
        yield 1
        raise ValueError("no second frame")

    iterator = inference.read_ahead(items())
    assert next(iterator) == 1
    with pytest.raises(ValueError, match="no second frame"):
        next(iterator)
