"""What all clients of a served model share."""

import abc
import dataclasses
import random
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.media.images import describe_size
from osvos_tf.network.model_store import DEFAULT_SIGNATURE, ENCODED_SIGNATURE

if TYPE_CHECKING:
    pass

T = TypeVar("T")
# Of a model's signatures, by name: the names of its inputs, and of its outputs.
Signatures = Mapping[str, tuple[set[str], set[str]]]
OUTPUTS = {"masks": np.uint8, "probabilities": np.float32, "contours": np.float32}

_FIRST_WAIT = 0.2  # seconds before the second try; doubles from try to try


# What one request or its reply may weigh; a larger batch goes in several requests. A frame of DAVIS
# weighs 1.2 MB, and ten or so are enough to keep a server busy.
MAX_REQUEST_BYTES = 16 * 2**20


class ServingError(RuntimeError):
    """A server did not answer, not in time, or failed. The message says which."""


class Client(abc.ABC):
    """What `connect` returns: a callable that checks what goes in and what comes out."""

    def __init__(self, where: str, output: str):
        self._where, self._output = where, output

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Maps uint8 RGB [batch, height, width, 3] to [batch, height, width, 1].

        Probabilities have a channel an object.
        """
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
        several = self._output == "probabilities" and result.ndim == 4 and result.shape[-1] > 1
        if result.shape[:3] != shape[:3] or not (several or result.shape == shape):
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
        """Releases what the connection holds."""

    @abc.abstractmethod
    def _predict(self, frames: np.ndarray) -> np.ndarray:
        """Returns the outputs of at least one frame."""

    def _require_signature(
        self, signatures: Signatures, name: str, wanted_input: str, wanted_output: str
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


class Refused(Exception):
    """One try of a request failed; `code` is the name of a gRPC status."""

    def __init__(self, code: str, details: str):
        super().__init__(f"{code}: {details}")
        self.code, self.details = code, details

    @property
    def is_too_large(self) -> bool:
        """Whether fewer frames might pass: a message, a batch or the memory hit its limit."""
        is_exhausted = self.code == "RESOURCE_EXHAUSTED" and "again later" not in self.details
        return is_exhausted or "maximum input batch size" in self.details


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to connect to, and how; see `client.connect`."""

    target: str
    model: str | None
    output: str
    encoded: bool
    version: int | None
    deadline: float
    tries: int


class RemoteClient(Client):
    """What gRPC and REST share: signatures, deadlines, tries, and batches that are too large."""

    def __init__(self, wanted: Wanted) -> None:
        target, model, version = wanted.target, wanted.model, wanted.version
        if not model:
            raise InputError(f"Wanted the model's name on the server {target}, such as 'dog'.")
        what = f"model {model!r}" if version is None else f"version {version} of model {model!r}"
        super().__init__(f"{what} on {target}", wanted.output)
        self._target, self._model, self._version = target, model, version
        self._deadline, self._tries = wanted.deadline, wanted.tries
        self._encoded = wanted.encoded
        if wanted.encoded:
            self._signature = ENCODED_SIGNATURE, "image_bytes", "mask_bytes"
        else:
            self._signature = DEFAULT_SIGNATURE, "images", wanted.output
        self._max_bytes = MAX_REQUEST_BYTES

    @abc.abstractmethod
    def _ask_signatures(self, seconds: float) -> Signatures:
        """Returns the model's signatures; raises Refused."""

    @abc.abstractmethod
    def _send(self, frames: np.ndarray, seconds: float) -> np.ndarray:
        """Returns the output for frames that fit into one request; raises Refused."""

    @property
    @abc.abstractmethod
    def _bytes_per_pixel(self) -> int:
        """Bytes of a pixel in the request or in the reply, whichever is larger."""

    def _check(self) -> None:
        """Asks the server whether it has the model, so that a mistake shows at once."""
        try:
            signatures = self._with_tries(self._ask_signatures)
        except Refused as refused:
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
        except Refused as refused:
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
            except Refused as refused:
                # Clients that were refused together should not come back together.
                wait = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                is_last = attempt >= self._tries or time.monotonic() + wait >= end
                if refused.code != "UNAVAILABLE" or is_last:
                    raise
            time.sleep(wait)

    def _explain(self, refused: Refused) -> Exception:
        """Returns the exception that explains a refusal to the user."""
        details = " ".join(refused.details.split())
        if refused.code == "NOT_FOUND":
            return InputError(
                f"No {self._where}: {details}. Models are named as their folders in saved_models/."
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


def to_png(frame: np.ndarray) -> bytes:
    """Encodes uint8 RGB [height, width, 3] without loss; returns bytes."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    # 20 ms for a frame of DAVIS; the next levels take twice that and save a twentieth of the bytes.
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def from_pngs(images: Sequence[bytes] | np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Decodes masks of frames of `size` (height, width) to uint8 [n, h, w, 1].

    PNGs of 0 and 255 become 0 and 1; ids of several objects stay.
    """
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
    labels = np.stack(masks)
    return np.where(labels == 255, 1, labels).astype(np.uint8)[..., None]
