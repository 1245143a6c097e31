"""Single pictures in and out, read within bounds."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, WebPImagePlugin

with contextlib.suppress(ImportError):  # before Pillow 11.3
    from PIL import AvifImagePlugin  # noqa: F401 (importing it makes Pillow read AVIF)

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm",
)  # fmt: skip
# Larger frames and masks are refused before they are decoded, as what they claim to be may be made
# up: a PNG of a few KB can unpack to gigabytes. 8K video has half of it.
MAX_PIXELS = 2**26
# A network looks at frames of one height, whatever theirs is: a strip becomes a very long one.
MAX_RATIO = 16

_EXIF_ORIENTATION = 0x0112
_EXIF_ORIENTATIONS = range(2, 9)  # 1 is upright, what is above means nothing
_EXIF_QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap height and width
# Pillow knows more, but EPS and the like are programs rather than pictures. It loads the last ones
# only on demand, or where they are imported.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", TiffImagePlugin.TiffImageFile.format,
            WebPImagePlugin.WebPImageFile.format,
            *({"AVIF"} & set(Image.OPEN)))  # fmt: skip
_ANIMATED = ("GIF", "WEBP", "PNG", "TIFF")  # formats of which one file may hold many pictures


class ImageHeader(NamedTuple):
    """What an image's header says: its upright (height, width), whether it holds several pictures.

    Animations and documents of several pages do; a phone's JPEG with a small copy inside does not.
    """

    size: tuple[int, int]
    has_pages: bool


def read_header(path: Path) -> ImageHeader:
    """Reads an image's header.

    Raises:
        InputError: it cannot be read.
    """
    with reading(path), open_image(path) as image:
        width, height = image.size
        lies = is_turned(image) and image.getexif()[_EXIF_ORIENTATION] in _EXIF_QUARTER_TURNS
        has_pages = image.format in _ANIMATED and getattr(image, "n_frames", 1) > 1
    return ImageHeader((width, height) if lies else (height, width), has_pages)


def read_image(path: Path) -> np.ndarray:
    """Returns the upright image, uint8 RGB [height, width, 3].

    Raises:
        InputError: it cannot be read.
    """
    with reading(path), open_image(path) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> np.ndarray:
    """Returns an opened image, or the page of it that it is at, as `read_image` does.

    Raises:
        ValueError: its pixels are of a type whose range is unknown.
    """
    image.load()
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if is_turned(image):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel
        grey = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    image.info.pop("transparency", None)
    return np.array(image.convert("RGB"))


def is_turned(image: Image.Image) -> bool:
    """Returns whether an image must be turned or mirrored to stand upright.

    Only JPEG's EXIF counts: that is what cameras and phones write, and TIFF is turned by Pillow.
    """
    return (
        image.format in ("JPEG", "MPO")
        and image.getexif().get(_EXIF_ORIENTATION, 1) in _EXIF_ORIENTATIONS
    )


@contextlib.contextmanager
def open_image(source: str | os.PathLike | BinaryIO) -> Iterator[Image.Image]:
    """Opens an image with Pillow and reads its header; rejects what is too large or not a picture.

    Args:
        source: path, or a file opened in binary mode.

    Raises:
        ValueError: more than `MAX_PIXELS`; or one of Pillow's many exceptions.
    """
    if isinstance(source, (str, os.PathLike)) and os.path.exists(source):
        require_file(source)
    try:
        image = Image.open(source, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"it has more than the limit of {MAX_PIXELS} pixels") from error
    with image:
        require_pixels(*image.size)
        yield image


def require_pixels(width: int, height: int) -> None:
    """Raises ValueError if a picture of that size is larger or longer than the limits."""
    size = describe_size((height, width))
    if width * height > MAX_PIXELS:
        raise ValueError(f"it is {size}, more than the limit of {MAX_PIXELS} pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"it is {size}, and no side may be {MAX_RATIO} times the other")


def require_file(path: str | os.PathLike) -> None:
    """Raises ValueError if what lies there is no file: a pipe or a device may never end."""
    if not os.path.isfile(path):
        raise ValueError("it is no regular file")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns Pillow's many exceptions into one that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged file fails in many ways inside Pillow
        raise InputError(
            f"Wanted an image, but '{path}' cannot be read: {error}. Is the file complete?"
        ) from error


def describe_size(shape: tuple[int, ...]) -> str:
    """Returns a shape (height, width, ...) as messages say it."""
    height, width = shape[:2]
    return f"{width}x{height} (width x height)"


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 grey [height, width]."""
    _, encoded = cv2.imencode(".png", pixels)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
