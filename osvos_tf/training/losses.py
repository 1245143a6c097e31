"""Class-balanced cross-entropy on logits, void-aware, and its sum over the network's outputs."""

from collections.abc import Mapping

import tensorflow as tf

NORMALISATIONS = ("sum", "balanced")


def class_balanced_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, *, normalise: str = "sum"
) -> tf.Tensor:
    """The loss of the paper (equation 1, after HED), one value per image.

    With N+ object, N- background and N = N+ + N- pixels, and l the cross-entropy of one pixel,

        loss = N-/N * sum of l over the object + N+/N * sum of l over the background.

    With several objects, of which each has a channel, each is one and all else its background.
    An image's loss is the sum, or for "balanced" the mean, of theirs.

    Args:
        logits: float [batch, height, width, objects].
        labels: any number type [batch, height, width, 1]: 1 for the first object, 2 for the second
            and so on, 0 background; pixels with any other value (void) count nowhere.
        normalise: "sum" is the paper's: summed over the pixels of one image. "balanced" divides
            by 2 N+ N- / N, which makes it the mean of the two classes' mean cross-entropies, so
            that neither the frame's nor the object's size changes its scale.

    Returns:
        float32 [batch]. An object's loss is zero, with zero gradient, where an image lacks one of
        the two classes.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise must be one of {NORMALISATIONS}. Received: {normalise!r}.")
    logits = tf.cast(logits, tf.float32)
    axes = (1, 2)
    objects = logits.shape[-1]
    labels = tf.cast(labels, tf.float32)
    positive = tf.cast(tf.equal(labels, tf.range(1.0, objects + 1.0)), tf.float32)
    judged = tf.equal(labels, 0.0) | tf.reduce_any(positive > 0, axis=-1, keepdims=True)
    negative = tf.cast(judged, tf.float32) - positive
    positives = tf.reduce_sum(positive, axes)
    negatives = tf.reduce_sum(negative, axes)
    # Stable for any logit: max(x, 0) - x y + log(1 + exp(-|x|)).
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(positive, logits)
    on_object = tf.reduce_sum(positive * cross_entropy, axes)
    on_background = tf.reduce_sum(negative * cross_entropy, axes)
    if normalise == "balanced":
        both = tf.cast(positives * negatives > 0, tf.float32)
        means = tf.math.divide_no_nan(on_object, positives) + tf.math.divide_no_nan(
            on_background, negatives
        )
        return tf.reduce_mean(both * means / 2, axis=-1)
    pixels = positives + negatives
    loss = tf.math.divide_no_nan(negatives, pixels) * on_object + (
        tf.math.divide_no_nan(positives, pixels) * on_background
    )
    return tf.reduce_sum(loss, axis=-1)


def deep_supervision(
    outputs: Mapping[str, tf.Tensor],
    labels: tf.Tensor,
    *,
    side_weight: float,
    normalise: str = "sum",
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The fused output's loss plus `side_weight` times the four side outputs' (paper, section 3).

    Args:
        outputs: dict of logits `side2` ... `side5`, `fused`, each [batch, height, width, objects].
        labels: see `class_balanced_cross_entropy`.
        side_weight: weight of each side output; 0 leaves the sides out of the computation.
        normalise: see `class_balanced_cross_entropy`.

    Returns:
        `(total, losses)`: float32 scalar, and a dict of float32 scalars by output name; all are
        means over the batch.
    """
    names = [name for name in outputs if name == "fused" or side_weight]
    losses = {
        name: tf.reduce_mean(
            class_balanced_cross_entropy(outputs[name], labels, normalise=normalise)
        )
        for name in names
    }
    total = losses["fused"] + side_weight * sum(losses[n] for n in names if n != "fused")
    return total, losses
