"""MATLAB's `.mat` files, version 5: numbers, cells and structs, read within a bound on memory.

SciPy's reader takes memory for what a file says of itself: 200 bytes that claim to be a cell of two
thousand million make it fill 16 GB. Here every size is checked against the bytes that are there.
"""

import math
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_BYTES = 2**28  # of a file, unpacked; ground truth of BSDS500 has 3 MB

_HEADER = 128  # bytes before the first element
_MATRIX, _COMPRESSED = 14, 15  # types of an element
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}  # fmt: skip
_CELL, _STRUCT = 1, 2  # classes of a matrix
_ARRAYS = range(6, 16)  # numbers of all kinds; not: objects, text, sparse matrices, functions
_COMPLEX = 0x800  # flag of a matrix
_DEPTH = 8  # of cells in cells
_MOST_AXES, _MOST_FIELDS, _MOST_MATRICES = 32, 1000, 100_000
_NOTHING = np.zeros((0, 0))


def read(
    path: str | os.PathLike[str], max_bytes: int = MAX_BYTES
) -> dict[str, np.ndarray | list[Any]]:
    """Reads the variables of a file; those that hold neither numbers, cells nor structs are absent.

    Args:
        path: the file.
        max_bytes: limit of its size, unpacked.

    Returns:
        {name: value}. Numbers are an array, of the type in which they are stored; a cell is a
        list of values in column-major order, a struct a list of {field: value}.

    Raises:
        ValueError: no such file, a damaged or a larger one; OSError: it cannot be read at all.
    """
    path = pathlib.Path(path)
    if path.stat().st_size > max_bytes:
        raise _TooLarge(max_bytes)
    content = path.read_bytes()
    if content[124:128] not in (b"\0\1IM", b"\1\0MI"):
        raise ValueError("it is not a MATLAB file of version 5, as `save -v6` and `-v7` write them")
    order = "<" if content[126:128] == b"IM" else ">"
    try:
        return dict(_variables(content, order, max_bytes))
    except (struct.error, zlib.error, IndexError) as error:
        raise ValueError(f"it is damaged or cut short ({error})") from error


class _TooLarge(ValueError):
    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"it is larger than {max_bytes} bytes unpacked, which is the limit")


def _variables(
    content: bytes, order: str, left: int
) -> Iterator[tuple[str, np.ndarray | list[Any]]]:
    """Yields (name, value); `left`: bytes that compressed elements may unpack to."""
    limit, position = left, _HEADER
    while position < len(content):
        kind, length = struct.unpack_from(f"{order}II", content, position)
        element: bytes | memoryview = memoryview(content)[position : position + 8 + length]
        if len(element) < 8 + length:
            raise ValueError("it is cut short")
        if kind == _COMPRESSED:
            element = zlib.decompressobj().decompress(element[8:], left + 1)
            left -= len(element)
            if left < 0:
                raise _TooLarge(limit)
        name, value = _Reader(element, order).matrix()
        if value is not None:
            yield name, value
        position += 8 + length


class _Reader:
    """Walks through the bytes of one variable."""

    def __init__(self, content: bytes | memoryview, order: str) -> None:
        self.content, self.order, self.position = memoryview(content), order, 0
        self.matrices = 0

    def matrix(self, depth: int = 0) -> tuple[str, np.ndarray | list[Any] | None]:
        """Returns (name, value) of the matrix that begins here; the value None for other kinds."""
        kind, length = struct.unpack(f"{self.order}II", self._take(8))
        if kind != _MATRIX or depth > _DEPTH:
            raise ValueError(f"wanted a matrix, found an element of type {kind} at depth {depth}")
        if length == 0:
            return "", _NOTHING
        end = self.position + length
        flags = int(self._array()[0])
        sides = self._array()
        if not 2 <= len(sides) <= _MOST_AXES:
            raise ValueError(f"a matrix of {len(sides)} axes")
        shape = [int(side) for side in sides]
        if min(shape) < 0:
            raise ValueError(f"a matrix of the shape {shape}")
        name = self._array().tobytes().decode()
        value = self._value(flags & 0xFF, bool(flags & _COMPLEX), shape, depth)
        if value is None:
            self.position = end
        return name, value

    def _value(
        self, class_: int, is_complex: bool, shape: list[int], depth: int
    ) -> np.ndarray | list[Any] | None:
        count = math.prod(shape)
        if class_ in _ARRAYS and not is_complex:
            numbers = self._array()
            if len(numbers) != count:
                raise ValueError(f"{len(numbers)} numbers for a matrix of the shape {shape}")
            return numbers.reshape(shape, order="F")
        if class_ == _CELL:
            return self._matrices(count, depth)
        if class_ == _STRUCT:
            width = int(self._array()[0])  # bytes of a field's name
            names = self._array().tobytes()
            if width < 1 or len(names) > _MOST_FIELDS * width:
                raise ValueError(f"a struct with {len(names)} bytes of names {width} long")
            fields = [
                names[first : first + width].partition(b"\0")[0].decode()
                for first in range(0, len(names), width)
            ]
            values = iter(self._matrices(count * len(fields), depth))
            # Without fields there is nothing whose size would bound the number of elements.
            return [
                {field: next(values) for field in fields} for _ in range(count if fields else 0)
            ]
        return None

    def _matrices(self, count: int, depth: int) -> list[Any]:
        left = (len(self.content) - self.position) // 8  # each takes 8 bytes at least
        if count > left:
            raise ValueError(f"a cell or struct of {count} values in {left * 8} bytes")
        self.matrices += count
        if self.matrices > _MOST_MATRICES:
            raise ValueError(f"more than {_MOST_MATRICES} matrices, which is the limit")
        return [self.matrix(depth + 1)[1] for _ in range(count)]

    def _array(self) -> np.ndarray:
        """Returns the numbers of the element that begins here."""
        kind, length = struct.unpack(f"{self.order}II", self._take(8))
        if kind >> 16:  # a short element has both in one word, and its data in the other
            kind, length = kind & 0xFFFF, kind >> 16
            self.position -= 4
            data = self._take(4)[:length]
        else:
            data = self._take(length)
            self.position += -length % 8
        if kind not in _NUMBERS:
            raise ValueError(f"wanted numbers, found an element of type {kind}")
        return np.frombuffer(data, self.order + _NUMBERS[kind])

    def _take(self, length: int) -> memoryview:
        data = self.content[self.position : self.position + length]
        if len(data) < length:
            raise ValueError("it is cut short")
        self.position += length
        return data
