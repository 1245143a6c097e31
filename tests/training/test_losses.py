"""The loss and its gradient against float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from osvos_tf.training import losses

SHAPE = (2, 3, 4, 1)
VOID = 255


def reference(logits, labels, normalise):
    """Returns (losses, gradient of their sum): float64 [batch] and the logits' shape."""
    x = np.asarray(logits, np.float64)
    positive, negative = labels == 1, labels == 0
    count = {"axis": (1, 2, 3), "keepdims": True}
    positives, negatives = positive.sum(**count), negative.sum(**count)
    pixels = np.maximum(positives + negatives, 1)
    weights = positive * (negatives / pixels) + negative * (positives / pixels)
    if normalise == "balanced":
        weights = weights * pixels / np.maximum(2 * positives * negatives, 1)
    sigmoid = np.exp(-np.logaddexp(0, -x))
    cross_entropy = np.where(positive, np.logaddexp(0, -x), np.logaddexp(0, x))
    return (weights * cross_entropy).sum(axis=(1, 2, 3)), weights * (sigmoid - positive)


def value_and_gradient(logits, labels, normalise):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = losses.class_balanced_cross_entropy(logits, labels, normalise=normalise)
    return values, tape.gradient(values, logits)


@pytest.mark.parametrize("normalise", losses.NORMALISATIONS)
@settings(max_examples=60, deadline=None)
@given(
    logits=arrays.arrays(
        np.float32,
        SHAPE,
        elements=st.floats(-1e4, 1e4, width=32) | st.floats(-4, 4, width=32),
    ),
    labels=arrays.arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, VOID])),
)
def test_value_and_gradient(normalise, logits, labels):
    values, gradient = value_and_gradient(logits, labels, normalise)
    expected_values, expected_gradient = reference(logits, labels, normalise)
    assert values.dtype == gradient.dtype == tf.float32
    np.testing.assert_allclose(values, expected_values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    assert not gradient.numpy()[labels == VOID].any()


def test_sum_by_hand():
    """One object pixel, three of background, logits 0: each costs log 2."""
    labels = np.array([1, 0, 0, 0], np.uint8).reshape(1, 2, 2, 1)
    values, gradient = value_and_gradient(np.zeros((1, 2, 2, 1), np.float32), labels, "sum")
    np.testing.assert_allclose(values, [(3 / 4 + 3 * 1 / 4) * np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(gradient[0, :, :, 0], [[-0.375, 0.125], [0.125, 0.125]])
    values, _ = value_and_gradient(np.zeros((1, 2, 2, 1), np.float32), labels, "balanced")
    np.testing.assert_allclose(values, [np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("normalise", losses.NORMALISATIONS)
@pytest.mark.parametrize("label", [0, 1, VOID])
@pytest.mark.parametrize("other", [None, VOID])
def test_one_class_alone_costs_nothing(normalise, label, other):
    labels = np.full(SHAPE, label, np.uint8)
    if other is not None:
        labels[:, 1] = other
    logits = np.linspace(-1e4, 1e4, labels.size, dtype=np.float32).reshape(SHAPE)
    values, gradient = value_and_gradient(logits, labels, normalise)
    np.testing.assert_array_equal(values, np.zeros(2))
    np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


@pytest.mark.parametrize("normalise", losses.NORMALISATIONS)
def test_images_are_balanced_one_by_one(normalise):
    random = np.random.default_rng(0)
    logits = random.normal(size=SHAPE).astype(np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0, 0] = 1
    labels[1, :2] = 1
    together, _ = value_and_gradient(logits, labels, normalise)
    alone = [value_and_gradient(logits[i : i + 1], labels[i : i + 1], normalise)[0] for i in (0, 1)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-6)


def test_balanced_does_not_depend_on_the_frames_size():
    random = np.random.default_rng(0)
    logits = random.normal(size=(1, 6, 8, 1)).astype(np.float32)
    labels = (random.uniform(size=logits.shape) < 0.2).astype(np.uint8)
    large = [np.tile(array, (1, 3, 2, 1)) for array in (logits, labels)]
    for normalise, factor in (("balanced", 1), ("sum", 6)):
        once = losses.class_balanced_cross_entropy(logits, labels, normalise=normalise)
        many = losses.class_balanced_cross_entropy(*large, normalise=normalise)
        np.testing.assert_allclose(many, factor * once, rtol=1e-5)


def test_bfloat16_logits_are_summed_in_float32():
    random = np.random.default_rng(0)
    logits = tf.cast(random.normal(size=(1, 40, 50, 1)), tf.bfloat16)
    labels = (random.uniform(size=logits.shape) < 0.2).astype(np.uint8)
    values, gradient = value_and_gradient(logits, labels, "sum")
    expected, _ = reference(tf.cast(logits, tf.float64), labels, "sum")
    assert values.dtype == tf.float32
    assert gradient.dtype == tf.bfloat16
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "bfloat16"])
def test_labels_of_any_number_type(dtype):
    labels = np.array([1, 0, VOID, 1, 0, 0, VOID, 0, 0, 0, 0, 0] * 2).reshape(SHAPE)
    logits = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    values = losses.class_balanced_cross_entropy(logits, tf.cast(labels, dtype))
    np.testing.assert_allclose(values, reference(logits, labels, "sum")[0], rtol=1e-5)


def test_soft_labels_are_void():
    """What interpolation leaves between 0 and 1 is neither object nor background."""
    labels = np.array([1, 0, 0.5, 0.99], np.float32).reshape(1, 2, 2, 1)
    logits = np.array([0.3, -0.2, 9, 9], np.float32).reshape(1, 2, 2, 1)
    values, gradient = value_and_gradient(logits, labels, "sum")
    np.testing.assert_allclose(values, reference(logits, labels, "sum")[0], rtol=1e-6)
    assert not gradient.numpy()[0, 1].any()


def test_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match=r"normalise must be one of .*'mean'"):
        losses.class_balanced_cross_entropy(tf.zeros(SHAPE), tf.zeros(SHAPE), normalise="mean")


@pytest.mark.parametrize("normalise", losses.NORMALISATIONS)
def test_deep_supervision_adds_up(normalise):
    random = np.random.default_rng(0)
    names = ["side2", "side3", "side4", "side5", "fused"]
    outputs = {name: random.normal(size=SHAPE).astype(np.float32) for name in names}
    labels = random.choice([0, 1, VOID], size=SHAPE).astype(np.uint8)
    single = {name: reference(outputs[name], labels, normalise)[0].mean() for name in names}
    sides = sum(single[name] for name in names[:4])

    total, parts = losses.deep_supervision(outputs, labels, side_weight=0.5, normalise=normalise)
    assert total.shape == ()
    assert set(parts) == set(names)
    for name in names:
        np.testing.assert_allclose(parts[name], single[name], rtol=1e-5)
    np.testing.assert_allclose(total, single["fused"] + 0.5 * sides, rtol=1e-5)

    total, parts = losses.deep_supervision(outputs, labels, side_weight=0, normalise=normalise)
    assert set(parts) == {"fused"}
    np.testing.assert_allclose(total, single["fused"], rtol=1e-5)
