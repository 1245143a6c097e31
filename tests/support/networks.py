"""Tiny networks, and frames for them."""

import numpy as np

from osvos_tf.network import model

TINY = 1 / 16


def tiny(**options):
    """A network of 70,697 parameters with logits of about one."""
    return model.build_foreground(
        **{"width_multiplier": TINY, "start": "scratch", "seed": 1, **options}
    )


def frames(height, width, count=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def trained(network):
    """Gives every layer a bias, so that no initialiser can make these weights again."""
    random = np.random.default_rng(3)
    for layer in network.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, random.normal(0, 0.1, bias.shape)])
    return network
