"""Pure functions on an (image, mask) pair: the same seed moves both the same way.

Images are float32 or uint8 RGB [height, width, 3] in 0..255, masks uint8 [height, width, 1] with
0 background, 1 object, 255 void. Images are interpolated; masks take the nearest value, so that
they keep their values; label maps have ids in place of 1. A seed is an integer tensor of shape [2].
"""

import math
from collections.abc import Sequence

import tensorflow as tf

from osvos_tf.data.augmentation import Augmentation

VOID = 255
_SPLITS = 5
_SOFTNESS = 0.02  # of the border between light and shade, as a fraction of the view


def augment(
    image: tf.Tensor,
    mask: tf.Tensor,
    seed: tf.Tensor,
    augmentation: Augmentation,
    size: tuple[int, int] | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies a recipe's augmentation.

    Args:
        image: see above.
        mask: see above.
        seed: int [2].
        augmentation: what varies, and how far.
        size: (height, width) of the whole frame in the view, of which a `crop` takes a part; None
            keeps the frame's size. An augmentation's `scales` resize what comes out.

    Returns:
        `(image, mask)`: float32 [height, width, 3] in 0..255, uint8 [height, width, 1].
    """
    image = tf.cast(image, tf.float32)
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, _SPLITS))
    if augmentation.flip:
        image, mask = random_flip(image, mask, seeds[1])
    window = {name: getattr(augmentation, name) for name in ("zoom", "shift", "rotation", "crop")}
    if size is not None or augmentation.moves:
        size = tf.shape(image)[:2] if size is None else size
        image, mask = random_view(image, mask, seeds[2], size=size, **window)
    if augmentation.scales:
        image, mask = random_scale(image, mask, seeds[0], augmentation.scales)
    if augmentation.gain:
        image = random_gain(image, seeds[3], augmentation.gain)
    if augmentation.light != 1:
        image = random_light(image, seeds[4], augmentation.light)
    return image, mask


def random_flip(image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Swaps left and right half of the time."""
    flip = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(flip, lambda: (image[:, ::-1], mask[:, ::-1]), lambda: (image, mask))


def random_scale(
    image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, scales: Sequence[float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes the whole frame by one of `scales`, each as likely as the others."""
    index = tf.random.stateless_uniform([], seed, maxval=len(scales), dtype=tf.int32)
    scale = tf.gather(tf.constant(scales, tf.float32), index)
    size = tf.cast(tf.round(tf.cast(tf.shape(image)[:2], tf.float32) * scale), tf.int32)
    image = tf.cast(tf.image.resize(image, size, antialias=True), image.dtype)
    return image, tf.image.resize(mask, size, method="nearest")


def random_view(
    image: tf.Tensor,
    mask: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: tuple[int, int] | tf.Tensor,
    zoom: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    rotation: float = 0.0,
    crop: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Looks at the frame through a zoomed, shifted, rotated and cropped window.

    Without any of the four the view is the frame, scaled so that it just covers the view. Past the
    frame's border the image is mirrored and the mask is void.

    Args:
        image: see the module.
        mask: see the module.
        seed: int [2].
        size: (height, width) of the view before it is cropped.
        zoom: smallest and largest factor, drawn log-uniformly; 2 shows objects twice as large.
        shift: largest move of the centre, as a fraction of the frame's height and width.
        rotation: largest angle in degrees, either way.
        crop: part of the view's height and width that is kept. Below 1 the view's centre is not the
            frame's but a point of the object's bounding box; `shift` adds to that.
    """
    draws = tf.random.stateless_uniform([4], seed, minval=-1.0, maxval=1.0)
    low, high = (math.log(factor) for factor in zoom)
    factor = tf.exp((low + high) / 2 + draws[0] * (high - low) / 2)
    angle = draws[1] * (rotation * math.pi / 180)
    frame = tf.cast(tf.shape(image)[:2], tf.float32)
    view = tf.cast(size, tf.float32)
    step = tf.reduce_min(frame / view) / factor  # pixels of the frame per pixel of the view
    centre = (frame - 1) / 2 + shift * draws[2:4] * frame
    if crop < 1:
        first, last = _bounding_box(mask)
        point = tf.random.stateless_uniform([2], seed + 1)
        centre += first + point * (last - first) - (frame - 1) / 2
        view = tf.maximum(1.0, tf.round(view * crop))
        size = tf.cast(view, tf.int32)
    cosine, sine = step * tf.cos(angle), step * tf.sin(angle)
    middle = (view - 1) / 2
    transform = tf.stack(
        [
            cosine,
            -sine,
            centre[1] - cosine * middle[1] + sine * middle[0],
            sine,
            cosine,
            centre[0] - sine * middle[1] - cosine * middle[0],
            0.0,
            0.0,
        ]
    )
    image = _transform(image, transform, size, "BILINEAR", "REFLECT", 0)
    return image, _transform(mask, transform, size, "NEAREST", "CONSTANT", VOID)


def _bounding_box(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns float32 (row, column) of the objects' first and last pixels; without one, of all."""
    inside = (mask[..., 0] > 0) & (mask[..., 0] != VOID)
    inside |= ~tf.reduce_any(inside)
    where = tf.cast(tf.where(inside), tf.float32)
    return tf.reduce_min(where, axis=0), tf.reduce_max(where, axis=0)


def random_gain(image: tf.Tensor, seed: tf.Tensor, gain: float) -> tf.Tensor:
    """Brightens or darkens the image and tints it: each by a factor in 1 - gain .. 1 + gain."""
    draws = tf.random.stateless_uniform([4], seed, minval=1 - gain, maxval=1 + gain)
    return tf.clip_by_value(tf.cast(image, tf.float32) * draws[0] * draws[1:4], 0.0, 255.0)


def random_light(image: tf.Tensor, seed: tf.Tensor, light: float) -> tf.Tensor:
    """Lights one side of a random line differently, as when an object leaves the shade.

    Args:
        image: see the module.
        seed: int [2].
        light: largest factor; that of a view is drawn log-uniformly from 1 / light .. light.
    """
    row, column, angle, exponent = tf.unstack(tf.random.stateless_uniform([4], seed))
    height, width = tf.unstack(tf.shape(image)[:2])
    down = (tf.linspace(0.0, 1.0, height) - row) * tf.sin(2 * math.pi * angle)
    right = (tf.linspace(0.0, 1.0, width) - column) * tf.cos(2 * math.pi * angle)
    lit = tf.sigmoid((down[:, None] + right) / _SOFTNESS)[..., None]
    factor = tf.exp(math.log(light) * (2 * exponent - 1))
    return tf.clip_by_value(tf.cast(image, tf.float32) * (1 + lit * (factor - 1)), 0.0, 255.0)


def paste(
    image: tf.Tensor, mask: tf.Tensor, other_image: tf.Tensor, other_mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lays the object of another pair over this one; both objects are labelled 1.

    The pasted object's edge is softened over three pixels, so that a hard edge does not give it
    away.

    Args:
        image: float32 [height, width, 3].
        mask: see the module.
        other_image: the other pair, of the same size.
        other_mask: its mask.
    """
    pasted = tf.equal(other_mask, tf.ones([], other_mask.dtype))
    alpha = tf.nn.avg_pool2d(tf.cast(pasted, tf.float32)[None], 3, 1, "SAME")[0]
    image = image + alpha * (other_image - image)
    return image, tf.where(pasted, other_mask, mask)


def _transform(
    pixels: tf.Tensor,
    transform: tf.Tensor,
    size: tuple[int, int] | tf.Tensor,
    interpolation: str,
    fill_mode: str,
    fill_value: int,
) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=transform[None],
        output_shape=tf.cast(size, tf.int32),
        interpolation=interpolation,
        fill_mode=fill_mode,
        fill_value=tf.cast(fill_value, tf.float32),
    )[0]
