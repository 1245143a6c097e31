"""Saves and loads networks as `.keras` files."""

import io
import json
import os
import pathlib
import zipfile
from typing import Any

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import h5py
import keras
import numpy as np
import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path
from osvos_tf.network import keras_file
from osvos_tf.network.model import FROM_FILE, OUTPUTS, VGG_BLOCKS, Seeds, build_graph

# Keras 2, once it has saved in a thread, writes the next `.keras` there as HDF5 unless told not to.
_KERAS2_SAVE_OPTIONS = {"save_format": "keras_v3"} if keras.__version__ < "3" else {}
# Settings of layers that make the function what it is.
_COMPARED_SETTINGS = (
    "filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "activation",
    "use_bias", "pool_size", "stride", "scale", "working_height", "crop",
)  # fmt: skip
_WEIGHTS, _METADATA = "model.weights.h5", "metadata.json"  # in a .keras file
_HALF = "float16"
# Of numbers with few bits, all first bytes lie together and so do all second ones, nearly empty.
_KEPT_BITS = 3
_PACKING = {"shuffle": True, "compression": "gzip", "compression_opts": 9}
_PROBE_SIZE = (17, 19)  # height and width of the frame that a loaded network must take


def save_model(
    model: keras.Model, path: str | os.PathLike[str], *, storage: str = "float32"
) -> None:
    """Writes the model to a `.keras` file, whole or not at all.

    Args:
        model: a network of this module.
        path: the `.keras` file.
        storage: type of the weights in the file: "float32"; "float16", which halves it at the cost
            of the last bits; or "packed", which makes it a quarter: kernels then keep 4 significant
            bits, which is 6 % at most. They are float32 again when the file is loaded.

    Raises:
        InputError: it cannot be written; HDF5 has its own words for a full disk.
    """
    try:
        with atomic_path(path) as temporary:
            model.save(temporary, **_KERAS2_SAVE_OPTIONS)
            _repack(temporary, storage)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Cannot write {path}: {reason}. Make room, or name another folder."
        ) from error


def _repack(path: pathlib.Path, storage: str) -> None:
    """Rewrites a `.keras` file, an HDF5 file in a zip archive, without what differs by chance.

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


def _round(array: np.ndarray) -> np.ndarray:
    """Returns float16 numbers with `_KEPT_BITS` of the ten bits behind the leading one."""
    dropped = 10 - _KEPT_BITS
    bits = array.view(np.uint16).astype(np.uint32) + (1 << dropped - 1)  # to the nearest
    return (bits >> dropped << dropped).astype(np.uint16).view(np.float16)


def _recode(weights: bytes, storage: str) -> bytes:
    """Returns an HDF5 file with all arrays in float16, or packed; see `save_model`."""
    recoded = io.BytesIO()
    with h5py.File(io.BytesIO(weights), "r") as source, h5py.File(recoded, "w") as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                array = item[()]
                if storage == "packed" and array.ndim > 1:
                    few = _round(array.astype(np.float16))
                    item = target.create_dataset(name, data=few, chunks=True, **_PACKING)
                else:
                    item = target.create_dataset(name, data=array.astype(_HALF))
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
            f"{path} is not a .keras file (a zip archive with that suffix). Train or import one."
        )
    keras_file.check(path)
    try:
        model = _rebuild(path) or keras.models.load_model(path, compile=False, safe_mode=True)
        outputs = model(tf.zeros([1, *_PROBE_SIZE, 3], tf.uint8))
        shapes = {name: tuple(logits.shape) for name, logits in outputs.items()}
    except Exception as error:  # a graph that does not fit together fails anywhere inside Keras
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be loaded as a Keras model: {reason}") from error
    for layer in model.layers:
        if not all(np.isfinite(array).all() for array in layer.get_weights()):
            raise InputError(f"{path} is damaged: weights of {layer.name} are not finite numbers.")
    objects = next(iter(shapes.values()), (0,))[-1]
    if shapes != dict.fromkeys(OUTPUTS, (1, *_PROBE_SIZE, objects)):
        raise InputError(
            f"{path} is a Keras model, but not an OSVOS network: wanted the outputs "
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
        The network, or None where the file describes another than `build_graph` builds, or does
        not say which layer the weights belong to (as Keras 2's): then Keras must read it.
    """
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))["config"]
        weights = archive.read(_WEIGHTS)
    found = {layer["name"]: layer["config"] for layer in config["layers"]}
    try:
        channels = [
            found[f"block{stage}_conv1"]["filters"] for stage, _ in enumerate(VGG_BLOCKS, start=1)
        ]
        settings = {**FROM_FILE, "scale": found["preprocess"]["scale"]}
        crop, objects = found["fused"]["crop"], found["fused"].get("objects", 1)
    except KeyError:
        return None
    network = build_graph(config["name"], crop, channels, settings, Seeds(None), objects=objects)
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
            {key: layer["config"].get(key) for key in _COMPARED_SETTINGS},
        )
        for layer in config["layers"]
    }
