"""Smoothing along motion, on painted probabilities whose right answer is known."""

import itertools

import numpy as np
import pytest

from osvos_tf.segmentation import smoothing
from osvos_tf.segmentation.following import Window

SIZE = HEIGHT, WIDTH = 96, 160
COUNT = 40


def world(count=COUNT, speed=2):
    """A textured square moves over textured ground; yields (frame, truth)."""
    rng = np.random.default_rng(0)
    blocks = np.ones((6, 6, 1))
    ground = np.kron(rng.integers(0, 120, (16, 27, 3)), blocks)[:HEIGHT, :WIDTH]
    square = np.kron(rng.integers(130, 255, (8, 8, 3)), np.ones((4, 4, 1)))
    for number in range(count):
        frame, truth = ground.copy(), np.zeros(SIZE, np.float32)
        place = np.s_[30:62, 10 + speed * number : 42 + speed * number]
        frame[place], truth[place] = square, 1
        yield frame.astype(np.uint8), truth


def locate(frames, window=None):
    window = window or Window(0, 0, *SIZE)
    for number, (frame, probability) in enumerate(frames):
        predicted = {"probabilities": window.cut(probability)[..., None]}
        yield smoothing.Located(f"{number:05d}", frame, window, predicted)


def found_in(located, number=0):
    """Returns the smoothed probability of an object, [height, width]."""
    return located.predicted["probabilities"][..., number]


def smooth(located, given=lambda name, image: None, size=SIZE, threshold=0.5):
    return list(smoothing.smooth(located, size, threshold, given))


def test_a_perfect_prediction_stays():
    frames = list(world())
    for found, (frame, truth) in zip(smooth(locate(frames)), frames, strict=True):
        assert found.image is frame
        assert found_in(found).dtype == np.float32 and found_in(found).shape == SIZE
        wrong = (found_in(found) > 0.5) != (truth > 0.5)
        assert wrong.sum() < 0.12 * truth.sum()  # at the edges, by the flow's blur


def test_what_one_frame_misses_or_invents_is_mended():
    frames = list(world())
    spoiled = []
    for number, (frame, truth) in enumerate(frames):
        probability = truth.copy()
        if number % 5 == 2:
            probability[30:46] = 0  # half of the object is missed
            probability[70:90, 100:130] = 0.9  # and something else found
        spoiled.append((frame, probability))

    def error(found):
        pairs = zip(found, frames, strict=True)
        return np.mean([((p > 0.5) != (truth > 0.5)).sum() for p, (_, truth) in pairs])

    before = error([probability for _, probability in spoiled])
    after = error([found_in(found) for found in smooth(locate(spoiled))])
    assert after < 0.4 * before


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 70])
def test_every_frame_comes_once_and_in_order(count):
    names = [found.name for found in smooth(locate(world(count, speed=1)))]
    assert names == [f"{number:05d}" for number in range(count)]


def test_no_more_frames_wait_than_it_says():
    read = itertools.count()

    def counted():
        for located in locate(world(100, speed=1)):
            next(read)
            yield located

    smoothed = smoothing.smooth(counted(), SIZE, 0.5, lambda name, image: None)
    next(smoothed)
    assert next(read) == 2 * smoothing._AHEAD


def test_an_object_that_is_gone_stays_gone():
    """Where the frames say for long and surely that there is nothing, neighbours do not."""
    frames = list(world(60, speed=0))
    empty = np.zeros(SIZE, np.float32)
    ground = frames[0][0].copy()
    ground[30:62, 10:42] = ground[30:62, 80:112]
    gone = [(ground, empty) if 20 <= number < 40 else pair for number, pair in enumerate(frames)]
    for number, found in enumerate(smooth(locate(gone))):
        area = int((found_in(found) > 0.5).sum())
        assert (area > 800) == (not 20 <= number < 40), (number, area)


def test_given_masks_count_and_windows_stay():
    frames = list(world(3))
    window = Window(16, 0, 80, 128)
    lost = [(frame, np.full(SIZE, 0.45, np.float32)) for frame, _ in frames]
    given = {"00000": frames[0][1][..., None] > 0}
    found = smooth(locate(lost, window), lambda name, image: given.get(name))
    for one, (_, truth) in zip(found, frames, strict=True):
        assert one.window == window and found_in(one).shape == (64, 128)
        inside = found_in(one)[window.cut(truth) > 0].mean()
        assert inside > 0.55 > 0.5 > found_in(one)[window.cut(truth) == 0].mean()


def test_contours_stay():
    contours = np.zeros(SIZE, np.float32)
    located = [
        one._replace(predicted={**one.predicted, "contours": contours}) for one in locate(world(3))
    ]
    for found in smooth(located):
        assert found.predicted["contours"] is contours
        assert found_in(found).shape == SIZE


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (15, 200)])
def test_frames_too_small_for_flow(size):
    window = Window(0, 0, *size)
    image, probability = np.zeros((*size, 3), np.uint8), np.full(size, 0.7, np.float32)
    predicted = {"probabilities": probability[..., None]}
    located = [smoothing.Located(name, image, window, predicted) for name in "ab"]
    for found in smooth(located, size=size):
        np.testing.assert_allclose(found_in(found), probability, rtol=1e-6)


def test_large_frames_wait_less():
    size = (2160, 3840)
    image, probability = np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32)
    read = itertools.count()

    def located():
        for number in range(20):
            next(read)
            predicted = {"probabilities": probability[..., None]}
            yield smoothing.Located(str(number), image, Window(0, 0, *size), predicted)

    next(smoothing.smooth(located(), size, 0.5, lambda name, image: None))
    assert 2 <= next(read) <= 2 * (smoothing._MEMORY // (2 * image.nbytes))


def test_several_objects_are_smoothed_as_each_alone():
    frames = [(frame, truth * 0.9) for frame, truth in world(12)]
    second = [np.roll(truth, 60, axis=1) * 0.6 for _, truth in frames]
    alone = [
        [found_in(found) for found in smooth(locate(one))]
        for one in (frames, [(frame, p) for (frame, _), p in zip(frames, second, strict=True)])
    ]
    both = [
        located._replace(predicted={"probabilities": np.dstack((probability, other))})
        for located, (_, probability), other in zip(locate(frames), frames, second, strict=True)
    ]
    for number, found in enumerate(smooth(both)):
        for which in (0, 1):
            np.testing.assert_array_equal(found_in(found, which), alone[which][number])
