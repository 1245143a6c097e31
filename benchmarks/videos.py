"""Times the decoding and writing of videos against OpenCV's, on the same files.

    python -m benchmarks.videos                   # a minute; prints a table
    python -m benchmarks.videos --json=rows.json

The bound of decoding is what OpenCV's VideoCapture takes for the same frames, to RGB; 4K H.265 with
10 bits and HDR has none, because OpenCV does not map it.
"""

import pathlib
import tempfile
from fractions import Fraction

import av
import cv2
import numpy as np
from absl import app, flags

from benchmarks import timing
from osvos_tf.media import videos
from osvos_tf.media.frames import open_frames
from osvos_tf.media.video_writer import write_video

flags.adopt_module_key_flags(timing)

_FRAMES = 72
_SIZES = {"480p": (480, 854), "1080p": (1080, 1920)}
_LARGE, _LARGE_FRAMES = (2160, 3840), 48


def main(argv):
    """Prints one row a measurement."""
    del argv
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in _SIZES.items():
            path = pathlib.Path(folder, f"{name}.mp4")
            frames = list(_moving(size))
            writing = timing.best_seconds(lambda path=path, frames=frames: _write(path, frames))
            rows.append(timing.row(f"writing H.264, {name}", writing / _FRAMES, size=list(size)))
            ours, theirs = _in_turn(path)
            rows.append(
                timing.row(f"decoding H.264, {name}", ours, theirs, size=list(size), frames=_FRAMES)
            )
        path = pathlib.Path(folder, "hdr.mkv")
        _write_hdr(path)
        hdr = timing.best_seconds(lambda: sum(1 for _ in open_frames(path)), rounds=1)
        rows.append(
            timing.row(
                "opening and decoding 4K H.265, 10 bits, HLG", hdr / _LARGE_FRAMES,
                size=list(_LARGE), frames=_LARGE_FRAMES,
            )
        )  # fmt: skip
    for row in rows:
        timing.show(row)
    timing.write(rows)


def _moving(size):
    """Yields frames of smooth noise that moves by some pixels from one to the next."""
    noise = np.random.default_rng(0).integers(0, 255, (size[0] // 8, size[1] // 8, 3), np.uint8)
    picture = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    for number in range(_FRAMES):
        yield np.roll(picture, 3 * number, axis=1)


def _write(path, frames):
    with write_video(path, frames[0].shape[:2], 24) as video:
        for frame in frames:
            video.write(frame)


def _in_turn(path):
    """Returns the best seconds a frame of our decoder and of OpenCV's, run in turns."""
    seconds = np.full((timing.ROUNDS.value, 2), np.inf)
    for turn in seconds:
        turn[0] = timing.spent(lambda: sum(1 for _ in videos.decode(path))).seconds
        turn[1] = timing.spent(lambda: _decode_by_opencv(path)).seconds
    return (seconds.min(axis=0) / _FRAMES).tolist()


def _decode_by_opencv(path):
    capture = cv2.VideoCapture(str(path))
    while True:
        decoded, frame = capture.read()
        if not decoded:
            return
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _write_hdr(path):
    parameters = "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"
    height, width = _LARGE
    grey = np.broadcast_to(np.linspace(0, 65535, width).astype(np.uint16), _LARGE)
    with av.open(str(path), "w") as output:
        options = {"x265-params": parameters, "preset": "ultrafast"}
        stream = output.add_stream("libx265", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p10le"
        for number in range(_LARGE_FRAMES):
            moved = av.VideoFrame.from_ndarray(np.roll(grey, 8 * number, axis=1), format="gray16le")
            moved = moved.reformat(format="yuv420p10le")
            moved.pts, moved.time_base = number, Fraction(1, 24)
            output.mux(stream.encode(moved))
        output.mux(stream.encode())


if __name__ == "__main__":
    app.run(main)
