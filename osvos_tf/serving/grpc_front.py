"""The gRPC side of the model server: TF Serving's PredictionService and ModelService."""

import concurrent.futures
import contextlib
import operator
from collections.abc import Callable, Iterator

import grpc
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from osvos_tf.network.model_store import DEFAULT_SIGNATURE
from osvos_tf.serving import tf_serving_messages as messages
from osvos_tf.serving.service import Service

_SPARE_THREADS = 8  # for requests that take no place in the queue


@contextlib.contextmanager
def running(service: Service, host: str, port: int) -> Iterator[None]:
    """Runs the gRPC interface."""
    threads = service.queue.places + _SPARE_THREADS
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(threads, "grpc"),
        maximum_concurrent_rpcs=threads,  # one more, and gRPC itself says RESOURCE_EXHAUSTED
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", service.limits.request_bytes),
            ("grpc.max_send_message_length", -1),
        ],
    )
    for name, methods in _METHODS.items():
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                _handler(service, answer),
                request_type.FromString,
                operator.methodcaller("SerializeToString"),
            )
            for method, (answer, request_type) in methods.items()
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    server.start()
    try:
        yield
    finally:
        server.stop(service.limits.grace_seconds).wait()


def _handler(
    service: Service, answer: Callable[[Service, Message, grpc.ServicerContext], Message]
) -> Callable[[Message, grpc.ServicerContext], Message]:
    """Returns the gRPC handler that answers with `answer(service, request, context)`."""

    def handle(request: Message, context: grpc.ServicerContext) -> Message:
        try:
            _check_spec(request)
            return answer(service, request, context)
        except Exception as error:
            problem = messages.to_request_error(error)
            context.abort(problem.code, str(problem))

    return handle


def _predict(
    service: Service, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
) -> predict_pb2.PredictResponse:
    spec = request.model_spec
    with service.predict_request(spec.name, "grpc"):
        servable = service.models[spec.name].servable(_version(spec))
        inputs = {
            name: messages.from_proto(name, proto, service.limits.request_bytes)
            for name, proto in request.inputs.items()
        }
        call = spec.signature_name, inputs, list(request.output_filter)
        service.check(servable, *call)
        future = service.queue.submit(servable.run, *call)
        if not context.add_callback(future.cancel):  # the client has gone already
            future.cancel()
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE
        for name, array in future.result().items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response


def _status(
    service: Service,
    request: get_model_status_pb2.GetModelStatusRequest,
    context: grpc.ServicerContext,
) -> get_model_status_pb2.GetModelStatusResponse:
    return service.status(request.model_spec.name, _version(request.model_spec))


def _metadata(
    service: Service,
    request: get_model_metadata_pb2.GetModelMetadataRequest,
    context: grpc.ServicerContext,
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    if list(request.metadata_field) != ["signature_def"]:
        raise messages.invalid(
            "GetModelMetadataRequest must specify one metadata_field, 'signature_def'. Received: "
            f"{list(request.metadata_field)}."
        )
    return service.metadata(request.model_spec.name, _version(request.model_spec))


_METHODS = {
    "tensorflow.serving.PredictionService": {
        "Predict": (_predict, predict_pb2.PredictRequest),
        "GetModelMetadata": (_metadata, get_model_metadata_pb2.GetModelMetadataRequest),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": (_status, get_model_status_pb2.GetModelStatusRequest),
    },
}


def _check_spec(request: Message) -> None:
    """Raises RequestError unless a request says which model it means."""
    spec = request.model_spec
    if not request.HasField("model_spec"):
        raise messages.invalid("Missing ModelSpec")
    if not spec.name:
        raise messages.invalid("ModelSpec has no name specified.")
    if spec.version_label:
        raise messages.invalid(f"Unrecognized servable version label: {spec.version_label}")


def _version(spec: model_pb2.ModelSpec) -> int | None:
    """Returns the version that a `ModelSpec` asks for, None for the latest."""
    return spec.version.value if spec.HasField("version") else None
