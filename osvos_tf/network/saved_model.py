"""Networks as SavedModels that TensorFlow Serving runs without a line of our code.

The SavedModel has two signatures, each for any frame size and any number of frames:

  * `serving_default`: `images` uint8 RGB [batch, height, width, 3] -> `probabilities` float32
    [batch, height, width, objects] and `masks` uint8 [batch, height, width, 1], 0 and 1, or the
    ids of several objects; with a contour network also `contours` float32 of that shape, the
    probability of an edge.
  * `encoded`: `image_bytes` string [batch], JPEG or PNG, all of one size -> `mask_bytes` string
    [batch], grey PNG of 0 and 255, or the ids of several objects. Decoding is exact (as
    Pillow's), an EXIF orientation is not applied.
"""

import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from osvos_tf import files
from osvos_tf.errors import InputError
from osvos_tf.network import DEFAULT_THRESHOLD, model
from osvos_tf.network.precision import with_precision

if TYPE_CHECKING:
    import keras
from osvos_tf.network.model_store import (
    CONFIG_FILE,
    DEFAULT_SIGNATURE,
    ENCODED_SIGNATURE,
    WARMUP_FILE,
    check_folder,
    publish,
    read_config,
    serving_api,
    write_configs,
    write_facts,
)

_ABANDONED = 3600.0  # seconds after which a version that is not finished never will be
_WARMUP_SIZE = (480, 854)  # height and width of DAVIS's frames


def export_saved_model(
    network: "keras.Model",
    folder: str | os.PathLike[str],
    *,
    contour: "keras.Model | None" = None,
    threshold: float = DEFAULT_THRESHOLD,
    ids: Sequence[int] | None = None,
    version: int | None = None,
) -> pathlib.Path:
    """Writes a network as the next version of a served model, whole or not at all.

    What lies beside the model's folder is brought up to date, see `model_store`.

    Args:
        network: the foreground network, of `model.build_foreground` or `files.load_model`.
        folder: the model's folder, `saved_models/NAME`; NAME is what clients ask for.
        contour: a contour network, which makes the export two-stream. Masks stay the foreground's:
            snapping is not part of the SavedModel.
        threshold: a pixel is object where its probability is above this.
        ids: of the objects, in order of the network's channels; None: 1, 2 and so on. A single
            object is 1 in any case.
        version: its number; None takes the next free one.

    Returns:
        The version's folder.

    Raises:
        InputError: the version exists or cannot be written, the folder's name or place will not
            do, `models.config` cannot be read, or tensorflow-serving-api is not installed.
    """
    folder = check_folder(folder, version)
    read_config(folder.parent / CONFIG_FILE)  # so that its faults are reported now
    predictors = [
        model.build_predictor(_frozen(stream))
        for stream in (network, contour)
        if stream is not None
    ]
    files.ensure_writable(folder.parent)
    files.ensure_writable(folder)
    files.remove_leftovers(folder, older_than=_ABANDONED)
    temporary = folder / f".{secrets.token_hex(4)}.new"  # no number, so no server loads it
    try:
        count = model.objects_of(network)
        ids = ids if ids and count > 1 else range(1, count + 1)
        _save(_signatures(*predictors, threshold=threshold, ids=ids), temporary)
        _write_warmup(temporary / WARMUP_FILE, folder.name)
        write_facts(temporary, model.working_height(network))
        files.flush_to_disk_all(temporary)
        path = publish(temporary, folder, version)
    except tf.errors.OpError as error:
        raise InputError(
            f"Cannot write a version to {folder}: {error.message}. Make room, or name another "
            "folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_configs(folder.parent)
    return path


def _signatures(
    predictor: "keras.Model",
    contour_predictor: "keras.Model | None" = None,
    *,
    threshold: float,
    ids: Sequence[int],
) -> dict[str, tf.types.experimental.GenericFunction]:
    """Returns the SavedModel's functions by signature name."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # The CPU's fused convolutions fail on an empty batch, so it gets a frame for the way.
        count = tf.shape(images)[0]
        images = tf.pad(images, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        probabilities = predictor(images, training=False)[:count]
        outputs = {
            "probabilities": probabilities,
            "masks": _masks(probabilities, threshold, ids),
        }
        if contour_predictor is not None:
            outputs["contours"] = contour_predictor(images, training=False)[:count]
        return outputs

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def encoded(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        masks = serving_default(_decode(image_bytes))["masks"]
        return {"mask_bytes": tf.io.encode_png(masks * 255 if len(ids) == 1 else masks)}

    return {DEFAULT_SIGNATURE: serving_default, ENCODED_SIGNATURE: encoded}


def _masks(probabilities: tf.Tensor, threshold: float, ids: Sequence[int]) -> tf.Tensor:
    """Returns uint8 [batch, height, width, 1]: 0, or the id of the most probable object."""
    if len(ids) == 1:
        return tf.cast(probabilities > threshold, tf.uint8)
    found = tf.reduce_any(probabilities > threshold, axis=-1)
    best = tf.gather(tf.constant(list(ids), tf.uint8), tf.argmax(probabilities, axis=-1))
    return (tf.cast(found, tf.uint8) * best)[..., None]


def _decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """JPEG or PNG, string [batch], all of one size, to uint8 RGB [batch, height, width, 3]."""
    count = tf.shape(image_bytes)[0]
    images = tf.TensorArray(tf.uint8, count, infer_shape=False, element_shape=[None, None, 3])
    size = tf.zeros([3], tf.int32)
    for index in tf.range(count):
        # Reads PNG as well. The default method is faster, and up to 5 grey levels off.
        image = tf.io.decode_jpeg(image_bytes[index], channels=3, dct_method="INTEGER_ACCURATE")
        if index == 0:
            size = tf.shape(image)
        tf.debugging.Assert(
            tf.reduce_all(tf.shape(image) == size),
            [
                "Wanted images of one size in a batch. Image, its size, the first one's:",
                index,
                tf.shape(image),
                size,
            ],
        )
        images = images.write(index, image)
    decoded = tf.zeros([0, 1, 1, 3], tf.uint8) if count == 0 else images.stack()
    return tf.ensure_shape(decoded, [None, None, None, 3])


def _frozen(network: "keras.Model") -> "keras.Model":
    """Returns a float32 copy of the network whose weights no optimiser would touch."""

    def create(next_creator: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
        return next_creator(**{**kwargs, "trainable": False})

    with tf.variable_creator_scope(create):
        return with_precision(network, "float32")


def _save(
    signatures: dict[str, tf.types.experimental.GenericFunction], folder: pathlib.Path
) -> None:
    # The module owns the weights, not the Keras model, which would bring its own endpoints. They
    # stay variables, one copy for both signatures: as constants in the graph they are copied on
    # the way to the kernels, 1.5 GB of memory instead of 0.1 GB for the full VGG16.
    module = tf.Module()
    function = signatures[DEFAULT_SIGNATURE].get_concrete_function()
    module.weights = list(function.variables)
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _write_warmup(path: pathlib.Path, name: str) -> None:
    """Writes one request for each signature, which the server runs before it accepts any."""
    predict, prediction_log, _ = serving_api()
    frames = np.zeros((1, *_WARMUP_SIZE, 3), np.uint8)
    inputs: dict[str, dict[str, np.ndarray | list[bytes]]] = {
        DEFAULT_SIGNATURE: {"images": frames},
        ENCODED_SIGNATURE: {"image_bytes": [tf.io.encode_png(frames[0]).numpy()]},
    }
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, tensors in inputs.items():
            request = predict.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, value in tensors.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())
