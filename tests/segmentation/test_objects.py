"""Several objects in one run: their labels, windows, networks, and what each is found as."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import osvos_tf
from osvos_tf.errors import InputError
from osvos_tf.media.masks import ids_in
from osvos_tf.network import model
from osvos_tf.network.files import load_model, save_model
from osvos_tf.segmentation import following, objects
from osvos_tf.training import losses

SIZE = (48, 80)
QUICK = {"updates": 2, "precision": "float32"}
BARE = {"snap": "none", "smooth": False, "adapt": False, "precision": "float32"}


# --- label maps and channels ----------------------------------------------------------------------


@given(
    arrays.arrays(np.float32, (3, 4, 3), elements=st.floats(0, 1, width=32)),
    st.floats(0, 1, width=32),
)
def test_the_most_probable_object_has_a_pixel(probabilities, threshold):
    ids = (2, 9, 200)
    labels = objects.merge(probabilities, threshold, ids)
    for place in np.ndindex(3, 4):
        best = int(np.argmax(probabilities[place]))
        expected = ids[best] if probabilities[place][best] > threshold else 0
        assert labels[place] == expected
    np.testing.assert_array_equal(objects.planes(labels, ids).any(-1), labels > 0)


def test_ranks_and_ids():
    labels = np.array([[0, 7, 255], [3, 7, 0]], np.uint8)
    assert ids_in(labels) == [3, 7]
    np.testing.assert_array_equal(objects.ranks(labels, (3, 7)), [[0, 2, 255], [1, 2, 0]])


def test_the_loss_of_several_is_the_mean_of_each_alone():
    """Of each object all else is background, but for void; in float64."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 5, 6, 3)).astype(np.float32)
    labels = random.choice([0, 1, 2, 3, 255], size=(2, 5, 6, 1)).astype(np.uint8)
    for normalise, join in (("balanced", np.mean), ("sum", np.sum)):
        alone = [
            losses.class_balanced_cross_entropy(
                logits[..., k : k + 1],
                np.where(labels == 255, 255, labels == k + 1).astype(np.uint8),
                normalise=normalise,
            ).numpy()
            for k in range(3)
        ]
        found = losses.class_balanced_cross_entropy(logits, labels, normalise=normalise)
        np.testing.assert_allclose(found, join(alone, axis=0), rtol=1e-5)


# --- the network ----------------------------------------------------------------------------------


def test_a_network_of_several_begins_as_the_parent(parent, tmp_path):
    network = load_model(parent)
    wider = model.with_objects(network, 3)
    assert (model.objects_of(network), model.objects_of(wider)) == (1, 3)
    assert model.working_height(wider) == model.working_height(network)
    frame = np.random.default_rng(0).integers(0, 255, (1, *SIZE, 3), np.uint8)
    before, after = network(frame), wider(frame)
    for name, logits in before.items():
        assert after[name].shape == (1, *SIZE, 3)
        np.testing.assert_allclose(after[name], np.repeat(logits, 3, -1), atol=1e-5)
    save_model(wider, tmp_path / "three.keras")
    again = load_model(tmp_path / "three.keras")
    np.testing.assert_array_equal(again(frame)["fused"], after["fused"])
    assert dict(osvos_tf.load(tmp_path / "three.keras").objects) == {
        1: "object 1", 2: "object 2", 3: "object 3",
    }  # fmt: skip


# --- windows --------------------------------------------------------------------------------------


def red_and_green(batch):
    return {"probabilities": batch[..., :2].astype(np.float32) / 255}


def world(*corners, side=24, size=(160, 240)):
    """Frames with a red and a green square at (row, column) each; None: without."""
    for number, pair in enumerate(corners):
        frame = np.zeros((*size, 3), np.uint8)
        for channel, corner in enumerate(pair):
            if corner is not None:
                frame[corner[0] : corner[0] + side, corner[1] : corner[1] + side, channel] = 255
        yield str(number), frame


def follow(frames, first, batch_size=2):
    def given_(name, frame):
        return first if name == "0" else None

    return list(following.follow_objects(frames, red_and_green, 0.5, given_, batch_size=batch_size))


corner = st.none() | st.tuples(st.integers(0, 136), st.integers(0, 216))


@given(st.lists(st.tuples(corner, corner), min_size=1, max_size=7), st.integers(1, 5))
def test_whatever_two_objects_do_they_are_found(corners, batch_size):
    frames = list(world(*corners))
    first = frames[0][1][..., :2] > 0
    for (_, frame), (_, _, window, found) in zip(
        frames, follow(frames, first, batch_size), strict=True
    ):
        expected = frame[..., :2] / np.float32(255)
        np.testing.assert_array_equal(window.fill(found["probabilities"], (160, 240)), expected)


def test_each_is_looked_for_around_itself_alone():
    """Things of an object's looks in the other one's window are not taken for it."""
    frames = list(world(*[((20, 20), (110, 180))] * 6))
    for _, frame in frames[1:]:
        frame[120:130, 205:215, 0] = 255  # red, beside the green square
    first = frames[0][1][..., :2] > 0
    for _, _, window, found in follow(frames, first):
        whole = window.fill(found["probabilities"], (160, 240))
        assert whole[20:44, 20:44, 0].all() and not whole[100:, :, 0].any()
        assert whole[110:134, 180:204, 1].all()


def test_after_an_annotated_frame_they_are_looked_for_around_its_mask():
    """Though another thing was taken for the object up to there."""
    frames = list(world(*[((20, 20), None)] * 8))
    for _, frame in frames:
        frame[120:144, 190:214, 0] = 255
    right = np.zeros((160, 240, 2), bool)
    right[120:144, 190:214, 0] = True
    given_ = {"0": frames[0][1][..., :2] > 0, "3": right}
    given_["0"][100:, :, 0] = False
    found = list(
        following.follow_objects(
            frames, red_and_green, 0.5, lambda name, frame: given_.get(name), batch_size=5
        )
    )
    for number, (_, _, window, predicted) in enumerate(found):
        whole = window.fill(predicted["probabilities"], (160, 240))[..., 0]
        assert whole[130, 200] == (number > 3) and whole[30, 30] == (number <= 3)


# --- from masks to masks --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video():
    """A bright disc and a dark square that pass each other on noise; frames and label maps."""
    random = np.random.default_rng(0)
    frames = random.integers(90, 150, (9, *SIZE, 3), np.uint8)
    labels = np.zeros((9, *SIZE), np.uint8)
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        label[20:36, 50 - 4 * number : 66 - 4 * number] = 5
        label[(rows - 24) ** 2 + (columns - 15 - 5 * number) ** 2 <= 81] = 3
        frame[label == 3] += 100
        frame[label == 5] -= 80
    return frames, labels


@pytest.fixture(scope="module")
def both(video, parent):
    frames, labels = video
    return osvos_tf.learn(frames, {0: labels[0]}, parent=parent, **QUICK)


def test_ids_are_kept(both, video, tmp_path):
    frames, labels = video
    assert dict(both.objects) == {3: "object 3", 5: "object 5"}
    found = list(both.segment(frames, **BARE))
    np.testing.assert_array_equal(found[0].mask, labels[0])
    for frame in found:
        assert set(np.unique(frame.mask)) <= {0, 3, 5}
        assert set(frame.probability) == set(frame.confidence) == {3, 5}
    both.save(tmp_path / "both")
    again = osvos_tf.load(tmp_path / "both")
    np.testing.assert_array_equal(again.annotations[0].mask, labels[0])
    for ours, theirs in zip(again.segment(frames, **BARE), found, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)


@pytest.mark.slow
def test_both_are_found_where_one_hides_the_other(video, parent):
    frames, labels = video
    learned = osvos_tf.learn(
        frames, {0: labels[0]}, parent=parent, updates=200, precision="float32"
    )
    scores = osvos_tf.evaluate(learned.segment(frames, adapt=False), labels)
    assert scores.J > 0.7


def test_served_as_ids(both, video, tmp_path):
    import tensorflow as tf

    folder = both.export(tmp_path / "saved_models" / "both", threshold=0.5)
    served = tf.saved_model.load(str(folder)).signatures
    out = served["serving_default"](images=tf.constant(video[0][:2]))
    probabilities = out["probabilities"].numpy()
    assert probabilities.shape == (2, *SIZE, 2) and out["masks"].shape == (2, *SIZE, 1)
    expected = [objects.merge(one, 0.5, (3, 5)) for one in probabilities]
    np.testing.assert_array_equal(out["masks"].numpy()[..., 0], expected)
    png = tf.io.encode_png(video[0][0])
    mask = served["encoded"](image_bytes=tf.stack([png]))["mask_bytes"].numpy()[0]
    np.testing.assert_array_equal(tf.io.decode_png(mask).numpy()[..., 0], expected[0])


def test_twenty_objects(video, parent):
    frames, _ = video
    labels = np.zeros(SIZE, np.uint8)
    for number in range(20):
        row, column = divmod(number, 5)
        labels[12 * row + 2 : 12 * row + 10, 16 * column + 3 : 16 * column + 13] = 10 * number + 5
    learned = osvos_tf.learn(frames, {0: labels}, parent=parent, **QUICK)
    first, second, *_ = learned.segment(frames, precision="float32")
    np.testing.assert_array_equal(first.mask, labels)
    assert len(second.probability) == 20


def test_an_object_that_comes_later(video, parent):
    """An id that only one of the annotated frames has; in the others it is not there."""
    frames, labels = video
    first = np.where(labels[0] == 5, 0, labels[0])
    learned = osvos_tf.learn(frames, {0: first, 4: labels[4]}, parent=parent, **QUICK)
    assert list(learned.objects) == [3, 5]
    found = [frame.mask for frame in learned.segment(frames, **BARE)]
    np.testing.assert_array_equal(found[0], first)
    np.testing.assert_array_equal(found[4], labels[4])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (lambda one, two: {0: [one, two, one * 0]}, "no object pixel"),
        (lambda one, two: {0: [two, one | two]}, "covered wholly by those after it"),
        (lambda one, two: {0: []}, "1 to 254 masks"),
        (lambda one, two: {0: one + 2 * two, 1: one * 255}, "objects 1, 2: which one is it"),
        (lambda one, two: {0: one.astype(np.uint16) * 300}, "object ids up to 254"),
    ],
)
def test_masks_of_which_it_is_not_clear_what_they_show(video, parent, masks, message):
    frames, labels = video
    one, two = ((labels[0] == id_).astype(np.uint8) for id_ in (3, 5))
    with pytest.raises(InputError, match=message):
        osvos_tf.learn(frames, masks(one, two), parent=parent, **QUICK)


def test_corrections_of_several(both, video):
    frames, labels = video
    better = both.correct(frames, {4: labels[4]}, updates=1)
    assert dict(better.objects) == dict(both.objects)
    found = [frame.mask for frame in better.segment(frames, **BARE)]
    np.testing.assert_array_equal(found[4], labels[4])
    with pytest.raises(InputError, match=r"black and white, but there are objects 3, 5"):
        both.correct(frames, {4: (labels[4] == 3) * np.uint8(255)})
    with pytest.raises(InputError, match=r"that are known, 3, 5\. Got 3, 5, 9"):
        both.correct(frames, {4: np.where(labels[4] == 3, 9, labels[4])})
