"""Frames by name and in order, whatever they come from: a folder, a video file, an array."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.media.folders import FolderFrames
from osvos_tf.media.images import IMAGE_SUFFIXES, read_header
from osvos_tf.media.pages import PageFrames
from osvos_tf.media.sequence import Frames, frame_name, no_such_frame
from osvos_tf.media.video_frames import VideoFrames
from osvos_tf.media.videos import DEFAULT_FPS

__all__ = ["Frames", "open_frames", "open_video"]


def open_frames(path: str | os.PathLike) -> Frames:
    """Opens a folder of images, in natural file-name order, a video file, or an animated picture.

    Hidden files are skipped. 16-bit, grey, palette and transparent images all come out as uint8
    RGB: the high byte of 16-bit values counts, transparency is dropped.

    Raises:
        InputError: no such path, no images in the folder, no frames in the file.
    """
    path = Path(path)
    if path.is_dir():
        return FolderFrames(path)
    if not path.exists():
        raise InputError(
            f"Wanted frames, but '{path}' does not exist. Name a folder of images or a video file."
        )
    if not path.is_file():
        raise InputError(
            f"Wanted frames, but '{path}' is a pipe or a device. Save the video as a file first."
        )
    if path.suffix.lower() in (*IMAGE_SUFFIXES, ".apng"):
        if read_header(path).has_pages:
            return PageFrames(path)
        raise InputError(
            f"Wanted a folder of images or a video file, but '{path}' is a single image. "
            f"Name the folder it lies in: '{path.parent}'."
        )
    return VideoFrames(path)


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
        return [frame_name(number) for number in range(len(self._frames))]

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from zip(self.names, self._frames, strict=True)

    def read(self, name: str) -> np.ndarray:
        names = self.names
        if name not in names:
            raise no_such_frame(self, name)
        return self._frames[names.index(name)]

    def check(self) -> None:
        """Does nothing: an array's frames have one size."""
