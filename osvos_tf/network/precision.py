"""The type that a network computes in: float32, or bfloat16 where that is faster."""

import functools
import time

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import keras
import tensorflow as tf

# Matrix work runs in the precision's compute type; logits, and all before them that is summed
# over many terms, stay float32. Weights are float32 always.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
_TRUNK = ("block", "prep_")  # names of the layers that do matrix work
_PROBE = 1024  # rows of the matrix product that compares the precisions


def with_precision(model: keras.Model, precision: str) -> keras.Model:
    """Returns a copy of the network, weights included, whose trunk computes in `precision`.

    Args:
        model: a network of this module.
        precision: "float32", "bfloat16" or "auto", see `choose_precision`. Weights and logits
            are float32 in all.
    """
    policy = PRECISIONS[choose_precision(precision)]

    def recast(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name.startswith(_TRUNK):
            config["dtype"] = policy
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=recast)
    copy.set_weights(model.get_weights())
    return copy


@functools.cache
def choose_precision(precision: str) -> str:
    """Returns "float32" or "bfloat16"; for "auto" the faster one for matrix products here."""
    if precision != "auto":
        return precision
    seconds = {}
    for name in PRECISIONS:
        matrix = tf.cast(tf.random.stateless_normal([_PROBE, _PROBE], [0, 0]), name)
        tf.linalg.matmul(matrix, matrix)  # the first call sets things up
        start = time.perf_counter()
        for _ in range(3):
            tf.linalg.matmul(matrix, matrix).numpy()
        seconds[name] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)
