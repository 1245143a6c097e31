"""Counts of operations: against hand-made sums, the layers' own shapes, and TensorFlow's graphs."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cost
from osvos_tf.network import model
from osvos_tf.training import losses

TINY = 1 / 16
SIZE = (37, 51)  # odd at every other halving


def test_davis_frame_by_hand():
    """480x854 at full width: trunk and the four 3x3 side convolutions of 16 channels."""
    pixels = [480 * 854, 240 * 427, 120 * 214, 60 * 107, 30 * 54]
    trunk = [  # 3x3 weights at each pixel
        9 * (3 * 64 + 64 * 64),
        9 * (64 * 128 + 128 * 128),
        9 * (128 * 256 + 2 * 256 * 256),
        9 * (256 * 512 + 2 * 512 * 512),
        9 * (3 * 512 * 512),
    ]
    sides = [0, *(9 * channels * 16 for channels in (128, 256, 512, 512))]
    fuse = [0, 16, 16, 16, 16]
    hand = 2 * sum(p * (t + s + f) for p, t, s, f in zip(pixels, trunk, sides, fuse, strict=True))
    assert cost.forward_flops(480, 854) == hand == 258_233_360_640
    assert 2 * np.dot(pixels, trunk) == 251_372_298_240
    first = 2 * 9 * 3 * 64 * pixels[0]
    assert cost.training_flops(480, 854) == 3 * hand - first
    scores = 2 * 16 * sum(pixels[1:])
    assert cost.forward_flops(480, 854, sides=True) == hand + scores
    assert cost.training_flops(480, 854, sides=True) == 3 * (hand + scores) - first


@pytest.mark.parametrize("width_multiplier", [TINY, 0.3, 0.5])
def test_forward_is_what_the_layers_shapes_say(width_multiplier):
    network = model.build_foreground(width_multiplier=width_multiplier, start="scratch", seed=0)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    maps = keras.Model(network.input, [layer.output for layer in convolutions])(
        np.zeros((1, *SIZE, 3), np.uint8)
    )
    counted = {
        layer.name: 2 * math.prod(layer.kernel.shape) * math.prod(values.shape[1:3])
        for layer, values in zip(convolutions, maps, strict=True)
    }
    found = {
        layer.name: layer.flops
        for layer in cost.convolutions(*SIZE, width_multiplier=width_multiplier, sides=True)
    }
    for side in model.SIDES:  # the fusion's part of a side is as large as its score
        assert found.pop(f"fused_{side}") == found[f"score_{side}"]
    assert found == counted


@pytest.mark.parametrize(
    ("frozen_blocks", "sides"), [(0, False), (0, True), (1, True), (3, False), (5, True)]
)
def test_counts_are_those_of_the_graph(frozen_blocks, sides):
    """TensorFlow's own graph of a step, of whose operations those count that a result needs."""
    network = model.build_foreground(width_multiplier=TINY, start="scratch", seed=0)
    for layer in network.layers:
        layer.trainable = not layer.name.startswith(
            tuple(f"block{block}_conv" for block in range(1, frozen_blocks + 1))
        )
    batch = 2

    def step(images, labels):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            loss, _ = losses.deep_supervision(outputs, labels, side_weight=0.5 * sides)
        gradients = tape.gradient(loss, network.trainable_variables)
        return loss, [gradient for gradient in gradients if gradient is not None]

    settings = {"batch_size": batch, "width_multiplier": TINY, "sides": sides}
    training = cost.training_flops(*SIZE, **settings, frozen_blocks=frozen_blocks)
    loss, *gradients = outputs_of(step, batch)
    assert flops_of([loss]) == cost.forward_flops(*SIZE, **settings)
    assert flops_of(gradients) == training
    kept = cost.training_flops(*SIZE, **settings, frozen_blocks=frozen_blocks, kept=True)
    frozen = [f"block{b}_" for b in range(1, frozen_blocks + 1)]
    assert training - kept == batch * sum(
        layer.flops
        for layer in cost.convolutions(*SIZE, width_multiplier=TINY)
        if layer.name.startswith(tuple(frozen))
    )


@given(height=st.integers(1, 2000), width=st.integers(1, 2000), batch=st.integers(1, 16))
def test_batches_and_passes(height, width, batch):
    forward = cost.forward_flops(height, width)
    assert cost.forward_flops(height, width, batch_size=batch) == batch * forward
    steps = [cost.training_flops(height, width, frozen_blocks=count) for count in range(6)]
    assert forward < steps[-1] and steps == sorted(steps, reverse=True)
    assert steps[0] < 3 * forward


def outputs_of(function, batch):
    """Returns what a function of images and labels gives, in its graph."""
    images = tf.TensorSpec((batch, *SIZE, 3), tf.float32)
    labels = tf.TensorSpec((batch, *SIZE, 1), tf.uint8)
    return tf.function(function).get_concrete_function(images, labels).outputs


def flops_of(tensors):
    """Sums the convolutions that tensors of a graph need."""
    needed, left = set(), [tensor.op for tensor in tensors]
    while left:
        operation = left.pop()
        if operation not in needed:
            needed.add(operation)
            left += [tensor.op for tensor in operation.inputs]
    # Which input or output has the kernel's shape, and which the shape of the map.
    shapes = {
        "Conv2D": lambda o: (o.inputs[1], o.outputs[0]),
        "Conv2DBackpropInput": lambda o: (o.inputs[1], o.inputs[2]),
        "Conv2DBackpropFilter": lambda o: (o.outputs[0], o.inputs[2]),
    }
    total = 0
    for operation in needed:
        if operation.type in shapes:
            kernel, values = shapes[operation.type](operation)
            total += 2 * math.prod(kernel.shape) * math.prod(values.shape[:3])
    return total
