"""Arrays as bytes of `TensorProto`s and back, as TF Serving writes them: values in typed fields.

Protobuf for Python takes a value at a time there, which is a hundred times slower than a copy.
Packed on the wire, though, floating-point numbers and small integers are the array's own bytes (see
https://protobuf.dev/programming-guides/encoding/), and messages are read and written by a copy.
"""

import functools

import numpy as np
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2

_PACKED = 2  # a field's wire type: a length, then so many bytes
_ONE_BYTE = 128  # integers below it are one byte on the wire
# Type -> the field that holds its values.
_FIELDS = {
    **dict.fromkeys(("int8", "uint8", "int16", "uint16", "int32"), "int_val"),
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "string": "string_val",
}


def encode(array: np.ndarray, *, as_content: bool = False) -> bytes:
    """Returns an array as the bytes of a `TensorProto`.

    Args:
        array: numbers, bool, or `bytes` objects.
        as_content: numbers as bytes in `tensor_content`, which some clients read faster and others
            do not read.
    """
    kind = tf.dtypes.as_dtype(array.dtype if array.dtype != object else tf.string)
    field = _FIELDS.get(kind.name)
    if field is None or (as_content and kind != tf.string):
        return tf.make_tensor_proto(array).SerializeToString()
    proto = tensor_pb2.TensorProto(dtype=kind.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    raw = _packed(array)
    if raw is None:
        getattr(proto, field).extend(array.ravel().tolist())
    head = proto.SerializeToString()
    return b"".join((head, header(_number(field), len(raw)), raw)) if raw else head


def to_array(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Returns a message as an array, strings as `bytes` objects.

    Raises:
        TypeError, ValueError: it is none.
    """
    dtype = np.dtype(tf.dtypes.as_dtype(proto.dtype).as_numpy_dtype)
    field = _FIELDS.get(tf.dtypes.as_dtype(proto.dtype).name)
    if proto.tensor_content or field is None or dtype.hasobject:
        return tf.make_ndarray(proto)
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    count = len(getattr(proto, field))
    if count < 2 or count != np.prod(shape, dtype=np.int64):  # one value may stand for all
        return tf.make_ndarray(proto)
    size = dtype.itemsize if dtype.kind == "f" else 1
    message = proto.SerializePartialToString()
    head = header(_number(field), count * size)
    start = len(message) - count * size
    if message[start - len(head) : start] != head:  # values of more than a byte
        return tf.make_ndarray(proto)
    wire = np.frombuffer(message, dtype if dtype.kind == "f" else np.uint8, count, start)
    return wire.astype(dtype, copy=dtype.kind != "f").reshape(shape)


def _packed(array: np.ndarray) -> bytes | None:
    """Returns an array's values as they are packed on the wire; None where that takes a loop."""
    if array.dtype.kind == "f":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    if array.dtype.kind == "b":
        return array.tobytes()
    if array.dtype.kind not in "iu":
        return None
    if array.size and (array.min() < 0 or array.max() >= _ONE_BYTE):
        return None
    return array.astype(np.uint8, copy=False).tobytes()


def header(number: int, length: int) -> bytes:
    """Returns what stands before the bytes of a field: packed numbers, a string or a message."""
    return _varint(number << 3 | _PACKED) + _varint(length)


@functools.cache
def _number(field: str) -> int:
    message: type[Message] = tensor_pb2.TensorProto
    return message.DESCRIPTOR.fields_by_name[field].number


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= _ONE_BYTE:
        out.append(number % _ONE_BYTE + _ONE_BYTE)
        number //= _ONE_BYTE
    return bytes([*out, number])
