"""Files of weights that other programs wrote: which kind one is, and the arrays in it by name.

The kind is told by the content; a name may be anything. What comes back is a dict from the name
that an array has in the file to something with a `shape`, which `np.asarray` reads: so shapes can
be checked before anything is allocated.
"""

import contextlib
import dataclasses
import mmap
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.formats import caffe_file, matlab, safe_pickle, torch_file
from osvos_tf.network import keras_file

KINDS = {
    "keras": "a .keras model",
    "hdf5": "an HDF5 file",
    "checkpoint": "a TensorFlow checkpoint",
    "npy": "a NumPy file",
    "torch": "a PyTorch file",
    "mat": "a MATLAB file",
    "caffe": "a Caffe model",
}
_DAMAGES = (
    ValueError,
    OSError,  # h5py
    RuntimeError,  # zipfile, h5py
    zipfile.BadZipFile,
    tf.errors.OpError,
    IndexError,  # TensorFlow, where a checkpoint ends too early
)
_CHECKPOINT_PARTS = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_TABLE_END = bytes.fromhex("57fb808b247547db")  # of a checkpoint's index, or of a whole V1 one
_NPY_START = b"\x93NUMPY"
_MATLAB_MARKS = (b"\x00\x01IM", b"\x01\x00MI")  # version 5, at byte 124


def recognise(path: str | os.PathLike[str]) -> str:
    """Returns a file's kind, one of `KINDS`.

    Args:
        path: the file; a TensorFlow checkpoint by its prefix, or by any of its files.

    Raises:
        InputError: no such file, or of none of the kinds.
    """
    path = pathlib.Path(path)
    if _checkpoint_prefix(path) is not None:
        return "checkpoint"
    if not path.is_file():
        raise InputError(
            f"No file {path}. Wanted a file of weights, or the prefix of a TensorFlow checkpoint "
            f"(the part of its files' names before .index)."
        )
    if h5py.is_hdf5(path):
        return "hdf5"
    with open(path, "rb") as file:
        start = file.read(128)
    if start.startswith(_NPY_START):
        return "npy"
    if start[124:128] in _MATLAB_MARKS:
        return "mat"
    if start.startswith(b"PK") or zipfile.is_zipfile(path):
        return _zip_kind(path)
    if torch_file.is_torch_file(path):
        return "torch"
    try:
        caffe_file.read_blobs(_mapped(path))
    except ValueError as error:
        raise InputError(
            f"{path} is not a .keras file, nor any other file of weights that is read here: "
            f"{', '.join(KINDS.values())}. (Caffe models have no mark of their own; read as one "
            f"it is {error}.)"
        ) from error
    return "caffe"


@contextlib.contextmanager
def open_arrays(path: str | os.PathLike[str], kind: str) -> Iterator[dict[str, Any]]:
    """Opens a file of weights.

    Args:
        path: as in `recognise`.
        kind: what `recognise` said, not "keras".

    Yields:
        The arrays by their name in the file, to be read before the end of the `with`. Where a
        layer has a list of arrays, their names are "<layer>/0" (kernel) and "<layer>/1" (bias).

    Raises:
        InputError: damaged, or other things than arrays in it; also where an array is read.
    """
    try:
        with _OPENERS[kind](pathlib.Path(path)) as arrays:
            yield arrays
    except InputError:
        raise
    except _DAMAGES as error:
        raise InputError(
            f"{path} cannot be read as {KINDS[kind]}: {error}. Is it damaged or incomplete?"
        ) from error


@contextlib.contextmanager
def _open_checkpoint(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    prefix = _checkpoint_prefix(path)
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    yield {name: _Variable(reader, name, tuple(shape)) for name, shape in shapes.items()}


@dataclasses.dataclass(frozen=True)
class _Variable:
    """One variable of a checkpoint."""

    reader: Any
    name: str
    shape: tuple[int, ...]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        value = self.reader.get_tensor(self.name)
        return value if dtype is None else value.astype(dtype)


@contextlib.contextmanager
def _open_hdf5(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Keras's layout: lists of the layers' and of their weights' names, a group a layer."""
    with h5py.File(path, "r") as file:
        keras_file.check_arrays(file)
        root = file.get("model_weights", file)
        arrays: dict[str, Any] = {}
        for layer in map(_text, root.attrs.get("layer_names", ())):
            names = map(_text, root[layer].attrs.get("weight_names", ()))
            arrays |= {f"{layer}/{index}": root[layer][name] for index, name in enumerate(names)}
        if not arrays:
            raise ValueError("no layer_names, by which Keras tells what is in it")
        yield arrays


@contextlib.contextmanager
def _open_npy(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """A dict of arrays, pickled as NumPy does for an object that is no array."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            _, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            _, _, dtype = np.lib.format.read_array_header_2_0(file)
        if not dtype.hasobject:
            raise ValueError(f"one array of {dtype}, and no dict of arrays")
        content = safe_pickle.load(file.read(), _NUMPY)
    content = content.value if isinstance(content, _PickledArray) else content
    if not isinstance(content, dict) or not all(
        isinstance(value, _PickledArray) and isinstance(value.value, np.ndarray)
        for value in content.values()
    ):
        raise ValueError("no dict of arrays")
    yield {str(name): array.value for name, array in content.items()}


@dataclasses.dataclass
class _PickledType:
    """NumPy's dtype in a pickle: its code now, its byte order in a second step."""

    code: str
    order: str = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _PickledArray:
    """NumPy's array in a pickle: `value` is an array, or the one object in an array of objects."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, data = state
        if dtype.code.startswith("O"):
            if shape != ():
                raise ValueError(f"an array of objects of shape {safe_pickle.shown(shape)}")
            (self.value,) = data
            return
        if not re.fullmatch("[fiu][1248]", dtype.code):
            raise ValueError(f"an array of type {safe_pickle.shown(dtype.code)}")
        dtype = np.dtype(dtype.code).newbyteorder(dtype.order)
        data = data.encode("latin-1") if isinstance(data, str) else data
        values = np.frombuffer(data, dtype)
        self.value = values.reshape(shape, order="F" if column_major else "C")


_NUMPY: dict[str, Any] = {
    "numpy.dtype": lambda code, *_: _PickledType(code),
    "numpy.ndarray": None,  # named as a class to be made, but never called
    "numpy.core.multiarray._reconstruct": lambda *_: _PickledArray(),
    "numpy._core.multiarray._reconstruct": lambda *_: _PickledArray(),
    "_codecs.encode": lambda text, code: text.encode("latin-1"),  # bytes, by Python 3
}


@contextlib.contextmanager
def _open_mat(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Cells of arrays: "<variable>/<number>". A bias [n, 1] is a vector here."""
    yield {
        f"{name}/{index}": value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value
        for name, cell in matlab.read(path).items()
        if isinstance(cell, list)
        for index, value in enumerate(cell)
        if isinstance(value, np.ndarray)
    }


@contextlib.contextmanager
def _open_caffe(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    layers = caffe_file.read_blobs(_mapped(path))
    yield {
        f"{layer}/{index}": blob
        for layer, blobs in layers.items()
        for index, blob in enumerate(blobs)
    }


_OPENERS: dict[str, Callable[[pathlib.Path], contextlib.AbstractContextManager[dict[str, Any]]]] = {
    "hdf5": _open_hdf5,
    "checkpoint": _open_checkpoint,
    "npy": _open_npy,
    "torch": torch_file.open_tensors,
    "mat": _open_mat,
    "caffe": _open_caffe,
}


def _checkpoint_prefix(path: pathlib.Path) -> str | None:
    """Returns the name by which TensorFlow opens a checkpoint, None for other files."""
    prefix = _CHECKPOINT_PARTS.sub("", str(path))
    if pathlib.Path(f"{prefix}.index").is_file():
        return prefix
    if prefix != str(path):
        raise InputError(
            f"{path} is a part of a TensorFlow checkpoint, but there is no {prefix}.index beside "
            "it. Wanted both that and the .data files."
        )
    if path.is_file():
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - len(_TABLE_END)))
            if file.read() == _TABLE_END:
                return prefix
    return None


def _zip_kind(path: pathlib.Path) -> str:
    try:
        if torch_file.is_torch_file(path):
            return "torch"
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, RuntimeError, ValueError) as error:
        raise InputError(f"{path} is a damaged zip archive: {error}.") from error
    if "config.json" in names:
        return "keras"
    raise InputError(
        f"{path} is a zip archive of other files ({', '.join(names[:5])}). Unpack it, and name the "
        "file of weights in it."
    )


def _mapped(path: pathlib.Path) -> memoryview:
    """Returns a file's content without reading it."""
    if not path.stat().st_size:
        raise ValueError("empty")
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _text(name: str | bytes) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)
