"""What the benchmarks share: the clock, turns with what bounds them, rows and their JSON file.

A machine is rarely quiet. So what is compared is measured in turns, in the same run: the best turn
says what the machine can do, the median what it did. Processor time, summed over all threads,
hardly feels other programs.
"""

import concurrent.futures
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from absl import flags

from osvos_tf.evaluation import metrics
from osvos_tf.media.masks import read_mask

_JSON = flags.DEFINE_string("json", None, "File to write the rows to.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each measurement.", lower_bound=1)

FRAME_SIZE = (480, 854)  # height and width of DAVIS's frames
MATRIX = 2048  # rows and columns of the product whose rate is the bound of a network
COPIED = 1 << 27  # bytes of the copy, many times the caches


class Spent(NamedTuple):
    """Seconds by the clock, and of processor time: this process's and its ended children's."""

    seconds: float
    cpu_seconds: float


class Probe(NamedTuple):
    """Work of known size that the machine does as fast as it can."""

    run: Callable
    amount: float  # operations, or bytes


class Stopwatch:
    """Measures what is spent from its making, or its restart, on."""

    def __init__(self):
        self.restart()

    def restart(self):
        """Starts again."""
        self._start = time.perf_counter(), _cpu_seconds()

    def read(self):
        """Returns what is spent so far."""
        seconds, cpu_seconds = self._start
        return Spent(time.perf_counter() - seconds, _cpu_seconds() - cpu_seconds)


def spent(function):
    """Calls a function; returns what that took."""
    watch = Stopwatch()
    function()
    return watch.read()


def best_seconds(function, rounds=3, clock=time.perf_counter):
    """Returns the seconds of the quickest of so many calls."""
    seconds = []
    for _ in range(rounds):
        start = clock()
        function()
        seconds.append(clock() - start)
    return min(seconds)


def turns(work, probe):
    """Runs work and a probe in `--rounds` turns, after one call of either that does not count.

    Args:
        work: a function.
        probe: a `Probe`.

    Returns:
        (works, probes): a `Spent` a turn, of both.
    """
    work()
    probe.run()
    return zip(*((spent(work), spent(probe.run)) for _ in range(ROUNDS.value)), strict=True)


def matrix_probe(precision, size=MATRIX):
    """Returns the probe of a square matrix product in "float32" or "bfloat16", on all cores."""
    import tensorflow as tf  # which not every benchmark needs

    matrix = tf.cast(tf.random.stateless_normal([size, size], [0, 0]), precision)
    # One value of the product is taken, in order to wait for all of it.
    return Probe(lambda: tf.linalg.matmul(matrix, matrix)[0, 0].numpy(), 2 * size**3)


def copy_probe(threads=1):
    """Returns the probe of a large copy in memory, shared out to so many threads."""
    source = np.ones((threads, COPIED // threads), np.uint8)
    target = source.copy()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    return Probe(lambda: list(pool.map(np.copyto, target, source)), 2 * source.size)


def row(what, seconds, bound=None, **settings):
    """Returns a row of the JSON file.

    Args:
        what: was measured.
        seconds: it took.
        bound: seconds that it must take at least; None where nothing says so.
        settings: anything else that a reader should know.
    """
    return {
        "what": what,
        "seconds": seconds,
        "bound_seconds": bound,
        "fraction_of_bound": bound / seconds if bound else None,
        **settings,
    }


def bounded_row(what, works, probes, scale, **settings):
    """Returns the row of work that was measured in turns with its bound.

    Args:
        what: was measured.
        works: a `Spent` of the work for each turn.
        probes: a `Spent` of the bounding probe for each turn.
        scale: how many probes the work amounts to, at least.
        settings: see `row`.
    """
    seconds, cpu_seconds = map(min, zip(*works, strict=True))
    probe_seconds, probe_cpu_seconds = map(min, zip(*probes, strict=True))
    ratios = [scale * p.seconds / w.seconds for p, w in zip(probes, works, strict=True)]
    return row(
        what,
        seconds,
        scale * probe_seconds,
        median_seconds=statistics.median(work.seconds for work in works),
        median_fraction=statistics.median(ratios),
        cpu_seconds=cpu_seconds,
        cpu_fraction=scale * probe_cpu_seconds / cpu_seconds,
        rounds=len(works),
        cores=os.cpu_count(),
        **settings,
    )


def show(row):
    """Prints a row; its `note`, if it has one, comes last. Returns the row."""
    share = " " * 22
    if row["fraction_of_bound"]:
        share = f"{row['fraction_of_bound']:8.1%} of the bound"
    if "median_fraction" in row:
        share += f" (median {row['median_fraction']:.1%}, of processor {row['cpu_fraction']:.1%})"
    line = f"{row['what']:52}{row['seconds'] * 1e3:10.2f} ms{share}  {row.get('note', '')}"
    print(line.rstrip(), flush=True)
    return row


def write(rows):
    """Writes the rows to the file that `--json` names, if it does."""
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1) + "\n")


def data_folder():
    """Returns where real data would lie: `OSVOS_DATA`, else `../shared/data`."""
    project = pathlib.Path(__file__).resolve().parents[1]
    return pathlib.Path(os.environ.get("OSVOS_DATA", project.parent / "shared" / "data"))


def mean_j(sequence, masks):
    """Returns the mean J of a folder of masks of a `davis.Sequence`, but for its first and last."""
    scores = [
        metrics.region_similarity(
            read_mask(pathlib.Path(masks) / f"{frame.name}.png"), read_mask(frame.mask)
        )
        for frame in sequence.frames[1:-1]
    ]
    return float(np.mean(scores))


def frame(size=FRAME_SIZE, seed=0):
    """Returns a frame with the texture of a photograph, uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).normal(size=(*size, 3))
    layers = [cv2.GaussianBlur(noise, None, sigma) * sigma for sigma in (1, 4, 16, 64)]
    return np.clip(127 + 60 * sum(layers), 0, 255).astype(np.uint8)


def disk(size=FRAME_SIZE):
    """Returns the mask of a disk in the middle, uint8 0/1 [height, width]."""
    height, width = size
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2)
    return (distance < height / 4).astype(np.uint8)


def _cpu_seconds():
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
