"""Weights that others trained, into our networks: VGG16 as Keras distributes it for ImageNet."""

import os
import pathlib

import keras

from osvos_tf.errors import InputError
from osvos_tf.model import VGG_BLOCKS

# The file that `keras.applications.VGG16(include_top=False)` fetches, and its MD5 hash.
IMAGENET_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{IMAGENET_FILE}"
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"


def load_imagenet(network):
    """Copies VGG16's ImageNet weights into the trunk of a network; the side branches stay.

    The file is taken from Keras's cache (`KERAS_HOME`, or `~/.keras`), and downloaded to it (59
    MB) where it is missing or damaged.

    Args:
        network: of `model.build_foreground` or `build_contour`, with `width_multiplier=1.0` and
            `start="imagenet"`; changed in place.

    Raises:
        InputError: the network's trunk is not as wide as VGG16, or the file is neither in the
            cache nor to be had.
        ValueError: the network scales its colours, which these weights do not expect.
    """
    _check_shapes(network)
    scale = network.get_layer("preprocess").scale
    if scale != 1.0:
        raise ValueError(
            "ImageNet weights expect colours in 0..255, but this network scales them by "
            f"{scale:g}. Build it with start='imagenet'."
        )
    vgg16 = keras.applications.VGG16(include_top=False, weights=_imagenet_file())
    for name in _kernel_shapes():
        network.get_layer(name).set_weights(vgg16.get_layer(name).get_weights())


def _kernel_shapes():
    """Returns VGG16's kernel shapes by layer name."""
    shapes, before = {}, 3
    for stage, (convolutions, channels) in enumerate(VGG_BLOCKS, start=1):
        for index in range(1, convolutions + 1):
            shapes[f"block{stage}_conv{index}"] = (3, 3, before, channels)
            before = channels
    return shapes


def _check_shapes(network):
    for name, wanted in _kernel_shapes().items():
        found = network.get_layer(name).get_weights()[0].shape
        if found != wanted:
            raise InputError(
                f"ImageNet weights fit VGG16's own width only: the kernel of {name} has the shape "
                f"{wanted} there and {found} in this network. Use a width multiplier of 1, or "
                "start from random weights."
            )


def _imagenet_file():
    """Returns the path of the weight file, fetched by Keras if need be."""
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    folder = home.expanduser().absolute() / "models"
    try:
        # With an absolute subfolder Keras looks there and nowhere else.
        return keras.utils.get_file(
            IMAGENET_FILE, IMAGENET_URL, cache_subdir=str(folder), file_hash=IMAGENET_MD5
        )
    except Exception as error:  # Keras raises a bare Exception where a download fails
        raise InputError(
            f"No ImageNet weights: wanted the file {IMAGENET_FILE} (MD5 {IMAGENET_MD5}), which is "
            f"not in {folder} and cannot be fetched ({error}). Download {IMAGENET_URL} elsewhere "
            f"and put it into {folder}, or start from random weights."
        ) from error
