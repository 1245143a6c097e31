"""Frames in, masks in and out, overlay videos out.

`open_frames` reads a folder of images or a video file one frame at a time, so that memory does not
grow with the length. Still images go through Pillow, which knows what OpenCV hides (a palette
PNG's indices, the size before decoding) and refuses a truncated file instead of painting it grey.

A JPEG's EXIF orientation and a video's rotation are honoured: frames stand upright, as in every
viewer and so as in the tool in which the mask was drawn. Masks carry no orientation of their own.
"""

import operator
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, WebPImagePlugin

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
DEFAULT_FPS = 24.0  # what a folder of images is played at: DAVIS's own rate
# Larger frames and masks are refused before they are decoded, as what they claim to be may be made
# up: a PNG of a few KB can unpack to gigabytes. 8K video has half of it.
MAX_PIXELS = 2**26
VOID = 255  # in a mask that was read: neither object nor background, left out of loss and metrics

# The first that the installed OpenCV can encode is taken. H.264 plays everywhere, also in browsers,
# but few wheels can write it; MPEG-4 part 2 is in all of them and plays in desktop players. VP9
# would play in browsers too, but takes 100 times as long: 0.3 s for a 480p frame on two cores.
_CODECS = ("avc1", "mp4v")
# OpenCV 5 moved the function.
_set_opencv_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel

_EXIF_ORIENTATION = 0x0112
_EXIF_ORIENTATIONS = range(2, 9)  # 1 is upright, what is above means nothing
_EXIF_QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap height and width
# Pillow knows more, but EPS and the like are programs rather than pictures. It loads the last two
# only on demand, or where they are imported.
_FORMATS = ("JPEG", "PNG", "BMP", TiffImagePlugin.TiffImageFile.format,
            WebPImagePlugin.WebPImageFile.format)  # fmt: skip


# --- frames in ------------------------------------------------------------------------------------


class Frames(ABC):
    """A sequence of frames that is read lazily; iterate as often as you like.

        frames = open_frames("holiday.mp4")
        for name, frame in frames:  # frame: uint8 RGB [height, width, 3]
            ...

    Attributes:
        path: the folder or file that is read.
        size: (height, width) of every frame, in pixels.
        fps: frames a second; `DEFAULT_FPS` where the source does not say.
        length: number of frames; for a video what its header says, None if it says nothing.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    length: int | None

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The name of every frame, in order: file stems, or '00000', '00001', ... in a video."""

    def __len__(self) -> int:
        """Returns the number of frames; those of a video file are counted, which reads it once."""
        return len(self.names)

    def __getitem__(self, key: int | str) -> np.ndarray:
        """Returns a frame by its position (negative ones count from the end) or its name.

        Raises:
            IndexError: there is no such position.
            InputError: there is no frame of that name, or it cannot be read.
        """
        if isinstance(key, str):
            return self.read(self.find(key))
        return self.read(self.names[operator.index(key)])

    def find(self, key: int | str) -> str:
        """Returns the name of a frame.

        Args:
            key: its position, or its name. Where no frame has that name, a number is enough: "42"
                means "00042" or "frame_0042", if there is one such frame.

        Raises:
            InputError: no such frame.
        """
        names = self.names
        if not isinstance(key, str):
            try:
                return names[operator.index(key)]
            except (IndexError, TypeError):
                raise InputError(
                    f"Wanted a frame's position, 0 to {len(names) - 1}, or its name. Got {key!r}."
                ) from None
        if key not in names and key.isdecimal():
            meant = [name for name in names if _number_in(name) == int(key)]
            if len(meant) == 1:
                return meant[0]
        if key not in names:
            raise _no_such_frame(self, key)
        return key

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, frame), frame uint8 RGB [height, width, 3].

        Raises:
            InputError: a frame cannot be read, or has another size than the first.
        """

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Returns the frame called `name`, uint8 RGB [height, width, 3].

        Raises:
            InputError: there is no such frame, or it cannot be read.
        """

    @abstractmethod
    def check(self) -> None:
        """Looks for unreadable and odd-sized frames without decoding them, before long work.

        A folder's files are opened and their headers read, well under a millisecond each. A
        video has one header, which `open_frames` has read already.

        Raises:
            InputError: a frame is no image, or has another size than the first; it is named.
        """

    def first(self) -> tuple[str, np.ndarray]:
        """Returns name and pixels of the first frame, uint8 RGB [height, width, 3]."""
        return next(iter(self))


def open_frames(path: str | os.PathLike) -> Frames:
    """Opens a folder of images, in natural file-name order, or a video file.

    Hidden files are passed by. 16-bit, grey, palette and transparent images all come out as uint8
    RGB: the high byte of 16-bit values counts, transparency is dropped.

    Raises:
        InputError: no such path, no images in the folder, no frames in the file.
    """
    path = Path(path)
    if path.is_dir():
        return _FolderFrames(path)
    if not path.exists():
        raise InputError(
            f"Wanted frames, but '{path}' does not exist. Name a folder of images or a video file."
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(
            f"Wanted a folder of images or a video file, but '{path}' is a single image. "
            f"Name the folder it lies in: '{path.parent}'."
        )
    return _VideoFrames(path)


def open_video(source: "str | os.PathLike[str] | np.ndarray | Frames") -> Frames:
    """Opens a video for the Python API.

        video = open_video("dog.mp4")
        len(video), video.names, video[0], video["00042"]
        for name, frame in video:  # frame: uint8 RGB [height, width, 3]
            ...

    Args:
        source: a video file or a folder of images, see `open_frames`; an array of frames, uint8 RGB
            [frames, height, width, 3], named '00000', '00001', ...; or what this function returned.

    Raises:
        InputError: it cannot be opened, or is no such array.
    """
    if isinstance(source, Frames):
        return source
    if isinstance(source, (str, os.PathLike)):
        return open_frames(source)
    return _ArrayFrames(np.asarray(source))


class _ArrayFrames(Frames):
    """Frames that lie in memory."""

    def __init__(self, frames: np.ndarray):
        if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise InputError(
                "Wanted frames as an array [frames, height, width, 3] (RGB), a folder of images or "
                f"a video file. Got an array of shape {frames.shape}."
            )
        if frames.dtype != np.uint8:
            raise InputError(
                f"Wanted frames of type uint8, in 0..255. Got {frames.dtype}; convert them, such "
                "as by (frames * 255).astype('uint8') where they lie in 0..1."
            )
        self.path = Path("array of frames")
        self.fps = DEFAULT_FPS
        self.length = len(frames)
        self.size = frames.shape[1:3]
        self._frames = frames

    @property
    def names(self) -> list[str]:
        return [_frame_name(number) for number in range(len(self._frames))]

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from zip(self.names, self._frames, strict=True)

    def read(self, name: str) -> np.ndarray:
        names = self.names
        if name not in names:
            raise _no_such_frame(self, name)
        return self._frames[names.index(name)]

    def check(self) -> None:
        """Does nothing: an array's frames have one size."""


class _FolderFrames(Frames):
    """The images of one folder."""

    def __init__(self, path: Path):
        self.path = path
        self.fps = DEFAULT_FPS
        self._files = _image_files(path)
        self.length = len(self._files)
        self.size = _image_size(next(iter(self._files.values())))

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for name in self._files:
            yield name, self.read(name)

    def read(self, name: str) -> np.ndarray:
        if name not in self._files:
            raise _no_such_frame(self, name)
        frame = read_image(self._files[name])
        self._require_size(name, frame.shape[:2])
        return frame

    def check(self) -> None:
        for name, file in self._files.items():
            self._require_size(name, _image_size(file))

    def _require_size(self, name: str, size: tuple[int, int]) -> None:
        if size != self.size:
            first = next(iter(self._files.values()))
            raise InputError(
                f"Wanted frames of one size in '{self.path}', but '{self._files[name].name}' is "
                f"{_describe_size(size)} and the first, '{first.name}', is "
                f"{_describe_size(self.size)}. Resize or remove the odd one."
            )


class _VideoFrames(Frames):
    """The frames of one video file, named by their number: '00000', '00001', ..."""

    def __init__(self, path: Path):
        self.path = path
        with _open_capture(path) as capture:
            fps = capture.get(cv2.CAP_PROP_FPS)
            length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            decoded, frame = capture.read()
        if not decoded:
            raise InputError(
                f"Wanted a video, but '{path}' holds no frame that can be decoded. "
                "Is it complete? Does it play elsewhere?"
            )
        self.size = frame.shape[:2]
        self.fps = fps if 0 < fps <= 1000 else DEFAULT_FPS
        self.length = length if length > 0 else None
        self._names: list[str] | None = None

    @property
    def names(self) -> list[str]:
        # Headers may only estimate the length, so the frames are counted, once.
        if self._names is None:
            with _open_capture(self.path) as capture:
                count = 0
                while capture.grab():
                    count += 1
            self._names = [_frame_name(number) for number in range(count)]
        return list(self._names)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        with _open_capture(self.path) as capture:
            number = 0
            while True:
                decoded, frame = capture.read()
                if not decoded:
                    return
                yield _frame_name(number), self._to_rgb(frame, _frame_name(number))
                number += 1

    def read(self, name: str) -> np.ndarray:
        # Walks from the start: seeking by frame number is inexact in many containers.
        if re.fullmatch(r"[0-9]+", name) is None or name != _frame_name(int(name)):
            raise _no_such_frame(self, name)
        with _open_capture(self.path) as capture:
            for _ in range(int(name)):
                if not capture.grab():
                    raise _no_such_frame(self, name)
            decoded, frame = capture.read()
        if not decoded:
            raise _no_such_frame(self, name)
        return self._to_rgb(frame, name)

    def check(self) -> None:
        """Does nothing: the constructor has decoded the first frame."""

    def find(self, key: int | str) -> str:
        # Without counting the frames, which reads the video; `read` finds out whether there is one.
        if isinstance(key, str) and key.isdecimal():
            return _frame_name(int(key))
        if not isinstance(key, str) and operator.index(key) >= 0:
            return _frame_name(operator.index(key))
        return super().find(key)

    def _to_rgb(self, frame: np.ndarray, name: str) -> np.ndarray:
        if frame.shape[:2] != self.size:
            raise InputError(
                f"Wanted frames of one size in '{self.path}', but frame {name} is "
                f"{_describe_size(frame.shape[:2])} and the first is {_describe_size(self.size)}."
            )
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _image_files(folder: Path) -> dict[str, Path]:
    """Returns the folder's images by name (stem), in natural order; at least one."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
    ]
    if not files:
        raise InputError(
            f"Wanted a folder of frames, but '{folder}' holds no image "
            f"({', '.join(IMAGE_SUFFIXES)}). Name the folder that the images lie in directly."
        )
    by_name: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: _natural_key(file.name)):
        if file.stem in by_name:
            raise InputError(
                f"Wanted one image a frame, but '{folder}' holds both '{by_name[file.stem].name}' "
                f"and '{file.name}': their masks would share a name. Move the one that is no frame."
            )
        by_name[file.stem] = file
    return by_name


def _natural_key(name: str) -> tuple:
    """Returns a sorting key that puts 'frame9' before 'frame10'."""
    parts = re.split(r"([0-9]+)", name.lower())  # text and digits take turns, text comes first
    return [int(part) if part.isdecimal() else part for part in parts], name


def _image_size(path: Path) -> tuple[int, int]:
    """Returns the upright (height, width), read from the image's header."""
    with _reading(path), open_image(path) as image:
        width, height = image.size
        lies = is_turned(image) and image.getexif()[_EXIF_ORIENTATION] in _EXIF_QUARTER_TURNS
    return (width, height) if lies else (height, width)


def read_image(path: Path) -> np.ndarray:
    """Returns the upright image, uint8 RGB [height, width, 3].

    Raises:
        InputError: it cannot be read.
    """
    with _reading(path), open_image(path) as image:
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
    """Tells whether an image must be turned or mirrored to stand upright.

    Only JPEG's EXIF counts: that is what cameras and phones write, and TIFF is turned by Pillow.
    """
    return (
        image.format in ("JPEG", "MPO")
        and image.getexif().get(_EXIF_ORIENTATION, 1) in _EXIF_ORIENTATIONS
    )


@contextmanager
def open_image(source: str | os.PathLike | BinaryIO) -> Iterator[Image.Image]:
    """Opens an image with Pillow and reads its header; what is no picture or too large is refused.

    Args:
        source: path, or a file opened in binary mode.

    Raises:
        ValueError: more than `MAX_PIXELS`; and whatever Pillow raises, which is much.
    """
    try:
        image = Image.open(source, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"it has more than {MAX_PIXELS} pixels, which is the limit") from error
    with image:
        require_pixels(*image.size)
        yield image


def require_pixels(width: int, height: int) -> None:
    """Raises ValueError where a picture of that size is larger than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"it is {width}x{height} (width x height), more than {MAX_PIXELS} pixels, which is "
            "the limit"
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns Pillow's many exceptions into one that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged file fails in many ways inside Pillow
        raise InputError(
            f"Wanted an image, but '{path}' cannot be read: {error}. Is the file complete?"
        ) from error


@contextmanager
def _open_capture(path: Path) -> Iterator[cv2.VideoCapture]:
    """Opens a video for reading, upright, and closes it again."""
    with _quiet_opencv():
        capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(
                f"Wanted a folder of images or a video file, but '{path}' cannot be decoded as a "
                "video. Is it complete, and of a common format such as MP4?"
            )
        sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        try:
            require_pixels(*(int(capture.get(side)) for side in sides))
        except ValueError as error:
            raise InputError(f"The video '{path}' is refused: {error}.") from error
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV and the FFmpeg inside it from writing to stderr; we say ourselves what failed.

    FFmpeg's level is read once, from the environment, at the first video. A level that the user
    has set there stays, so that a puzzling file can still be looked into.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    level = _set_opencv_log_level(0)  # silent
    try:
        yield
    finally:
        _set_opencv_log_level(level)


def _number_in(name: str) -> int | None:
    """Returns the last number in a frame's name, None where there is none."""
    found = re.findall(r"[0-9]+", name)
    return int(found[-1]) if found else None


def _frame_name(number: int) -> str:
    return f"{number:05d}"


def _describe_size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height} (width x height)"


def _no_such_frame(frames: Frames, name: str) -> InputError:
    names = frames.names
    return InputError(
        f"Wanted frame '{name}' of '{frames.path}', but its {len(names)} frames are named "
        f"'{names[0]}' to '{names[-1]}'. Give a frame's name without folder and suffix."
    )


# --- masks in and out -----------------------------------------------------------------------------


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
        picked_by: what a message calls `object_id`; None: the caller cannot pick.

    Returns:
        uint8 [height, width]: 0 background, 1 object, 255 void. There may be no object in it.

    Raises:
        InputError: the file cannot be read, is no such mask, or has no object `object_id`.
    """
    if isinstance(source, Image.Image):
        place = "the image"
        with _reading(Path(place)):
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
    with _reading(path), open_image(path) as image:
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
    _write_png(path, mask.astype(np.uint8) * 255)


def write_probability(path: str | os.PathLike, probability: np.ndarray) -> None:
    """Writes a probability map as 8-bit grey PNG, 255 for certain, whole or not at all.

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
    _write_png(path, np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8))


def check_png(path: str | os.PathLike, size: tuple[int, int]) -> None:
    """Decodes a mask or probability that was written, to see whether it is whole.

    Args:
        path: the file.
        size: (height, width) that it must have.

    Raises:
        InputError: there is no such file, it is truncated, no PNG or of another size.
    """
    path = Path(path)
    with _reading(path), Image.open(path) as image:
        image.load()
        width, height = image.size
        if image.format != "PNG":
            raise ValueError(f"it is {image.format}, not PNG")
    if (height, width) != tuple(size):
        raise InputError(
            f"Wanted a PNG of {_describe_size(size)}, but '{path}' is "
            f"{_describe_size((height, width))}."
        )


def _require_plane(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be [height, width]. Received shape: {array.shape}.")
    return array


def _write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 grey [height, width]."""
    _, encoded = cv2.imencode(".png", pixels)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


# --- videos out -----------------------------------------------------------------------------------


class VideoWriter:
    """Writes an MP4 file, whole or not at all.

        with VideoWriter("overlay.mp4", size=frames.size, fps=frames.fps) as video:
            for name, frame in frames:
                video.write(frame)

    The codecs want even sizes: an odd height or width grows by one pixel, a copy of the last row
    or column, so that nothing is lost. The result is read back before it takes its final name.

    Args:
        path: the file, which ends in '.mp4'; its folder must exist.
        size: (height, width) of every frame, in pixels.
        fps: frames a second.
    """

    def __init__(self, path: str | os.PathLike, size: tuple[int, int], fps: float = DEFAULT_FPS):
        """Remembers the arguments; the file is made by `with`."""
        if not fps > 0:
            raise ValueError(f"fps must be above 0. Received: {fps}.")
        self.path = Path(path)
        self.size = size
        self.fps = fps
        self._encoder: Any = None  # a cv2.VideoWriter while recording
        self._recording = self._record()

    def __enter__(self) -> "VideoWriter":
        """Opens the encoder.

        Raises:
            OSError: this OpenCV cannot encode, or the folder cannot be written to.
        """
        self._recording.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        """Completes the file, or removes it if there was an error.

        Raises:
            ValueError: no frame was written.
            InputError: the file cannot be read back, as where the disk is full.
        """
        return self._recording.__exit__(*error)

    def write(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 RGB [height, width, 3].

        Raises:
            ValueError: the frame has another size or type.
        """
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"A frame must be uint8 {(*self.size, 3)}. Received: {frame.dtype} {frame.shape}."
            )
        height, width = self.size
        padded = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._encoder.write(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
        self._frames_written += 1

    @contextmanager
    def _record(self) -> Iterator[None]:
        self._frames_written = 0
        with atomic_path(self.path) as temporary:
            self._encoder = _open_encoder(temporary, self.size, self.fps)
            try:
                yield
            finally:
                with _quiet_opencv():
                    self._encoder.release()
            if self._frames_written == 0:
                raise ValueError(f"No frame was written to '{self.path}'.")
            _require_readable(temporary, self.path)


def _open_encoder(path: Path, size: tuple[int, int], fps: float) -> cv2.VideoWriter:
    """Opens the first codec that works, for frames of `size` (height, width) made even."""
    height, width = size
    even_size = (width + width % 2, height + height % 2)
    for codec in _CODECS:
        with _quiet_opencv():
            encoder = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, even_size)
        if encoder.isOpened():
            return encoder
    raise OSError(
        f"OpenCV {cv2.__version__} can write none of the codecs {', '.join(_CODECS)} to "
        f"'{path.parent}'. Check that folder, and that OpenCV comes with FFmpeg (the wheels do)."
    )


def _require_readable(written: Path, final: Path) -> None:
    """Raises InputError unless a frame comes back from the file `written`."""
    try:
        open_frames(written)
    except InputError as error:  # the encoder says nothing where there is no room
        raise InputError(
            f"The video written to '{final}' cannot be read back. Make room, or name "
            "another folder."
        ) from error
