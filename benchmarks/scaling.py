"""Measures how time and peak memory grow: with frames, with their size, with the batch.

    python -m benchmarks.scaling                  # about ten minutes on two quiet cores
    python -m benchmarks.scaling --tables=frames --counts=10,2000 --json=rows.json

Each case is the real job of `segment` in a separate process, on invented JPEGs, with a parent
network of random weights: what it costs does not depend on what it knows. Seconds are those of a
frame, or of an update of the one-shot stage, what it takes to set up the network's graph included.
The bound is the arithmetic alone, at the rate of a matrix product just before. Peak memory is the
most that the process ever held, libraries included; it is Linux that says so.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import cv2
from absl import app, flags

from benchmarks import cost, timing
from osvos_tf import LearnOptions, SegmentOptions, files
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.media.masks import write_mask
from osvos_tf.network import model
from osvos_tf.network.files import save_model
from osvos_tf.network.precision import choose_precision
from osvos_tf.training import recipes

_TABLES = flags.DEFINE_list("tables", ["frames", "size", "batch", "training"], "What to vary.")
_WIDTH = flags.DEFINE_float("width_multiplier", 0.25, "Width of the network.")
_COUNTS = flags.DEFINE_list("counts", ["10", "100", "500", "2000"], "Numbers of frames.")
_HEIGHTS = flags.DEFINE_list("heights", ["240", "480", "720", "1080"], "Frame heights.")
_BATCHES = flags.DEFINE_list("batches", ["1", "2", "4", "8"], "Frames of a batch.")
_COUNT = flags.DEFINE_integer("count", 50, "Frames where their number does not vary.")
_HEIGHT = flags.DEFINE_integer("height", 480, "Frame height where it does not vary.")
_UPDATES = flags.DEFINE_integer("updates", 10, "Updates of the training table.")
flags.adopt_module_key_flags(timing)

_DISTINCT = 8  # invented frames; more are links to them
# The job of `segment`, with another number of frames in a call of the network where one is given;
# leaves the most memory that it held in a file. (What the system tells a parent of its child
# includes what the child was before: a copy of the parent.)
_PROGRAM = """
import functools, json, pathlib, re, sys
from osvos_tf.jobs import video_job
from osvos_tf.segmentation import following, inference
batch_size, peak, job = int(sys.argv[1]), pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
if batch_size:
    for module, name in ((inference, "predict_frames"), (following, "follow_object")):
        setattr(module, name, functools.partial(getattr(module, name), batch_size=batch_size))
video_job.run(video_job.VideoJob.from_json(job))
status = pathlib.Path("/proc/self/status").read_text()
peak.write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""


def main(argv: list[str]) -> None:
    """Prints one row a case."""
    del argv
    rows = []
    for table in _TABLES.value:
        for case in cases(table):
            with tempfile.TemporaryDirectory() as folder:
                rows.append({**measure(pathlib.Path(folder), **case), "table": table})
            timing.show(rows[-1])
    timing.write(rows)


def cases(table: str) -> Iterator[dict[str, Any]]:
    """Yields the arguments of `measure` for the rows of a table."""
    case: dict[str, Any] = {"count": _COUNT.value, "height": _HEIGHT.value}
    values = {
        "frames": ("count", _COUNTS.value),
        "size": ("height", _HEIGHTS.value),
        "batch": ("batch_size", _BATCHES.value),
        "training": ("height", _HEIGHTS.value),
    }
    if table == "training":
        case |= {"count": 1, "updates": _UPDATES.value}
    name, varied = values[table]
    yield from ({**case, name: int(value)} for value in varied)


def measure(
    folder: pathlib.Path,
    *,
    count: int,
    height: int,
    batch_size: int | None = None,
    updates: int = 0,
) -> dict[str, Any]:
    """Does the job of `segment` on invented frames in a separate process; returns the row.

    Args:
        folder: an empty one, for all files.
        count: number of frames.
        height: of the frames in pixels; they are as wide as 16:9 makes them.
        batch_size: frames of a call of the network; None leaves that to the job.
        updates: of the one-shot stage; where there are some, the row is about them.
    """
    size = height, round(height * 16 / 9)
    precision = choose_precision("auto")
    job = _prepare(folder, size, count, updates, precision)
    probe = timing.matrix_probe(precision)
    probe.run()
    flops_a_second = probe.amount / timing.best_seconds(probe.run)
    watch = timing.Stopwatch()
    arguments = [str(batch_size or 0), str(folder / "peak"), json.dumps(job.as_json())]
    subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], check=True)
    peak = 1024 * int((folder / "peak").read_text())
    whole = watch.read()
    seconds = json.loads((folder / "out" / "run.json").read_text())["seconds"]
    settings: dict[str, Any] = {"width_multiplier": _WIDTH.value}
    if updates:
        what, took = f"update at {height}p", seconds["training"] / updates
        settings["batch_size"] = recipes.ONE_SHOTS["scratch"].batch_size
        flops = cost.training_flops(*size, **settings)
    else:
        batch = f", batch {batch_size}" if batch_size else ""
        what, took = f"frame of {count} at {height}p{batch}", seconds["inference"] / count
        flops = cost.forward_flops(*size, **settings)
        settings["batch_size"] = batch_size
    return timing.row(
        what,
        took,
        flops / flops_a_second,
        peak_bytes=peak,
        process_seconds=whole.seconds,
        process_cpu_seconds=whole.cpu_seconds,
        frames=count,
        size=size,
        updates=updates,
        precision=precision,
        cores=os.cpu_count(),
        note=f"peak {peak / 2**20:.0f} MiB; the process {whole.seconds:.1f} s",
        **settings,
    )


def _prepare(
    folder: pathlib.Path, size: tuple[int, int], count: int, updates: int, precision: str
) -> VideoJob:
    """Invents frames, a mask and a parent; returns the job on them."""
    frames = files.ensure_writable(folder / "frames")
    for number in range(count):
        path = frames / f"{number:05d}.jpg"
        if number < _DISTINCT:
            cv2.imwrite(str(path), timing.frame(size, seed=number))
        else:
            os.link(frames / f"{number % _DISTINCT:05d}.jpg", path)
    write_mask(folder / "mask.png", timing.disk(size))
    parent = model.build_foreground(width_multiplier=_WIDTH.value, start="scratch", seed=0)
    save_model(parent, folder / "parent.keras")
    return VideoJob(
        frames=str(frames),
        masks=(str(folder / "mask.png"),),
        out=str(folder / "out"),
        learn=LearnOptions(
            parent=str(folder / "parent.keras"), updates=updates, precision=precision
        ),
        segment=SegmentOptions(precision=precision),
    )


if __name__ == "__main__":
    app.run(main)
