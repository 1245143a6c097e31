"""Which models and which of their versions are wanted: TF Serving's `ModelServerConfig`."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from osvos_tf.errors import InputError

_PLATFORM = "tensorflow"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What is wanted of one model.

    Attributes:
        base_path: the folder that holds a folder for each version.
        latest: how many of the largest versions; None: all.
        specific: just these versions, whatever `latest` says; none: no such choice.
        labels: label -> version, other names by which clients may ask for versions that are loaded.
    """

    base_path: pathlib.Path
    latest: int | None = 1
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def wants(self, version: int) -> bool:
        """Returns whether a version may be loaded."""
        return not self.specific or version in self.specific

    @property
    def most(self) -> int | None:
        """How many versions are loaded at the same time, None for all."""
        return None if self.specific else self.latest


def read_config(path: str | os.PathLike[str]) -> dict[str, ModelConfig]:
    """Reads a configuration in text form; returns {name: what is wanted}.

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
            f"Error parsing text-format tensorflow.serving.ModelServerConfig: {error}. Wanted "
            f"model_config_list {{ config {{ name: ... base_path: ... }} }} in {path}."
        ) from error
    try:
        models = from_proto(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not models:
        raise InputError(f"{path} names no model: wanted model_config_list {{ config {{ ... }} }}.")
    return {
        name: dataclasses.replace(model, base_path=_locate(model.base_path, path.parent))
        for name, model in models.items()
    }


def from_proto(
    config: model_server_config_pb2.ModelServerConfig,
) -> dict[str, ModelConfig]:
    """Returns {name: what is wanted} of a message.

    Raises:
        InputError: it asks for what this server does not do.
    """
    models: dict[str, ModelConfig] = {}
    for model in config.model_config_list.config:
        if not model.name or not model.base_path or model.name in models:
            raise InputError("Each config needs a unique name and a base_path.")
        if model.model_platform not in ("", _PLATFORM):
            raise InputError(
                f"model_platform of {model.name!r} must be {_PLATFORM!r}. "
                f"Received: {model.model_platform!r}."
            )
        policy = model.model_version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "specific" and not policy.specific.versions:
            raise InputError(f"{model.name!r} wants specific versions and names none.")
        models[model.name] = ModelConfig(
            pathlib.Path(model.base_path),
            latest=None if choice == "all" else max(1, policy.latest.num_versions),
            specific=tuple(policy.specific.versions),
            labels=dict(model.version_labels),
        )
    return models


def _locate(base_path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    place, beside = folder / base_path, folder / base_path.name
    return beside if beside.is_dir() and not place.is_dir() else place
