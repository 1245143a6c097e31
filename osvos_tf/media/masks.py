"""Masks as PNG files: reading what a person sees in them, writing 0 and 255."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from osvos_tf.errors import InputError
from osvos_tf.media.images import describe_size, open_image, reading, write_png

VOID = 255  # in a mask that was read: neither object nor background, left out of loss and metrics


def read_mask(
    source: "str | os.PathLike[str] | Image.Image | np.ndarray",
    object_id: int | None = None,
    *,
    picked_by: str | None = "object_id",
) -> np.ndarray:
    """Reads an annotation: which pixels are the object.

    Accepts PNGs, and images of Pillow, of three kinds:
      * grey with the values {0, 1} or {0, 255} ({0, 65535} in 16 bits): the larger is the object;
      * palette, as in DAVIS: the indices are object ids, 0 is background and 255 is void;
      * RGB, where the three channels are equal and as in grey. Transparent pixels are background.
    And arrays [height, width]: bool, {0, 255}, or object ids (so {0, 1}, too) with 255 as void.

    Args:
        source: path of the PNG, image, or array.
        object_id: take only this object of a label map; a grey PNG may then hold ids as well.
            None takes every object of a palette PNG together.
        picked_by: how a message should refer to `object_id`; None: the user cannot pick.

    Returns:
        uint8 [height, width]: 0 background, 1 object, 255 void. There may be no object in it.

    Raises:
        InputError: the file cannot be read, is not such a mask, or has no object `object_id`.
    """
    if isinstance(source, Image.Image):
        place = "the image"
        with reading(Path(place)):
            labels, has_ids = _image_labels(source, place)
    elif isinstance(source, (str, os.PathLike)):
        place = f"'{os.fspath(source)}'"
        labels, has_ids = _read_labels(Path(source))
    else:
        place = "the array"
        labels, has_ids = _array_labels(np.asarray(source))
    if object_id is not None:
        return _select_object(labels, object_id, has_ids, place, picked_by)
    if has_ids:
        return np.where(labels == VOID, VOID, labels > 0).astype(np.uint8)
    top = labels.max()
    if top not in (0, 1, 255, 65535) or ((labels > 0) & (labels < top)).any():
        pick = f"; if they are object ids, pick one by {picked_by}" if picked_by else ""
        raise InputError(
            f"Wanted a mask with the values 0 and 255 (or 0 and 1), but {place} holds "
            f"{_describe_values(np.unique(labels))}. If these are shades, threshold it and save it "
            f"without smoothing{pick}."
        )
    return (labels > 0).astype(np.uint8)


def _select_object(
    labels: np.ndarray, object_id: int, has_ids: bool, place: str, picked_by: str | None
) -> np.ndarray:
    """Returns the mask of one id of a label map [height, width], as `read_mask` does."""
    no_object = {0, VOID} if has_ids else {0}
    ids = sorted(set(np.unique(labels).tolist()) - no_object)
    if object_id not in ids:
        raise InputError(
            f"Wanted object {object_id} in {place}, but the object ids there are "
            f"{_describe_values(ids) if ids else 'none'}. Pick one of them by {picked_by}."
        )
    mask = (labels == object_id).astype(np.uint8)
    if object_id != VOID:
        mask[labels == VOID] = VOID
    return mask


def _read_labels(path: Path) -> tuple[np.ndarray, bool]:
    """Returns a PNG's palette indices or grey values [height, width]; True if these are ids."""
    if not path.exists():
        raise InputError(f"Wanted a mask, but '{path}' does not exist. Name a PNG.")
    with reading(path), open_image(path) as image:
        if image.format != "PNG":
            raise InputError(
                f"Wanted a mask as PNG, but '{path}' is {image.format}, which may have changed its "
                "values. Export the mask from your drawing tool as PNG, without smoothing."
            )
        return _image_labels(image, f"'{path}'")


def _image_labels(image: Image.Image, place: str) -> tuple[np.ndarray, bool]:
    """Returns an image's palette indices or grey values [height, width]; True if these are ids."""
    image.load()
    pixels = np.array(image)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    return (pixels if pixels.ndim == 2 else _merge_channels(pixels, place)), image.mode == "P"


def _array_labels(array: np.ndarray) -> tuple[np.ndarray, bool]:
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
            "Wanted a mask of bool, of 0 and 255, or of object ids up to 254. The array holds "
            f"{_describe_values(values)}. Threshold probabilities first: probability > 0.5."
        )
    return array.astype(np.uint8), not set(values.tolist()) <= {0, VOID}


def _merge_channels(pixels: np.ndarray, place: str) -> np.ndarray:
    """Returns the grey values of pixels [height, width, 2 (grey, alpha), 3 (RGB) or 4 (RGBA)]."""
    has_alpha = pixels.shape[-1] in (2, 4)
    colours = pixels[..., :-1] if has_alpha else pixels
    coloured = np.any(colours != colours[..., :1], axis=-1)
    if coloured.any():
        found = np.unique(colours[coloured], axis=0)
        raise InputError(
            f"Wanted a mask in black and white, but {place} holds colours, among them RGB "
            f"{_describe_values(found)}. Export it as grey, or as PNG with a palette."
        )
    grey = colours[..., 0]
    if not has_alpha:
        return grey
    alpha = pixels[..., -1]
    if not set(np.unique(alpha).tolist()) <= {0, 255}:
        raise InputError(
            f"Wanted a mask without half-transparent pixels, but {place} has the opacities "
            f"{_describe_values(np.unique(alpha))}. Export it without alpha channel."
        )
    return np.where(alpha == 255, grey, 0).astype(np.uint8)


def _describe_values(values: list[int] | np.ndarray, most: int = 8) -> str:
    """Lists the first few values: '0, 1, 2 and 9 more'."""
    values = np.asarray(values)
    listed = ", ".join(
        str(tuple(value) if isinstance(value, list) else value) for value in values[:most].tolist()
    )
    return f"{listed} and {len(values) - most} more" if len(values) > most else listed


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
            f"mask must hold 0 and 1 only. Received: {_describe_values(np.unique(mask))}."
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
    with reading(path), Image.open(path) as image:
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
