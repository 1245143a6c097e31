"""Video files, decoded by FFmpeg's own libraries (PyAV) to the pictures that a player shows."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter

from osvos_tf.errors import InputError
from osvos_tf.media.images import MAX_PIXELS, describe_size, require_pixels

DEFAULT_FPS = 24.0  # what a folder of images is played at: DAVIS's own rate

# Demuxers that open no other file. Playlists (HLS, DASH, concat) and devices are not among them.
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,vc1,mjpeg,flv,asf,ogg,mxf,gif,"
    "apng,dv,nut,rm,wtv,gxf,yuv4mpegpipe,3gp"
)
_OPENING = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_HD_ROWS = 720  # a picture that names no colour matrix has BT.601's, from here on BT.709's
# Colour matrices, ITU-T H.273, and the one that FFmpeg's scaler takes for each; None: RGB as it is.
_UNSPECIFIED, _BT601, _BT709 = 2, 5, 1
_SCALED_AS = {0: None, 1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_HDR = {16: "smpte2084", 18: "arib-std-b67"}  # transfer functions, H.273: PQ and HLG
_MANY = 1000  # frames a second; more is a header's mistake


@dataclasses.dataclass(frozen=True)
class Header:
    """What a video file says of itself, and its first frame shows.

    Attributes:
        size: (height, width) as a player shows it: upright, with square pixels.
        fps: frames a second, on average; `DEFAULT_FPS` where the file does not say.
        length: number of frames; None if the file does not say.
        kind: container and codec, for messages.
        is_exact: `length` is what an index lists, not what the playing time comes to.
    """

    size: tuple[int, int]
    fps: float
    length: int | None
    kind: str
    is_exact: bool


@dataclasses.dataclass
class Decoded:
    """What came of decoding: filled in while `decode` runs.

    Attributes:
        frames: decoded so far.
        broken: packets that could not be decoded, and frames that are marked as damaged.
    """

    frames: int = 0
    broken: int = 0


def read_header(path: Path) -> Header:
    """Opens a video file and decodes its first frame.

    Raises:
        InputError: it is no video, too large, or holds no frame that can be decoded.
    """
    with open_container(path) as (container, stream):
        kind = f"{container.format.name.split(',')[0]}, {stream.codec_context.name}"
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate and 0 < rate <= _MANY else DEFAULT_FPS
        listed = _count_entries(container, stream)
        length = listed or stream.frames or _from_duration(stream, fps)
        picture = _Picture(stream)
        for frame in _frames(container, stream, Decoded()):
            return Header(picture.size(frame), fps, length, kind, listed is not None)
    raise InputError(
        f"Wanted a video, but '{path}' ({kind}, {length or 'no'} frames by its header) holds no "
        "frame that can be decoded. Is it complete? Does it play elsewhere?"
    )


def decode(
    path: Path, *, done: Decoded | None = None, start: float | None = None
) -> Iterator[tuple[float | None, np.ndarray]]:
    """Yields (seconds, pixels) of every frame in the order in which they are shown.

    Pixels are uint8 RGB [height, width, 3], upright, deinterlaced, with square pixels; HDR is
    mapped to the range of ordinary screens. Packets that cannot be decoded are left out.

    Args:
        path: the file.
        done: is told what came of it.
        start: seconds; decoding begins at the last keyframe before them.

    Raises:
        InputError: it is no video, or too large.
    """
    done = done or Decoded()
    with open_container(path) as (container, stream):
        if start is not None:
            container.seek(math.floor(start / stream.time_base), stream=stream)
        picture = _Picture(stream)
        for frame in itertools.chain(_frames(container, stream, done), [None]):
            for shown, pixels in picture.show(frame):
                done.frames += 1
                yield shown.time, pixels


def times(path: Path) -> list[float] | None:
    """Returns the seconds at which all frames are shown, in order, without decoding any of them.

    None where packets do not tell: they have no timestamps, or two of them make one frame, or one
    of them none.
    """
    with open_container(path) as (container, stream):
        unsure = container.format.name in ("mpegts", "mpeg") or stream.codec_context.name == "vp8"
        try:
            packets = [packet for packet in container.demux(stream) if packet.size]
        except av.error.FFmpegError:
            return None
        found = [packet.pts for packet in packets if not packet.is_discard]
        if unsure or None in found or len(set(found)) < len(found):
            return None
        return [float(stamp * stream.time_base) for stamp in sorted(found)]


@contextmanager
def open_container(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yields a container and its video stream, whose size is within bounds."""
    try:
        # As an absolute path: what is before a colon in "take:1.mp4" is no protocol then.
        container = av.open(os.path.abspath(path), options=_OPENING, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _not_a_video(path) from error
    with container:
        stream: Any = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise _not_a_video(path)
        context = stream.codec_context
        try:
            require_pixels(context.width, context.height)
        except ValueError as error:
            raise InputError(f"The video '{path}' is refused: {error}.") from error
        context.options = {"max_pixels": str(MAX_PIXELS)}  # its packets may say otherwise
        stream.thread_type = "AUTO"
        yield container, stream


def _not_a_video(path: Path) -> InputError:
    return InputError(
        f"Wanted a folder of images or a video file, but '{path}' cannot be decoded as a "
        "video. Is it complete, and of a common format such as MP4?"
    )


def _frames(container: Any, stream: Any, done: Decoded) -> Iterator[Any]:
    """Yields the decoded frames; counts what cannot be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file ends, or its index leads nowhere
            done.broken += 1
            packet = None
        try:
            frames = stream.decode(packet) if packet is not None else _flush(stream)
        except (av.error.FFmpegError, ValueError):
            done.broken += 1
            frames = []
        for frame in frames:
            done.broken += bool(frame.is_corrupt)
            yield frame
        if packet is None:
            return


def _flush(stream: Any) -> list[Any]:
    """Returns the frames that the decoder still holds; none where it was flushed before."""
    try:
        return list(stream.decode(None))
    except av.error.EOFError:
        return []


def _count_entries(container: Any, stream: Any) -> int | None:
    """Returns how many frames an MP4, MOV or AVI file says it has; None for others."""
    kind = container.format.name.split(",")[0]
    if kind == "avi":  # its index lies at the end
        return stream.frames or None
    if kind != "mov":
        return None
    return sum(entry.size > 0 and not entry.is_discard for entry in stream.index_entries) or None


def _from_duration(stream: Any, fps: float) -> int | None:
    """Returns about how many frames a stream has that says only how long it plays."""
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base) * fps) or None
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska's
    minutes, _, seconds = rest.partition(":")
    try:
        return round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * fps) or None
    except ValueError:
        return None


class _Picture:
    """Decoded frames to the pictures that a player shows."""

    def __init__(self, stream: Any) -> None:
        self._time_base = stream.time_base
        self._aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
        self._reformatter = VideoReformatter()  # kept: to set one up takes as long as to decode
        self._graph: Graph | None = None
        self._matrix: tuple[int, ...] | None = None

    def size(self, frame: Any) -> tuple[int, int]:
        """Returns (height, width) of a frame as it is shown."""
        upright = frame.height, self._width(frame)
        matrix = _display_matrix(frame)
        return upright[::-1] if matrix and not matrix[0] else upright

    def _width(self, frame: Any) -> int:
        """Returns the width that a frame has with square pixels."""
        width = max(1, round(frame.width * self._aspect))
        try:
            require_pixels(width, frame.height)
        except ValueError as error:
            raise InputError(f"A frame of the video is refused: {error}.") from error
        return width

    def show(self, frame: Any | None) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields (frame, pixels) of what can be shown once a frame is known; None: at the end."""
        if frame is not None:
            self._matrix = _display_matrix(frame) if self._matrix is None else self._matrix
            if frame.interlaced_frame or frame.color_trc in _HDR:
                self._graph = self._graph or _make_graph(frame, self._time_base)
        if self._graph is None:
            if frame is not None:
                yield frame, self._to_pixels(frame)
            return
        self._graph.push(frame)
        while True:
            try:
                shown = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield shown, self._to_pixels(shown)

    def _to_pixels(self, frame: Any) -> np.ndarray:
        matrix = frame.colorspace
        if matrix == _UNSPECIFIED:
            matrix = _BT709 if frame.height >= _HD_ROWS else _BT601
        shown = self._reformatter.reformat(
            frame,
            width=self._width(frame),
            height=frame.height,
            format="rgb24",
            src_colorspace=_SCALED_AS.get(matrix, _BT601),
        )
        return _turn(shown.to_ndarray(), self._matrix or ())


def _make_graph(frame: Any, time_base: Any) -> Graph:
    """Returns a filter graph: weaves fields into frames, maps HDR to the range of screens."""
    graph = Graph()
    steps = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=time_base
        ),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
    ]
    if frame.color_trc in _HDR:
        steps.append(
            graph.add(
                "scale",
                f"in_transfer={_HDR[frame.color_trc]}:in_primaries=bt2020:"
                "in_color_matrix=bt2020nc:out_transfer=bt709:out_primaries=bt709:"
                "out_color_matrix=bt709:intent=perceptual",
            )
        )
        steps.append(graph.add("format", "rgb24"))
    steps.append(graph.add("buffersink"))
    for one, following in itertools.pairwise(steps):
        one.link_to(following)
    graph.configure()
    return graph


def _display_matrix(frame: Any) -> tuple[int, ...]:
    """Returns the signs (a, b, c, d) of a frame's display matrix; none for an upright one.

    The matrix maps (x, y) to (a x + c y, b x + d y), y downwards (ISO/IEC 14496-12, 8.3.2.3).
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return ()
    values = np.frombuffer(bytes(data), np.int32, 9)
    return tuple(int(np.sign(values[place])) for place in (0, 1, 3, 4))


def _turn(pixels: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """Returns pixels [height, width, 3] turned and mirrored as `_display_matrix` says."""
    if not matrix or matrix == (1, 0, 0, 1):
        return pixels
    a, b, c, d = matrix
    if not a and not d and b and c:
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(pixels[:: d or 1, :: a or 1])


def describe(path: Path, header: Header) -> str:
    """Returns what a video is, for messages."""
    frames = "an unknown number of" if header.length is None else str(header.length)
    return f"'{path}' ({header.kind}, {describe_size(header.size)}, {frames} frames)"
