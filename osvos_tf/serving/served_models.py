"""Models in memory: the versions below each base path, loaded, warmed, swapped and dropped.

A base path, such as `saved_models/dog`, holds a SavedModel in a folder for each version, such as
`saved_models/dog/2`. The largest number that loads is in use, as with TF Serving, unless a
`ModelConfig` wants others.
"""

import gc
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from osvos_tf.errors import InputError
from osvos_tf.network.model_store import (
    DEFAULT_SIGNATURE,
    WARMUP_FILE,
    find_versions,
    read_working_height,
)
from osvos_tf.serving import tf_serving_messages as messages
from osvos_tf.serving.model_config import ModelConfig

_LOG = logging.getLogger(__name__)
_Look = list[tuple[Path, int, int]]  # of each file of a folder: size, change in ns


class Servable:
    """One version of a model, ready to run.

    Attributes:
        name, version: what it is called.
        signature_defs: {signature: `SignatureDef`}.
        working_height: pixels at which the network looks at images.
    """

    def __init__(self, name: str, version: int, folder: Path):
        self.name, self.version = name, version
        saved_model = saved_model_pb2.SavedModel()
        saved_model.ParseFromString((folder / "saved_model.pb").read_bytes())
        (graph,) = [g for g in saved_model.meta_graphs if "serve" in g.meta_info_def.tags]
        self.signature_defs = dict(graph.signature_def)
        self.working_height = read_working_height(folder)
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

    def check_names(self, signature_name: str, names: Iterable[str]) -> None:
        """Raises RequestError unless these are the names of a signature's inputs."""
        wanted, found = set(self.signature(signature_name).inputs), set(names)
        if wanted != found:
            raise messages.invalid(
                f"input size does not match signature: {len(found)}!={len(wanted)}. "
                f"Sent extra: {sorted(found - wanted)}. Missing but required: "
                f"{sorted(wanted - found)}."
            )

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
        self.check_names(signature_name, inputs)
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

    def _warm_up(self, path: Path) -> None:
        """Runs the requests that came with the model: the first ones are slow."""
        if not path.is_file():
            return
        for record in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            self.check(request.model_spec.signature_name, inputs)
            self.run(request.model_spec.signature_name, inputs)


class ServedModel:
    """One model: the versions in use, and the state of the others.

    Args:
        name: what clients call it.
        config: a `ModelConfig`, or the folder alone.
    """

    def __init__(self, name: str, config: ModelConfig | str | os.PathLike[str]):
        self.name = name
        self.config = config if isinstance(config, ModelConfig) else ModelConfig(Path(config))
        self._servables: dict[int, Servable] = {}  # replaced as a whole, so that all may read it
        # By version: its state's name, and the error that ended it.
        self._states: dict[int, tuple[str, messages.RequestError | None]] = {}
        self._broken: dict[int, _Look] = {}  # by version: its folder when it failed to load
        self._retiring = False  # whether a version was retired whose memory is not yet free

    @property
    def base_path(self) -> Path:
        """The folder that holds a folder for each version."""
        return self.config.base_path

    @property
    def version(self) -> int | None:
        """The latest version in use, None before the first is loaded."""
        return max(self._servables, default=None)

    def states(self) -> list[messages.State]:
        """Returns the states of all versions seen, the latest version first."""
        states = sorted(self._states.copy().items(), reverse=True)
        return [(version, *state) for version, state in states]

    def servable(self, version: int | str | None = None) -> Servable:
        """Returns a `Servable` in use: the latest, or that of a version or a label.

        It stays loaded while somebody holds it; a retired version goes with its last holder.

        Raises:
            RequestError: NOT_FOUND; or INVALID_ARGUMENT, there is no such label.
        """
        servables, number = self._servables, version
        if isinstance(version, str):
            number = self.config.labels.get(version)
            if number is None:
                raise messages.invalid(f"Unrecognized servable version label: {version}")
        found = servables.get(max(servables, default=0) if number is None else int(number))
        if found is None:
            raise not_found(self.name, None if number is None else int(number))
        return found

    def require_labels(self) -> None:
        """Raises RequestError, FAILED_PRECONDITION, where a label's version is not loaded."""
        for version in self.config.labels.values():
            if version not in self._servables:
                raise messages.RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {self.name}, which is "
                    "not currently available for inference",
                )

    def refresh(self) -> None:
        """Takes the wanted versions that load into use; to be called by one thread at a time.

        Those are the largest, as many as the configuration says. One that does not load is
        reported, and tried again once its folder has changed. Where no version is left on the disk,
        those in use stay.
        """
        if self._retiring:
            gc.collect()  # a loaded model refers to itself, so its memory would linger
            self._retiring = any(state == "UNLOADING" for _, state, _ in self.states())
        failed: list[int] = []
        kept: list[int] = []
        for version, folder in sorted(find_versions(self.base_path).items(), reverse=True):
            if len(kept) == self.config.most:
                break
            if not self.config.wants(version):
                continue
            if version not in self._servables:
                look = _look(folder)
                if self._broken.get(version) == look:
                    continue
                if not self._load(version, folder):
                    self._broken[version] = look
                    failed.append(version)
                    continue
            kept.append(version)
        if kept:
            self._retire(set(self._servables) - set(kept))
        if self.version is not None:  # else the server does not start, and says why
            for version in failed:
                error = self._states[version][1]
                _LOG.error("%s: version %d does not load: %s", self.name, version, error)

    def _load(self, version: int, folder: Path) -> bool:
        """Loads a version and takes it into use; returns whether it did."""
        self._states[version] = "LOADING", None
        try:
            servable = Servable(self.name, version, folder)
        except Exception as error:  # a broken folder can raise anything; the old one must live on
            self._states[version] = "END", messages.to_request_error(error)
            return False
        self._servables = {**self._servables, version: servable}
        self._states[version] = "AVAILABLE", None
        _LOG.info("%s: version %d is in use", self.name, version)
        return True

    def _retire(self, versions: set[int]) -> None:
        """Takes versions out of use; each is unloaded with the last request that holds it."""
        servables = self._servables
        self._servables = {v: servable for v, servable in servables.items() if v not in versions}
        for version in versions:
            self._states[version] = "UNLOADING", None
            finalizer = weakref.finalize(servables[version], self._ended, version)
            finalizer.atexit = False
            self._retiring = True

    def _ended(self, version: int) -> None:
        """Called when the last request has let go of a retired version."""
        if self._states[version][0] == "UNLOADING":
            self._states[version] = "END", None


Models = Mapping[str, ModelConfig | str | os.PathLike[str]]


class ServedModels:
    """All models of a server, and the thread that looks for new versions of them.

        with ServedModels({"dog": "saved_models/dog"}) as models:
            models["dog"].servable().run("", {"images": frames})

    Args:
        models: {name: `ModelConfig`, or folder}.
        poll_seconds: seconds between two checks of the folders.

    Raises:
        InputError: on entry; a model has no version that loads.
    """

    def __init__(self, models: Models, *, poll_seconds: float = 1.0):
        self._models = {name: ServedModel(name, config) for name, config in models.items()}
        self._roots = {model.base_path.resolve().parent for model in self}
        self._poll_seconds = poll_seconds
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> "ServedModels":
        """Loads every model, then starts to watch."""
        for model in self:
            model.refresh()
            _require_loaded(model)
            try:
                model.require_labels()
            except messages.RequestError as error:
                raise InputError(str(error)) from error
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops watching."""
        self._stopping.set()
        self._watcher.join()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.copy().values())

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def __getitem__(self, name: str) -> ServedModel:
        """Returns the `ServedModel` of that name.

        Raises:
            RequestError: NOT_FOUND.
        """
        model = self._models.get(name)
        if model is None:
            raise not_found(name)
        return model

    def replace(self, configs: Mapping[str, ModelConfig], *, anywhere: bool = False) -> None:
        """Serves these models from now on, and no others; loads what is not loaded yet.

        Args:
            configs: {name: what is wanted}.
            anywhere: whoever asks may name any folder; else only those beside the ones that the
                server was started with: a client cannot make it run what lies elsewhere.

        Raises:
            RequestError: PERMISSION_DENIED, a folder lies elsewhere; FAILED_PRECONDITION, a model
                has no version that loads, or a label's version is not loaded. What was served is.
        """
        for name, config in configs.items():
            if not anywhere and config.base_path.resolve().parent not in self._roots:
                raise messages.RequestError(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"The base_path of {name!r} lies outside the folders that this server was "
                    "started with.",
                )
        with self._changing:
            models = {name: self._replaced(name, config) for name, config in configs.items()}
            self._models, before = models, self._models
            for name in before.keys() - models.keys():
                _LOG.info("%s is served no longer", name)

    def _replaced(self, name: str, config: ModelConfig) -> ServedModel:
        """Returns a loaded model for a configuration: the one that there is, where it fits."""
        model, before = self._models.get(name), None
        if model is None or model.base_path.resolve() != config.base_path.resolve():
            model = ServedModel(name, config)
        else:
            before, model.config = model.config, config
        try:
            model.refresh()
            _require_loaded(model)
            model.require_labels()
        except (InputError, messages.RequestError) as error:
            if before is not None:
                model.config = before
            raise messages.RequestError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from error
        return model

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            with self._changing:
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


def _look(folder: Path) -> _Look:
    """Returns a value that changes when a file below the folder does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _require_loaded(model: ServedModel) -> None:
    if any(state == "AVAILABLE" and model.config.wants(v) for v, state, _ in model.states()):
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
