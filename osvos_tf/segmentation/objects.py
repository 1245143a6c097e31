"""Several objects: their ids in a label map, their channels in a network's outputs."""

from collections.abc import Sequence

import numpy as np

from osvos_tf.media.masks import VOID


def ranks(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Returns a label map with 1 for the first id, 2 for the second and so on, as losses want it.

    Args:
        labels: uint8 [height, width]: 0 background, ids, 255 void.
        ids: all that occur.
    """
    table = np.full(VOID + 1, VOID, np.uint8)
    table[[0, *ids]] = np.arange(len(ids) + 1)
    return table[labels]


def planes(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Returns where each object is, bool [height, width, objects]."""
    return labels[..., None] == np.array(ids, np.uint8)


def merge(probabilities: np.ndarray, threshold: float, ids: Sequence[int]) -> np.ndarray:
    """Returns the label map in which each pixel is its most probable object.

    Args:
        probabilities: float32 [height, width, objects] in 0..1.
        threshold: a pixel is background where none is above this.
        ids: of the objects, in order of the channels.

    Returns:
        uint8 [height, width]: 0 background, or an id.
    """
    best = probabilities.argmax(axis=-1)
    return np.where(
        probabilities.max(axis=-1) > threshold, np.array(ids, np.uint8)[best], 0
    ).astype(np.uint8)
