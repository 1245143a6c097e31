"""Typed fields: the same message as value by value, and the same array back."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2

from osvos_tf.serving import tensors

FIELDS = {
    "uint8": "int_val",
    "int8": "int_val",
    "int32": "int_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "float32": "float_val",
    "float64": "double_val",
    "bool": "bool_val",
}


def message_of(array, **options):
    return tensor_pb2.TensorProto.FromString(tensors.encode(array, **options))


def value_by_value(array, field):
    proto = tensor_pb2.TensorProto(dtype=tf.dtypes.as_dtype(array.dtype).as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())
    return proto


@given(
    st.sampled_from(sorted(FIELDS)).flatmap(
        lambda kind: (
            hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, max_side=9))
            | hnp.arrays(kind, (2, 70), elements=st.just(1))
        )
    )
)
def test_the_message_is_that_of_a_loop_over_the_values(array):
    proto = message_of(array)
    expected = value_by_value(array, FIELDS[array.dtype.name])
    assert proto.SerializeToString() == expected.SerializeToString()
    assert not proto.tensor_content
    for message in (proto, tf.make_tensor_proto(array), message_of(array, as_content=True)):
        found = tensors.to_array(tensor_pb2.TensorProto.FromString(message.SerializeToString()))
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)


def test_strings():
    array = np.array([[b"", b"mask"], [b"\x00\xff", b"x" * 300]], object)
    for as_content in (False, True):
        proto = message_of(array, as_content=as_content)
        assert list(proto.string_val) == array.ravel().tolist()
        assert tensors.to_array(proto).tolist() == array.tolist()


def test_what_clients_read():
    """The example that shows the difference: a mask's values, and a probability's."""
    mask, probability = np.eye(2, dtype=np.uint8), np.full((2, 2), 0.25, np.float32)
    assert list(message_of(mask).int_val) == [1, 0, 0, 1]
    assert list(message_of(probability).float_val) == [0.25] * 4
    assert not message_of(mask, as_content=True).int_val


def test_rare_types_travel_too():
    array = np.array([1, 2.5], tf.bfloat16.as_numpy_dtype)
    np.testing.assert_array_equal(tensors.to_array(message_of(array)), array)


@pytest.mark.parametrize("values", [[5], [5, 5, 5], [300, 1, 2, 3], [-1, 1, 2, 3]])
def test_one_value_for_all_and_values_of_several_bytes(values):
    proto = tensor_pb2.TensorProto(dtype=tf.int32.as_datatype_enum, int_val=values)
    proto.tensor_shape.dim.add(size=4)
    np.testing.assert_array_equal(tensors.to_array(proto), tf.make_ndarray(proto))
