"""The OSVOS network as Keras functional graphs (paper, section 3; recipe numbers in `VGG_BLOCKS`).

VGG16 without its classifier; a side branch after the last convolution of blocks 2 to 5; every
side gives its own score (`side2` ... `side5`) and 16 channels to the fused output (`fused`).
"""

from collections.abc import Callable
from typing import Any

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import keras
import numpy as np
import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.network import layers

# Stage k has `VGG_BLOCKS[k - 1]` = (3x3 convolutions, channels), and works at 1 / 2^(k - 1).
VGG_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
SIDES = {"side2": 2, "side3": 4, "side4": 8, "side5": 16}  # side output -> stride of its map
OUTPUTS = (*SIDES, "fused")
HEADS = (*(f"score_{side}" for side in SIDES), "fused")  # layers with a channel an object
SIDE_CHANNELS = 16
_FIXED = {"data_format": "channels_last", "dtype": "float32"}  # whatever keras.json says

# Where training starts. "imagenet": the authors' initialisers beside pre-trained VGG weights,
# which expect colours in 0..255. "scratch": He initialisation with colours scaled to about one.
INITIALISERS: dict[str, dict[str, Any]] = {
    "imagenet": {"trunk": "he_normal", "side": 0.001, "score": 0.001, "scale": 1.0},
    "scratch": {"trunk": "he_normal", "side": "he_normal", "score": 0.05, "scale": 1 / 64},
}
# Initial values of layers whose weights are given.
FROM_FILE = dict.fromkeys(("trunk", "side", "score"), "zeros")


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
    """A functional model that explains the two usual mistakes with frames."""

    def predict(self, x: Any, *arguments: Any, **settings: Any) -> np.ndarray:
        """Predicts as any Keras model does, after `_check_frames`."""
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
            "Wanted frames in 0..255, as a picture's file has them. These lie in "
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
        float32 probabilities: `probabilities` [batch, height, width, objects] and `contours`
        [batch, height, width, 1].
    """
    images = keras.Input((None, None, 3), dtype="float32", name="images")
    streams = {"probabilities": foreground, "contours": contour}
    outputs = {
        name: build_predictor(network, frame_height=frame_height)(images)
        for name, network in streams.items()
    }
    return keras.Model(images, outputs, name="two_stream")


def with_objects(network: keras.Model, count: int) -> keras.Model:
    """Returns a copy of a network of one object that has an output for each of several.

    All share the trunk and its side features; each has its own scores, which begin as those of the
    one.

    Args:
        network: a foreground network of one object, a parent as a rule.
        count: of objects.

    Returns:
        A foreground network whose outputs are float32 [batch, height, width, count].
    """
    channels = [network.get_layer(f"block{n}_conv1").filters for n in range(1, len(VGG_BLOCKS) + 1)]
    before = network.get_layer("preprocess")
    settings = {**FROM_FILE, "scale": before.scale}
    crop = network.get_layer("fused").crop
    wider = build_graph(network.name, crop, channels, settings, Seeds(None), objects=count)
    wider.get_layer("preprocess").working_height = before.working_height
    for layer in network.layers:
        weights = layer.get_weights()
        if layer.name in HEADS:
            weights = [np.repeat(array, count, axis=-1) for array in weights]
        wider.get_layer(layer.name).set_weights(weights)
    return wider


def objects_of(network: keras.Model) -> int:
    """Returns how many objects a network tells apart."""
    return network.get_layer("fused").objects


def any_size(predictor: keras.Model) -> Callable[[Any], Any]:
    """Returns a function that calls a predictor on frames of any number and size.

    Keras's own `predict_on_batch` builds its graph again for each new size, which takes
    longer than a prediction; this one is built once.

    Args:
        predictor: of `build_predictor` or `build_two_stream`.

    Returns:
        Function of uint8 RGB [batch, height, width, 3] that gives what the predictor does, as
        tensors.
    """
    signature = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
    return tf.function(
        lambda images: predictor(images, training=False), input_signature=signature, autograph=False
    )


def working_height(model: keras.Model) -> int | None:
    """Returns the frame height in pixels that the weights were trained on, or None for any."""
    return model.get_layer("preprocess").working_height


def split(model: keras.Model, blocks: int) -> tuple[keras.Model, keras.Model]:
    """Splits a network after one of its trunk's blocks; both parts share its weights.

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
    return build_graph(name, crop, channels, settings, Seeds(seed))


def build_graph(
    name: str,
    crop: str,
    channels: list[int],
    settings: dict[str, Any],
    seeds: "Seeds",
    *,
    objects: int = 1,
) -> keras.Model:
    """Returns the graph of both networks.

    Args:
        name: "foreground" or "contour".
        crop: "aligned" or "center", see `layers.Upsample`.
        channels: of each block of the trunk.
        settings: one of `INITIALISERS`, with the `scale` of colours.
        seeds: for the initial values.
        objects: that are told apart, each by a channel of the outputs.
    """
    images = keras.Input((None, None, 3), dtype="float32", name="images")
    x = layers.Preprocess(settings["scale"], name="preprocess", dtype="float32")(images)
    sides = []
    for block, (convolutions, _) in enumerate(VGG_BLOCKS, start=1):
        if block > 1:
            # "same" keeps the partial window of an odd edge, as Caffe's ceil does.
            x = keras.layers.MaxPooling2D(2, padding="same", **_FIXED, name=f"block{block}_pool")(x)
        for index in range(1, convolutions + 1):
            x = keras.layers.Conv2D(
                channels[block - 1],
                3,
                padding="same",
                **_FIXED,
                activation="relu",
                kernel_initializer=seeds.initialiser(settings["trunk"]),
                name=f"block{block}_conv{index}",
            )(x)
        if block > 1:
            sides.append(
                keras.layers.Conv2D(
                    SIDE_CHANNELS,
                    3,
                    padding="same",
                    **_FIXED,
                    kernel_initializer=seeds.initialiser(settings["side"]),
                    name=f"prep_side{block}",
                )(x)
            )
    heads = _heads(images, sides, crop, settings, seeds, objects)
    return keras.Model(images, heads, name=name)


def _heads(
    images: Any,
    sides: list[Any],
    crop: str,
    settings: dict[str, Any],
    seeds: "Seeds",
    objects: int,
) -> dict[str, Any]:
    outputs = {}
    for (side, stride), features in zip(SIDES.items(), sides, strict=True):
        score = keras.layers.Conv2D(
            objects,
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
        objects=objects,
        dtype="float32",
        name="fused",
    )([*sides, images])
    return outputs


class Seeds:
    """Initialisers for one graph, each with its own seed, all derived from one."""

    def __init__(self, seed: int | None) -> None:
        self._next = seed

    def initialiser(self, kind: str | float) -> keras.initializers.Initializer:
        """Returns "zeros", "he_normal", or a normal distribution of this standard deviation."""
        seed = self._next
        if seed is not None:
            self._next = seed + 1
        if kind == "zeros":
            return keras.initializers.Zeros()
        if kind == "he_normal":
            return keras.initializers.HeNormal(seed)
        return keras.initializers.RandomNormal(stddev=kind, seed=seed)
