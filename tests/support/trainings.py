"""A tiny network, its batches, and what a training does to it."""

import keras
import numpy as np
import tensorflow as tf

from osvos_tf.network import model
from osvos_tf.training import losses

SIZE = (32, 48)


def network():
    return model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=1)


def one_convolution():
    """A network for what does not ask what is trained: its update is built in no time."""
    keras.utils.set_random_seed(1)
    images = keras.Input((None, None, 3))
    fused = keras.layers.Conv2D(1, 3, padding="same", name="fused")(images)
    return keras.Model(images, {"fused": fused})


def views(batch_size=1, size=SIZE):
    """Endless batches; number n depends on nothing but n."""

    def view(number):
        image = tf.random.stateless_uniform((*size, 3), [0, number], maxval=255)
        mask = tf.random.stateless_uniform((*size, 1), [1, number]) < 0.3
        return image, tf.cast(mask, tf.uint8)

    options = tf.data.Options()
    options.autotune.enabled = False  # as in `input_pipeline`
    dataset = tf.data.Dataset.range(10**6).map(view).batch(batch_size).prefetch(2)
    return dataset.with_options(options)


def first_batches(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def names_and_kinds(net):
    """(layer, "kernel" or "bias") in the order of `trainable_variables`."""
    kinds = {}
    for layer in net.layers:
        for variable, kind in zip(layer.trainable_variables, ("kernel", "bias"), strict=False):
            kinds[id(variable)] = (layer.name, kind)
    return [kinds[id(variable)] for variable in net.trainable_variables]


def gradients_of(net, batch, stage):
    """Returns the loss and the gradients, float64, zero where a weight has no part in it."""
    images, labels = batch
    with tf.GradientTape() as tape:
        loss, _ = losses.deep_supervision(
            net(images), labels, side_weight=stage.side_weight, normalise=stage.normalise
        )
    gradients = tape.gradient(loss, net.trainable_variables)
    return float(loss), [
        np.zeros(v.shape) if g is None else g.numpy().astype(np.float64)
        for v, g in zip(net.trainable_variables, gradients, strict=True)
    ]


def values_of(net):
    return [v.numpy().astype(np.float64) for v in net.trainable_variables]
