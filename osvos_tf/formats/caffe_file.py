"""Caffe models (`.caffemodel`): the layers' blobs, read without Caffe and without protobuf.

The file is one protobuf message, and little of it is wanted:

    NetParameter     layers = 2 (V1LayerParameter), layer = 100 (LayerParameter)
    LayerParameter   name = 1, blobs = 7;  V1LayerParameter  name = 4, blobs = 6
    BlobProto        num, channels, height, width = 1 ... 4, data = 5, shape = 7, double_data = 8
    BlobShape        dim = 1
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_LAYERS = {100: (1, 7), 2: (4, 6)}  # field of NetParameter -> fields of the layer: name, blobs
_LEGACY_AXES = (1, 2, 3, 4)
_DATA: dict[int, np.dtype] = {5: np.dtype("<f4"), 8: np.dtype("<f8")}
_SHAPE, _DIM = 7, 1
# Wire types of protobuf.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LARGEST_VARINT = 10  # bytes


@dataclasses.dataclass(frozen=True)
class Blob:
    """One blob of a file; `np.asarray` reads it."""

    shape: tuple[int, ...]
    message: memoryview

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Reads the blob's numbers, as single or double precision."""
        data = {number: bytearray() for number in _DATA}
        for number, _, value in _fields(self.message):
            if number in data and not isinstance(value, int):
                data[number] += value
        number = next((number for number in data if data[number]), 5)
        try:
            values = np.frombuffer(data[number], _DATA[number]).reshape(self.shape)
        except ValueError:
            raise ValueError(
                f"a blob of shape {self.shape} with {len(data[number])} bytes of numbers"
            ) from None
        return values if dtype is None else values.astype(dtype)


def read_blobs(content: memoryview) -> dict[str, list[Blob]]:
    """Finds the blobs of all layers that have any: for a convolution kernel and bias.

    Args:
        content: the whole file, best a memory map: numbers are read when a blob is.

    Raises:
        ValueError: not a protobuf message, a truncated one, or one without blobs.
    """
    layers: dict[str, list[Blob]] = {}
    for number, value in _parts(content):
        if number not in _LAYERS:
            continue
        name, blobs = _layer(value, *_LAYERS[number])
        if blobs and name in layers:
            raise ValueError(f"two layers called {name!r}")
        if blobs:
            layers[name] = blobs
    if not layers:
        raise ValueError("no layer with weights in it")
    return layers


def _layer(message: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[Blob]]:
    name, blobs = "", []
    for number, value in _parts(message):
        if number == name_field:
            name = bytes(value).decode("utf-8")
        elif number == blobs_field:
            blobs.append(Blob(_shape(value), value))
    return name, blobs


def _shape(message: memoryview) -> tuple[int, ...]:
    """Returns a blob's shape; in the legacy form a bias is 1 x 1 x 1 x n, and here (n,)."""
    shape, legacy = None, dict.fromkeys(_LEGACY_AXES, 1)
    for number, wire, value in _fields(message):
        if isinstance(value, int):
            if number in legacy:
                legacy[number] = value
        elif number == _SHAPE and wire == _BYTES:
            dims = [_ints(dim) for field, _, dim in _fields(value) if field == _DIM]
            shape = list(itertools.chain.from_iterable(dims))
    if shape is None:
        shape = [legacy[axis] for axis in _LEGACY_AXES]
        if shape[:3] == [1, 1, 1]:
            shape = shape[3:]
    if len(shape) > 32 or any(n >= 1 << 31 for n in shape):
        raise ValueError("a blob with a shape that Caffe does not allow")
    return tuple(shape)


def _ints(value: int | memoryview) -> Iterator[int]:
    """Yields the numbers of a repeated integer field, packed or not."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields the fields of a message that hold texts or messages, as (number, value)."""
    for number, wire, value in _fields(message):
        if wire == _BYTES and not isinstance(value, int):
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yields a message's fields as (number, wire type, value); a value of bytes is a view."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise ValueError(f"not a protobuf message: wire type {wire}")
        if not number or at + size > len(message):
            raise ValueError(
                f"not a protobuf message, or a truncated one: field {number} should have {size} "
                f"bytes, {len(message) - at} are left"
            )
        yield number, wire, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Returns the number that starts at a position, and the position after it."""
    number = 0
    for index, byte in enumerate(message[at : at + _LARGEST_VARINT]):
        number |= (byte & 127) << (7 * index)
        if byte < 128:
            return number, at + index + 1
    raise ValueError("not a protobuf message, or a truncated one: a number that never ends")
