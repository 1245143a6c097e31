"""What more objects in one video cost: learning and finding 1, 2, 4 and 8 of them.

    python -m benchmarks.objects                   # five minutes; prints a table
    python -m benchmarks.objects --json=rows.json

The video is painted: discs of one colour each that move over noise, all of them in every video, so
that only the number of those in the mask differs. The bound is the time of one object in the same
run.
"""

import time

import numpy as np
from absl import app, flags

import osvos_tf
from benchmarks import timing

_UPDATES = flags.DEFINE_integer("updates", 30, "Updates of one-shot training.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 20, "Frames of the video.", lower_bound=2)
flags.adopt_module_key_flags(timing)

_COUNTS = (1, 2, 4, 8)
_RADIUS = 40  # pixels


def main(argv):
    """Prints two rows a number of objects."""
    del argv
    frames, labels = paint(_FRAMES.value, max(_COUNTS))
    osvos_tf.learn(frames, {0: labels[0]}, updates=1)  # what is set up once
    rows, bounds = [], {}
    for count in _COUNTS:
        wanted = np.where(labels <= count, labels, 0)
        start = time.perf_counter()
        learned = osvos_tf.learn(
            frames, {0: wanted[0]}, updates=_UPDATES.value, until_learned=False
        )
        middle = time.perf_counter()
        found = [frame.mask for frame in learned.segment(frames)]
        end = time.perf_counter()
        J = osvos_tf.evaluate(np.stack(found), wanted).J
        for what, seconds, per in (
            ("an update", middle - start, _UPDATES.value),
            ("a frame", end - middle, _FRAMES.value),
        ):
            bound = bounds.setdefault(what, seconds / per)
            rows.append(
                timing.row(f"{what}, {count} objects", seconds / per, bound, objects=count, J=J)
            )
    for row in rows:
        timing.show(row)
    timing.write(rows)


def paint(count, objects):
    """Returns frames and label maps of discs that move to and fro in places of their own."""
    height, width = timing.FRAME_SIZE
    random = np.random.default_rng(0)
    frames = random.integers(60, 120, (count, height, width, 3), dtype=np.uint8)
    labels = np.zeros((count, height, width), np.uint8)
    colours = random.integers(0, 256, (objects, 3))
    rows, columns = np.ogrid[:height, :width]
    for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        for index in range(objects):
            row = height * (1 + 2 * (index % 2)) / 4 + 20 * np.sin(number / 5 + index)
            column = width * (1 + 2 * (index // 2)) / objects + 30 * np.cos(number / 5 + index)
            inside = (rows - row) ** 2 + (columns - column) ** 2 <= _RADIUS**2
            label[inside] = index + 1
            frame[inside] = frame[inside] * 0.2 + colours[index] * 0.8
    return frames, labels


if __name__ == "__main__":
    app.run(main)
