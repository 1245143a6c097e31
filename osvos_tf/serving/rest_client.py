"""Predictions over TF Serving's REST interface."""

import base64
import collections
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from osvos_tf.errors import InputError, missing_package

if TYPE_CHECKING:
    import requests
from osvos_tf.serving.client_base import (
    OUTPUTS,
    Refused,
    RemoteClient,
    Signatures,
    Wanted,
    from_pngs,
    to_png,
)

FORMS = ("instances", "inputs")  # of a REST request: row by row, or whole tensors
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


class RestClient(RemoteClient):
    """A model behind https://www.tensorflow.org/tfx/serving/api_rest."""

    def __init__(self, wanted: Wanted, form: str) -> None:
        super().__init__(wanted)
        self._requests = _requests_module()
        self._form = form
        self._url = f"{self._target.rstrip('/')}/v1/models/{self._model}"
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

    def _ask_signatures(self, seconds: float) -> Signatures:
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
            values = [{"b64": base64.b64encode(to_png(frame)).decode()} for frame in frames]
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
            return from_pngs([base64.b64decode(value["b64"]) for value in values], size)
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
            raise Refused("DEADLINE_EXCEEDED", str(error)) from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            cause = error.args[0] if error.args else error
            raise Refused("UNAVAILABLE", str(getattr(cause, "reason", cause))) from error
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
        raise Refused(_HTTP_CODES.get(reply.status_code, f"HTTP {reply.status_code}"), str(details))

    def _strange(self, reply: Any) -> InputError:
        return InputError(
            f"{self._url} answers, but not as TensorFlow Serving does: {str(reply)[:200]}. "
            "Is this its REST port?"
        )


def _requests_module() -> ModuleType:
    try:
        import requests
    except ImportError as error:
        raise missing_package("A client of a REST server", "serving", error) from error
    return requests
