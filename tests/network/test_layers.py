"""The layers against float64 NumPy, and the one check that what is saved comes back."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from osvos_tf.network import layers
from support.layer_values import check_round_trip, reference_upsample, tent

STRIDES = (2, 4, 8, 16)


def side_map(random, size, stride, channels=2):
    rows, columns = (-(-extent // stride) for extent in size)
    return random.normal(size=(2, rows, columns, channels)).astype(np.float32)


def test_the_filter_is_the_authors():
    np.testing.assert_array_equal(tent(2), [0.25, 0.75, 0.75, 0.25])
    np.testing.assert_array_equal(tent(4), [0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125])


@pytest.mark.parametrize("crop", layers.CROPS)
@pytest.mark.parametrize("stride", STRIDES)
@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_upsample_is_a_transposed_convolution(stride, crop, height, width, seed):
    maps = side_map(np.random.default_rng(seed), (height, width), stride)
    found = layers.upsample(maps, stride, tf.constant([height, width]), crop)
    expected = reference_upsample(maps, stride, (height, width), crop)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Where the crop of the transposed convolution's result starts, by hand.
@pytest.mark.parametrize(
    ("extent", "stride", "aligned", "center"),
    [
        (480, 2, 1, 1), (480, 4, 2, 2), (480, 8, 4, 4), (480, 16, 8, 8),
        (854, 2, 1, 1), (854, 4, 2, 3), (854, 8, 4, 5), (854, 16, 8, 13),
        (427, 8, 4, 6), (427, 16, 8, 10),
        (683, 8, 4, 6), (683, 16, 8, 10), (684, 8, 4, 6), (684, 16, 8, 10),
    ],
)  # fmt: skip
def test_crop_offsets_of_davis_sizes(extent, stride, aligned, center):
    count = -(-extent // stride)
    line = np.random.default_rng(extent).normal(size=count)
    full = np.zeros((count + 1) * stride)
    for i, value in enumerate(line):
        full[i * stride : (i + 2) * stride] += value * tent(stride)
    maps = np.ones((1, 3, 1, 1)) * line[:, None]
    for crop, offset in (("aligned", aligned), ("center", center)):
        for transposed in (False, True):
            given_maps = maps.transpose(0, 2, 1, 3) if transposed else maps
            size = (extent, 3 * stride) if transposed else (3 * stride, extent)
            found = layers.upsample(given_maps.astype(np.float32), stride, tf.constant(size), crop)
            found = found[0, :, stride, 0] if transposed else found[0, stride, :, 0]
            np.testing.assert_allclose(found, full[offset : offset + extent], atol=1e-5)


def test_upsample_keeps_a_constant_inside():
    for stride in STRIDES:
        found = layers.upsample(tf.ones((1, 4, 4, 1)), stride, [4 * stride, 4 * stride], "aligned")
        half = stride // 2
        np.testing.assert_allclose(found[:, half:-half, half:-half], 1, atol=1e-6)


def test_unknown_crop_is_refused():
    for make in (lambda: layers.Upsample(2, "middle"), lambda: layers.Fuse([2], "middle")):
        with pytest.raises(ValueError, match=r"crop must be one of .*'middle'"):
            make()


@pytest.mark.parametrize("crop", layers.CROPS)
@pytest.mark.parametrize("size", [(1, 1), (19, 26), (37, 53)])
def test_fusing_first_is_fusing_last(crop, size):
    """All 16-channel maps upsampled, concatenated and reduced: the same function."""
    random = np.random.default_rng(5)
    sides = [side_map(random, size, stride, 16) for stride in STRIDES]
    image = np.zeros((2, *size, 3), np.float32)
    fuse = layers.Fuse(STRIDES, crop)
    fuse.build([array.shape for array in (*sides, image)])
    kernel = random.normal(size=(1, 1, 64, 1)).astype(np.float32)
    fuse.set_weights([kernel, np.array([0.7], np.float32)])

    large = [
        reference_upsample(features, stride, size, crop)
        for features, stride in zip(sides, STRIDES, strict=True)
    ]
    expected = np.concatenate(large, axis=-1) @ kernel[0, 0].astype(np.float64) + 0.7
    found = fuse([*sides, image])
    assert found.shape == (2, *size, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    large = [
        layers.Upsample(stride, crop)([features, image])
        for features, stride in zip(sides, STRIDES, strict=True)
    ]
    convolved = tf.nn.conv2d(tf.concat(large, axis=-1), kernel, 1, "VALID") + 0.7
    np.testing.assert_allclose(found, convolved, rtol=1e-5, atol=1e-5)


def test_preprocess_values():
    rgb = np.array([[[[255, 0, 10], [0, 0, 0]]]], np.uint8)
    expected = [
        [10 - 104.00699, 0 - 116.66877, 255 - 122.67892],
        [-104.00699, -116.66877, -122.67892],
    ]
    for images in (rgb, rgb.astype(np.float32), rgb.astype(np.float64)):
        found = layers.Preprocess()(images)
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(
            layers.Preprocess(scale=1 / 64)(images)[0, 0], np.divide(expected, 64), rtol=1e-6
        )


def test_resize_to_height_keeps_the_shape_of_things():
    images = np.broadcast_to(np.linspace(0, 255, 80)[:, None], (1, 48, 80, 3)).astype(np.float32)
    found = layers.ResizeToHeight(24)(images)
    assert found.shape == (1, 24, 40, 3)
    pairs = images.reshape(1, 24, 2, 40, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(found[:, :, 2:-2], pairs[:, :, 2:-2], atol=0.5)
    assert layers.ResizeToHeight(4)(np.zeros((1, 200, 3, 3))).shape == (1, 4, 1, 3)


def test_resize_like_has_the_image_size():
    maps = np.full((2, 4, 5, 1), 3.0, np.float32)
    found = layers.ResizeLike()([maps, np.zeros((2, 9, 13, 3))])
    assert found.shape == (2, 9, 13, 1)
    np.testing.assert_allclose(found, 3.0)


def random_image(dtype):
    return np.random.default_rng(0).integers(0, 256, (2, 19, 26, 3)).astype(dtype)


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: layers.Preprocess(name="preprocess"), None),
        (lambda: layers.Preprocess(scale=0.25, working_height=48), None),
        (lambda: layers.ResizeToHeight(13), None),
        (lambda: layers.ResizeLike(), {3: 1}),
        (lambda: layers.Upsample(4), {4: 2}),
        (lambda: layers.Upsample(16, "center"), {16: 2}),
        (lambda: layers.Fuse([2, 8]), {2: 16, 8: 16}),
        (lambda: layers.Fuse([4], "center", keras.initializers.RandomNormal(seed=3)), {4: 5}),
    ],
)
def test_saved_layers_come_back(make, channels, tmp_path):
    random = np.random.default_rng(1)
    image = random.uniform(0, 255, (2, 19, 26, 3)).astype(np.float32)
    inputs = image
    if channels is not None:
        maps = [side_map(random, (19, 26), stride, count) for stride, count in channels.items()]
        inputs = [*maps, image]
    layer = make()
    back = check_round_trip(layer, inputs, tmp_path / "layer.keras")
    if "__init__" in vars(type(layer)):
        arguments = set(inspect.signature(type(layer)).parameters) - {"kwargs"}
        assert arguments <= set(layer.get_config())
        assert all(hasattr(back, name) for name in arguments)
