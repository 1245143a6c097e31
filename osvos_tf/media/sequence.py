"""A sequence of frames, read lazily: what all sources of frames have in common."""

import operator
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from osvos_tf.errors import InputError


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
        sound: a file whose sound belongs to the frames, or None.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    length: int | None
    sound: Path | None = None

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
            meant = [name for name in names if number_in(name) == int(key)]
            if len(meant) == 1:
                return meant[0]
        if key not in names:
            raise no_such_frame(self, key)
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

    def without(self, paths: Iterable[str | os.PathLike[str]]) -> "Frames":
        """Returns the same frames but for these files, such as masks that lie among them."""
        return self

    def time(self, name: str) -> float | None:
        """Returns the seconds from the first frame to this one, once it was read.

        None: as the frame rate says.
        """
        return None

    def damage(self) -> str | None:
        """Returns what could not be decoded, once all frames were read; None: nothing."""
        return None

    def first(self) -> tuple[str, np.ndarray]:
        """Returns name and pixels of the first frame, uint8 RGB [height, width, 3]."""
        return next(iter(self))


def number_in(name: str) -> int | None:
    """Returns the last number in a frame's name, or None."""
    found = re.findall(r"[0-9]+", name)
    return int(found[-1]) if found else None


def frame_name(number: int) -> str:
    """Returns the name of a frame that has none but its number."""
    return f"{number:05d}"


def no_such_frame(frames: Frames, name: str) -> InputError:
    """Returns the error that says which frames there are."""
    names = frames.names
    return InputError(
        f"Wanted frame '{name}' of '{frames.path}', but its {len(names)} frames are named "
        f"'{names[0]}' to '{names[-1]}'. Give a frame's name without folder and suffix."
    )
