"""Fills our networks with weights that others trained, whatever file they come in."""

import collections
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import keras
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.network import model
from osvos_tf.network.model import SIDE_CHANNELS, VGG_BLOCKS
from osvos_tf.network.weights import readers
from osvos_tf.network.weights.layouts import (
    FORMATS,
    HEADS,
    OSVOS_LAYOUTS,
    TRUNK,
    UPSAMPLERS,
    VGG16_LAYOUTS,
    Layout,
    Row,
)

# The file that `keras.applications.VGG16(include_top=False)` fetches, and its MD5 hash.
IMAGENET_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{IMAGENET_FILE}"
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"
_TOLERANCE = 1e-5  # of upsampling kernels, which are multiples of 1/1024
_MOST_NAMES, _LONGEST_NAME = 50, 100  # in an error


def load_imagenet(network: keras.Model) -> None:
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
    _check_trunk(network)
    _load_trunk(network, _imagenet_file(), "hdf5")


def load_vgg16(network: keras.Model, path: str | os.PathLike[str]) -> None:
    """Copies VGG16's weights from a file into the trunk of a network; the side branches stay.

    Colours are made to fit: weights for RGB are turned to our BGR, and torchvision's scaling is
    folded into the first layer (`_from_torchvision`). The means that Keras, TF-Slim and Caffe
    subtract differ from ours by a grey level at most, which is left as it is, as the authors do.

    Args:
        network: as for `load_imagenet`.
        path: HDF5 of Keras, checkpoint of TF-Slim, state dict of torchvision, the authors'
            `vgg_caffe.mat`, or a Caffe model. The kind is told by the content.

    Raises:
        InputError: the network's trunk is not as wide as VGG16; no such file, damaged, or not
            VGG16. The network is then unchanged.
        ValueError: the network scales its colours, which these weights do not expect.
    """
    _check_trunk(network)
    _load_trunk(network, path, readers.recognise(path))


def import_network(path: str | os.PathLike[str], file_format: str = "auto") -> keras.Model:
    """Builds one of the authors' networks, parent or specialist, foreground or contour.

    Args:
        path: TensorFlow checkpoint, `.npy` dict of arrays, PyTorch state dict, or Caffe model.
        file_format: "tf", "pytorch" or "caffe" (a key of `FORMATS`), or "auto": the content tells.

    Returns:
        A network of `model.build_foreground` or `build_contour`, with the crop rule that the
        weights were trained with. Side scores that a Caffe model lacks are zero.

    Raises:
        InputError: no such file, damaged, of another format, or an array is missing, left over or
            of another shape.
    """
    kind = readers.recognise(path)
    if file_format != "auto" and kind not in FORMATS[file_format]:
        raise InputError(
            f"Wanted a file of the format {file_format}, but {path} is {readers.KINDS[kind]}."
        )
    if kind == "keras":
        raise InputError(f"{path} is a .keras model already: there is nothing to import.")
    with readers.open_arrays(path, kind) as arrays:
        layout = _choose(OSVOS_LAYOUTS, kind, arrays, path)
        build = model.build_contour if layout.network == "contour" else model.build_foreground
        network = build(crop=layout.crop)
        _fill(network, {**TRUNK, **HEADS}, arrays, layout, path, UPSAMPLERS)
    return network


def _check_trunk(network: keras.Model) -> None:
    """Raises where a network cannot take VGG16's weights."""
    channels = [count for blocks, count in VGG_BLOCKS for _ in range(blocks)]
    for name, (before, after) in zip(TRUNK, itertools.pairwise([3, *channels]), strict=True):
        wanted = (3, 3, before, after)
        found = network.get_layer(name).get_weights()[0].shape
        if found != wanted:
            raise InputError(
                f"ImageNet weights fit VGG16's own width only: the kernel of {name} has the shape "
                f"{wanted} there and {found} in this network. Use a width multiplier of 1, or "
                "start from random weights."
            )
    scale = network.get_layer("preprocess").scale
    if scale != 1.0:
        raise ValueError(
            "ImageNet weights expect colours in 0..255, but this network scales them by "
            f"{scale:g}. Build it with start='imagenet'."
        )


def _load_trunk(network: keras.Model, path: str | os.PathLike[str], kind: str) -> None:
    with readers.open_arrays(path, kind) as arrays:
        _fill(network, TRUNK, arrays, _choose(VGG16_LAYOUTS, kind, arrays, path), path)


def _choose(
    layouts: Sequence[Layout],
    kind: str,
    arrays: Mapping[str, Any],
    path: str | os.PathLike[str],
) -> Layout:
    """Returns the layout that the names in a file are of, told by the first convolution's."""

    def fits(layout: Layout) -> bool:
        return layout.kind == kind and layout.names(TRUNK["block1_conv1"])[0] in arrays

    for layout in layouts:
        if fits(layout):
            return layout
    for layout in (*VGG16_LAYOUTS, *OSVOS_LAYOUTS):
        if fits(layout):
            use = "train_parent --weights" if layout in VGG16_LAYOUTS else "import_weights --source"
            raise InputError(f"{path} holds the {layout.title}, which goes into {use}.")
    raise InputError(
        f"{path} is {readers.KINDS[kind]}, but not one of "
        f"{', '.join(layout.title for layout in layouts)}. In it: {_listed(arrays)}."
    )


def _fill(
    network: keras.Model,
    rows: Mapping[str, Row],
    arrays: Mapping[str, Any],
    layout: Layout,
    path: str | os.PathLike[str],
    upsamplers: Mapping[tuple[int, int], Row] | None = None,
) -> None:
    """Sets the layers in `rows` from the arrays of a file; all of them, or none.

    Raises:
        InputError: an array is missing, left over, of another shape, or not what it should be.
    """
    names = {ours: layout.names(row) for ours, row in rows.items()}
    scores = {ours: names[ours] for ours in names if ours.startswith("score_")}
    if layout.has_scores or any(name in arrays for pair in scores.values() for name in pair):
        scores = {}
    names = {ours: pair for ours, pair in names.items() if ours not in scores}
    problems: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
    values: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for ours, pair in names.items():
        for name, weight in zip(pair, network.get_layer(ours).get_weights(), strict=True):
            value = _read(arrays, name, weight.shape, layout, problems)
            if value is not None:
                values[ours].append(value)
    known = {name for pair in names.values() for name in pair}
    for (stride, channels), row in (upsamplers or {}).items():
        known.update(layout.names(row))
        _check_upsampler(arrays, layout.names(row), stride, channels, layout, problems)
    passed_over = re.compile(layout.passed_over)
    left_over = [name for name in arrays if name not in known and not passed_over.match(name)]
    if left_over:
        problems["left over"] = left_over
    if problems:
        found = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items())
        raise InputError(
            f"{path} has the names of the {layout.title}, but what it holds does not fit. {found}."
        )
    if layout.first is not None:
        values["block1_conv1"] = list(layout.first(*values["block1_conv1"]))
    for ours in scores:  # which the file lacks
        network.get_layer(ours).set_weights([np.zeros((1, 1, SIDE_CHANNELS, 1)), np.zeros(1)])
    for ours, weights in values.items():
        network.get_layer(ours).set_weights(weights)


def _read(
    arrays: Mapping[str, Any],
    name: str,
    shape: tuple[int, ...],
    layout: Layout,
    problems: collections.defaultdict[str, list[str]],
) -> np.ndarray | None:
    """Returns an array turned to our axes, None where it is not what it should be."""
    axes = layout.axes if len(shape) == len(layout.axes) else range(len(shape))
    wanted = tuple(shape[list(axes).index(axis)] for axis in range(len(shape)))
    if name not in arrays:
        problems["missing"].append(name)
        return None
    if tuple(arrays[name].shape) != wanted:
        problems["of another shape"].append(f"{name} {arrays[name].shape}, not {wanted}")
        return None
    value = np.asarray(arrays[name], np.float32).transpose(axes)
    if not np.isfinite(value).all():
        problems["not finite"].append(name)
    return value


def _check_upsampler(
    arrays: Mapping[str, Any],
    names: tuple[str, str],
    stride: int,
    channels: int,
    layout: Layout,
    problems: collections.defaultdict[str, list[str]],
) -> None:
    """Notes where an upsampling that the file may hold is not the fixed one of ours."""
    tent = 1 - np.abs(np.arange(2 * stride) - stride + 0.5) / stride
    bilinear = np.einsum("h,w,io->hwio", tent, tent, np.eye(channels))
    for name, wanted in zip(names, (bilinear, np.zeros(channels)), strict=True):
        if name in arrays:
            value = _read(arrays, name, wanted.shape, layout, problems)
            if value is not None and not np.allclose(value, wanted, rtol=0, atol=_TOLERANCE):
                problems["not the fixed bilinear upsampling"].append(name)


def _listed(names: Iterable[str]) -> str:
    names = [name if name.isprintable() else repr(name) for name in names]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(name[:_LONGEST_NAME] for name in names[:_MOST_NAMES]) + more


def _imagenet_file() -> str:
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
