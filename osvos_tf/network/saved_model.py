"""Networks as SavedModels that TensorFlow Serving runs without a line of our code.

A folder such as `saved_models/` holds one folder a model, and that one folder a version, a number.
The server loads the largest and watches for a larger one, so a version must appear at once.

    saved_models/
      models.config         every model here, for --model_config_file
      batching.config       for --batching_parameters_file, should you want batching
      compose.yaml          `docker compose up`: the tensorflow/serving image on this folder
      dog/
        1/                  the SavedModel; in it assets.extra/tf_serving_warmup_requests
"""

import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import Message

from osvos_tf import files
from osvos_tf.errors import InputError, missing_package
from osvos_tf.network import DEFAULT_THRESHOLD, model

if TYPE_CHECKING:
    import keras
# What clients ask for by name.
DEFAULT_SIGNATURE = "serving_default"  # images -> probabilities, masks, and contours if there are
ENCODED_SIGNATURE = "encoded"  # image_bytes -> mask_bytes

CONFIG_FILE = "models.config"
MODELS_ROOT = "/models"  # where the tensorflow/serving image looks for models
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

_ABANDONED = 3600.0  # seconds after which a version that is not finished never will be
_WARMUP_SIZE = (480, 854)  # height and width of DAVIS's frames
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # what needs no escaping in a URL and in models.config

# What counts in the text form of a message: comments and strings may hold braces.
_TOKEN = r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\w+|[{}<>[]"""
_CONFIG = """\
# The models of this folder, for tensorflow_model_server --model_config_file. An export adds its
# model and leaves the rest as it is, but for models that have been removed.
"""
_NO_MODELS = "model_config_list {\n}\n"
_BATCHING = """\
# Batching merges the requests of many clients into one run of the network. Turn it on with
#   --enable_batching --batching_parameters_file=/models/batching.config
# only where all clients send frames of one size: requests of different sizes that meet in a batch
# fail together.
max_batch_size { value: 256 }  # frames; a request with more is refused
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 8 }  # frames in one run, which bounds the memory
batch_timeout_micros { value: 5000 }  # how long a frame waits for company
max_enqueued_batches { value: 64 }  # beyond these the answer is UNAVAILABLE; clients try again
num_batch_threads { value: 2 }  # runs side by side: without a GPU, the number of cores
"""
_COMPOSE = """\
# TensorFlow Serving on this folder: `docker compose up`. gRPC on port 8500, REST on 8501.
services:
  tensorflow-serving:
    # With an NVIDIA GPU: 2.20.0-gpu, and `gpus: all` below it.
    image: tensorflow/serving:2.20.0
    command:
      - --model_config_file=/models/models.config
      - --model_config_file_poll_wait_seconds=60 # new models without a restart
      # Many clients that all send frames of one size (see batching.config):
      # - --enable_batching
      # - --batching_parameters_file=/models/batching.config
    ports:
      - "8500:8500"
      - "8501:8501"
    volumes:
      - .:/models:ro
    restart: unless-stopped
"""


def export_saved_model(
    network: "keras.Model",
    folder: str | os.PathLike[str],
    *,
    contour: "keras.Model | None" = None,
    threshold: float = DEFAULT_THRESHOLD,
    version: int | None = None,
) -> pathlib.Path:
    """Writes a network as the next version of a served model, whole or not at all.

    The SavedModel has two signatures, each for any frame size and any number of frames:

      * `serving_default`: `images` uint8 RGB [batch, height, width, 3] -> `probabilities` float32
        and `masks` uint8 0/1, both [batch, height, width, 1]; with a contour network also
        `contours` float32 of that shape, the probability of an edge.
      * `encoded`: `image_bytes` string [batch], JPEG or PNG, all of one size -> `mask_bytes` string
        [batch], PNG 0/255. Decoding is exact (as Pillow's), an EXIF orientation is not applied.

    Beside the model's folder lie `models.config`, to which the model is added, and, unless they
    exist, `batching.config` and `compose.yaml`.

    Args:
        network: the foreground network, of `model.build_foreground` or `model.load_model`.
        folder: the model's folder, `saved_models/NAME`; NAME is what clients ask for.
        contour: a contour network, which makes the export two-stream. Masks stay the foreground's:
            snapping is not part of the SavedModel.
        threshold: a pixel is object where its probability is above this.
        version: its number; None takes the next free one.

    Returns:
        The version's folder, a `pathlib.Path`.

    Raises:
        InputError: the version exists, the folder's name or place will not do, `models.config` is
            there and cannot be read, the version cannot be written, or tensorflow-serving-api is
            not installed.
    """
    folder = check_folder(folder, version)
    _read_config(folder.parent / CONFIG_FILE)  # so that what is wrong with it is told now
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
        _save(_signatures(*predictors, threshold=threshold), temporary)
        _write_warmup(temporary / WARMUP_FILE, folder.name)
        files.flush_to_disk_all(temporary)
        path = _publish(temporary, folder, version)
    except tf.errors.OpError as error:
        raise InputError(
            f"Cannot write a version to {folder}: {error.message}. Make room, or name another "
            "folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _write_configs(folder.parent)
    return path


def check_folder(folder: str | os.PathLike[str], version: int | None = None) -> pathlib.Path:
    """Returns the absolute `pathlib.Path` of a model's folder that can take another version.

    Args:
        folder: `saved_models/NAME`; need not exist.
        version: the number that the next version shall have, None for any.

    Raises:
        InputError: it cannot.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    if not re.fullmatch(_NAME, folder.name) or folder.name.isdigit():
        raise InputError(
            f"The folder's name is the model's, which clients put into a URL: wanted letters, "
            f"digits, '_', '-' and '.', not all digits, such as saved_models/dog. Got {folder}."
        )
    if (folder / CONFIG_FILE).exists():
        raise InputError(
            f"{folder} holds models itself (there is a {CONFIG_FILE} in it). Name a folder for "
            f"this one: {folder / 'NAME'}."
        )
    if version is not None and not 0 < version < 2**63:
        raise InputError(f"A version is a number from 1 to 2^63 - 1. Received: {version}.")
    if version in _versions(folder):
        raise InputError(_taken(folder, version))
    return folder


def _signatures(
    predictor: "keras.Model", contour_predictor: "keras.Model | None" = None, *, threshold: float
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
            "masks": tf.cast(probabilities > threshold, tf.uint8),
        }
        if contour_predictor is not None:
            outputs["contours"] = contour_predictor(images, training=False)[:count]
        return outputs

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def encoded(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        masks = serving_default(_decode(image_bytes))["masks"]
        return {"mask_bytes": tf.io.encode_png(masks * 255)}

    return {DEFAULT_SIGNATURE: serving_default, ENCODED_SIGNATURE: encoded}


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
        return model.with_precision(network, "float32")


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
    """Writes one request a signature, which the server runs before it takes any."""
    predict, prediction_log, _ = _serving_api()
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


def _publish(temporary: pathlib.Path, folder: pathlib.Path, version: int | None) -> pathlib.Path:
    """Renames the finished SavedModel to its number; returns the final path."""
    while True:
        path = folder / str(version or max(_versions(folder), default=0) + 1)
        try:
            os.rename(temporary, path)
            return path
        except OSError:
            if not path.exists():
                raise
            if version is not None:
                raise InputError(_taken(folder, version)) from None
            # Another export took the number first: look again.


def _versions(folder: pathlib.Path) -> set[int]:
    """Returns the numbers that a server would find in a model's folder."""
    if not folder.is_dir():
        return set()
    return {int(path.name) for path in folder.iterdir() if re.fullmatch(r"[0-9]+", path.name)}


def _taken(folder: pathlib.Path, version: int | None) -> str:
    return (
        f"Version {version} of {folder} exists. A server may be using it, so it is not replaced: "
        "leave `version` out to take the next number."
    )


def _read_config(path: pathlib.Path) -> Message:
    """Returns the ModelServerConfig at `path`, an empty one where there is none."""
    config = _serving_api()[-1].ModelServerConfig()
    if not path.is_file():
        return config
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no ModelServerConfig in text form: {error}. Mend it, or remove it to have "
            "it written again."
        ) from error
    if config.WhichOneof("config") == "custom_model_config":
        raise InputError(
            f"{path} is a custom_model_config, to which no model can be added. Name another folder."
        )
    return config


def _write_configs(root: pathlib.Path) -> None:
    """Writes the files beside the models, or adds to `models.config` what it lacks.

    That one is edited as text: comments and settings in it are its owner's.
    """
    path = root / CONFIG_FILE
    config = _read_config(path)
    listed = {entry.name for entry in config.model_config_list.config}
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    text = before or _CONFIG
    if not config.HasField("model_config_list"):
        text = f"{text.rstrip()}\n{_NO_MODELS}"
    for start, end in reversed(_find_entries(text)[0]):
        (entry,) = text_format.Parse(text[start:end], _models()).config
        if entry == _entry(entry.name).config[0] and not _versions(root / entry.name):
            text = text[:start].rstrip() + text[end:]
    for folder in sorted(root.iterdir()):
        if folder.name not in listed and _versions(folder):
            end = _find_entries(text)[1]
            added = text_format.MessageToString(_entry(folder.name), indent=2)
            text = f"{text[:end].rstrip()}\n{added}{text[end:]}"
    for name, content in (
        (CONFIG_FILE, text),
        ("batching.config", _BATCHING),
        ("compose.yaml", _COMPOSE),
    ):
        if not (root / name).exists() or (name == CONFIG_FILE and text != before):
            with files.atomic_path(root / name) as temporary:
                temporary.write_text(content, encoding="utf-8")


def _find_entries(text: str) -> tuple[list[tuple[int, int]], int]:
    """Returns where the entries of a `models.config` lie, as (start, end), and their list's end."""
    entries: list[tuple[int, int]] = []
    depth = start = word = end = 0
    has_brackets = False
    for token in re.finditer(_TOKEN, text, re.DOTALL):
        if token[0] in ("{", "<"):
            depth += 1
            if depth == 2:
                start = word
        elif token[0] in ("}", ">"):
            depth -= 1
            if depth == 1:
                entries.append((start, token.end()))
            elif depth == 0:
                end = token.start()
        elif depth == 1:
            word = token.start()
            has_brackets |= token[0] == "["  # config: [{...}, {...}], where none can just go
    return [] if has_brackets else entries, end


def _models() -> Message:
    return _serving_api()[-1].ModelServerConfig().model_config_list


def _entry(name: str) -> Message:
    """Returns the list of one model that has no settings of its own."""
    models = _models()
    models.config.add(name=name, base_path=f"{MODELS_ROOT}/{name}", model_platform="tensorflow")
    return models


def _serving_api() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Imports and returns the modules predict, prediction_log and model_server_config."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
        from tensorflow_serving.config import model_server_config_pb2
    except ImportError as error:
        raise missing_package("An export for TensorFlow Serving", "serving", error) from error
    return predict_pb2, prediction_log_pb2, model_server_config_pb2
