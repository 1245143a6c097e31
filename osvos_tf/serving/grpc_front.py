"""The gRPC side of the model server: TF Serving's PredictionService and ModelService."""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from osvos_tf.errors import InputError
from osvos_tf.network.model_store import DEFAULT_SIGNATURE
from osvos_tf.serving import model_config
from osvos_tf.serving import tf_serving_messages as messages
from osvos_tf.serving.service import Service

_SPARE_THREADS = 8  # for requests that take no place in the queue


@contextlib.contextmanager
def running(
    service: Service, host: str, port: int, secure: grpc.ServerCredentials | None
) -> Iterator[None]:
    """Runs the gRPC interface; `secure`: of `credentials`."""
    threads = service.queue.places + _SPARE_THREADS
    options = {
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": service.limits.request_bytes,
        "grpc.max_send_message_length": -1,
        **service.ways.channel_arguments,
    }
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(threads, "grpc"),
        maximum_concurrent_rpcs=threads,  # one more, and gRPC itself says RESOURCE_EXHAUSTED
        options=list(options.items()),
    )
    for name, methods in _METHODS.items():
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                _handler(service, answer),
                request_type.FromString,
                _to_bytes,
            )
            for method, (answer, request_type) in methods.items()
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if secure is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, secure)
    if service.ways.grpc_socket_path is not None:
        server.add_insecure_port(f"unix:{os.path.abspath(service.ways.grpc_socket_path)}")
    server.start()
    try:
        yield
    finally:
        health.enter_graceful_shutdown()
        server.stop(service.limits.grace_seconds).wait()


def ssl_config() -> Any:
    """Returns an empty `SSLConfig`, which TF Serving has and its Python package has not."""
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="osvos/ssl_config.proto", package="osvos")
    message = file.message_type.add(name="SSLConfig")
    for number, name in enumerate(("server_key", "server_cert", "custom_ca", "client_verify"), 1):
        kind = types.TYPE_BOOL if name == "client_verify" else types.TYPE_STRING
        message.field.add(name=name, number=number, type=kind, label=types.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("osvos.SSLConfig")
    return message_factory.GetMessageClass(found)()


def credentials(path: str | None) -> grpc.ServerCredentials | None:
    """Returns the credentials of an `SSLConfig` in text form, None where there is no file.

    Raises:
        InputError: it cannot be read, or holds no key and certificate.
    """
    if path is None:
        return None
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        config = text_format.Parse(text, ssl_config())
        if not config.server_key or not config.server_cert:
            raise ValueError("no server_key or no server_cert")
        return grpc.ssl_server_credentials(
            [(config.server_key.encode(), config.server_cert.encode())],
            config.custom_ca.encode() or None,
            config.client_verify,
        )
    except (OSError, ValueError, text_format.ParseError) as error:
        raise InputError(
            f"Wanted TF Serving's SSLConfig, server_key: '-----BEGIN ...' server_cert: '...', in "
            f"{path}. It cannot be read: {error}."
        ) from error


def _to_bytes(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _handler(
    service: Service, answer: Callable[[Service, Message, grpc.ServicerContext], Message | bytes]
) -> Callable[[Message, grpc.ServicerContext], Message | bytes]:
    """Returns the gRPC handler that answers with `answer(service, request, context)`."""

    def handle(request: Message, context: grpc.ServicerContext) -> Message | bytes:
        try:
            return answer(service, request, context)
        except Exception as error:
            problem = messages.to_request_error(error)
            context.abort(problem.code, str(problem))
            raise  # it has raised an exception of its own

    return handle


def _predict(
    service: Service, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
) -> bytes:
    spec = _spec(request)
    with service.predict_request(spec.name, "grpc"):
        servable = service.models[spec.name].servable(_version(spec))
        # Names first: a message of a few bytes can claim many large arrays.
        servable.check_names(spec.signature_name, request.inputs)
        inputs, left = {}, service.limits.request_bytes
        for name, proto in request.inputs.items():
            inputs[name] = messages.from_proto(name, proto, left)
            left -= inputs[name].nbytes
        call = spec.signature_name, inputs, list(request.output_filter)
        service.check(servable, *call)
        future = service.queue.submit(servable.run, *call)
        if not context.add_callback(future.cancel):  # the client has gone already
            future.cancel()
        replied = model_pb2.ModelSpec(
            name=spec.name, signature_name=spec.signature_name or DEFAULT_SIGNATURE
        )
        replied.version.value = servable.version
        return messages.predict_response(
            replied, future.result(), as_content=service.ways.tensor_content
        )


def _status(
    service: Service,
    request: get_model_status_pb2.GetModelStatusRequest,
    context: grpc.ServicerContext,
) -> get_model_status_pb2.GetModelStatusResponse:
    spec = _spec(request)
    return service.status(spec.name, _version(spec))


def _metadata(
    service: Service,
    request: get_model_metadata_pb2.GetModelMetadataRequest,
    context: grpc.ServicerContext,
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    spec = _spec(request)
    if list(request.metadata_field) != ["signature_def"]:
        raise messages.invalid(
            "GetModelMetadataRequest must specify one metadata_field, 'signature_def'. Received: "
            f"{list(request.metadata_field)}."
        )
    return service.metadata(spec.name, _version(spec))


def _reload(
    service: Service,
    request: model_management_pb2.ReloadConfigRequest,
    context: grpc.ServicerContext,
) -> model_management_pb2.ReloadConfigResponse:
    if request.config.WhichOneof("config") != "model_config_list":
        raise messages.invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    try:
        configs = model_config.from_proto(request.config)
    except InputError as error:
        raise messages.invalid(str(error)) from error
    service.models.replace(configs)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    return response


def _other_kind(
    kind: str,
    service: Service,
    request: Message,
    context: grpc.ServicerContext,
) -> NoReturn:
    spec = _spec(request)
    servable = service.models[spec.name].servable(_version(spec))
    raise messages.other_kind(kind, servable.signature(spec.signature_name))


def _multi_inference(
    service: Service,
    request: inference_pb2.MultiInferenceRequest,
    context: grpc.ServicerContext,
) -> NoReturn:
    if not request.tasks:
        raise messages.invalid("Inference request must have at least one task.")
    kind = request.tasks[0].method_name.rpartition("/")[2]
    if kind not in messages.OTHER_KINDS:
        raise messages.RequestError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Unsupported signature method_name: {request.tasks[0].method_name}",
        )
    _other_kind(kind, service, request.tasks[0], context)


_METHODS: dict[str, dict[str, tuple[Callable[..., Message | bytes], Any]]] = {
    "tensorflow.serving.PredictionService": {
        "Predict": (_predict, predict_pb2.PredictRequest),
        "GetModelMetadata": (_metadata, get_model_metadata_pb2.GetModelMetadataRequest),
        "Classify": (
            functools.partial(_other_kind, "classify"),
            classification_pb2.ClassificationRequest,
        ),
        "Regress": (functools.partial(_other_kind, "regress"), regression_pb2.RegressionRequest),
        "MultiInference": (_multi_inference, inference_pb2.MultiInferenceRequest),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": (_status, get_model_status_pb2.GetModelStatusRequest),
        "HandleReloadConfigRequest": (_reload, model_management_pb2.ReloadConfigRequest),
    },
}


def _spec(request: Message) -> model_pb2.ModelSpec:
    """Returns which model a request means; RequestError unless it says so."""
    spec = request.model_spec
    if not request.HasField("model_spec"):
        raise messages.invalid("Missing ModelSpec")
    if not spec.name:
        raise messages.invalid("ModelSpec has no name specified.")
    return spec


def _version(spec: model_pb2.ModelSpec) -> int | str | None:
    """Returns the version or label that a `ModelSpec` asks for, None for the latest."""
    choice = spec.WhichOneof("version_choice")
    if choice is None:
        return None
    return spec.version_label if choice == "version_label" else spec.version.value
