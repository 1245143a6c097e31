"""Frames by name and in order, whatever they come from: a folder, a video file, an array."""

import operator
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.media.images import IMAGE_SUFFIXES, describe_size, image_size, read_image
from osvos_tf.media.videos import DEFAULT_FPS, open_capture


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
            InputError: names a frame that is not an image, or has another size than the first.
        """

    def first(self) -> tuple[str, np.ndarray]:
        """Returns name and pixels of the first frame, uint8 RGB [height, width, 3]."""
        return next(iter(self))


def open_frames(path: str | os.PathLike) -> Frames:
    """Opens a folder of images, in natural file-name order, or a video file.

    Hidden files are skipped. 16-bit, grey, palette and transparent images all come out as uint8
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
        InputError: it cannot be opened, or is not such an array.
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
        self.size = image_size(next(iter(self._files.values())))

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
            self._require_size(name, image_size(file))

    def _require_size(self, name: str, size: tuple[int, int]) -> None:
        if size != self.size:
            first = next(iter(self._files.values()))
            raise InputError(
                f"Wanted frames of one size in '{self.path}', but '{self._files[name].name}' is "
                f"{describe_size(size)} and the first, '{first.name}', is "
                f"{describe_size(self.size)}. Resize or remove the odd one."
            )


class _VideoFrames(Frames):
    """The frames of one video file, named by their number: '00000', '00001', ..."""

    def __init__(self, path: Path):
        self.path = path
        with open_capture(path) as capture:
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
            with open_capture(self.path) as capture:
                count = 0
                while capture.grab():
                    count += 1
            self._names = [_frame_name(number) for number in range(count)]
        return list(self._names)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        with open_capture(self.path) as capture:
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
        with open_capture(self.path) as capture:
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
                f"{describe_size(frame.shape[:2])} and the first is {describe_size(self.size)}."
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


def _number_in(name: str) -> int | None:
    """Returns the last number in a frame's name, or None."""
    found = re.findall(r"[0-9]+", name)
    return int(found[-1]) if found else None


def _frame_name(number: int) -> str:
    return f"{number:05d}"


def _no_such_frame(frames: Frames, name: str) -> InputError:
    names = frames.names
    return InputError(
        f"Wanted frame '{name}' of '{frames.path}', but its {len(names)} frames are named "
        f"'{names[0]}' to '{names[-1]}'. Give a frame's name without folder and suffix."
    )
