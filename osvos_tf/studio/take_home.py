"""What can be taken home from results: each as the commands leave it, alone or all in a ZIP."""

import pathlib
import zipfile
from typing import Any

from osvos_tf import results
from osvos_tf.errors import InputError
from osvos_tf.jobs import additions, outputs
from osvos_tf.jobs.identity import NETWORK
from osvos_tf.jobs.video_job import ROUNDS

ALL, SPECIALIST, SAVED_MODEL = "all", "specialist", "saved_model"
_MODELS = "saved_models"  # in the results: a model store, as `export_saved_model` makes them
WORDS = {
    ALL: "All results, as a ZIP",
    "masks": "Masks (PNG)",
    "overlay": "Overlay video (MP4)",
    "prores": "Cut-out video (ProRes 4444)",
    "webm": "Cut-out video (WebM)",
    "foreground": "Cut-out frames (PNG)",
    "alpha": "Soft alpha (16-bit PNG)",
    "labels": "Label maps (PNG)",
    "contact_sheet": "Contact sheet (JPEG)",
    "coco": "COCO annotations",
    "cvat": "CVAT annotations",
    SPECIALIST: "The specialist (.keras)",
    SAVED_MODEL: "SavedModel for TensorFlow Serving",
}


def offers(out: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what there is to take home of finished results, and whether it is made already."""
    return [
        {"what": what, "words": words, "there": is_there(out, what)}
        for what, words in WORDS.items()
    ]


def is_there(out: pathlib.Path, what: str) -> bool:
    """Returns whether one of `WORDS` is made; a SavedModel: of this specialist."""
    source = place(out, what)
    if what != SAVED_MODEL:
        return source.exists()
    exports = [path.stat().st_mtime for path in source.glob("*/saved_model.pb")]
    return bool(exports) and max(exports) >= (out / NETWORK).stat().st_mtime


def place(out: pathlib.Path, what: str) -> pathlib.Path:
    """Returns the file or folder of finished results that holds one of `WORDS`.

    Raises:
        InputError: it is none of them.
    """
    if what not in WORDS:
        raise InputError(f"Wanted one of {', '.join(WORDS)}. Got {what!r}.")
    if what in outputs.FILES:
        return out / outputs.FILES[what][0]
    other = {ALL: ".", SPECIALIST: NETWORK, SAVED_MODEL: f"{_MODELS}/{out.name}"}
    return out / other.get(what, what)


def pack(out: pathlib.Path, what: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the file to send; of a folder, an archive of it without earlier rounds.

    Args:
        out: the finished results.
        what: one of `WORDS`.
        folder: for the archive.

    Raises:
        InputError: it is not there.
    """
    source = place(out, what)
    if results.read_record(out) is None:
        raise InputError("There are no results yet. Learn first.")
    if not is_there(out, what):
        raise InputError(f"{WORDS[what]}: not made yet. Have it made first.")
    if source.is_file():
        return source
    path = folder / (f"{out.name}.zip" if what == ALL else f"{out.name}-{what}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(source.rglob("*")):
            name = file.relative_to(source)
            if file.is_file() and name.parts[0] != ROUNDS:
                archive.write(file, pathlib.PurePath(source.name, name))
    return path


def order(path: str, out: pathlib.Path, what: str) -> tuple[str, dict[str, Any]]:
    """Returns the task, and its details, that makes one of `WORDS`: see `learner.TASKS`.

    Args:
        path: of the video.
        out: the finished results.
        what: one of `WORDS`.

    Raises:
        InputError: it cannot be made from finished results.
    """
    if what == SAVED_MODEL:
        return "export", {"out": str(out), "to": str(place(out, what))}
    if what not in outputs.KINDS or what in additions.NOT_OF_MASKS:
        raise InputError(f"Wanted one of {', '.join(WORDS)}. Got {what!r}.")
    return "add", {"path": path, "out": str(out), "kinds": [what]}
