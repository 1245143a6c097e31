"""What a job's inputs are, in a line each: so that the same work is known again."""

import hashlib
import os
import pathlib
from typing import Any

from osvos_tf import files, results
from osvos_tf.media.images import IMAGE_SUFFIXES

_FIRST_BYTES = 2**20  # of a video, by which it is told from others
# As `segmentation.specialist` says, which needs TensorFlow.
NETWORK, _RECORD = "specialist.keras", "specialist.json"


def of_file(path: str | os.PathLike[str]) -> str:
    """Returns a file's checksum; anything else, such as "random", stands for itself."""
    return results.identify(path) if os.path.isfile(path) else str(path)


def of_specialist(path: str) -> str:
    """Returns the checksum of a specialist's network."""
    network = pathlib.Path(path, NETWORK)
    return of_file(network if network.is_file() else path)


def objects_of(path: str | None) -> tuple[int, ...]:
    """Returns the ids of the objects that a specialist's folder knows; none where it says none."""
    if path is None:
        return ()
    try:
        record: Any = files.read_json(pathlib.Path(path, _RECORD))
        return tuple(sorted(int(id_) for id_ in record["objects"]))
    except (OSError, ValueError, TypeError, KeyError):
        return ()  # loading it says what is wrong


def of_frames(path: str) -> str:
    """Returns what identifies a video without reading all of it."""
    place = pathlib.Path(os.path.realpath(path))
    digest = hashlib.sha256()
    images = [place]
    if place.is_dir():
        images = sorted(
            image
            for image in place.glob("[!.]*")
            if image.suffix.lower() in IMAGE_SUFFIXES and image.is_file()
        )
        for image in images:
            digest.update(f"{image.name}/{image.stat().st_size}/".encode(errors="surrogateescape"))
    if images and images[0].is_file():
        digest.update(str(images[0].stat().st_size).encode())
        with open(images[0], "rb") as file:
            digest.update(file.read(_FIRST_BYTES))
    return f"{place} sha256:{digest.hexdigest()}"
