"""The `tf.data` chains: every frame once a pass, repeatable, resumable in the middle."""

import collections
import functools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from osvos_tf.data import davis, input_pipeline, tfrecord
from osvos_tf.data.augmentation import Augmentation
from osvos_tf.data.tfrecord_writer import write_records
from osvos_tf.errors import InputError

HEIGHT, WIDTH, FRAMES = 48, 80, 8  # of the invented records
PLAIN = Augmentation()
SCALED = Augmentation(flip=True, scales=(0.5, 0.8, 1.0))
LIVELY = Augmentation(flip=True, zoom=(0.9, 1.1), shift=0.1, rotation=10, gain=0.1)
PASTED = Augmentation(flip=True, zoom=(0.9, 1.1), shift=0.1, paste=0.5)
CHAINS = ["parent", "one-shot"]


@pytest.fixture
def build(request, fake_records):
    """A function of (augmentation, **options) that builds the chain named by the parameter."""
    if request.param == "parent":
        return functools.partial(input_pipeline.parent_dataset, fake_records)
    return functools.partial(input_pipeline.one_shot_dataset, *annotated_frames())


def annotated_frames(count=5):
    """Returns frames of one colour each, by which they are told apart, and masks likewise."""
    frames = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = 40 * np.arange(1, count + 1)[:, None, None, None]
    masks = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    for number in range(count):
        masks[number, : 8 * (number + 1)] = 1
    masks[:, -1] = 255
    return frames, masks


def take(dataset, count):
    return [tuple(array.numpy() for array in batch) for batch in dataset.take(count)]


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for array, expected in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, expected)


def differ(batches, others):
    return any(
        a[0].shape != b[0].shape or not np.array_equal(a[0], b[0])
        for a, b in zip(batches, others, strict=True)
    )


def passes(dataset, frames, count):
    """Returns the order of frames, told by their masks, in each of `count` passes."""
    order = [label.tobytes() for _, label in take(dataset, frames * count)]
    return [order[first : first + frames] for first in range(0, len(order), frames)]


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", CHAINS, indirect=True)
def test_every_pass_is_a_new_permutation_of_all_frames(build):
    count = FRAMES if build.func is input_pipeline.parent_dataset else 5
    orders = passes(build(PLAIN, seed=3), count, 6)
    assert all(len(set(order)) == count for order in orders)
    assert all(set(order) == set(orders[0]) for order in orders)
    assert len(set(map(tuple, orders))) >= 5  # two of six may be equal by chance


def test_frames_are_those_of_the_records(fake_records):
    records = [tfrecord.parse(record) for record in tfrecord.read_records(fake_records)]
    expected = {(np.float32(i).tobytes(), m.numpy().tobytes()) for i, m in records}
    views = take(input_pipeline.parent_dataset(fake_records, PLAIN), FRAMES)
    assert {(image.tobytes(), label.tobytes()) for image, label in views} == expected


def test_each_frame_comes_first_sometimes():
    frames, masks = annotated_frames(count=3)
    firsts = collections.Counter(
        take(input_pipeline.one_shot_dataset(frames, masks, PLAIN, seed=seed), 1)[0][0].max()
        for seed in range(30)
    )
    assert set(firsts) == {40, 80, 120}


def test_a_single_frame_comes_again_and_again():
    frames, masks = annotated_frames(count=1)
    views = take(input_pipeline.one_shot_dataset(frames, masks, LIVELY), 4)
    assert len({image.tobytes() for image, _ in views}) == 4


# --- repeating and resuming -----------------------------------------------------------------------


@pytest.mark.parametrize("build", CHAINS, indirect=True)
def test_the_seed_says_it_all(build):
    views = take(build(LIVELY, seed=1), 10)
    assert_equal(take(build(LIVELY, seed=1), 10), views)
    assert differ(take(build(LIVELY, seed=2), 10), views)
    orders = {tuple(passes(build(PLAIN, seed=seed), 5, 1)[0]) for seed in range(4)}
    assert len(orders) > 1


@pytest.mark.parametrize("build", CHAINS, indirect=True)
@pytest.mark.parametrize("done", [1, 7])
def test_a_restored_iterator_goes_on_with_the_next_element(build, done, tmp_path):
    build = functools.partial(build, LIVELY, height=24, batch_size=2, seed=5)
    views = take(build(), done + 12)
    iterator = iter(build())
    for _ in range(done):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))
    next(iterator)

    fresh = iter(build())
    tf.train.Checkpoint(iterator=fresh).read(path).assert_consumed()
    assert_equal([[array.numpy() for array in next(fresh)] for _ in range(12)], views[done:])


# --- shapes and types -----------------------------------------------------------------------------


@pytest.mark.parametrize("build", CHAINS, indirect=True)
@pytest.mark.parametrize(
    ("augmentation", "options", "sizes"),
    [
        (PLAIN, {}, {(1, 48, 80)}),
        (SCALED, {}, {(1, 24, 40), (1, 38, 64), (1, 48, 80)}),
        (LIVELY, {"batch_size": 3}, {(3, 48, 80)}),
        (Augmentation(zoom=(0.5, 2.0)), {"height": 16, "batch_size": 4}, {(4, 16, 27)}),
    ],
)
def test_batches(build, augmentation, options, sizes):
    dataset = build(augmentation, **options)
    image_spec, label_spec = dataset.element_spec
    assert (image_spec.dtype, label_spec.dtype) == (tf.float32, tf.uint8)
    batch = options.get("batch_size", 1)
    assert (image_spec.shape[0], image_spec.shape[3]) == (batch, 3)
    assert (label_spec.shape[0], label_spec.shape[3]) == (batch, 1)
    views = take(dataset, 16)
    assert {image.shape[:3] for image, _ in views} == sizes
    for image, label in views:
        assert image.shape[3] == 3 and label.shape == (*image.shape[:3], 1)
        assert image.min() >= 0 and image.max() <= 255
        assert set(np.unique(label)) <= {0, 1, 255} and np.any(label == 1)


def test_pasted_objects_are_there_half_of_the_time():
    """Objects are rows at the top; a second view's object reaches further down, or it does not."""
    frames, masks = annotated_frames(count=2)
    plain, pasted = (
        take(input_pipeline.one_shot_dataset(frames, masks, Augmentation(paste=paste)), 200)
        for paste in (0.0, 0.5)
    )
    changed = [not np.array_equal(a[1], b[1]) for a, b in zip(plain, pasted, strict=True)]
    # A paste changes the mask when the smaller object comes first and the larger is laid over it.
    assert 0.05 < np.mean(changed) < 0.25
    for (_, before), (_, after) in zip(plain, pasted, strict=True):
        assert ((before == 1) <= (after == 1)).all()


def test_view_of_records_is_the_frame_made_smaller(fake_records):
    """Decoded at a quarter, the square in the image is still where the label has it."""
    for image, label in take(input_pipeline.parent_dataset(fake_records, PLAIN, height=12), 8):
        bright = image[..., 0] > 150
        assert abs(int(bright.sum()) - int(label.sum())) <= 8
        for indices, where in zip(np.nonzero(bright), np.nonzero(label[..., 0]), strict=True):
            assert abs(indices.mean() - where.mean()) <= 0.5


def test_labels_of_one_shot_frames():
    frames, masks = annotated_frames(count=2)
    for image, label in take(input_pipeline.one_shot_dataset(frames, masks, PLAIN), 4):
        number = int(image.max()) // 40 - 1
        np.testing.assert_array_equal(image[0], frames[number])
        np.testing.assert_array_equal(label[0, ..., 0], masks[number])


def test_a_width_wants_a_height(fake_records):
    with pytest.raises(ValueError, match="height=None"):
        input_pipeline.parent_dataset(fake_records, PLAIN, width=12)


# --- records that do not serve --------------------------------------------------------------------


def test_frames_without_mask_are_left_out(fake_davis, tmp_path):
    bear, goat = davis.read_split(fake_davis, "train")
    bare = [davis.Frame(frame.name, frame.image) for frame in bear.frames[1:]]
    sequences = [davis.Sequence("bear", (bear.frames[0], *bare)), goat]
    write_records(sequences, tmp_path / "some", "train", shards=2)
    views = take(input_pipeline.parent_dataset(tmp_path / "some", PLAIN), 10)
    assert all(np.any(label == 1) for _, label in views)
    assert len({label.tobytes() for _, label in views}) == 5

    write_records([davis.Sequence("bear", tuple(bare))], tmp_path / "none", "train", shards=1)
    with pytest.raises(InputError, match="no frame with a mask"):
        input_pipeline.parent_dataset(tmp_path / "none", PLAIN)


def test_damaged_records_are_refused(fake_records, tmp_path):
    copy = shutil.copytree(fake_records, tmp_path / "copy")
    shard = copy / "train-00001-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        input_pipeline.parent_dataset(copy, PLAIN)
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"No manifest\.json"):
        input_pipeline.parent_dataset(copy, PLAIN)


@pytest.mark.parametrize("count", [2, 3])
def test_workers_together_see_what_one_would(count, fake_records):
    build = functools.partial(input_pipeline.parent_dataset, fake_records, PASTED, seed=4)
    together = take(build(), 4 * count)
    for index in range(count):
        assert_equal(take(build(part=(index, count)), 4), together[index::count])


def test_a_checkpoint_holds_a_position_for_any_worker(fake_records, tmp_path):
    """The first worker writes it for all."""
    build = functools.partial(input_pipeline.parent_dataset, fake_records, PASTED)
    first, second = (iter(build(part=(index, 2))) for index in (0, 1))
    for _ in range(5):
        next(first)
    path = tf.train.Checkpoint(batches=first).write(str(tmp_path / "position"))
    tf.train.Checkpoint(batches=second).read(path).assert_consumed()
    ((image, mask),) = take(build().skip(11), 1)
    assert_equal([[array.numpy() for array in next(second)]], [(image, mask)])
