"""What layers should compute, by definition; and whether they survive a file."""

import json

import keras
import numpy as np
import tensorflow as tf


def as_json(config):
    """The config as a file holds it; without the shapes of the first call, which Keras adds."""
    text = json.dumps(config)
    return json.loads(
        text, object_hook=lambda d: {k: v for k, v in d.items() if k != "build_config"}
    )


def check_round_trip(part, inputs, path):
    """Saves and reloads a model, or a layer in a model of its own; returns what came back.

    Compares the outputs for `inputs` (an array or a list of arrays), the weights and the config.
    """
    if isinstance(part, keras.Model):
        model = part
    else:
        symbols = tf.nest.map_structure(
            lambda array: keras.Input((None, None, array.shape[-1]), dtype=array.dtype.name), inputs
        )
        model = keras.Model(symbols, part(symbols))
    model.save(path)
    reloaded = keras.models.load_model(path, compile=False)
    back = reloaded if model is part else reloaded.get_layer(part.name)

    assert type(back) is type(part)
    assert as_json(back.get_config()) == as_json(part.get_config())
    assert len(back.get_weights()) == len(part.get_weights())
    for before, after in zip(part.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    expected, found = model(inputs), reloaded(inputs)
    tf.nest.assert_same_structure(expected, found)
    for before, after in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    return back


def tent(stride):
    """The 1-D bilinear filter: `2 * stride` weights, symmetric, rising in steps of 1 / stride."""
    centre = stride - 0.5
    return 1 - np.abs(np.arange(2 * stride) - centre) / stride


def reference_upsample(maps, stride, size, crop):
    """Transposed convolution with the bilinear kernel, then the crop; float64 [b, h, w, c]."""

    def axis_matrix(count):
        matrix = np.zeros(((count + 1) * stride, count))
        for i in range(count):
            matrix[i * stride : (i + 2) * stride, i] = tent(stride)
        return matrix

    rows, columns = (axis_matrix(count) for count in maps.shape[1:3])
    large = np.einsum("yi,xj,bijc->byxc", rows, columns, maps.astype(np.float64), optimize=True)
    if crop == "aligned":
        top = left = stride // 2
    else:
        top, left = (large.shape[1] - size[0]) // 2, (large.shape[2] - size[1]) // 2
    return large[:, top : top + size[0], left : left + size[1]]
