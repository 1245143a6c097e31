"""Video files that players, browsers and editors open, written by FFmpeg's own libraries (PyAV)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path
from osvos_tf.media import videos
from osvos_tf.media.videos import DEFAULT_FPS

_TICKS = 90_000  # a second: timestamps of a source whose frame rate varies are kept to this
# BT.709 in limited range, ITU-T H.273: what players take colours for where a file says nothing.
_BT709, _LIMITED = 1, 1


@dataclasses.dataclass(frozen=True)
class Format:
    """How a video is encoded.

    Attributes:
        suffix: of its files.
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format.
        options: of the encoder.
        container: options of the container.
        alpha: frames have a fourth channel.
        sound: codecs of sound that the container takes as they are.
    """

    suffix: str
    codec: str
    pixels: str
    options: Mapping[str, str]
    container: Mapping[str, str] = dataclasses.field(default_factory=dict)
    alpha: bool = False
    sound: tuple[str, ...] = ()


# H.264 as every player and browser shows it, its index first so that it starts while it loads.
H264 = Format(
    ".mp4",
    "libx264",
    "yuv420p",
    {"crf": "20", "preset": "veryfast"},
    container={"movflags": "+faststart"},
    sound=("aac", "mp3", "ac3", "eac3"),
)
# What editors take: ten bits of colour, sixteen of alpha.
PRORES_4444 = Format(
    ".mov", "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16"}, alpha=True
)
# What browsers take.
VP9_ALPHA = Format(
    ".webm",
    "libvpx-vp9",
    "yuva420p",
    {"crf": "24", "b": "0", "cpu-used": "6", "deadline": "realtime", "row-mt": "1"},
    alpha=True,
)


@contextmanager
def write_video(
    path: str | os.PathLike[str],
    size: tuple[int, int],
    fps: float = DEFAULT_FPS,
    *,
    format: Format = H264,
    sound: str | os.PathLike[str] | None = None,
) -> Iterator[VideoWriter]:
    """Writes a video file, whole or not at all.

        with write_video("overlay.mp4", size=frames.size, fps=frames.fps) as video:
            for name, frame in frames:
                video.write(frame)

    Args:
        path: the file; its folder must exist.
        size: (height, width) of every frame, in pixels. Codecs want even sizes: an odd side grows
            by a copy of its last row or column, so that nothing is lost.
        fps: frames a second.
        format: codec and container, which the path's suffix must fit.
        sound: a video file whose sound is added, where it has some.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: `fps` is not above 0, or no frame was written.
        InputError: the file cannot be read back, as when the disk is full.
    """
    if not fps > 0:
        raise ValueError(f"fps must be above 0. Received: {fps}.")
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.touch()  # where that fails, PyAV would find out only at the first frame
        with ExitStack() as stack:
            output = av.open(
                os.path.abspath(temporary), "w", container_options=dict(format.container)
            )
            stack.enter_context(output)
            writer = VideoWriter(output, size, fps, format)
            if sound is not None and format.sound:
                writer.sound = stack.enter_context(_open_sound(output, sound, format))
            yield writer
            if writer.count:
                writer.finish()
        if writer.count == 0:
            raise ValueError(f"No frame was written to '{path}'.")
        _require_readable(temporary, path)


class VideoWriter:
    """What `write_video` yields.

    Attributes:
        size: (height, width) of every frame.
        count: frames written so far.
        sound: packets of the sound that is added.
    """

    def __init__(self, output: Any, size: tuple[int, int], fps: float, format: Format) -> None:
        self.size, self.count = size, 0
        self.sound: _Sound | None = None
        self._output, self._format, self._fps = output, format, fps
        height, width = size
        self._stream = output.add_stream(
            format.codec, rate=Fraction(fps).limit_denominator(1001), options=dict(format.options)
        )
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = format.pixels
        self._stream.thread_type = "AUTO"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.codec_context.colorspace = _BT709
        self._stream.codec_context.color_primaries = _BT709
        self._stream.codec_context.color_trc = _BT709
        self._stream.codec_context.color_range = _LIMITED
        self._reformatter = VideoReformatter()
        self._last = -1

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Appends one frame.

        Args:
            frame: uint8 RGB [height, width, 3]; RGBA, straight, where the format has alpha.
            time: seconds from the first frame; None: as the frame rate says.

        Raises:
            ValueError: the frame has another size or type.
        """
        channels = 4 if self._format.alpha else 3
        if frame.shape != (*self.size, channels) or frame.dtype != np.uint8:
            raise ValueError(
                f"A frame must be uint8 {(*self.size, channels)}. "
                f"Received: {frame.dtype} {frame.shape}."
            )
        height, width = self.size
        padded: Any = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(padded, format="rgba" if channels == 4 else "rgb24")
        picture = self._reformatter.reformat(
            picture, format=self._format.pixels, dst_colorspace=_BT709, dst_color_range=_LIMITED
        )
        seconds = self.count / self._fps if time is None else time
        picture.pts = self._last = max(self._last + 1, round(seconds * _TICKS))
        picture.time_base = Fraction(1, _TICKS)
        if self.sound is not None:
            self.sound.write_until(seconds)
        self._output.mux(self._stream.encode(picture))
        self.count += 1

    def finish(self) -> None:
        """Writes what the encoders still hold."""
        self._output.mux(self._stream.encode())
        if self.sound is not None:
            self.sound.write_until(self._last / _TICKS + 1 / self._fps)


class _Sound:
    """Packets of a file's sound, written as the picture gets that far."""

    def __init__(self, output: Any, source: Any, stream: Any, start: float) -> None:
        self._output, self._start = output, start
        self._copy = output.add_stream_from_template(stream)
        self._packets = (packet for packet in source.demux(stream) if packet.pts is not None)
        self._next = self._read()

    def write_until(self, seconds: float) -> None:
        """Writes the packets that begin before a time, in seconds from the first frame."""
        while self._next is not None:
            time = float(self._next.pts * self._next.time_base) - self._start
            if time >= seconds:
                return
            if time >= 0:
                shift = round(self._start / self._next.time_base)
                self._next.pts -= shift
                self._next.dts = self._next.pts
                self._next.stream = self._copy
                self._output.mux(self._next)
            self._next = self._read()

    def _read(self) -> Any | None:
        try:
            return next(self._packets, None)
        except av.error.FFmpegError:  # the sound ends early; so does the picture, which says it
            return None


@contextmanager
def _open_sound(
    output: Any, path: str | os.PathLike[str], format: Format
) -> Iterator[_Sound | None]:
    """Yields the sound of a video file that the container takes as it is; None if there is none."""
    with videos.open_container(Path(path)) as (source, video):
        stream = source.streams.best("audio")
        if stream is None or stream.codec_context.name not in format.sound:
            yield None
            return
        start = float((video.start_time or 0) * video.time_base)
        yield _Sound(output, source, stream, start)


def _require_readable(written: Path, final: Path) -> None:
    """Raises InputError unless a frame comes back from the file `written`."""
    try:
        videos.read_header(written)
    except InputError as error:
        raise InputError(
            f"The video written to '{final}' cannot be read back. Make room, or name another "
            "folder."
        ) from error
