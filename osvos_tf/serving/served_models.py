"""Models in memory: the versions below each base path, loaded, warmed, swapped and dropped.

A base path, such as `saved_models/dog`, holds a SavedModel in a folder for each version, such as
`saved_models/dog/2`. The largest number that loads is in use, as with TF Serving.
"""

import gc
import logging
import os
import pathlib
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from osvos_tf.errors import InputError
from osvos_tf.network.model_store import DEFAULT_SIGNATURE, WARMUP_FILE, find_versions
from osvos_tf.serving import tf_serving_messages as messages

_LOG = logging.getLogger(__name__)
_Look = list[tuple[pathlib.Path, int, int]]  # of each file of a folder: size, change in ns


class Servable:
    """One version of a model, ready to run.

    Attributes:
        name, version: what it is called.
        signature_defs: {signature: `SignatureDef`}.
    """

    def __init__(self, name: str, version: int, folder: pathlib.Path):
        self.name, self.version = name, version
        saved_model = saved_model_pb2.SavedModel()
        saved_model.ParseFromString((folder / "saved_model.pb").read_bytes())
        (graph,) = [g for g in saved_model.meta_graphs if "serve" in g.meta_info_def.tags]
        self.signature_defs = dict(graph.signature_def)
        self._model = tf.saved_model.load(os.fspath(folder))
        self._warm_up(folder / WARMUP_FILE)

    def signature(self, name: str) -> meta_graph_pb2.SignatureDef:
        """Returns the `SignatureDef` of that name, "" for the default one."""
        name = name or DEFAULT_SIGNATURE
        if name not in self._model.signatures:
            raise messages.RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature name: "{name}" not found in signature def',
            )
        return self.signature_defs[name]

    def check(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
    ) -> None:
        """Raises RequestError unless inputs and wanted outputs are the signature's own.

        Args:
            signature_name: "" for the default one.
            inputs: {name: array}.
            output_filter: names of the outputs wanted; empty for all.
        """
        signature = self.signature(signature_name)
        missing, extra = set(signature.inputs) - set(inputs), set(inputs) - set(signature.inputs)
        if missing or extra:
            raise messages.invalid(
                f"input size does not match signature: {len(inputs)}!={len(signature.inputs)}. "
                f"Sent extra: {sorted(extra)}. Missing but required: {sorted(missing)}."
            )
        for name, array in inputs.items():
            _check_input(name, array, signature.inputs[name])
        for name in output_filter:
            if name not in signature.outputs:
                raise messages.invalid(
                    f"output tensor alias not found in signature: {name} Outputs expected to be "
                    f"in the set {sorted(signature.outputs)}."
                )

    def run(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Runs a signature on inputs that passed `check`; returns {output: array}."""
        function = self._model.signatures[signature_name or DEFAULT_SIGNATURE]
        outputs = function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: outputs[name].numpy() for name in output_filter or outputs}

    def _warm_up(self, path: pathlib.Path) -> None:
        """Runs the requests that came with the model: the first ones are slow."""
        if not path.is_file():
            return
        for record in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            self.check(request.model_spec.signature_name, inputs)
            self.run(request.model_spec.signature_name, inputs)


class ServedModel:
    """One model: the version in use, and the state of the others.

    Args:
        name: what clients call it.
        base_path: the folder that holds a folder for each version.
    """

    def __init__(self, name: str, base_path: str | os.PathLike[str]):
        self.name = name
        self.base_path = pathlib.Path(base_path)
        self._current: Servable | None = None
        # By version: its state's name, and the error that ended it.
        self._states: dict[int, tuple[str, messages.RequestError | None]] = {}
        self._broken: dict[int, _Look] = {}  # by version: its folder when it failed to load
        self._retiring = False  # whether a version was retired whose memory is not yet free

    @property
    def version(self) -> int | None:
        """The version in use, None before the first is loaded."""
        return None if self._current is None else self._current.version

    def states(self) -> list[messages.State]:
        """Returns the states of all versions seen, the latest version first."""
        states = sorted(self._states.copy().items(), reverse=True)
        return [(version, *state) for version, state in states]

    def servable(self, version: int | None = None) -> Servable:
        """Returns the `Servable` in use, which must be `version` where that is given.

        It stays loaded while somebody holds it; a retired version goes with its last holder.

        Raises:
            RequestError: NOT_FOUND.
        """
        current = self._current
        if current is None or version not in (None, current.version):
            raise not_found(self.name, version)
        return current

    def refresh(self) -> None:
        """Takes the largest version that loads into use; to be called by one thread at a time.

        One that does not load is reported, and tried again once its folder has changed. Where no
        version is left on the disk, the one in use stays.
        """
        if self._retiring:
            gc.collect()  # a loaded model refers to itself, so its memory would linger
            self._retiring = any(state == "UNLOADING" for _, state, _ in self.states())
        failed = []
        for version, folder in sorted(find_versions(self.base_path).items(), reverse=True):
            if version == self.version:
                break
            look = _look(folder)
            if self._broken.get(version) == look:
                continue
            if self._load(version, folder):
                break
            self._broken[version] = look
            failed.append(version)
        if self.version is not None:  # else the server does not start, and says why
            for version in failed:
                error = self._states[version][1]
                _LOG.error("%s: version %d does not load: %s", self.name, version, error)

    def _load(self, version: int, folder: pathlib.Path) -> bool:
        """Loads a version and swaps it in; returns whether it did."""
        self._states[version] = "LOADING", None
        try:
            servable = Servable(self.name, version, folder)
        except Exception as error:  # a broken folder can raise anything; the old one must live on
            self._states[version] = "END", messages.to_request_error(error)
            return False
        retired, self._current = self._current, servable
        self._states[version] = "AVAILABLE", None
        if retired is not None:
            self._states[retired.version] = "UNLOADING", None
            weakref.finalize(retired, self._ended, retired.version).atexit = False
            self._retiring = True
        _LOG.info("%s: version %d is in use", self.name, version)
        return True

    def _ended(self, version: int) -> None:
        """Called when the last request has let go of a retired version."""
        if self._states[version][0] == "UNLOADING":
            self._states[version] = "END", None


class ServedModels:
    """All models of a server, and the thread that looks for new versions of them.

        with ServedModels({"dog": "saved_models/dog"}) as models:
            models["dog"].servable().run("", {"images": frames})

    Args:
        base_paths: {name: folder}.
        poll_seconds: seconds between two checks of the folders.

    Raises:
        InputError: on entry; a model has no version that loads.
    """

    def __init__(
        self, base_paths: Mapping[str, str | os.PathLike[str]], *, poll_seconds: float = 1.0
    ):
        self._models = {name: ServedModel(name, path) for name, path in base_paths.items()}
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> "ServedModels":
        """Loads every model, then starts to watch."""
        for model in self:
            model.refresh()
            _require_loaded(model)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops watching."""
        self._stopping.set()
        self._watcher.join()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def __getitem__(self, name: str) -> ServedModel:
        """Returns the `ServedModel` of that name.

        Raises:
            RequestError: NOT_FOUND.
        """
        if name not in self._models:
            raise not_found(name)
        return self._models[name]

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            for model in self:
                try:
                    model.refresh()
                except OSError as error:
                    _LOG.error("%s: cannot look for new versions: %s", model.name, error)


def not_found(name: str, version: int | None = None) -> messages.RequestError:
    """Returns the error for a model or version that is not in use."""
    request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    message = f"Servable not found for request: {request}"
    return messages.RequestError(grpc.StatusCode.NOT_FOUND, message)


def read_config(path: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
    """Reads TF Serving's `ModelServerConfig` in text form; returns {name: base path}.

    A relative base path counts from the file's own folder; and one that does not exist here, such
    as a container's `/models/dog`, stands for the folder `dog` beside the file if there is one.

    Raises:
        InputError: the file is no such text, or asks for what this server does not do.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (text_format.ParseError, ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"Wanted TF Serving's model_config_list {{ config {{ name: ... base_path: ... }} }} in "
            f"{path}. It cannot be read: {error}."
        ) from error
    base_paths: dict[str, pathlib.Path] = {}
    for model in config.model_config_list.config:
        if not model.name or not model.base_path or model.name in base_paths:
            raise InputError(f"{path}: each config needs a unique name and a base_path.")
        if model.model_platform not in ("", "tensorflow"):
            raise InputError(
                f"{path}: model_platform of {model.name!r} must be 'tensorflow'. "
                f"Received: {model.model_platform!r}."
            )
        policy = model.model_version_policy
        if policy.WhichOneof("policy_choice") not in (None, "latest") or model.version_labels:
            raise InputError(
                f"{path}: {model.name!r} asks for certain versions or labels. Only the latest "
                "version is served here; take that out, or use TF Serving."
            )
        base_path = path.parent / model.base_path
        beside = path.parent / base_path.name
        base_paths[model.name] = beside if beside.is_dir() and not base_path.is_dir() else base_path
    if not base_paths:
        raise InputError(f"{path} names no model: wanted model_config_list {{ config {{ ... }} }}.")
    return base_paths


def _check_input(name: str, array: np.ndarray, info: meta_graph_pb2.TensorInfo) -> None:
    """Raises RequestError unless the array has the type and shape that a signature wants."""
    dtype = tf.dtypes.as_dtype(info.dtype)
    shape = tf.TensorShape(info.tensor_shape)
    found = tf.dtypes.as_dtype(array.dtype)
    if found != dtype or not shape.is_compatible_with(array.shape):
        wanted = str(shape).replace("None", "?")
        raise messages.invalid(
            f"{name}: wanted {dtype.name} of shape {wanted}, got {found.name} of shape "
            f"{array.shape}."
        )


def _look(folder: pathlib.Path) -> _Look:
    """Returns a value that changes when a file below the folder does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _require_loaded(model: ServedModel) -> None:
    if model.version is not None:
        return
    broken = "; ".join(f"version {version}: {error}" for version, _, error in model.states())
    found = broken or (
        "the folder does not exist" if not model.base_path.is_dir() else
        "it is a version itself, name the folder around it"
        if (model.base_path / "saved_model.pb").is_file()
        else f"it holds {sorted(os.listdir(model.base_path)) or 'nothing'}"
    )  # fmt: skip
    raise InputError(
        f"No version of model {model.name!r} in {model.base_path}: wanted a SavedModel in a folder "
        f"with a number for a name, such as {model.base_path / '1'}. Found: {found}. Export one "
        "with export_saved_model."
    )
