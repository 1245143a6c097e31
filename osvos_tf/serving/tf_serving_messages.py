"""TF Serving's wire contract: errors as status codes, arrays as protobuf messages and as JSON.

What JSON looks like: https://www.tensorflow.org/tfx/serving/api_rest. Its two forms of a request,
and of the reply that goes with each:

    {"instances": [value, ...]}    row by row       {"predictions": [value, ...]}
    {"inputs": value}              whole tensors    {"outputs": value}

A signature of several tensors has an object `{name: value, ...}` in the place of `value`. Bytes
are `{"b64": "..."}`; on the way back that holds for outputs whose name ends in `_bytes`.
"""

import base64
import concurrent.futures
import contextlib
import gc
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from osvos_tf.serving import tensors

# gRPC sends the message in a header, and clients refuse headers of more than a few kilobytes.
_LONGEST_MESSAGE = 1000
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_NUMBERS = {"u": "iu", "i": "iu", "f": "iuf", "b": "b"}  # kind of a tensor -> kinds of JSON values
# Protobuf 5.26 renamed the option.
_ALL_FIELDS = {
    name: True
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToDict).parameters
}


class RequestError(Exception):
    """What a client gets instead of a result.

    Args:
        code: a `grpc.StatusCode`.
        message: for the reader at the other end; what is too long for a header is cut off.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message[:_LONGEST_MESSAGE])
        self.code = code


# A version, its state's name (see TF Serving's `ModelVersionStatus`), and the error that ended it.
State = tuple[int, str, RequestError | None]
_Infos = Mapping[str, meta_graph_pb2.TensorInfo]  # of a signature's inputs, by name


def invalid(message: str) -> RequestError:
    """Returns the error for a request that can never succeed."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


# What a signature may be asked for beside predictions -> what TF Serving calls it.
OTHER_KINDS = {"classify": "classification", "regress": "regression"}


def other_kind(kind: str, signature: meta_graph_pb2.SignatureDef) -> RequestError:
    """Returns the error for a signature that is asked for one of `OTHER_KINDS`."""
    return invalid(
        f"Expected {OTHER_KINDS[kind]} signature method_name to be tensorflow/serving/{kind}. Was: "
        f"{signature.method_name}"
    )


def to_request_error(error: Exception) -> RequestError:
    """Returns the `RequestError` that reports an exception to a client."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, tf.errors.OpError):
        # After the traces of the graph comes what its operation said, then the operation's name.
        message = error.message.rpartition("<stack traces unavailable>\n")[2]
        return RequestError(_CODES[error.error_code], message.partition("\n\t [[")[0])
    if isinstance(error, concurrent.futures.CancelledError):
        return RequestError(grpc.StatusCode.CANCELLED, "The client has gone.")
    if isinstance(error, MemoryError):
        return RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Out of memory. Send less at once.")
    return RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def from_proto(name: str, proto: tensor_pb2.TensorProto, max_bytes: int) -> np.ndarray:
    """Returns a `TensorProto` as an array, strings as `bytes` objects.

    Args:
        name: of the input, for messages.
        proto: `TensorProto` as it came: nothing in it can be trusted.
        max_bytes: refuses larger arrays; a message of a few bytes can claim any shape.

    Raises:
        RequestError: INVALID_ARGUMENT, the message makes no array or too large a one.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if min(shape, default=0) < 0:
        raise invalid(f"tensor parsing error: {name}: shape {shape} has a negative size.")
    try:
        itemsize = np.dtype(tf.dtypes.as_dtype(proto.dtype).as_numpy_dtype).itemsize
        if math.prod(shape) * itemsize > max_bytes:
            raise invalid(f"{name}: an array of shape {shape} is more than {max_bytes} bytes.")
        return tensors.to_array(proto)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise invalid(f"tensor parsing error: {name}: {error}") from error


def predict_response(
    spec: model_pb2.ModelSpec, outputs: Mapping[str, np.ndarray], *, as_content: bool = False
) -> bytes:
    """Returns the bytes of a `PredictResponse`: to make the message first is to copy twice.

    Args:
        spec: of the model, as the reply names it.
        outputs: {output: array}.
        as_content: see `tensors.encode`.
    """
    parts = [predict_pb2.PredictResponse(model_spec=spec).SerializeToString()]
    for name, array in outputs.items():
        tensor, key = tensors.encode(array, as_content=as_content), name.encode()
        # An entry of a map is a message of two fields, the key and the value.
        entry = tensors.header(1, len(key)) + key + tensors.header(2, len(tensor))
        parts += [tensors.header(1, len(entry) + len(tensor)), entry, tensor]
    return b"".join(parts)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Nested lists are many objects but not garbage: collecting would take most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_garbage_collection()
def from_json(
    body: bytes, find_signature: Callable[[str], meta_graph_pb2.SignatureDef]
) -> tuple[str, dict[str, np.ndarray], bool]:
    """Reads the body of a `:predict` request.

    Args:
        body: bytes as they came.
        find_signature: function from a signature's name, "" for the default one, to its
            `SignatureDef`.

    Returns:
        (signature name, {input: array}, whether the reply is to be row by row).

    Raises:
        RequestError: INVALID_ARGUMENT, or what `find_signature` raises.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid("JSON Value: Is not object. Wanted an object with 'instances' or 'inputs'.")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    infos = find_signature(name).inputs
    if not infos:
        raise invalid("Failed to get input map for signature: it has no inputs.")
    by_row = "instances" in document
    if by_row == ("inputs" in document):
        problem = "Not formatted correctly expecting only one of" if by_row else "Missing"
        raise invalid(f"{problem} 'inputs' or 'instances' key")
    columns = (
        _columns_of_rows(document["instances"], infos)
        if by_row
        else _columns(document["inputs"], infos)
    )
    return name, {key: _array(key, value, infos[key]) for key, value in columns.items()}, by_row


@_without_garbage_collection()
def to_json(outputs: Mapping[str, np.ndarray], by_row: bool) -> str:
    """Returns the reply to a `:predict` request as JSON text.

    Args:
        outputs: {output: array}.
        by_row: whether the request had `instances`.

    Raises:
        RequestError: INVALID_ARGUMENT, rows were asked for and the outputs have none in common.
    """
    values = {name: _plain(name, array) for name, array in outputs.items()}
    if not by_row:
        return json.dumps({"outputs": _single(values)})
    if not all(array.ndim for array in outputs.values()):
        raise invalid("An output is a scalar, which has no rows. Ask with 'inputs'.")
    if len({len(value) for value in values.values()}) > 1:
        raise invalid("The outputs have inconsistent batch sizes. Ask with 'inputs'.")
    rows = zip(*values.values(), strict=True)
    predictions = [_single(dict(zip(values, row, strict=True))) for row in rows]
    return json.dumps({"predictions": predictions})


def status_response(states: Iterable[State]) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the `GetModelStatusResponse` for the states of a model's versions."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state, error in states:
        entry = response.model_version_status.add(version=version)
        entry.state = get_model_status_pb2.ModelVersionStatus.State.Value(state)
        if error is not None:
            entry.status.error_code = error.code.value[0]
            entry.status.error_message = str(error)
        else:
            entry.status.SetInParent()  # so that JSON shows it, with error_code OK
    return response


def metadata_response(
    name: str, version: int, signature_defs: Mapping[str, meta_graph_pb2.SignatureDef]
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the `GetModelMetadataResponse` for {signature: SignatureDef}."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, signature_def in signature_defs.items():
        signatures.signature_def[key].CopyFrom(signature_def)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = version
    response.metadata["signature_def"].Pack(signatures)
    return response


def message_to_json(message: Message) -> str:
    """Returns a status or metadata response as JSON text, fields that are not set included."""
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, indent=1, **_ALL_FIELDS
    )


def metadata_to_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> str:
    """Returns a metadata response as JSON text, without the type that protobuf adds."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    spec, signature_def = map(message_to_json, (response.model_spec, signatures))
    return f'{{"model_spec": {spec}, "metadata": {{"signature_def": {signature_def}}}}}'


def _columns(value: Any, infos: _Infos) -> dict[str, Any]:
    """Returns {input: value} for what came as `inputs`."""
    if not isinstance(value, dict) or _is_b64(value):
        if len(infos) > 1:
            raise invalid(f"inputs is a plain value/list. Wanted an object of {sorted(infos)}.")
        return {next(iter(infos)): value}
    for name in infos:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: value[name] for name in infos}


def _columns_of_rows(rows: Any, infos: _Infos) -> dict[str, Any]:
    """Returns {input: list of values} for what came as `instances`."""
    if not isinstance(rows, list):
        raise invalid("Expecting 'instances' to be an list/array")
    if not rows:
        raise invalid("No values in 'instances' array")
    named = [isinstance(row, dict) and not _is_b64(row) for row in rows]
    if not any(named):
        return _columns(rows, infos)
    for index, row in enumerate(rows):
        if not named[index] or row.keys() != set(infos):
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. Wanted an object whose "
                f"keys are {sorted(infos)}, as the other elements are objects."
            )
    return {name: [row[name] for row in rows] for name in infos}


def _array(name: str, value: Any, info: meta_graph_pb2.TensorInfo) -> np.ndarray:
    """Returns a JSON value as an array of the input's type."""
    dtype = tf.dtypes.as_dtype(info.dtype)
    try:
        if dtype == tf.string:
            array = np.array(_bytes(value), object)
            wrong = not all(isinstance(item, bytes) for item in array.flat)
        else:
            array = np.asarray(value)
            wrong = array.dtype.kind not in _NUMBERS[np.dtype(dtype.as_numpy_dtype).kind]
            wrong = wrong and array.size > 0
    except (ValueError, KeyError) as error:  # lists of unequal length; no base64; a rare type
        raise invalid(f"Failed to process input {name}: {error}") from error
    if wrong:
        raise invalid(f"JSON Value of {name} is not of expected type: {dtype.name}")
    beyond = (
        np.isfinite(array) & ((array < dtype.min) | (array > dtype.max))
        if (dtype.is_integer or dtype.is_floating) and array.size
        else np.False_
    )
    if beyond.any():
        raise invalid(f"JSON Value of {name} is outside {dtype.min} to {dtype.max}.")
    return array if dtype == tf.string else array.astype(dtype.as_numpy_dtype)


def _bytes(value: Any) -> Any:
    """Returns a JSON value with its strings, plain ones and base64, as bytes."""
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    if _is_b64(value):
        text = "".join(value["b64"].split())  # some encoders break lines
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    return value.encode() if isinstance(value, str) else value


def _plain(name: str, array: np.ndarray) -> Any:
    """Returns an array as nested lists of what JSON can hold."""
    values = array.tolist()
    if array.dtype != object:
        return values
    if name.endswith("_bytes"):
        return _each(lambda item: {"b64": base64.b64encode(item).decode()}, values)
    return _each(lambda item: item.decode(errors="replace"), values)


def _each(function: Callable[[Any], Any], values: Any) -> Any:
    if isinstance(values, list):
        return [_each(function, value) for value in values]
    return function(values)


def _single(values: Mapping[str, Any]) -> Any:
    """Returns the only value of a dict that has one, else the dict."""
    return values if len(values) > 1 else next(iter(values.values()))


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)
