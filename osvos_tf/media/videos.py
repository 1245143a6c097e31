"""Video files: decoding, and writing what players and editors open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path
from osvos_tf.media.images import require_pixels

# OpenCV 5 moved the function.
_set_opencv_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel

DEFAULT_FPS = 24.0  # what a folder of images is played at: DAVIS's own rate

# The first that the installed OpenCV can encode is taken. H.264 plays everywhere, also in browsers,
# but few wheels can write it; MPEG-4 part 2 is in all of them and plays in desktop players. VP9
# would play in browsers too, but takes 100 times as long: 0.3 s for a 480p frame on two cores.
_CODECS = ("avc1", "mp4v")


@contextmanager
def open_capture(path: Path) -> Iterator[cv2.VideoCapture]:
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


@contextmanager
def write_video(
    path: str | os.PathLike[str], size: tuple[int, int], fps: float = DEFAULT_FPS
) -> Iterator[VideoWriter]:
    """Writes an MP4 file, whole or not at all.

        with write_video("overlay.mp4", size=frames.size, fps=frames.fps) as video:
            for name, frame in frames:
                video.write(frame)

    Args:
        path: the file, which ends in '.mp4'; its folder must exist.
        size: (height, width) of every frame, in pixels. Codecs want even sizes: an odd side grows
            by a copy of its last row or column, so that nothing is lost.
        fps: frames a second.

    Raises:
        OSError: this OpenCV cannot encode, or the folder cannot be written to.
        ValueError: `fps` is not above 0, or no frame was written.
        InputError: the file cannot be read back, as when the disk is full.
    """
    if not fps > 0:
        raise ValueError(f"fps must be above 0. Received: {fps}.")
    path = Path(path)
    with atomic_path(path) as temporary:
        writer = VideoWriter(_open_encoder(temporary, size, fps), size)
        try:
            yield writer
        finally:
            with _quiet_opencv():
                writer.encoder.release()
        if writer.count == 0:
            raise ValueError(f"No frame was written to '{path}'.")
        _require_readable(temporary, path)


class VideoWriter:
    """What `write_video` yields.

    Attributes:
        encoder: the `cv2.VideoWriter`.
        size: (height, width) of every frame.
        count: frames written so far.
    """

    def __init__(self, encoder: cv2.VideoWriter, size: tuple[int, int]) -> None:
        self.encoder, self.size, self.count = encoder, size, 0

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
        self.encoder.write(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
        self.count += 1


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
        with open_capture(written) as capture:
            is_readable = capture.read()[0]
    except InputError:  # the encoder says nothing where there is no room
        is_readable = False
    if not is_readable:
        raise InputError(
            f"The video written to '{final}' cannot be read back. Make room, or name another "
            "folder."
        )
