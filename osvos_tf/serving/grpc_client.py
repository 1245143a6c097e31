"""Predictions over TF Serving's gRPC interface."""

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from osvos_tf.errors import missing_package

if TYPE_CHECKING:
    from google.protobuf.message import Message
from osvos_tf.serving.client_base import (
    _FIRST_WAIT,
    Refused,
    RemoteClient,
    Signatures,
    Wanted,
    from_pngs,
    to_png,
)


class GrpcClient(RemoteClient):
    """A model behind `PredictionService`, https://www.tensorflow.org/tfx/serving."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        grpc, self._messages, services = _grpc_modules()
        self._rpc_error = grpc.RpcError
        options = {
            "grpc.max_send_message_length": -1,
            "grpc.max_receive_message_length": -1,  # 4 MB otherwise: less than two probabilities
            # The channel's own pauses between connections, in step with ours between tries.
            "grpc.initial_reconnect_backoff_ms": int(_FIRST_WAIT * 1000),
            "grpc.max_reconnect_backoff_ms": 2000,
        }
        self._channel = grpc.insecure_channel(self._target, list(options.items()))
        self._stub = services.PredictionServiceStub(self._channel)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the channel; requests under way are cancelled."""
        self._channel.close()

    @property
    def _bytes_per_pixel(self) -> int:
        return 3 if self._output == "masks" else 4

    def _ask_signatures(self, seconds: float) -> Signatures:
        metadata = self._messages["get_model_metadata_pb2"]
        request = metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill_spec(request.model_spec)
        reply = self._call(self._stub.GetModelMetadata, request, seconds)
        found = metadata.SignatureDefMap()
        reply.metadata["signature_def"].Unpack(found)
        return {
            name: (set(signature.inputs), set(signature.outputs))
            for name, signature in found.signature_def.items()
        }

    def _send(self, frames: np.ndarray, seconds: float) -> np.ndarray:
        import tensorflow as tf

        from osvos_tf.serving import tensors

        signature, input_name, output_name = self._signature
        request = self._messages["predict_pb2"].PredictRequest(output_filter=[output_name])
        self._fill_spec(request.model_spec)
        request.model_spec.signature_name = signature
        value = [to_png(frame) for frame in frames] if self._encoded else frames
        request.inputs[input_name].CopyFrom(tf.make_tensor_proto(value))
        reply = self._call(self._stub.Predict, request, seconds)
        result = tensors.to_array(reply.outputs[output_name])
        return from_pngs(result, frames.shape[1:3]) if self._encoded else result

    def _fill_spec(self, spec: "Message") -> None:
        spec.name = self._model
        if self._version is not None:
            spec.version.value = self._version

    def _call(
        self, method: Callable[..., "Message"], request: "Message", seconds: float
    ) -> "Message":
        try:
            return method(request, timeout=seconds)
        except self._rpc_error as error:
            raise Refused(error.code().name, error.details() or "") from error


def _grpc_modules() -> tuple[ModuleType, dict[str, ModuleType], ModuleType]:
    """Returns grpc, {name: module} of TF Serving's messages, and its services."""
    try:
        import grpc
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            predict_pb2,
            prediction_service_pb2_grpc,
        )
    except ImportError as error:
        raise missing_package("A client of a gRPC server", "serving", error) from error
    messages = {"get_model_metadata_pb2": get_model_metadata_pb2, "predict_pb2": predict_pb2}
    return grpc, messages, prediction_service_pb2_grpc
