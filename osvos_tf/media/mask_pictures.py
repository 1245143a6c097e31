"""What a person sees in a mask's picture: object ids, black and white, two colours, a cut-out."""

import numpy as np
from PIL import Image

from osvos_tf.errors import InputError

VOID = 255  # in a mask that was read: neither object nor background, left out of loss and metrics

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_SHADES = "Export it without smoothing, or give `mask_threshold`: what is above it is the object"


def ids_in(labels: np.ndarray) -> list[int]:
    """Returns the ids in label maps: all values but 0, background, and 255, void."""
    return sorted(set(np.unique(labels).tolist()) - {0, VOID})


def davis_palette() -> list[int]:
    """Returns the 256 colours of DAVIS's and PASCAL VOC's palette, R, G and B in turn.

    An id's bits, three at a time, become the highest, second ... bit of red, green and blue.
    """
    colours = np.zeros((256, 3), int)
    ids = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (ids >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.reshape(-1).tolist()


_IDS = {colour: i for i, colour in enumerate(map(tuple, np.reshape(davis_palette(), (-1, 3))))}


def labels_of(
    image: Image.Image, place: str, threshold: float | None = None
) -> tuple[np.ndarray, bool]:
    """Returns a picture's labels [height, width]; True if these are object ids.

    Palettes with colours hold ids; grey ones hold grey values. Where a part is transparent and the
    rest is not black and white, what is opaque is the object. Of two colours the one that is not
    black is, or not white if neither is black. Colours of DAVIS's palette are its ids.

    Args:
        image: an image of Pillow.
        place: what it is called in messages.
        threshold: 0..1; the object is where the alpha of a picture that has one, else its
            brightness, is above.

    Raises:
        InputError: the picture is ambiguous. The message has the values found.
    """
    image.load()
    if image.mode == "P":
        if "transparency" in image.info or _is_grey(image):
            image = image.convert("RGBA" if "transparency" in image.info else "L")
        elif threshold is None:
            return np.array(image), True
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA") and not image.mode.startswith("I"):
        image = image.convert("RGBA" if "A" in image.mode else "RGB")
    pixels = np.array(image)
    if threshold is not None:
        return _above(pixels, threshold), False
    if pixels.ndim == 2:
        return pixels.astype(np.uint8) if pixels.dtype == bool else pixels, False
    return _from_channels(pixels, place)


def _is_grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    is_grey = bool((palette == palette[:, :1]).all())
    return is_grey and len(np.unique(palette)) > 1  # a palette of one colour is none


def _above(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """Returns uint8 0 and 1: where alpha, or else brightness, is above a part of its range."""
    top = 1.0 if pixels.dtype == bool else float(np.iinfo(pixels.dtype).max)
    if pixels.dtype == np.int32:
        top = 65535.0  # Pillow's 16 bits
    if pixels.ndim == 3:
        has_alpha = pixels.shape[-1] in (2, 4)
        alpha = pixels[..., -1]
        if has_alpha and alpha.min() < 255:
            values = alpha.astype(np.float32)
        else:
            values = pixels[..., : pixels.shape[-1] - has_alpha].mean(-1, dtype=np.float32)
    else:
        values = pixels.astype(np.float32)
    return (values > threshold * top).astype(np.uint8)


def _from_channels(pixels: np.ndarray, place: str) -> tuple[np.ndarray, bool]:
    """Returns the labels of pixels [height, width, 2 (grey, alpha), 3 (RGB) or 4 (RGBA)]."""
    colours = pixels[..., :-1] if pixels.shape[-1] in (2, 4) else pixels
    if colours.shape[-1] == 1:
        colours = np.repeat(colours, 3, axis=-1)
    opaque = np.ones(colours.shape[:2], bool)
    if pixels.shape[-1] in (2, 4):
        alpha = pixels[..., -1]
        values = np.unique(alpha)
        if not set(values.tolist()) <= {0, 255}:
            raise InputError(
                f"Wanted a mask without half-transparent pixels, but {place} has the opacities "
                f"{describe_values(values)}. {_SHADES}."
            )
        opaque = alpha == 255
    found = np.unique(colours[opaque], axis=0)
    seen = [tuple(colour) for colour in found.tolist()]
    if not opaque.all() and set(seen) != {_BLACK, _WHITE}:
        return opaque.astype(np.uint8), False
    is_grey = bool((found == found[:, :1]).all())
    if _BLACK in seen and set(seen) <= set(_IDS) and not is_grey:
        codes = colours.astype(np.int32) @ [65536, 256, 1]
        table = {r * 65536 + g * 256 + b: i for (r, g, b), i in _IDS.items()}
        values, places = np.unique(codes, return_inverse=True)
        ids = np.array([table[value] for value in values.tolist()], np.uint8)
        return ids[places].reshape(codes.shape), True
    if is_grey and (_BLACK in seen or len(seen) != 2):
        return np.where(opaque, colours[..., 0], 0).astype(np.uint8), False
    if len(seen) == 2:
        return (_is_object(colours, seen, place) & opaque).astype(np.uint8), False
    raise InputError(
        f"Wanted a mask: two colours, black and white, a palette of object ids, or an object on "
        f"nothing. But {place} holds {len(seen)} colours, among them RGB "
        f"{describe_values(found)}. {_SHADES}."
    )


def _is_object(colours: np.ndarray, seen: list[tuple[int, ...]], place: str) -> np.ndarray:
    """Returns bool [height, width]: which of two colours is the object's."""
    if all(len(set(colour)) == 1 for colour in seen) and _BLACK not in seen:
        shades = [colour[0] for colour in seen]
        raise InputError(
            f"Wanted black on the background, but {place} holds the shades {shades[0]} and "
            f"{shades[1]}. {_SHADES}."
        )
    for background in (_BLACK, _WHITE):
        if background in seen:
            return (colours != background).any(-1)
    raise InputError(
        f"Two colours are a mask where one of them is black or white, the background. {place} "
        f"holds RGB {seen[0]} and {seen[1]}: make the background black."
    )


def describe_values(values: list[int] | np.ndarray, most: int = 8) -> str:
    """Lists the first few values: '0, 1, 2 and 9 more'."""
    values = np.asarray(values)
    listed = ", ".join(
        str(tuple(value) if isinstance(value, list) else value) for value in values[:most].tolist()
    )
    return f"{listed} and {len(values) - most} more" if len(values) > most else listed
