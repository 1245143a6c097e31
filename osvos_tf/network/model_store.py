"""Folders of SavedModels as TensorFlow Serving wants them, and the files beside them.

A folder such as `saved_models/` holds a folder for each model, and that one for each version, a
number. The server loads the largest and watches for a larger one, so a version must appear at once.

    saved_models/
      models.config         every model here, for --model_config_file
      batching.config       for --batching_parameters_file, should you want batching
      compose.yaml          `docker compose up`: the tensorflow/serving image on this folder
      dog/
        1/                  the SavedModel; in it assets.extra/tf_serving_warmup_requests
"""

import itertools
import os
import pathlib
import re
from importlib import resources
from types import ModuleType
from typing import TYPE_CHECKING

from google.protobuf import text_format
from google.protobuf.message import Message

from osvos_tf import files
from osvos_tf.errors import InputError, missing_package

if TYPE_CHECKING:
    pass

# What clients ask for by name.
DEFAULT_SIGNATURE = "serving_default"  # images -> probabilities, masks, and contours if there are
ENCODED_SIGNATURE = "encoded"  # image_bytes -> mask_bytes

CONFIG_FILE = "models.config"
MODELS_ROOT = "/models"  # where the tensorflow/serving image looks for models
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"  # in a version: records of PredictionLog
FACTS_FILE = "assets.extra/osvos.json"  # in a version: what servers may want to know of it
_HEIGHT = "working_height"
_USUAL_HEIGHT = 256
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # what needs no escaping in a URL and in models.config

# What counts in the text form of a message: comments and strings may hold braces.
_TOKEN = r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\w+|[{}<>[]"""
_CONFIG = """\
# The models of this folder, for tensorflow_model_server --model_config_file. An export adds its
# model and leaves the rest as it is, but for models that have been removed.
"""
# What an export leaves beside the models, unless it is there.
_BESIDE = resources.files("osvos_tf.network") / "beside_models"
_NO_MODELS = "model_config_list {\n}\n"


def check_folder(folder: str | os.PathLike[str], version: int | None = None) -> pathlib.Path:
    """Returns the absolute `pathlib.Path` of a model's folder that can take another version.

    Args:
        folder: `saved_models/NAME`; need not exist.
        version: the number that the next version should have, None for any.

    Raises:
        InputError: it cannot.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    if not re.fullmatch(_NAME, folder.name) or folder.name.isdigit():
        raise InputError(
            f"The folder's name is the model's, which clients put into a URL: wanted letters, "
            f"digits, '_', '-' and '.', not all digits, such as saved_models/dog. Got {folder}."
        )
    if (folder / CONFIG_FILE).exists():
        raise InputError(
            f"{folder} holds models itself (there is a {CONFIG_FILE} in it). Name a folder for "
            f"this one: {folder / 'NAME'}."
        )
    if version is not None and not 0 < version < 2**63:
        raise InputError(f"A version is a number from 1 to 2^63 - 1. Received: {version}.")
    if version in find_versions(folder):
        raise InputError(_taken(folder, version))
    return folder


def publish(finished: pathlib.Path, folder: pathlib.Path, version: int | None) -> pathlib.Path:
    """Renames a finished SavedModel to a version of a model's folder, in one step.

    Args:
        finished: its folder, in `folder`.
        folder: the model's folder.
        version: the number; None: the next one.

    Returns:
        The version's folder.

    Raises:
        InputError: the version exists.
    """
    for number in itertools.count(version or max(find_versions(folder), default=0) + 1):
        path = folder / str(number)
        try:
            os.rename(finished, path)
            return path
        except OSError:
            if not path.exists():
                raise
            if version is not None:
                raise InputError(_taken(folder, version)) from None
    raise AssertionError("a number never ends")


def find_versions(folder: str | os.PathLike[str]) -> dict[int, pathlib.Path]:
    """Returns the versions in a model's folder as TF Serving finds them: number -> folder.

    Folders whose name is not a number are skipped; a folder that does not exist has no versions.
    """
    try:
        with os.scandir(folder) as entries:
            return {
                int(entry.name): pathlib.Path(entry.path)
                for entry in entries
                if re.fullmatch("[0-9]+", entry.name) and entry.is_dir()
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _taken(folder: pathlib.Path, version: int | None) -> str:
    return (
        f"Version {version} of {folder} exists. A server may be using it, so it is not replaced: "
        "leave `version` out to take the next number."
    )


def write_facts(version: pathlib.Path, working_height: int | None) -> None:
    """Writes into a version's folder at which height in pixels the network looks at images."""
    files.write_json(version / FACTS_FILE, {_HEIGHT: working_height})


def read_working_height(version: pathlib.Path) -> int:
    """Returns what `write_facts` wrote, or a usual height.

    1 stands for a network that takes images as they come.
    """
    try:
        facts = files.read_json(version / FACTS_FILE)
    except (OSError, ValueError):
        return _USUAL_HEIGHT
    height = facts.get(_HEIGHT, _USUAL_HEIGHT) if isinstance(facts, dict) else _USUAL_HEIGHT
    return height if type(height) is int and height > 0 else 1


def read_config(path: pathlib.Path) -> Message:
    """Returns the ModelServerConfig at `path`, an empty one where there is none."""
    config = serving_api()[-1].ModelServerConfig()
    if not path.is_file():
        return config
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a ModelServerConfig in text form: {error}. Fix it, or remove it and "
            "export again."
        ) from error
    if config.WhichOneof("config") == "custom_model_config":
        raise InputError(
            f"{path} is a custom_model_config, to which no model can be added. Name another folder."
        )
    return config


def write_configs(root: pathlib.Path) -> None:
    """Writes the files beside the models, or adds to `models.config` what is missing.

    It is edited as text: comments and settings in it are the user's.
    """
    path = root / CONFIG_FILE
    config = read_config(path)
    listed = {entry.name for entry in config.model_config_list.config}
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    text = before or _CONFIG
    if not config.HasField("model_config_list"):
        text = f"{text.rstrip()}\n{_NO_MODELS}"
    for start, end in reversed(_find_entries(text)[0]):
        (entry,) = text_format.Parse(text[start:end], _models()).config
        if entry == _entry(entry.name).config[0] and not find_versions(root / entry.name):
            text = text[:start].rstrip() + text[end:]
    for folder in sorted(root.iterdir()):
        if folder.name not in listed and find_versions(folder):
            end = _find_entries(text)[1]
            added = text_format.MessageToString(_entry(folder.name), indent=2)
            text = f"{text[:end].rstrip()}\n{added}{text[end:]}"
    contents = {path.name: path.read_text(encoding="utf-8") for path in _BESIDE.iterdir()}
    for name, content in {CONFIG_FILE: text, **contents}.items():
        if not (root / name).exists() or (name == CONFIG_FILE and text != before):
            with files.atomic_path(root / name) as temporary:
                temporary.write_text(content, encoding="utf-8")


def _find_entries(text: str) -> tuple[list[tuple[int, int]], int]:
    """Returns where the entries of a `models.config` lie, as (start, end), and their list's end."""
    entries: list[tuple[int, int]] = []
    depth = start = word = end = 0
    has_brackets = False
    for token in re.finditer(_TOKEN, text, re.DOTALL):
        if token[0] in ("{", "<"):
            depth += 1
            if depth == 2:
                start = word
        elif token[0] in ("}", ">"):
            depth -= 1
            if depth == 1:
                entries.append((start, token.end()))
            elif depth == 0:
                end = token.start()
        elif depth == 1:
            word = token.start()
            has_brackets |= token[0] == "["  # config: [{...}, {...}], where none can just go
    return [] if has_brackets else entries, end


def _models() -> Message:
    return serving_api()[-1].ModelServerConfig().model_config_list


def _entry(name: str) -> Message:
    """Returns the list of one model without settings."""
    models = _models()
    models.config.add(name=name, base_path=f"{MODELS_ROOT}/{name}", model_platform="tensorflow")
    return models


def serving_api() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Imports and returns the modules predict, prediction_log and model_server_config."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
        from tensorflow_serving.config import model_server_config_pb2
    except ImportError as error:
        raise missing_package("An export for TensorFlow Serving", "serving", error) from error
    return predict_pb2, prediction_log_pb2, model_server_config_pb2
