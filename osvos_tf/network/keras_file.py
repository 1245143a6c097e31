"""What a `.keras` file may hold, checked before Keras opens it.

A `.keras` file is a zip archive: `config.json` says which classes to build, from which Python
modules and with which arguments, and `model.weights.h5` brings the numbers. Keras builds what the
first names, and that can be any code; so only what this package writes itself is allowed.
"""

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import h5py

from osvos_tf.errors import InputError

# Most bytes of each member, unpacked. VGG16 at full width has 60 MB of weights.
MEMBERS = {"metadata.json": 2**16, "config.json": 2**20, "model.weights.h5": 2**31}
MAX_WEIGHTS = 2**29  # numbers
_BESIDE = 2**20  # numbers beside kernels: biases, and what Keras 2 keeps of an optimizer
MAX_HEIGHT = 2**13  # pixels of `working_height`
MAX_OBJECTS = 254  # ids of a mask but for 0, background, and 255, void

_OURS = ("osvos_tf.network.layers", "osvos_tf.layers")  # the latter up to version 0.1
_KERAS_LAYERS, _INITIALISERS = ("keras.layers",), ("keras.initializers",)
# Class -> modules that it may come from; the second name of a pair is Keras 2's.
_CLASSES: dict[str, tuple[str | None, ...]] = {
    "InputLayer": _KERAS_LAYERS,
    "Conv2D": _KERAS_LAYERS,
    "MaxPooling2D": _KERAS_LAYERS,
    "Preprocess": _OURS,
    "Upsample": _OURS,
    "Fuse": _OURS,
    "HeNormal": _INITIALISERS,
    "RandomNormal": _INITIALISERS,
    "Zeros": _INITIALISERS,
    "DTypePolicy": ("keras",),
    "Policy": ("keras.mixed_precision",),
    "__keras_tensor__": (None,),  # an argument of a layer: the output of another one
}
_NETWORK = ("keras.src.models.functional", "keras.src.engine.functional")
_MOST_LAYERS, _MOST_OBJECTS = 100, 10_000


def check(path: str | os.PathLike[str]) -> None:
    """Raises InputError unless the file has the form of a network of this package.

    No class is built and no array is read. Rejects foreign classes and modules (so Lambda
    layers and functions), members and arrays of more than the limits above, and weights that lie
    in other files.

    Args:
        path: a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
            most = _check_config(json.loads(_read(archive, "config.json")))
            with h5py.File(io.BytesIO(_read(archive, "model.weights.h5")), "r") as weights:
                check_arrays(weights, most)
    except Refused as refused:
        raise InputError(
            f"{path} is refused: {refused}. Wanted a .keras file that this package wrote; its "
            "limits are in SECURITY.md."
        ) from refused
    except Exception as error:  # a damaged file fails in many ways inside zipfile and HDF5
        raise InputError(
            f"{path} is damaged: {_first_line(error)}. Wanted a .keras file, such as "
            "parent.keras; copy it again, or train again."
        ) from error


def colour_scale(path: str | os.PathLike[str]) -> float | None:
    """Returns the factor by which a network scales colours; None where no file says."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
            config = json.loads(_read(archive, "config.json"))
            _check_config(config)
        layers = {layer["name"]: layer["config"] for layer in config["config"]["layers"]}
        return float(layers["preprocess"]["scale"])
    except Exception:  # loading the network says what is wrong with it
        return None


class Refused(ValueError):
    """The file is readable, but holds something that is not allowed."""


def _check_members(archive: zipfile.ZipFile) -> None:
    members = {member.filename: member.file_size for member in archive.infolist()}
    if set(members) != set(MEMBERS) or len(members) != len(archive.infolist()):
        raise Refused(f"it holds the members {_list(members)}, wanted {_list(MEMBERS)}, each once")
    for member in archive.infolist():
        size, most = member.file_size, MEMBERS[member.filename]
        if size > most:
            raise Refused(f"{member.filename} unpacks to {size} bytes, the limit is {most}")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(f"{member.filename} is packed in a way that Keras does not use")


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns a member of a checked archive; what unpacks to more than it claims is damaged."""
    with archive.open(name) as file:
        return file.read(archive.getinfo(name).file_size + 1)


def _check_config(config: Any) -> int:
    """Checks a network's description; returns the most numbers that its weights can be."""
    if not isinstance(config, dict) or config.get("class_name") != "Functional":
        raise Refused("it does not hold a functional model")
    _check_origin(config, _NETWORK)
    layers = config["config"]["layers"]
    if len(layers) > _MOST_LAYERS:
        raise Refused(f"it has {len(layers)} layers, the limit is {_MOST_LAYERS}")
    waiting = [{**config, "class_name": None}]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("class_name") is not None:
                _check_class(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    for layer in layers:
        _check_values(layer["class_name"], layer["config"])
    convolutions = [layer["config"] for layer in layers if layer["class_name"] == "Conv2D"]
    # What goes into a layer is no wider than the widest layer.
    widest = max((layer["filters"] for layer in convolutions), default=0)
    weights = sum(
        math.prod(layer["kernel_size"]) * widest * layer["filters"] for layer in convolutions
    )
    if weights > MAX_WEIGHTS:
        raise Refused(f"it has up to {weights} weights, the limit is {MAX_WEIGHTS}")
    return weights + _BESIDE


def _check_class(value: dict[str, Any]) -> None:
    name = value["class_name"]
    if name not in _CLASSES:
        raise Refused(f"it holds the class {name!r}, which none of our networks has")
    _check_origin(value, _CLASSES[name])


def _check_origin(value: dict[str, Any], modules: Sequence[str | None]) -> None:
    name, module = value["class_name"], value.get("module")
    registered = value.get("registered_name")
    if module not in modules or registered not in (None, name, f"osvos_tf>{name}"):
        raise Refused(f"its class {name!r} comes from {module!r} ({registered!r})")


def _check_values(class_name: str, values: Mapping[str, Any]) -> None:
    """Rejects settings that would make a huge array, or that our code does not expect."""
    for key, is_good in _SETTINGS.get(class_name, {}).items():
        value = values[key] if key in values else _SILENT[key]
        if not is_good(value):
            raise Refused(f"{key} of a {class_name} is {value!r}")


def _is_whole(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_height(value: Any) -> bool:
    return value is None or _is_whole(value, MAX_HEIGHT)


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


# Layer -> argument -> whether its value is one of ours. Of the others none makes anything large.
_SETTINGS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "Preprocess": {"scale": _is_scale, "working_height": _is_height},
    "Conv2D": {
        "filters": lambda value: _is_whole(value, MAX_WEIGHTS),
        "kernel_size": _is_one_of([1, 1], [3, 3]),
        "strides": _is_one_of([1, 1]),
        "dilation_rate": _is_one_of([1, 1]),
        "activation": _is_one_of("relu", "linear"),
    },
    "MaxPooling2D": {"pool_size": _is_one_of([2, 2]), "strides": _is_one_of([2, 2])},
    "Upsample": {"stride": _is_one_of(2, 4, 8, 16)},
    "Fuse": {
        "strides": _is_one_of([2, 4, 8, 16]),
        "objects": lambda value: _is_whole(value, MAX_OBJECTS),
    },
}
# What files of before an argument was there do not say.
_SILENT = {"objects": 1}


def check_arrays(file: h5py.File, most: int = MAX_WEIGHTS) -> None:
    """Walks all links of an HDF5 file; allows only plain arrays that lie in it.

    Args:
        file: any HDF5 file.
        most: numbers in all of them.

    Raises:
        Refused: it holds something else.
    """
    numbers, waiting = 0, [file]
    seen: set[int] = set()  # addresses in the file
    while waiting:
        group = waiting.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Refused(f"its weights {name!r} are a link to elsewhere")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                raise Refused(f"its weights are more than {_MOST_OBJECTS} objects")
            if isinstance(item, h5py.Group):
                waiting.append(item)
                continue
            if item.is_virtual or item.external or item.dtype.kind not in "fiu":
                raise Refused(f"its weights {name!r} are not a plain array of numbers")
            numbers += item.size
            if numbers > most:
                raise Refused(f"its weights are more than {most} numbers")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:8]) or "none"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
