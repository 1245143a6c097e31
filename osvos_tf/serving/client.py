"""A served network as a function of frames, wherever it runs.

    with client.connect("localhost:8500", "dog") as predict:
        masks = predict(frames)  # uint8 [n, height, width, 3] -> uint8 0/1 [n, height, width, 1]

Masks of several objects hold their ids, and their probabilities are [n, height, width, objects].
The same call takes a SavedModel's folder (the network runs here), `host:port` (TF Serving's gRPC)
or a URL (its REST). `predict` also fits `inference.predict_frames`; `parallel_map` keeps many
batches in flight. Only the first two load TensorFlow; only the last two need `osvos_tf[serving]`.
"""

import os
import pathlib
import re
from typing import TYPE_CHECKING

import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.network.model_store import DEFAULT_SIGNATURE, find_versions

if TYPE_CHECKING:
    pass
from osvos_tf.serving.client_base import OUTPUTS, Client, Wanted
from osvos_tf.serving.grpc_client import GrpcClient
from osvos_tf.serving.rest_client import FORMS, RestClient


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
        model: its name there; not needed for a folder.
        output: "masks" (uint8 0/1 or ids, by the threshold of the export), "probabilities"
            (float32), or "contours" (float32; of a two-stream export).
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
        ServingError: the server does not answer, or failed. Calls may raise it, too.
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
    is_rest = re.match(r"https?://", str(target)) is not None
    if encoded is None:
        encoded = is_rest and output == "masks"
    wanted = Wanted(str(target), model, output, encoded, version, deadline, tries)
    if is_rest:
        return RestClient(wanted, form)
    if re.fullmatch(r"[^/\\]+:[0-9]+", wanted.target):
        return GrpcClient(wanted)
    raise InputError(
        "Wanted a server (host:8500 for gRPC, http://host:8501 for REST) or the folder of a "
        f"SavedModel that exists, such as saved_models/dog. Got {str(target)!r}."
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
