"""The `tf.data` chains: views of a records folder, views of annotated frames.

Element n of a chain depends only on n and the seed. So a chain is repeatable, and its iterator's
checkpoint is just a position.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from osvos_tf.data import augment, tfrecord
from osvos_tf.data.augmentation import Augmentation
from osvos_tf.errors import InputError


def parent_dataset(
    records: str | os.PathLike[str] | tf.Tensor,
    augmentation: Augmentation,
    *,
    batch_size: int = 1,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    part: tuple[int, int] = (0, 1),
    on_lost: Callable[[list[tfrecord.Lost]], None] | None = None,
) -> tf.data.Dataset:
    """Endless augmented views of all frames of a records folder, in a new order every pass.

    The encoded frames are kept in memory: about 70 KB each for DAVIS 480p, 0.2 GB for its train
    split.

    Args:
        records: folder that `davis_to_tfrecord` made, or what `read_examples` gives for it, which
            several datasets can share.
        augmentation: how they are varied.
        batch_size: views of one batch; they need one size, so 1 unless `height` is given.
        height: height in pixels of the views; None leaves frames at their own size.
        width: width in pixels of the views, if `height` is given; None follows the first frame's
            shape.
        seed: of order and augmentation.
        part: (index, count) of workers that share the views: the index-th of every `count`. All
            of them read the records, so that together they see what one alone would.
        on_lost: called with a list of `tfrecord.Lost` where records are damaged, which are then
            left out; None refuses such records.

    Returns:
        Dataset of (image, label): float32 [batch, height, width, 3] in 0..255, and uint8
        [batch, height, width, 1] with 0 background, 1 object, 255 void.

    Raises:
        InputError: the records are incomplete or damaged, or hold no frame with a mask.
        ValueError: a width without a height.
    """
    if width is not None and height is None:
        raise ValueError(f"`width` needs a `height`. Received: width={width}, height=None.")
    if isinstance(records, str | os.PathLike):
        examples = read_examples(records, on_lost)
    else:
        examples = records
    first = tf.train.Example.FromString(examples[0].numpy()).features.feature
    shape = [first[side].int64_list.value[0] for side in ("height", "width")]
    size = view_size(shape, height, width)

    def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tfrecord.parse(examples[index], size=size)

    return _views(load, len(examples), augmentation, batch_size, size, seed, part)


def read_examples(
    records: str | os.PathLike[str],
    on_lost: Callable[[list[tfrecord.Lost]], None] | None = None,
) -> tf.Tensor:
    """Reads the encoded frames of a records folder that have a mask.

    Args:
        records: folder that `davis_to_tfrecord` made.
        on_lost: see `parent_dataset`.

    Returns:
        string [frames], serialised `tf.train.Example`s.

    Raises:
        InputError: see `parent_dataset`.
    """
    examples, lost = tfrecord.load_records(records, skip_corrupt=on_lost is not None)
    if lost and on_lost is not None:
        on_lost(lost)
    examples = [example for example in examples if _has_mask(example)]
    if not examples:
        raise InputError(f"The records in {records} hold no frame with a mask to learn from.")
    return tf.constant(examples)


def one_shot_dataset(
    frames: np.ndarray,
    masks: np.ndarray,
    augmentation: Augmentation,
    *,
    batch_size: int = 1,
    height: int | None = None,
    seed: int = 0,
) -> tf.data.Dataset:
    """Endless augmented views of the annotated frames of one sequence.

    Args:
        frames: uint8 RGB [count, height, width, 3].
        masks: uint8 [count, height, width], 0 background, 1 object, 255 void.
        augmentation: how they are varied.
        batch_size: see `parent_dataset`.
        height: see `parent_dataset`.
        seed: of order and augmentation.

    Returns:
        A dataset as `parent_dataset` gives it.
    """
    size = view_size(np.shape(frames)[1:3], height)
    images, labels = tf.constant(np.asarray(frames)), tf.constant(np.asarray(masks)[..., None])

    def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return images[index], labels[index]

    return _views(load, len(frames), augmentation, batch_size, size, seed)


def view_size(
    frame_shape: Sequence[int], height: int | None, width: int | None = None
) -> tuple[int, int] | None:
    """Returns (height, width) of views; without a width, that of a frame of (height, width)."""
    if height is None:
        return None
    if width is None:
        width = max(1, round(frame_shape[1] * height / frame_shape[0]))
    return height, width


def _view_order(number: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """Returns which of `count` items view `number` shows; every pass has a new order."""
    turn, position = number // count, number % count
    # A permutation of all items without a shuffle buffer.
    return tf.random.experimental.index_shuffle(
        position, tf.stack([tf.cast(seed, tf.int64), turn]), count - 1
    )


def _views(
    load: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    count: int,
    augmentation: Augmentation,
    batch_size: int,
    size: tuple[int, int] | None,
    seed: int,
    part: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    index, parts = part

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, which takes a while
    def view(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = number * parts + index
        seeds = tf.stack([tf.cast(seed, tf.int64), number])
        frame = load(_view_order(number, count, seed))
        image, mask = augment.augment(*frame, seeds, augmentation, size)
        if not augmentation.paste:
            return image, mask
        _, which, whether, other = tf.unstack(tf.random.experimental.stateless_split(seeds, 4))

        def pasted() -> tuple[tf.Tensor, tf.Tensor]:
            index = tf.random.stateless_uniform([], which, maxval=count, dtype=tf.int64)
            view = augment.augment(*load(index), other, augmentation, size)
            return augment.paste(image, mask, *view)

        paste = tf.random.stateless_uniform([], whether) < augmentation.paste
        return tf.cond(paste, pasted, lambda: (image, mask))

    options = tf.data.Options()
    # Its thread ends up to a minute late, and whoever lets the iterator go waits for it (TF 2.21).
    options.autotune.enabled = False
    # A checkpoint holds the position alone: no finished views, which are other workers' others.
    options.experimental_symbolic_checkpoint = True
    options.threading.private_threadpool_size = 0  # one thread a core, whatever the loop uses
    return (
        tf.data.Dataset.range(np.iinfo(np.int64).max)
        .map(view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
        .with_options(options)
    )


def _has_mask(example: bytes) -> bool:
    parsed = tf.train.Example.FromString(example)
    return "mask" in parsed.features.feature
