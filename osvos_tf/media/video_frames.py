"""A video file as a sequence of frames."""

import functools
import itertools
import operator
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.media import videos
from osvos_tf.media.images import describe_size
from osvos_tf.media.sequence import Frames, frame_name, no_such_frame

_SAME_TIME = 1e-4  # seconds: frames that are closer are one
_BEFORE = 2  # frames that deinterlacing looks back at, at most
_ABOUT = 0.9  # of the frames that the playing time comes to; fewer are damage


class VideoFrames(Frames):
    """The frames of one video file, named by their number: '00000', '00001', ..."""

    def __init__(self, path: Path):
        self.path = self.sound = path
        self._header = videos.read_header(path)
        self.size, self.fps, self.length = (
            self._header.size, self._header.fps, self._header.length,
        )  # fmt: skip
        self._times: list[float | None] = []  # of the frames that were read
        self._done: videos.Decoded | None = None  # once all frames were read

    @property
    def names(self) -> list[str]:
        # Headers may only estimate the length, so the frames are counted, once.
        return [frame_name(number) for number in range(len(self._index))]

    @functools.cached_property
    def _index(self) -> list[float | None]:
        """When each frame is shown, in seconds: by the file's packets, or by decoding them."""
        times: list[float | None] = [*(videos.times(self.path) or ())]
        return times or [time for time, _ in videos.decode(self.path)]

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        times: list[float | None] = []
        done = videos.Decoded()
        for time, frame in videos.decode(self.path, done=done):
            times.append(time)
            self._times = max(self._times, times, key=len)
            name = frame_name(len(times) - 1)
            self._require_size(name, frame.shape[:2])
            yield name, frame
        self._done = done

    def read(self, name: str) -> np.ndarray:
        if re.fullmatch(r"[0-9]+", name) is None or name != frame_name(int(name)):
            raise no_such_frame(self, name)
        if int(name) >= len(self._index):
            raise no_such_frame(self, name)
        frame = self._seek(int(name))
        if frame is None:
            walked = itertools.islice(videos.decode(self.path), int(name), None)
            _, frame = next(walked, (None, None))
        if frame is None:
            raise InputError(f"Frame {name} of '{self.path}' is damaged and cannot be decoded.")
        self._require_size(name, frame.shape[:2])
        return frame

    def _seek(self, number: int) -> np.ndarray | None:
        """Returns a frame by its time; None where the container cannot be entered there."""
        time, start = self._index[number], self._index[max(0, number - _BEFORE)]
        if time is None or start is None:
            return None
        for shown, frame in videos.decode(self.path, start=start):
            if shown is None or shown > time + _SAME_TIME:
                return None
            if shown > time - _SAME_TIME:
                return frame
        return None

    def check(self) -> None:
        """Does nothing: the constructor has decoded the first frame."""

    def find(self, key: int | str) -> str:
        # Without counting the frames, which reads the video; `read` finds out whether there is one.
        if isinstance(key, str) and key.isdecimal():
            return frame_name(int(key))
        if not isinstance(key, str) and operator.index(key) >= 0:
            return frame_name(operator.index(key))
        return super().find(key)

    def time(self, name: str) -> float | None:
        known = self._times[int(name)] if int(name) < len(self._times) else None
        return None if known is None else known - (self._times[0] or 0.0)

    def damage(self) -> str | None:
        if self._done is None:
            return None
        wanted, found = self._header.length, self._done.frames
        least = (wanted or 0) * (1 if self._header.is_exact else _ABOUT)
        if found < least:
            return (
                f"{videos.describe(self.path, self._header)} is damaged or incomplete: "
                f"{found} of its {wanted} frames could be decoded."
            )
        if self._done.broken:
            return (
                f"{videos.describe(self.path, self._header)} is damaged: decoding failed at "
                f"{self._done.broken} places. {found} frames came out, some of them perhaps broken."
            )
        return None

    def _require_size(self, name: str, size: tuple[int, int]) -> None:
        if size != self.size:
            raise InputError(
                f"Wanted frames of one size in '{self.path}', but frame {name} is "
                f"{describe_size(size)} and the first is {describe_size(self.size)}."
            )
