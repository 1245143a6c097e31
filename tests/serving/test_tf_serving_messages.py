"""Requests and replies as bytes: what is understood, what is refused, what comes out."""

import base64
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

from osvos_tf.serving import tf_serving_messages as messages

MAX_BYTES = 1000


def signature(**dtypes):
    """Returns a SignatureDef with inputs of these types."""
    signature_def = meta_graph_pb2.SignatureDef()
    for name, dtype in dtypes.items():
        signature_def.inputs[name].dtype = dtype.as_datatype_enum
    return signature_def


IMAGES = signature(images=tf.uint8)
ENCODED = signature(image_bytes=tf.string)
TWO = signature(a=tf.float32, b=tf.string)


def read(document, signature_def):
    _, inputs, by_row = messages.from_json(json.dumps(document).encode(), lambda _: signature_def)
    return {key: (array.dtype, array.tolist()) for key, array in inputs.items()}, by_row


@pytest.mark.parametrize(
    ("document", "signature_def", "inputs"),
    [
        ({"instances": [[1, 2], [3, 255]]}, IMAGES, {"images": (np.uint8, [[1, 2], [3, 255]])}),
        ({"instances": [{"images": [7]}]}, IMAGES, {"images": (np.uint8, [[7]])}),
        ({"inputs": [[1, 2]]}, IMAGES, {"images": (np.uint8, [[1, 2]])}),
        ({"inputs": {"images": [[1, 2]]}}, IMAGES, {"images": (np.uint8, [[1, 2]])}),
        ({"inputs": []}, IMAGES, {"images": (np.uint8, [])}),
        ({"instances": [{"b64": "AAH/"}]}, ENCODED, {"image_bytes": (object, [b"\0\1\xff"])}),
        ({"instances": [{"b64": "AA"}]}, ENCODED, {"image_bytes": (object, [b"\0"])}),
        ({"inputs": {"b64": "AAH/"}}, ENCODED, {"image_bytes": (object, b"\0\1\xff")}),
        ({"inputs": ["text"]}, ENCODED, {"image_bytes": (object, [b"text"])}),
        (
            {"instances": [{"a": 1, "b": "x"}, {"a": 0.5, "b": {"b64": "AA=="}}]},
            TWO,
            {"a": (np.float32, [1.0, 0.5]), "b": (object, [b"x", b"\0"])},
        ),
        (
            {"inputs": {"a": [1], "b": [["x"]], "c": 1}},
            TWO,
            {"a": (np.float32, [1.0]), "b": (object, [[b"x"]])},
        ),
    ],
)
def test_json_that_is_understood(document, signature_def, inputs):
    assert read(document, signature_def) == (inputs, "instances" in document)


def test_signature_name():
    names = []
    body = b'{"signature_name": "encoded", "inputs": ["x"]}'
    assert messages.from_json(body, lambda name: names.append(name) or ENCODED)[0] == "encoded"
    assert names == ["encoded"]


@pytest.mark.parametrize(
    ("body", "signature_def", "message"),
    [
        (b"", IMAGES, "JSON Parse error"),
        (b'{"instances": [', IMAGES, "JSON Parse error"),
        (b"\xff\xfe\xfd", IMAGES, "JSON Parse error"),
        (b"[" * 100_000, IMAGES, "JSON Parse error"),
        (b"[1]", IMAGES, "not object"),
        (b"{}", IMAGES, "Missing 'inputs' or 'instances'"),
        (b'{"inputs": [1], "instances": [1]}', IMAGES, "only one of"),
        (b'{"signature_name": 1, "inputs": [1]}', IMAGES, "string"),
        (b'{"instances": 1}', IMAGES, "list/array"),
        (b'{"instances": []}', IMAGES, "No values"),
        (b'{"instances": [[1, 2], [3]]}', IMAGES, "input images"),
        (b'{"instances": [1.5]}', IMAGES, "expected type: uint8"),
        (b'{"instances": [true]}', IMAGES, "expected type: uint8"),
        (b'{"instances": ["1"]}', IMAGES, "expected type: uint8"),
        (b'{"instances": [null]}', IMAGES, "expected type: uint8"),
        (b'{"instances": [{"b64": "AA=="}]}', IMAGES, "expected type: uint8"),
        (b'{"instances": [256]}', IMAGES, "outside 0 to 255"),
        (b'{"instances": [-1]}', IMAGES, "outside 0 to 255"),
        (b'{"instances": [3.5e38]}', signature(images=tf.float32), "outside -3.4"),
        (b'{"instances": [%s]}' % (b"9" * 50), IMAGES, "expected type: uint8"),
        (b'{"instances": [{"mages": [1]}]}', IMAGES, r"element: 0 .* keys are \['images'\]"),
        (b'{"instances": [{"images": [1]}, [1]]}', IMAGES, "element: 1"),
        (b'{"instances": [1]}', ENCODED, "expected type: string"),
        (b'{"instances": [["x"], "y"]}', ENCODED, "expected type: string|input image_bytes"),
        (b'{"instances": [{"b64": "!"}]}', ENCODED, "input image_bytes"),
        (b'{"instances": [{"b64": 1}]}', ENCODED, "keys are"),
        (b'{"inputs": [1]}', TWO, "plain value/list"),
        (b'{"inputs": {"a": 1}}', TWO, "Missing named input: b"),
        (b'{"inputs": [1]}', signature(), "no inputs"),
    ],
)
def test_json_that_is_refused(body, signature_def, message):
    with pytest.raises(messages.RequestError, match=message) as caught:
        messages.from_json(body, lambda _: signature_def)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_reply_as_json():
    probabilities = np.array([[[0.25]], [[1.0]]], np.float32)
    masks = np.array([[[0]], [[1]]], np.uint8)
    both = {"probabilities": probabilities, "masks": masks}
    assert json.loads(messages.to_json(both, by_row=True)) == {
        "predictions": [
            {"probabilities": [[0.25]], "masks": [[0]]},
            {"probabilities": [[1.0]], "masks": [[1]]},
        ]
    }
    assert json.loads(messages.to_json(both, by_row=False)) == {
        "outputs": {"probabilities": [[[0.25]], [[1.0]]], "masks": [[[0]], [[1]]]}
    }
    assert json.loads(messages.to_json({"masks": masks}, by_row=True)) == {
        "predictions": [[[0]], [[1]]]
    }
    assert json.loads(messages.to_json({"masks": masks}, by_row=False)) == {
        "outputs": [[[0]], [[1]]]
    }


def test_bytes_in_a_reply_are_base64_if_the_name_says_so():
    texts = np.array([b"\x89PNG", "ä".encode()], object)
    encoded = [{"b64": base64.b64encode(text).decode()} for text in texts]
    assert json.loads(messages.to_json({"mask_bytes": texts}, True)) == {"predictions": encoded}
    assert json.loads(messages.to_json({"label": texts[1:]}, False)) == {"outputs": ["ä"]}


@pytest.mark.parametrize("other", [np.float32(1), np.zeros(3)])
def test_outputs_without_common_rows(other):
    outputs = {"masks": np.zeros((2, 1)), "other": np.asarray(other)}
    with pytest.raises(messages.RequestError, match="'inputs'"):
        messages.to_json(outputs, by_row=True)
    assert "other" in json.loads(messages.to_json(outputs, by_row=False))["outputs"]


def tensor(dtype, shape, **values):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (tensor(tf.uint8, [2], tensor_content=b"\1\2"), [1, 2]),
        (tensor(tf.uint8, [3], int_val=[1, 2]), [1, 2, 2]),
        (tensor(tf.uint8, [0, 2]), []),
        (tensor(tf.string, [1, 2], string_val=[b"a", b"bc"]), [[b"a", b"bc"]]),
        (tensor(tf.float32, [], float_val=[0.5]), 0.5),
    ],
)
def test_tensors(proto, expected):
    array = messages.from_proto("x", proto, MAX_BYTES)
    assert array.tolist() == expected
    assert messages.from_proto("x", tf.make_tensor_proto(array), MAX_BYTES).tolist() == expected


@pytest.mark.parametrize(
    "proto",
    [
        tensor(tf.uint8, [3], tensor_content=b"\1\2"),
        tensor(tf.string, [1], tensor_content=b"\1\2"),
        tensor(tf.uint8, [-2], int_val=[1]),
        tensor(tf.uint8, [1 << 20, 1 << 20], int_val=[1]),
        tensor(tf.string, [200], string_val=[b""]),
        tensor(tf.string, [3, 1 << 62, -1], string_val=[b""]),  # 2^62, where 64 bits overflow
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=9999),
    ],
)
def test_tensors_that_are_none(proto):
    with pytest.raises(messages.RequestError, match="x: ") as caught:
        messages.from_proto("x", proto, MAX_BYTES)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_other_errors():
    codes = {
        ValueError("x"): grpc.StatusCode.INTERNAL,
        MemoryError(): grpc.StatusCode.RESOURCE_EXHAUSTED,
        messages.invalid("x" * 10_000): grpc.StatusCode.INVALID_ARGUMENT,
    }
    for error, code in codes.items():
        assert messages.to_request_error(error).code is code
        assert len(str(messages.to_request_error(error))) <= 1000


def test_metadata_and_status_as_json():
    metadata = messages.metadata_response("dog", 3, {"serving_default": IMAGES})
    document = json.loads(messages.metadata_to_json(metadata))
    assert document["model_spec"] == {"name": "dog", "signature_name": "", "version": "3"}
    (images,) = document["metadata"]["signature_def"]["signature_def"]["serving_default"][
        "inputs"
    ].values()
    assert images["dtype"] == "DT_UINT8"
    states = [(2, "END", messages.invalid("broken")), (1, "AVAILABLE", None)]
    assert json.loads(messages.message_to_json(messages.status_response(states))) == {
        "model_version_status": [
            {
                "version": "2",
                "state": "END",
                "status": {"error_code": "INVALID_ARGUMENT", "error_message": "broken"},
            },
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            },
        ]
    }


@pytest.mark.parametrize("as_content", [False, True])
def test_a_reply_is_the_message_that_protobuf_makes(as_content):
    outputs = {
        "masks": np.eye(70, dtype=np.uint8)[None],
        "probabilities": np.linspace(0, 1, 300, dtype=np.float32),
        "mask_bytes": np.array([b"\x89PNG", b""], object),
        "none": np.zeros((0, 3), np.float32),
    }
    spec = model_pb2.ModelSpec(name="dog", signature_name="encoded")
    spec.version.value = 7
    reply = predict_pb2.PredictResponse.FromString(
        messages.predict_response(spec, outputs, as_content=as_content)
    )
    assert reply.model_spec == spec and reply.outputs.keys() == outputs.keys()
    for name, array in outputs.items():
        found = tf.make_ndarray(reply.outputs[name])
        assert found.tolist() == array.tolist() and found.dtype == array.dtype
    again = predict_pb2.PredictResponse.FromString(reply.SerializeToString())
    assert again == reply
