"""Masks as files: reading what a person sees in them, writing 0 and 255."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from osvos_tf import files
from osvos_tf.errors import InputError
from osvos_tf.formats import annotations
from osvos_tf.media.images import describe_size, open_image, reading, require_pixels, write_png
from osvos_tf.media.mask_pictures import VOID, davis_palette, describe_values, ids_in, labels_of
from osvos_tf.media.sequence import number_in

__all__ = [
    "VOID",
    "check_png",
    "ids_in",
    "read_labels",
    "read_mask",
    "write_labels",
    "write_mask",
    "write_probability",
]

_LOSSY = ("JPEG", "MPO", "AVIF")  # formats that change a picture's values


def read_mask(
    source: "str | os.PathLike[str] | Image.Image | np.ndarray",
    object_id: int | None = None,
    *,
    picked_by: str | None = "object_id",
    threshold: float | None = None,
    frame: str | None = None,
) -> np.ndarray:
    """Reads an annotation: which pixels are the object. See `read_labels`.

    Args:
        source: path, image, or array.
        object_id: take only this object of a label map; None takes every object together.
        picked_by: see `read_labels`.
        threshold: see `read_labels`.
        frame: see `read_labels`.

    Returns:
        uint8 [height, width]: 0 background, 1 object, 255 void. There may be no object in it.

    Raises:
        InputError: see `read_labels`.
    """
    picked = None if object_id is None else (object_id,)
    labels, _ = read_labels(source, picked, picked_by=picked_by, threshold=threshold, frame=frame)
    return np.where(labels == VOID, VOID, labels > 0).astype(np.uint8)


def read_labels(
    source: "str | os.PathLike[str] | Image.Image | np.ndarray",
    picked: Sequence[int] | None = None,
    *,
    picked_by: str | None = None,
    threshold: float | None = None,
    frame: str | None = None,
) -> tuple[np.ndarray, bool]:
    """Reads an annotation: which pixels are which object.

    A person's eye decides, see `mask_pictures`:
      * grey with the values {0, 1} or {0, 255} ({0, 65535} in 16 bits): the larger is the object;
      * a palette with colours, as in DAVIS: its indices are object ids, 0 is background, 255 void;
      * two colours, one of them black or white, which is the background;
      * an object on transparent ground.
    And arrays, also as `.npy`, [height, width]: bool, {0, 255}, or object ids (so {0, 1}, too) with
    255 as void; and files of annotation tools, see `formats.annotations`.

    Args:
        source: path, image, or array.
        picked: take only these objects; a grey picture may then hold ids as well.
        picked_by: how a message should refer to `picked`; None: the user cannot pick.
        threshold: takes pictures with shades, also JPEG: the object is where their alpha or their
            brightness is above this part of its range, 0..1.
        frame: name of the frame that is annotated, where a tool's file has many.

    Returns:
        uint8 [height, width]: 0 background, 255 void, else an id, and True; or, where the mask is
        plain and has no ids, 1 for the object, and False.

    Raises:
        InputError: the file cannot be read, is not such a mask, or lacks a picked object.
    """
    if isinstance(source, Image.Image):
        place = "the image"
        with reading(Path(place)):
            labels, has_ids = labels_of(source, place, threshold)
    elif isinstance(source, (str, os.PathLike)):
        place = f"'{os.fspath(source)}'"
        labels, has_ids = _read_labels(Path(source), threshold, frame)
    else:
        place = "the array"
        labels, has_ids = _array_labels(np.asarray(source), place)
    if picked is not None:
        return _select_objects(labels, picked, has_ids, place, picked_by), True
    if has_ids:
        return labels, True
    top = labels.max()
    if top not in (0, 1, 255, 65535) or ((labels > 0) & (labels < top)).any():
        pick = f"; if they are object ids, pick one by {picked_by}" if picked_by else ""
        raise InputError(
            f"Wanted a mask with the values 0 and 255 (or 0 and 1), but {place} holds "
            f"{describe_values(np.unique(labels))}. If these are shades, save it without "
            f"smoothing, or give `mask_threshold`: what is brighter is the object{pick}."
        )
    return (labels > 0).astype(np.uint8), False


def object_ids(path: str | os.PathLike[str]) -> list[int]:
    """Returns the ids in a label map; none where the picture is a mask of one object."""
    labels, has_ids = _read_labels(Path(path), None, None)
    return ids_in(labels) if has_ids else []


def _select_objects(
    labels: np.ndarray, picked: Sequence[int], has_ids: bool, place: str, picked_by: str | None
) -> np.ndarray:
    """Returns a label map [height, width] of a few ids of another, as `read_labels` does."""
    no_object = {0, VOID} if has_ids else {0}
    ids = sorted(set(np.unique(labels).tolist()) - no_object)
    for object_id in picked:
        if object_id >= VOID:
            raise InputError(f"Object ids go from 1 to {VOID - 1}. Got {object_id}.")
        if object_id not in ids:
            raise InputError(
                f"Wanted object {object_id} in {place}, but the object ids there are "
                f"{describe_values(ids) if ids else 'none'}. Pick one of them by {picked_by}."
            )
    return np.where(np.isin(labels, [*picked, VOID]), labels, 0).astype(np.uint8)


def _read_labels(path: Path, threshold: float | None, frame: str | None) -> tuple[np.ndarray, bool]:
    """Returns a file's labels [height, width]; True if these are object ids."""
    if path.is_dir():
        raise InputError(f"Wanted a mask, but '{path}' is a folder. Name one of its files.")
    if not path.exists():
        raise InputError(f"Wanted a mask, but '{path}' does not exist. Name a PNG.")
    if not path.is_file():
        raise InputError(f"Wanted a mask, but '{path}' is no regular file. Name a PNG.")
    suffix = path.suffix.lower()
    if suffix in annotations.SUFFIXES:
        return _read_tool_file(path, frame), True
    if suffix == ".npy":
        return _read_array(path)
    with reading(path), open_image(path) as image:
        if image.format in _LOSSY and threshold is None:
            raise InputError(
                f"Wanted a mask that holds its values, but '{path}' is {image.format}, which "
                "blurs them. Export it as PNG from your drawing tool, or give `mask_threshold`, "
                "such as 0.5: what is brighter is the object."
            )
        return labels_of(image, f"'{path}'", threshold)


def _read_array(path: Path) -> tuple[np.ndarray, bool]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        require_pixels(array.shape[1], array.shape[0])
    except (ValueError, OSError, EOFError, IndexError) as error:
        raise InputError(
            f"Wanted a mask, but the array in '{path}' cannot be read: {error}. Save it by "
            "numpy.save as [height, width]."
        ) from error
    return _array_labels(array, f"'{path}'")


def _read_tool_file(path: Path, frame: str | None) -> np.ndarray:
    """Returns the label map of the picture that a tool's file has for a frame."""
    try:
        pictures = annotations.read(path)
        picture = _picture_for(pictures, frame, path)
        return annotations.label_map(picture, annotations.names_of(pictures))
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(
            f"Wanted a mask, but '{path}' cannot be read as a file of {annotations.TOOLS}: "
            f"{error}. Export one of these, or the mask as PNG."
        ) from error


def _picture_for(
    pictures: tuple[annotations.Picture, ...], frame: str | None, path: Path
) -> annotations.Picture:
    if len(pictures) == 1:
        return pictures[0]
    stems = [PurePosixPath(picture.name.replace("\\", "/")).stem for picture in pictures]
    for matches in (
        [picture for picture, stem in zip(pictures, stems, strict=True) if stem == frame],
        [
            picture
            for picture, stem in zip(pictures, stems, strict=True)
            if frame is not None and number_in(frame) == number_in(stem) is not None
        ],
    ):
        if len(matches) == 1:
            return matches[0]
    listed = ", ".join(repr(stem) for stem in stems[:8])
    raise InputError(
        f"'{path}' annotates {len(pictures)} pictures, {listed}{', ...' * (len(stems) > 8)}, and "
        f"none of them alone has the name of frame {frame!r}. Name the frame: NAME:FILE."
    )


def _array_labels(array: np.ndarray, place: str) -> tuple[np.ndarray, bool]:
    """Returns an array's values [height, width]; True if these are object ids."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"Wanted a mask [height, width]. Got an array of shape {array.shape}.")
    if array.dtype == bool:
        return array.astype(np.uint8), False
    values = np.unique(array)
    if not np.isin(values, np.arange(VOID + 1)).all():
        raise InputError(
            f"Wanted a mask of bool, of 0 and 255, or of object ids up to 254. {_capital(place)} "
            f"holds {describe_values(values)}. Threshold probabilities first: probability > 0.5."
        )
    return np.asarray(array).astype(np.uint8), not set(values.tolist()) <= {0, VOID}


def _capital(place: str) -> str:
    return place[0].upper() + place[1:]


def write_labels(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Writes a label map as PNG with DAVIS's palette, whole or not at all.

    Args:
        path: the file; its folder must exist.
        labels: uint8 [height, width].

    Raises:
        OSError: the file cannot be written.
    """
    image = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
    image.putpalette(davis_palette())
    with files.atomic_path(path) as temporary:
        image.save(temporary, "PNG")


def write_mask(path: str | os.PathLike, mask: np.ndarray) -> None:
    """Writes a mask as PNG with one channel, 0 background and 255 object, whole or not at all.

    Args:
        path: the file; its folder must exist.
        mask: bool, or numbers 0 and 1, [height, width].

    Raises:
        ValueError: `mask` has another shape or other values, such as void.
        OSError: the file cannot be written.
    """
    mask = _require_plane(mask, "mask")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"mask must hold 0 and 1 only. Received: {describe_values(np.unique(mask))}."
        )
    write_png(path, mask.astype(np.uint8) * 255)


def write_probability(path: str | os.PathLike, probability: np.ndarray) -> None:
    """Writes a probability map as 8-bit grey PNG, 255 for probability 1, whole or not at all.

    Args:
        path: the file; its folder must exist.
        probability: float [height, width] in 0..1.

    Raises:
        ValueError: `probability` has another shape, or values outside of 0..1.
        OSError: the file cannot be written.
    """
    probability = _require_plane(probability, "probability")
    low, high = float(np.min(probability)), float(np.max(probability))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # lets rounding pass, but not a NaN
        raise ValueError(f"probability must lie in 0..1. Received: {low}..{high}.")
    write_png(path, np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8))


def check_png(path: str | os.PathLike, size: tuple[int, int]) -> None:
    """Decodes a mask or probability that was written, to see whether it is whole.

    Args:
        path: the file.
        size: (height, width) that it must have.

    Raises:
        InputError: the file is missing, truncated, not a PNG, or of another size.
    """
    path = Path(path)
    with reading(path), open_image(path) as image:
        image.load()
        width, height = image.size
        if image.format != "PNG":
            raise ValueError(f"it is {image.format}, not PNG")
    if (height, width) != tuple(size):
        raise InputError(
            f"Wanted a PNG of {describe_size(size)}, but '{path}' is "
            f"{describe_size((height, width))}."
        )


def _require_plane(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be [height, width]. Received shape: {array.shape}.")
    return array
