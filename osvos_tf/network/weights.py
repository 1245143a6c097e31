"""Weights that others trained, into our networks: VGG16 for a start, and the authors' networks.

Every family of files is a `Layout`: how it names the layers, how it turns their kernels, and what
else it may hold. All layouts walk the same table of layers.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import keras
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.network import layers, model, weight_files
from osvos_tf.network.model import SIDE_CHANNELS, SIDES, VGG_BLOCKS

# The file that `keras.applications.VGG16(include_top=False)` fetches, and its MD5 hash.
IMAGENET_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{IMAGENET_FILE}"
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"

FORMATS = {"tf": ("checkpoint", "npy"), "pytorch": ("torch",), "caffe": ("caffe",)}

# torchvision's colours are RGB in 0..1, minus this mean, divided by this deviation.
_TORCHVISION_MEAN = (0.485, 0.456, 0.406)
_TORCHVISION_DEVIATION = (0.229, 0.224, 0.225)

_Row = dict[str, str]  # a layer's names elsewhere

# Axes of a kernel in a file, in the order of Keras: height, width, channels in, channels out.
_HWIO, _OIHW, _WHIO = (0, 1, 2, 3), (2, 3, 1, 0), (1, 0, 2, 3)
_TOLERANCE = 1e-5  # of upsampling kernels, which are multiples of 1/1024
_MOST_NAMES, _LONGEST_NAME = 50, 100  # in an error


def _trunk() -> dict[str, _Row]:
    """Returns VGG16's layers: our name -> the names elsewhere, by which layouts are filled in."""
    names: dict[str, _Row] = {}
    place = 0
    for stage, (convolutions, _) in enumerate(VGG_BLOCKS, start=1):
        for index in range(1, convolutions + 1):
            ours, caffe = f"block{stage}_conv{index}", f"conv{stage}_{index}"
            names[ours] = {
                "keras": ours,
                "caffe": caffe,
                "tf": f"conv{stage}/{caffe}",
                # Each stage of the authors' begins with its pool, but for the first.
                "torch": f"stages.{stage - 1}.{2 * (index - 1) + (stage > 1)}",
                "torchvision": f"features.{place}",
                "number": str(len(names)),
            }
            place += 2  # the convolution and its ReLU
        place += 1  # the pool
    return names


def _heads() -> dict[str, _Row]:
    """Returns the layers that OSVOS adds, as `_trunk` does."""
    names: dict[str, _Row] = {}
    for index, side in enumerate(SIDES):
        stage = index + 2
        caffe = f"conv{stage}_{VGG_BLOCKS[stage - 1][0]}_{SIDE_CHANNELS}"
        score = f"score-dsn_{stage}"
        names[f"prep_{side}"] = {"caffe": caffe, "tf": caffe, "torch": f"side_prep.{index}"}
        names[f"score_{side}"] = {"caffe": score, "tf": score, "torch": f"score_dsn.{index}"}
    return names | {
        "fused": {"caffe": "new-score-weighting", "tf": "upscore-fuse", "torch": "fuse"}
    }


def _upsamplers() -> dict[tuple[int, int], _Row]:
    """Returns the fixed upsampling, which is no layer of ours: (stride, channels) -> its names."""
    names: dict[tuple[int, int], _Row] = {}
    for index, stride in enumerate(SIDES.values()):
        stage = index + 2
        names[stride, SIDE_CHANNELS] = {
            "caffe": f"upsample{stride}_",
            "tf": f"score-multi{stage}-up",
            "torch": f"upscale.{index}",
        }
        names[stride, 1] = {
            "caffe": f"upsample_{stride}",
            "tf": f"score-dsn_{stage}-up",
            "torch": f"upscale_.{index}",
        }
    return names


TRUNK, HEADS, UPSAMPLERS = _trunk(), _heads(), _upsamplers()


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one family of files holds a network's arrays."""

    title: str
    kind: str  # of `weight_files.KINDS`
    kernel: str  # the name of a layer's kernel, to be filled in from the tables above
    bias: str
    axes: tuple[int, ...]
    passed_over: str = r"(?!)"  # pattern of the names that are none of ours; by default none
    # The first convolution, made for other colours -> made for ours.
    first: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    crop: str = "aligned"  # with which the weights were trained
    network: str = "foreground"
    has_scores: bool = True  # always; else they may be absent

    def names(self, row: _Row) -> tuple[str, str]:
        """Returns the names in the file of a layer's kernel and bias."""
        contour = row["caffe"].rstrip("_") + "_contour"
        return self.kernel.format(**row, contour=contour), self.bias.format(**row, contour=contour)


def _from_rgb(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns the first convolution for RGB into one for BGR."""
    return kernel[:, :, ::-1], bias


def _from_torchvision(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Folds torchvision's scaling of colours into the first convolution.

    With t for torchvision's input and x for ours (BGR, minus `MEAN_BGR`), both of the same frame,
    t = (x + MEAN_BGR - mean) / deviation, all in BGR and 0..255. So the kernel is divided, and the
    bias takes the difference of the means (a grey level at most). This is exact but for what lies
    outside of the frame: both pad with zeros, which is `MEAN_BGR` to us and the other mean there.
    """
    kernel = kernel[:, :, ::-1].astype(np.float64)
    mean = 255 * np.array(_TORCHVISION_MEAN)[::-1]
    deviation = 255 * np.array(_TORCHVISION_DEVIATION)[::-1]
    kernel = kernel / deviation[:, None]
    shift = np.array(layers.MEAN_BGR) - mean
    return kernel, bias + np.einsum("hwio,i->o", kernel, shift)


VGG16_LAYOUTS = (
    Layout(
        title="VGG16 of Keras",
        kind="hdf5",
        kernel="{keras}/0",
        bias="{keras}/1",
        axes=_HWIO,
        passed_over=r"(fc1|fc2|predictions)/",
    ),
    Layout(
        title="VGG16 of TF-Slim",
        kind="checkpoint",
        kernel="vgg_16/{tf}/weights",
        bias="vgg_16/{tf}/biases",
        axes=_HWIO,
        passed_over=r"vgg_16/(fc\d|mean_rgb)|.*/Momentum$|global_step$",
        first=_from_rgb,
    ),
    Layout(
        title="VGG16 of torchvision",
        kind="torch",
        kernel="{torchvision}.weight",
        bias="{torchvision}.bias",
        axes=_OIHW,
        passed_over=r"classifier\.",
        first=_from_torchvision,
    ),
    Layout(
        title="VGG16 of the authors (vgg_caffe.mat)",
        kind="mat",
        kernel="weights/{number}",
        bias="biases/{number}",
        axes=_WHIO,
    ),
    Layout(
        title="VGG16 of Caffe",
        kind="caffe",
        kernel="{caffe}/0",
        bias="{caffe}/1",
        axes=_OIHW,
        passed_over=r"fc\d",
    ),
)
OSVOS_LAYOUTS = (
    Layout(
        title="OSVOS of TensorFlow",
        kind="checkpoint",
        kernel="osvos/{tf}/weights",
        bias="osvos/{tf}/biases",
        axes=_HWIO,
        passed_over=r".*/Momentum$|global_step$",
        crop="center",
    ),
    # Made from a Caffe model, to be read by the TensorFlow version.
    Layout(
        title="OSVOS of Caffe, as a dict of arrays",
        kind="npy",
        kernel="{caffe}_w",
        bias="{caffe}_b",
        axes=_HWIO,
    ),
    Layout(
        title="OSVOS of PyTorch",
        kind="torch",
        kernel="{torch}.weight",
        bias="{torch}.bias",
        axes=_OIHW,
        crop="center",
    ),
    Layout(
        title="OSVOS of Caffe",
        kind="caffe",
        kernel="{caffe}/0",
        bias="{caffe}/1",
        axes=_OIHW,
        has_scores=False,
    ),
    Layout(
        title="contour network of Caffe",
        kind="caffe",
        kernel="{contour}/0",
        bias="{contour}/1",
        axes=_OIHW,
        network="contour",
        has_scores=False,
    ),
)


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
    _load_trunk(network, path, weight_files.recognise(path))


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
    kind = weight_files.recognise(path)
    if file_format != "auto" and kind not in FORMATS[file_format]:
        raise InputError(
            f"Wanted a file of the format {file_format}, but {path} is {weight_files.KINDS[kind]}."
        )
    if kind == "keras":
        raise InputError(f"{path} is a .keras model already: there is nothing to import.")
    with weight_files.open_arrays(path, kind) as arrays:
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
    with weight_files.open_arrays(path, kind) as arrays:
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
        f"{path} is {weight_files.KINDS[kind]}, but not one of "
        f"{', '.join(layout.title for layout in layouts)}. In it: {_listed(arrays)}."
    )


def _fill(
    network: keras.Model,
    rows: Mapping[str, _Row],
    arrays: Mapping[str, Any],
    layout: Layout,
    path: str | os.PathLike[str],
    upsamplers: Mapping[tuple[int, int], _Row] | None = None,
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
