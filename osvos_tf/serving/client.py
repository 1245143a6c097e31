"""A served network as a function of frames, wherever it runs.

    with serving.connect("localhost:8500", "dog") as predict:
        masks = predict(frames)  # uint8 [n, height, width, 3] -> uint8 0/1 [n, height, width, 1]

The same call takes a SavedModel's folder (the network runs here), `host:port` (TF Serving's gRPC)
or a URL (its REST). `predict` also fits `inference.predict_frames`; `stream` keeps many batches
in flight. Only the first two load TensorFlow, and only the last two want `osvos_tf[serving]`.
"""

import abc
import base64
import collections
import concurrent.futures
import os
import pathlib
import random
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from osvos_tf.errors import InputError, missing_package
from osvos_tf.media.images import describe_size
from osvos_tf.network.model_store import DEFAULT_SIGNATURE, ENCODED_SIGNATURE, find_versions

if TYPE_CHECKING:
    import requests
    from google.protobuf.message import Message

T = TypeVar("T")
# Of a model's signatures, by name: the names of its inputs, and of its outputs.
_Signatures = Mapping[str, tuple[set[str], set[str]]]
OUTPUTS = {"masks": np.uint8, "probabilities": np.float32, "contours": np.float32}
FORMS = ("instances", "inputs")  # of a REST request: row by row, or whole tensors

# What one request or its reply may weigh; a larger batch goes in several requests. A frame of DAVIS
# weighs 1.2 MB, and ten or so are enough to keep a server busy.
MAX_REQUEST_BYTES = 16 * 2**20

_FIRST_WAIT = 0.2  # seconds before the second try; doubles from try to try
_HTTP_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",  # a proxy without a server behind it
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ServingError(RuntimeError):
    """A server that does not answer, or not in time, or that failed. The message says which."""


def connect(
    target: str | os.PathLike[str],
    model: str | None = None,
    *,
    output: str = "masks",
    version: int | None = None,
    deadline: float = 60.0,
    tries: int = 6,
    encoded: bool | None = None,
    form: str = "instances",
) -> "Client":
    """Connects to a served network.

    Args:
        target: where it is: a folder, `saved_models` with `model`, or `saved_models/NAME`, or a
            version's own folder; `host:port` for gRPC; `http://host:port` for REST.
        model: its name there; a folder can do without.
        output: "masks" (uint8 0/1, by the threshold of the export), "probabilities" (float32), or
            "contours" (float32; of a two-stream export).
        version: its number; None takes the server's choice, which is the largest.
        deadline: seconds for one request, all tries together. (REST: seconds of silence.)
        tries: how often a request is sent while the server is UNAVAILABLE, with growing pauses.
            No other error is tried again.
        encoded: sends frames as PNG and receives masks as PNG, lossless both: less to carry, more
            to compute. None does so for the masks of a REST server, where numbers are text.
        form: of a REST request, see `FORMS`.

    Returns:
        A callable from uint8 RGB [batch, height, width, 3] to [batch, height, width, 1], for any
        size and number of frames, that many threads may share. Close it, or use it by `with`.

    Raises:
        InputError: no such place or model, another kind of model, or the extra is not installed.
        ServingError: the server does not answer, or failed. Calls may raise it as well.
        ValueError: unknown `output` or `form`, or `encoded` for other outputs than masks.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {tuple(OUTPUTS)}. Received: {output!r}.")
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}. Received: {form!r}.")
    if encoded and output != "masks":
        raise ValueError(f"encoded replies are masks, not {output}.")
    if os.path.isdir(target):
        return _Local(target, model, output, version)
    limits: dict[str, Any] = {"version": version, "deadline": deadline, "tries": tries}
    if re.match(r"https?://", str(target)):
        encoded = output == "masks" if encoded is None else encoded
        return _Rest(target, model, output, encoded, form=form, **limits)
    if re.fullmatch(r"[^/\\]+:[0-9]+", str(target)):
        return _Grpc(target, model, output, bool(encoded), **limits)
    raise InputError(
        "Wanted a server (host:8500 for gRPC, http://host:8501 for REST) or the folder of a "
        f"SavedModel that exists, such as saved_models/dog. Got {str(target)!r}."
    )


def stream(
    predict: Callable[[np.ndarray], np.ndarray],
    batches: Iterable[np.ndarray],
    *,
    in_flight: int = 4,
) -> Iterator[np.ndarray]:
    """Yields `predict(batch)` for every batch, in order, several of them under way at a time.

    Args:
        predict: a callable of `connect`, or any other that threads may share.
        batches: iterable of batches; read no further ahead than `in_flight` + 1 of them.
        in_flight: how many batches are under way at a time.
    """
    pool = concurrent.futures.ThreadPoolExecutor(in_flight)
    pending: collections.deque[concurrent.futures.Future[np.ndarray]] = collections.deque()
    try:
        for batch in batches:
            pending.append(pool.submit(predict, batch))
            if len(pending) > in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Client(abc.ABC):
    """What `connect` returns: a callable that checks what goes in and what comes out."""

    def __init__(self, where: str, output: str):
        self._where, self._output = where, output

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Maps uint8 RGB [batch, height, width, 3] to [batch, height, width, 1]."""
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(
                "frames must be uint8 RGB [batch, height, width, 3]. "
                f"Received: {frames.dtype} {list(frames.shape)}."
            )
        shape = (*frames.shape[:3], 1)
        if not frames.size:
            return np.zeros(shape, OUTPUTS[self._output])
        result = self._predict(frames)
        if result.shape != shape:
            raise ServingError(
                f"{self._where} answered {list(frames.shape)} frames with {self._output} "
                f"{list(result.shape)}; wanted {list(shape)}."
            )
        return result

    def __enter__(self) -> "Client":
        """Returns the callable itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes it."""
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what the connection holds."""

    @abc.abstractmethod
    def _predict(self, frames: np.ndarray) -> np.ndarray:
        """Returns the outputs of at least one frame."""

    def _require_signature(
        self, signatures: _Signatures, name: str, wanted_input: str, wanted_output: str
    ) -> None:
        """Raises InputError unless the signatures hold the wanted one."""
        inputs, outputs = signatures.get(name, (set(), set()))
        if wanted_input in inputs and wanted_output in outputs:
            return
        found = "; ".join(
            f"{key}: {', '.join(sorted(ins))} -> {', '.join(sorted(outs))}"
            for key, (ins, outs) in sorted(signatures.items())
            if not key.startswith("__")
        )
        hint = "export_saved_model writes such models"
        if wanted_output == "contours":
            hint += ", with contours where it is given a contour network"
        raise InputError(
            f"{self._where} is another kind of model: wanted the signature {name!r} with "
            f"{wanted_input} -> {wanted_output}, found {found or 'none'}. {hint}."
        )


class _Local(Client):
    """A SavedModel in this process."""

    def __init__(
        self, target: str | os.PathLike[str], model: str | None, output: str, version: int | None
    ):
        import tensorflow as tf

        folder = _version_folder(pathlib.Path(target, model or ""), version)
        super().__init__(str(folder), output)
        try:
            self._model = tf.saved_model.load(str(folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{folder} cannot be loaded as a SavedModel: {reason}") from error
        signatures = {
            name: (set(function.structured_input_signature[1]), set(function.structured_outputs))
            for name, function in self._model.signatures.items()
        }
        self._require_signature(signatures, DEFAULT_SIGNATURE, "images", output)

    def close(self) -> None:
        """Forgets the model."""
        self._model = None

    def _predict(self, frames: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        function = self._model.signatures[DEFAULT_SIGNATURE]
        return function(images=tf.constant(frames))[self._output].numpy()


class _Refused(Exception):
    """One try of a request failed; `code` is the name of a gRPC status."""

    def __init__(self, code: str, details: str):
        super().__init__(f"{code}: {details}")
        self.code, self.details = code, details

    @property
    def is_too_large(self) -> bool:
        """Whether fewer frames might pass: a message, a batch or the memory had its limit."""
        is_exhausted = self.code == "RESOURCE_EXHAUSTED" and "again later" not in self.details
        return is_exhausted or "maximum input batch size" in self.details


class _Remote(Client):
    """What gRPC and REST share: signatures, deadlines, tries, and batches that are too large."""

    def __init__(
        self,
        target: str | os.PathLike[str],
        model: str | None,
        output: str,
        encoded: bool,
        *,
        version: int | None,
        deadline: float,
        tries: int,
    ):
        if not model:
            raise InputError(f"Wanted the model's name on the server {target}, such as 'dog'.")
        what = f"model {model!r}" if version is None else f"version {version} of model {model!r}"
        super().__init__(f"{what} on {target}", output)
        self._target, self._model, self._version = str(target), model, version
        self._deadline, self._tries = deadline, tries
        self._encoded = encoded
        if encoded:
            self._signature = ENCODED_SIGNATURE, "image_bytes", "mask_bytes"
        else:
            self._signature = DEFAULT_SIGNATURE, "images", output
        self._max_bytes = MAX_REQUEST_BYTES

    @abc.abstractmethod
    def _ask_signatures(self, seconds: float) -> _Signatures:
        """Returns the model's signatures; raises _Refused."""

    @abc.abstractmethod
    def _send(self, frames: np.ndarray, seconds: float) -> np.ndarray:
        """Returns the output for frames that fit into one request; raises _Refused."""

    @property
    @abc.abstractmethod
    def _bytes_per_pixel(self) -> int:
        """What a pixel weighs in the request or in the reply, the heavier of the two."""

    def _check(self) -> None:
        """Asks the server whether it has the model, so that a mistake shows at once."""
        try:
            signatures = self._with_tries(self._ask_signatures)
        except _Refused as refused:
            raise self._explain(refused) from refused
        self._require_signature(signatures, *self._signature)

    def _predict(self, frames: np.ndarray) -> np.ndarray:
        pixels = frames.shape[1] * frames.shape[2]
        most = max(1, self._max_bytes // (pixels * self._bytes_per_pixel))
        if len(frames) > most:
            parts = [frames[start : start + most] for start in range(0, len(frames), most)]
            return np.concatenate([self._predict(part) for part in parts])
        try:
            return self._with_tries(lambda seconds: self._send(frames, seconds))
        except _Refused as refused:
            if not (refused.is_too_large and len(frames) > 1):
                raise self._explain(refused) from refused
        self._max_bytes = len(frames) // 2 * pixels * self._bytes_per_pixel
        return self._predict(frames)

    def _with_tries(self, send: Callable[[float], T]) -> T:
        """Returns `send(seconds left)`, called again while the server is UNAVAILABLE."""
        end = time.monotonic() + self._deadline
        attempt = 0
        while True:
            attempt += 1
            try:
                return send(max(0.001, end - time.monotonic()))
            except _Refused as refused:
                # Clients that were refused together should not come back together.
                wait = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                is_last = attempt >= self._tries or time.monotonic() + wait >= end
                if refused.code != "UNAVAILABLE" or is_last:
                    raise
            time.sleep(wait)

    def _explain(self, refused: _Refused) -> Exception:
        """Returns the exception that tells the user what a refusal means."""
        details = " ".join(refused.details.split())
        if refused.code == "NOT_FOUND":
            return InputError(
                f"Wanted {self._where}, but there is none: {details}. Models are named as their "
                "folders in saved_models/."
            )
        if refused.code == "UNAVAILABLE":
            return ServingError(
                f"No answer for {self._where}: {details}. Is a server running there? host:8500 "
                "is gRPC, http://host:8501 is REST."
            )
        if refused.code == "DEADLINE_EXCEEDED":
            return ServingError(
                f"{self._where} took longer than the deadline of {self._deadline:g} s. Allow it "
                "more time, or send fewer frames at a time."
            )
        if refused.code == "UNIMPLEMENTED":
            return InputError(
                f"{self._target} is a server, but not TensorFlow Serving: {details}. Its gRPC "
                "port is 8500 and its REST port 8501, unless set otherwise."
            )
        return ServingError(f"{self._where} failed with {refused.code}: {details}")


class _Grpc(_Remote):
    """A model behind `PredictionService`, https://www.tensorflow.org/tfx/serving."""

    def __init__(
        self,
        target: str | os.PathLike[str],
        model: str | None,
        output: str,
        encoded: bool,
        **limits: Any,
    ):
        super().__init__(target, model, output, encoded, **limits)
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

    def _ask_signatures(self, seconds: float) -> _Signatures:
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

        signature, input_name, output_name = self._signature
        request = self._messages["predict_pb2"].PredictRequest(output_filter=[output_name])
        self._fill_spec(request.model_spec)
        request.model_spec.signature_name = signature
        value = [_to_png(frame) for frame in frames] if self._encoded else frames
        request.inputs[input_name].CopyFrom(tf.make_tensor_proto(value))
        reply = self._call(self._stub.Predict, request, seconds)
        result = tf.make_ndarray(reply.outputs[output_name])
        return _from_pngs(result, frames.shape[1:3]) if self._encoded else result

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
            raise _Refused(error.code().name, error.details() or "") from error


class _Rest(_Remote):
    """A model behind https://www.tensorflow.org/tfx/serving/api_rest."""

    def __init__(
        self,
        target: str | os.PathLike[str],
        model: str | None,
        output: str,
        encoded: bool,
        *,
        form: str,
        **limits: Any,
    ):
        super().__init__(target, model, output, encoded, **limits)
        self._requests = _requests_module()
        self._form = form
        self._url = f"{self._target.rstrip('/')}/v1/models/{model}"
        if self._version is not None:
            self._url += f"/versions/{self._version}"
        # One connection for each thread that is at work: a session is not made to be shared.
        self._idle: collections.deque[requests.Session] = collections.deque()
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connections."""
        while self._idle:
            self._idle.pop().close()

    @property
    def _bytes_per_pixel(self) -> int:
        # PNG is never much larger than the pixels, and base64 a third larger than PNG. As text a
        # value takes about 4 bytes, a probability 20, and the reply has all outputs.
        return 4 if self._encoded else 32

    def _ask_signatures(self, seconds: float) -> _Signatures:
        reply = self._call("GET", f"{self._url}/metadata", None, seconds)
        try:
            return {
                name: (set(signature.get("inputs", ())), set(signature.get("outputs", ())))
                for name, signature in reply["metadata"]["signature_def"]["signature_def"].items()
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise self._strange(reply) from error

    def _send(self, frames: np.ndarray, seconds: float) -> np.ndarray:
        signature, input_name, output_name = self._signature
        values: list[Any]
        if self._encoded:
            values = [{"b64": base64.b64encode(_to_png(frame)).decode()} for frame in frames]
        else:
            values = frames.tolist()
        body: dict[str, Any]
        if self._form == "instances":
            body = {"instances": [{input_name: value} for value in values]}
        else:
            body = {"inputs": {input_name: values}}
        body["signature_name"] = signature
        reply = self._call("POST", f"{self._url}:predict", body, seconds)
        try:
            return self._read(reply, output_name, frames.shape[1:3])
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange(reply) from error

    def _read(self, reply: Any, name: str, size: tuple[int, ...]) -> np.ndarray:
        """Returns the output of a reply, whose form follows from the request's.

        Args:
            reply: what came as JSON.
            name: of the output.
            size: (height, width) of the frames asked about.
        """
        if self._form == "instances":
            # A signature's only output comes without its name.
            values = [
                row[name] if isinstance(row, dict) and name in row else row
                for row in reply["predictions"]
            ]
        else:
            outputs = reply["outputs"]
            values = outputs[name] if isinstance(outputs, dict) else outputs
        if self._encoded:
            return _from_pngs([base64.b64decode(value["b64"]) for value in values], size)
        return np.asarray(values, OUTPUTS[self._output])

    def _call(self, method: str, url: str, body: dict[str, Any] | None, seconds: float) -> Any:
        """Returns the JSON reply."""
        requests = self._requests
        try:
            session = self._idle.pop()
        except IndexError:
            session = requests.Session()
        try:
            reply = session.request(method, url, json=body, timeout=seconds)
        except requests.exceptions.ReadTimeout as error:
            raise _Refused("DEADLINE_EXCEEDED", str(error)) from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            cause = error.args[0] if error.args else error
            raise _Refused("UNAVAILABLE", str(getattr(cause, "reason", cause))) from error
        except requests.RequestException as error:
            raise InputError(f"{url} cannot be asked: {error}") from error
        finally:
            self._idle.append(session)
        try:
            content = reply.json()
        except ValueError:
            content = None
        if reply.ok and content is not None:
            return content
        details = content.get("error") if isinstance(content, dict) else reply.text[:200]
        raise _Refused(
            _HTTP_CODES.get(reply.status_code, f"HTTP {reply.status_code}"), str(details)
        )

    def _strange(self, reply: Any) -> InputError:
        return InputError(
            f"{self._url} answers, but not as TensorFlow Serving does: {str(reply)[:200]}. "
            "Is this its REST port?"
        )


def _version_folder(folder: pathlib.Path, version: int | None) -> pathlib.Path:
    """Returns the folder of a SavedModel: `folder` itself or a version in it."""
    if (folder / "saved_model.pb").is_file() and version is None:
        return folder
    models = []
    if folder.is_dir():
        versions = find_versions(folder)
        if versions and version is None:
            return versions[max(versions)]
        if version in versions:
            return versions[version]
        if versions:
            raise InputError(
                f"{folder} has no version {version}, but {', '.join(map(str, sorted(versions)))}."
            )
        models = sorted({path.parent.parent.name for path in folder.glob("*/*/*.pb")})
    raise InputError(
        f"No SavedModel in {folder}: wanted saved_models/NAME, with versions 1, 2, ... in it. "
        + (f"Models in this folder: {', '.join(models)}." if models else "Export one.")
    )


def _to_png(frame: np.ndarray) -> bytes:
    """Encodes uint8 RGB [height, width, 3] without loss; returns bytes."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    # 20 ms for a frame of DAVIS; the next levels take twice that and save a twentieth of the bytes.
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _from_pngs(images: Sequence[bytes] | np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Decodes masks of frames of `size` (height, width), PNG 0/255, to uint8 0/1 [n, h, w, 1]."""
    for png in images:  # looked at before it is decoded: it might unpack to anything
        width, height = struct.unpack(">II", png[16:24].ljust(8, b"\0"))
        if width * height > size[0] * size[1]:
            raise ServingError(
                f"The server answered a frame of {describe_size(size)} with a mask of "
                f"{describe_size((height, width))}."
            )
    decoded = (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE) for png in images)
    masks = [mask for mask in decoded if mask is not None]
    if len(masks) < len(images):
        raise ValueError("a mask is no PNG")
    return (np.stack(masks) > 0).astype(np.uint8)[..., None]


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


def _requests_module() -> ModuleType:
    try:
        import requests
    except ImportError as error:
        raise missing_package("A client of a REST server", "serving", error) from error
    return requests
