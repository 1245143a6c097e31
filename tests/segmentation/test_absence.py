"""Objects that go, hide and come back, and things of their looks beside them; really learned."""

import numpy as np
import pytest

import osvos_tf
from osvos_tf.evaluation import metrics
from osvos_tf.jobs import remarks

pytestmark = pytest.mark.slow
HOW = {"updates": 200, "precision": "float32"}


def disc(size, row, column, radius):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def noise(count, size):
    return np.random.default_rng(0).integers(0, 90, (count, *size, 3), dtype=np.uint8)


def redden(frame, inside):
    frame[inside] = 0.3 * frame[inside] + 0.7 * np.array([200, 40, 40])


def J(found, truth):
    return float(metrics.region_similarity(found, truth))


@pytest.fixture(scope="module")
def twins():
    """Two discs of the same looks that come near, touch in frame 9 and part again."""
    size, count = (128, 320), 19
    frames, labels = noise(count, size), np.zeros((count, *size), np.uint8)
    for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        apart = 16 + 8 * abs(number - 9)
        label[disc(size, 64, 160 + apart, 16)] = 2
        label[disc(size, 64, 160 - apart, 16)] = 1
        redden(frame, label > 0)
    return frames, labels


def test_a_twin_is_left_alone_until_they_touch(twins, parent):
    frames, labels = twins
    learned = osvos_tf.learn(frames, {0: labels[0] == 1}, parent=parent, **HOW)
    found = [frame.mask for frame in learned.segment(frames)][:8]
    assert not any(mask[label == 2].any() for mask, label in zip(found, labels, strict=False))
    assert np.mean([J(m == 1, t == 1) for m, t in zip(found, labels, strict=False)]) > 0.7


def test_a_twin_that_is_annotated_stays_itself(twins, parent):
    """Also after they have touched."""
    frames, labels = twins
    learned = osvos_tf.learn(frames, {0: labels[0]}, parent=parent, **HOW)
    found = [frame.mask for frame in learned.segment(frames)]
    for id_ in (1, 2):
        assert np.mean([J(m == id_, t == id_) for m, t in zip(found, labels, strict=True)]) > 0.7
        assert J(found[-2] == id_, labels[-2] == id_) > 0.6


def test_gone_and_back(parent):
    """It leaves over the right border, is away for six frames, and comes in from the left."""
    size, count = (72, 128), 22
    frames, truth = noise(count, size), np.zeros((count, *size), bool)
    for number in range(count):
        column = 80 + 8 * number if number < 8 else 8 * (number - 14) - 12
        if not 8 <= number < 14:
            truth[number] = disc(size, 36, column, 12)
        redden(frames[number], truth[number])
    learned = osvos_tf.learn(frames, {0: truth[0]}, parent=parent, **HOW)
    found = list(learned.segment(frames))
    for number in range(9, 13):
        assert found[number].mask.sum() <= 5 and found[number].confidence[1] < 0.5
    for number in (3, 4, 18, 19, 20):
        assert J(found[number].mask == 1, truth[number]) > 0.6
    said = {f.name: remarks.of_frame(f.mask, f.confidence, f.fit) for f in found}
    (remark, *_) = remarks.lost(said, learned.annotations)
    assert "No object was found" in remark or "Next to nothing" in remark
