"""The OSVOS network as Keras functional graphs (paper, section 3; recipe numbers in `VGG_BLOCKS`).

VGG16 without its classifier; a side branch after the last convolution of stages 2 to 5; every
side gives a score of its own (`side2` ... `side5`) and 16 channels to the fused output (`fused`).
"""

import functools
import io
import json
import os
import pathlib
import time
import zipfile
from collections.abc import Callable
from typing import Any

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import h5py
import keras
import numpy as np
import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path
from osvos_tf.network import keras_file, layers

# Stage k has `VGG_BLOCKS[k - 1]` = (3x3 convolutions, channels), and works at 1 / 2^(k - 1).
VGG_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
SIDES = {"side2": 2, "side3": 4, "side4": 8, "side5": 16}  # side output -> stride of its map
OUTPUTS = (*SIDES, "fused")
SIDE_CHANNELS = 16

# Where training starts. "imagenet": the authors' initialisers beside pre-trained VGG weights,
# which expect colours in 0..255. "scratch": He initialisation with colours scaled to about one.
INITIALISERS: dict[str, dict[str, Any]] = {
    "imagenet": {"trunk": "he_normal", "side": 0.001, "score": 0.001, "scale": 1.0},
    "scratch": {"trunk": "he_normal", "side": "he_normal", "score": 0.05, "scale": 1 / 64},
}
_FROM_FILE = dict.fromkeys(("trunk", "side", "score"), "zeros")  # the weights come from a file

# Matrix work runs in the precision's compute type; logits, and all before them that is summed
# over many terms, stay float32. Weights are float32 always.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
_TRUNK = ("block", "prep_")  # names of the layers that do matrix work
_WEIGHTS, _METADATA = "model.weights.h5", "metadata.json"  # in a .keras file
# Keras 2, once it has saved in a thread, writes the next `.keras` there as HDF5 unless told not to.
_NATIVE = {"save_format": "keras_v3"} if keras.__version__ < "3" else {}
# Settings of layers that make the function what it is.
_TOLD = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "activation",
         "use_bias", "pool_size", "stride", "scale", "working_height", "crop")  # fmt: skip
_FIXED = {"data_format": "channels_last", "dtype": "float32"}  # whatever keras.json says
_PROBE_SIZE = (17, 19)  # height and width of the frame that a loaded network must take
_PROBE = 1024  # rows of the matrix product that compares the precisions


def build_foreground(
    *,
    crop: str = "aligned",
    width_multiplier: float = 1.0,
    start: str = "imagenet",
    seed: int | None = None,
) -> keras.Model:
    """Builds the foreground network: which pixels are the object.

    Args:
        crop: "aligned" or "center", see `layers.upsample`.
        width_multiplier: factor on the channels of the trunk; 1.0 is VGG16, with 14,917,637
            trainable parameters in all.
        start: the initialisers, "imagenet" or "scratch", see `INITIALISERS`.
        seed: makes the random weights repeatable.

    Returns:
        A functional `keras.Model`. Input: uint8 or float RGB [batch, height, width, 3] in 0..255,
        any height and width. Output: dict of float32 logits [batch, height, width, 1]: `side2`,
        `side3`, `side4`, `side5`, `fused`.

    Raises:
        ValueError: unknown `crop` or `start`, or a `width_multiplier` that is not positive.
    """
    return _build("foreground", crop, width_multiplier, start, seed)


def build_contour(
    *,
    crop: str = "aligned",
    width_multiplier: float = 1.0,
    start: str = "imagenet",
    seed: int | None = None,
) -> keras.Model:
    """Builds the contour network: the foreground's architecture, see `build_foreground`."""
    return _build("contour", crop, width_multiplier, start, seed)


def build_predictor(
    model: keras.Model, *, height: int | None = None, frame_height: int | None = None
) -> keras.Model:
    """Builds the one-output model that shares the network's weights: frames to probabilities.

    Args:
        model: a network of `build_foreground` or `build_contour`.
        height: the height in pixels at which the network looks at frames; None takes the
            network's own `working_height`, and where that is None too, the frames' height.
        frame_height: height in pixels of the whole frames, where the images are windows of them:
            a window is resized as its frame would be. None: the images are whole frames.

    Returns:
        A functional `keras.Model`: uint8 or float RGB [batch, height, width, 3] to float32
        probability [batch, height, width, 1], at the size of the frames given. Its `predict` raises
        InputError for frames without a batch axis, or scaled to 0..1: nothing would be found.
    """
    height = height or working_height(model)
    images = keras.Input((None, None, 3), dtype="float32", name="images")
    if height is None:
        logits = model(images)["fused"]
    else:
        small = layers.ResizeToHeight(height, frame_height, dtype="float32", name="working_height")(
            images
        )
        logits = layers.ResizeLike(dtype="float32", name="frame_height")(
            [model(small)["fused"], images]
        )
    probability = keras.layers.Activation("sigmoid", dtype="float32", name="probability")(logits)
    return Predictor(images, probability, name=f"{model.name}_predictor")


@layers.register
class Predictor(keras.Model):
    """A functional model that tells the two usual mistakes with frames."""

    def predict(self, x: Any, *arguments: Any, **settings: Any) -> np.ndarray:
        """Predicts as any Keras model, for frames that `_check_frames` lets pass."""
        if isinstance(x, (np.ndarray, tf.Tensor)):
            _check_frames(np.asarray(x))
        return super().predict(x, *arguments, **settings)


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3:
        hint = " One frame alone is frame[None]." if frames.ndim == 3 else ""
        raise InputError(
            f"Wanted frames RGB [batch, height, width, 3]. Got shape {frames.shape}.{hint}"
        )
    if frames.dtype.kind == "f" and frames.size and 0 < frames.max() <= 1:
        raise InputError(
            "Wanted frames in 0..255, as they are in a picture's file. These lie in "
            f"{frames.min():g}..{frames.max():g}: do not divide them by 255."
        )


def build_two_stream(
    foreground: keras.Model, contour: keras.Model, *, frame_height: int | None = None
) -> keras.Model:
    """Builds the model of both streams: one call gives foreground and contours (paper, figure 4).

    The streams share the images and nothing else: each network keeps its own weights, and looks
    at frames at its own working height.

    Args:
        foreground: a network of `build_foreground`.
        contour: a network of `build_contour`.
        frame_height: see `build_predictor`.

    Returns:
        A functional `keras.Model`: uint8 or float RGB [batch, height, width, 3] to a dict of
        float32 probabilities [batch, height, width, 1]: `probabilities` (of the object) and
        `contours`.
    """
    images = keras.Input((None, None, 3), dtype="float32", name="images")
    streams = {"probabilities": foreground, "contours": contour}
    outputs = {
        name: build_predictor(network, frame_height=frame_height)(images)
        for name, network in streams.items()
    }
    return keras.Model(images, outputs, name="two_stream")


def any_size(predictor: keras.Model) -> Callable[[Any], Any]:
    """Returns a function that calls a predictor on frames of any number and size.

    Keras's own `predict_on_batch` builds its graph anew for one size after the other, which takes
    longer than a prediction; this one is built once.

    Args:
        predictor: of `build_predictor` or `build_two_stream`.

    Returns:
        Function of uint8 RGB [batch, height, width, 3] that gives what the predictor does, as
        tensors.
    """
    signature = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
    return tf.function(lambda images: predictor(images, training=False), input_signature=signature)


def working_height(model: keras.Model) -> int | None:
    """Returns the frame height in pixels that the weights were trained on, or None for any."""
    return model.get_layer("preprocess").working_height


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
    """Returns "float32" or "bfloat16"; for "auto" what multiplies matrices faster here."""
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


def split(model: keras.Model, blocks: int) -> tuple[keras.Model, keras.Model]:
    """Parts a network behind one of its trunk's blocks; the parts share its weights.

    Args:
        model: a network of this module.
        blocks: leading blocks of the trunk, 1 to 4, in the first part.

    Returns:
        `(stem, rest)`: functional `keras.Model`s. `stem` maps images to a dict of feature maps,
        those blocks' outputs that the rest needs. `rest` maps them, and under "like" any map of one
        channel and of the images' size, to what `model` gives for the images.
    """
    maps = {}
    for number in range(min(2, blocks), blocks + 1):
        last = f"block{number}_conv{VGG_BLOCKS[number - 1][0]}"
        maps[f"block{number}"] = model.get_layer(last).output
    stem = keras.Model(model.input, maps, name="stem")

    inputs = {name: keras.Input(x.shape[1:], dtype=x.dtype, name=name) for name, x in maps.items()}
    like = keras.Input((None, None, 1), name="like")
    x = inputs[f"block{blocks}"]
    before = list(inputs.values()) if blocks > 1 else []
    sides = [model.get_layer(f"prep_side{n}")(maps) for n, maps in enumerate(before, start=2)]
    for number in range(blocks + 1, len(VGG_BLOCKS) + 1):
        x = model.get_layer(f"block{number}_pool")(x)
        for index in range(1, VGG_BLOCKS[number - 1][0] + 1):
            x = model.get_layer(f"block{number}_conv{index}")(x)
        sides.append(model.get_layer(f"prep_side{number}")(x))
    outputs = {
        side: model.get_layer(side)([model.get_layer(f"score_{side}")(maps), like])
        for side, maps in zip(SIDES, sides, strict=True)
    }
    outputs["fused"] = model.get_layer("fused")([*sides, like])
    return stem, keras.Model({**inputs, "like": like}, outputs, name="rest")


def save_model(
    model: keras.Model, path: str | os.PathLike[str], *, storage: str = "float32"
) -> None:
    """Writes the model to a `.keras` file, whole or not at all.

    Args:
        model: a network of this module.
        path: the `.keras` file.
        storage: type of the weights in the file: "float32", or "float16", which halves it at the
            cost of the last bits. They are float32 again when the file is loaded.

    Raises:
        InputError: it cannot be written; where there is no room, HDF5 says so in words of its own.
    """
    try:
        with atomic_path(path) as temporary:
            model.save(temporary, **_NATIVE)
            _repack(temporary, storage)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Cannot write {path}: {reason}. Make room, or name another folder."
        ) from error


def _repack(path: pathlib.Path, storage: str) -> None:
    """Rewrites a `.keras` file, an HDF5 file in a zip archive, without what chance put into it.

    That is the time of day, and the places in memory that Keras takes for the ids of shared
    settings. So the same network is the same bytes. The weights become another type on the way.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(members[_METADATA])
    members[_METADATA] = json.dumps({**metadata, "date_saved": ""}).encode()
    config = json.loads(members["config.json"], object_hook=_without_id)
    members["config.json"] = json.dumps(config).encode()
    compression = zipfile.ZIP_STORED
    if storage != "float32":
        members[_WEIGHTS] = _recode(members[_WEIGHTS], storage)
        compression = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)  # of 1980


def _without_id(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "shared_object_id"}


def _recode(weights: bytes, storage: str) -> bytes:
    """Returns an HDF5 file with all arrays in another type."""
    recoded = io.BytesIO()
    with h5py.File(io.BytesIO(weights), "r") as source, h5py.File(recoded, "w") as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                item = target.create_dataset(name, data=item[()].astype(storage))
            else:
                item = target.require_group(name)
            item.attrs.update(source[name].attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    return recoded.getvalue()


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a network that this package saved.

    Args:
        path: a `.keras` file.

    Returns:
        The functional `keras.Model`, with float32 weights.

    Raises:
        InputError: no such file, no Keras model, or not a network of this package; foreign code
            in the file is never run, see `keras_file`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"No model file {path}. Wanted a .keras file, such as parent.keras.")
    # Keras chooses the format by the suffix, and other formats have no safe mode.
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is not a .keras file (a zip archive of that suffix). Train or import one."
        )
    keras_file.check(path)
    try:
        model = _rebuild(path) or keras.models.load_model(path, compile=False, safe_mode=True)
        outputs = model(tf.zeros([1, *_PROBE_SIZE, 3], tf.uint8))
        shapes = {name: tuple(logits.shape) for name, logits in outputs.items()}
    except Exception as error:  # a graph that does not fit together fails anywhere inside Keras
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be loaded as a Keras model: {reason}") from error
    if shapes != dict.fromkeys(OUTPUTS, (1, *_PROBE_SIZE, 1)):
        raise InputError(
            f"{path} is a Keras model, but no OSVOS network: wanted the outputs "
            f"{', '.join(OUTPUTS)} of a frame's size, got {shapes}."
        )
    return model


def _rebuild(path: pathlib.Path) -> keras.Model | None:
    """Builds the network that a file describes, from a few of its settings.

    Keras itself reads no file of a later version than its own: each brings settings that the ones
    before refuse.

    Args:
        path: a `.keras` file that `keras_file.check` has let pass.

    Returns:
        The network, or None where the file describes any other than `_graph` builds, or does not
        say whose the weights are (as Keras 2's): then Keras must read it.
    """
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))["config"]
        weights = archive.read(_WEIGHTS)
    found = {layer["name"]: layer["config"] for layer in config["layers"]}
    try:
        channels = [
            found[f"block{stage}_conv1"]["filters"] for stage, _ in enumerate(VGG_BLOCKS, start=1)
        ]
        settings = {**_FROM_FILE, "scale": found["preprocess"]["scale"]}
        crop = found["fused"]["crop"]
    except KeyError:
        return None
    network = _graph(config["name"], crop, channels, settings, _Seeds(None))
    network.get_layer("preprocess").working_height = found["preprocess"]["working_height"]
    if _describe(config) != _describe(json.loads(network.to_json())["config"]):
        return None
    with h5py.File(io.BytesIO(weights), "r") as file:
        groups = [layer["vars"] for layer in file.get("layers", {}).values() if "vars" in layer]
        arrays = {group.attrs.get("name"): list(map(group.get, sorted(group))) for group in groups}
        weighted = [layer for layer in network.layers if layer.weights]
        if any(layer.name not in arrays for layer in weighted):
            return None
        for layer in weighted:
            layer.set_weights([array[()].astype("float32") for array in arrays[layer.name]])
    return network


def _describe(config: dict[str, Any]) -> dict[str, Any]:
    """Returns what a functional model's config says, but for what Keras's versions say otherwise.

    Returns:
        {layer's name: (class, inputs, settings)}.
    """
    names = {layer["name"] for layer in config["layers"]}

    def inputs(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value] if value in names else []
        if not isinstance(value, dict | list):
            return []
        values = value.values() if isinstance(value, dict) else value
        return [name for part in values for name in inputs(part)]

    return {
        layer["name"]: (
            layer["class_name"].rpartition(">")[2],
            inputs(layer["inbound_nodes"]),
            {key: layer["config"].get(key) for key in _TOLD},
        )
        for layer in config["layers"]
    }


def _build(
    name: str, crop: str, width_multiplier: float, start: str, seed: int | None
) -> keras.Model:
    layers.check_crop(crop)
    if start not in INITIALISERS:
        raise ValueError(f"start must be one of {tuple(INITIALISERS)}. Received: {start!r}.")
    if not width_multiplier > 0:
        raise ValueError(f"width_multiplier must be positive. Received: {width_multiplier}.")
    settings = INITIALISERS[start]
    channels = [max(1, round(channels * width_multiplier)) for _, channels in VGG_BLOCKS]
    return _graph(name, crop, channels, settings, _Seeds(seed))


def _graph(
    name: str, crop: str, channels: list[int], settings: dict[str, Any], seeds: "_Seeds"
) -> keras.Model:
    images = keras.Input((None, None, 3), dtype="float32", name="images")
    x = layers.Preprocess(settings["scale"], name="preprocess", dtype="float32")(images)
    sides = []
    for stage, (convolutions, _) in enumerate(VGG_BLOCKS, start=1):
        if stage > 1:
            # "same" keeps the partial window of an odd edge, as Caffe's ceil does.
            x = keras.layers.MaxPooling2D(2, padding="same", **_FIXED, name=f"block{stage}_pool")(x)
        for index in range(1, convolutions + 1):
            x = keras.layers.Conv2D(
                channels[stage - 1],
                3,
                padding="same",
                **_FIXED,
                activation="relu",
                kernel_initializer=seeds.initialiser(settings["trunk"]),
                name=f"block{stage}_conv{index}",
            )(x)
        if stage > 1:
            sides.append(
                keras.layers.Conv2D(
                    SIDE_CHANNELS,
                    3,
                    padding="same",
                    **_FIXED,
                    kernel_initializer=seeds.initialiser(settings["side"]),
                    name=f"prep_side{stage}",
                )(x)
            )
    return keras.Model(images, _heads(images, sides, crop, settings, seeds), name=name)


def _heads(
    images: Any, sides: list[Any], crop: str, settings: dict[str, Any], seeds: "_Seeds"
) -> dict[str, Any]:
    outputs = {}
    for (side, stride), features in zip(SIDES.items(), sides, strict=True):
        score = keras.layers.Conv2D(
            1,
            1,
            **_FIXED,
            kernel_initializer=seeds.initialiser(settings["score"]),
            name=f"score_{side}",
        )(features)
        outputs[side] = layers.Upsample(stride, crop, dtype="float32", name=side)([score, images])
    outputs["fused"] = layers.Fuse(
        SIDES.values(),
        crop,
        kernel_initializer=seeds.initialiser(settings["score"]),
        dtype="float32",
        name="fused",
    )([*sides, images])
    return outputs


class _Seeds:
    """Initialisers for one graph, each with a seed of its own, all following from one."""

    def __init__(self, seed: int | None) -> None:
        self._next = seed

    def initialiser(self, kind: str | float) -> keras.initializers.Initializer:
        seed = self._next
        if seed is not None:
            self._next = seed + 1
        if kind == "zeros":
            return keras.initializers.Zeros()
        if kind == "he_normal":
            return keras.initializers.HeNormal(seed)
        return keras.initializers.RandomNormal(stddev=kind, seed=seed)
