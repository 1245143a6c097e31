"""Times J, F and T against the straightforward way, on one core.

    python -m benchmarks.metrics                  # half a minute; prints a table
    python -m benchmarks.metrics --json=rows.json

Uses the DAVIS val annotations and the OSVOS authors' results where they lie beside the project
(`OSVOS_DATA` names the data folder, else `../shared/data`), and invented blobs otherwise. The
bound of J + F is the time to read the two masks from memory once, at the rate of a large copy.
"""

import math
import time

import cv2
import numpy as np
from absl import app, flags

from benchmarks import timing
from osvos_tf.evaluation import metrics
from osvos_tf.evaluation.temporal import pair_instability

flags.adopt_module_key_flags(timing)

_INVENTED_FRAMES = 120
_INSTABILITY_FRAMES = 24
_ROUNDS = 3


def main(argv):
    """Prints one row a measurement."""
    del argv
    cv2.setNumThreads(1)
    masks, truth, pngs, source = _real_masks() or _invented_masks()
    settings = {"masks": source, "frames": len(masks), "size": list(masks.shape[1:]), "cores": 1}
    copy = timing.copy_probe()
    bound = 2 * masks[0].size / copy.amount * timing.best_seconds(copy.run)
    straightforward, ours = _compare(straightforward_scores, fast_scores, masks, truth)
    decoding = timing.best_seconds(lambda: [cv2.imdecode(png, 0) for png in pngs]) / len(pngs)
    sequence = masks[:_INSTABILITY_FRAMES]
    instability = timing.best_seconds(lambda: pair_instability(sequence), rounds=1)
    rows = [
        timing.row("J + F of a frame, straightforward", straightforward, bound, **settings),
        timing.row("J + F of a frame, osvos_tf", ours, bound, **settings),
        timing.row("raw T of a pair, osvos_tf", instability / (len(sequence) - 1), **settings),
        timing.row("decoding a mask's PNG", decoding, **settings),
    ]
    rows[1]["times_as_fast"] = straightforward / ours
    for row in rows:
        timing.show(row)
    print(f"J + F: {straightforward / ours:.1f} times as fast, every value equal ({source})")
    timing.write(rows)


def fast_scores(mask, truth):
    """J and F of one frame by `osvos_tf.evaluation.metrics`."""
    return metrics.region_similarity(mask, truth), metrics.boundary_accuracy(mask, truth)


def straightforward_scores(mask, truth):
    """J and F of one frame by the definition: count, draw both boundaries, dilate both."""
    union = np.logical_or(mask, truth).sum()
    similarity = np.logical_and(mask, truth).sum() / union if union else 1.0
    radius = math.ceil(metrics.BOUNDARY_TOLERANCE * math.hypot(*mask.shape))
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(np.uint8)
    boundaries = [_boundary(mask), _boundary(truth)]
    near = [cv2.dilate(boundary.view(np.uint8), disk) > 0 for boundary in boundaries]
    lengths = [boundary.sum() for boundary in boundaries]
    if not all(lengths):
        return similarity, float(not any(lengths))
    precision = (boundaries[0] & near[1]).sum() / lengths[0]
    recall = (boundaries[1] & near[0]).sum() / lengths[1]
    total = precision + recall
    return similarity, 2 * precision * recall / total if total else 0.0


def _boundary(mask):
    """Marks the pixels that differ from the right, lower or lower right neighbour."""
    boundary = np.zeros_like(mask)
    boundary[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    boundary[:-1] |= mask[:-1] != mask[1:]
    boundary[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return boundary


def _compare(first, second, masks, truth):
    """Returns both functions' best seconds a frame, run in turn; their values must be equal."""
    seconds = np.full((_ROUNDS, 2), np.inf)
    for i in range(_ROUNDS):
        values = []
        for j, function in enumerate((first, second)):
            start = time.perf_counter()
            values.append([function(*frame) for frame in zip(masks, truth, strict=True)])
            seconds[i, j] = time.perf_counter() - start
        if values[0] != values[1]:
            raise AssertionError("The fast J and F differ from the straightforward ones.")
    return (seconds.min(axis=0) / len(masks)).tolist()


def _real_masks():
    """Returns (masks, truth, PNG files' bytes, what they are), None where there are none."""
    data = timing.data_folder()
    results = data.parent / "reference" / "osvos_author_results" / "masks"
    found = []
    for path in sorted(results.glob("*/*.png")):
        annotation = data / "DAVIS/Annotations/480p" / path.relative_to(results)
        if annotation.is_file():
            found.append((path, annotation))
    if not found:
        return None
    pngs = [[np.fromfile(path, np.uint8) for path in paths] for paths in zip(*found, strict=True)]
    masks, truth = (np.stack([cv2.imdecode(png, 0) > 0 for png in side]) for side in pngs)
    return masks, truth, pngs[0], "OSVOS results and annotations, DAVIS-2016 val"


def _invented_masks():
    """Returns the same for invented masks: wobbling blobs that drift through 480 x 854."""
    randomness = np.random.default_rng(0)
    rows, columns = np.indices(timing.FRAME_SIZE)
    sides = ([], [])
    for i in range(_INVENTED_FRAMES):
        wobble = cv2.GaussianBlur(randomness.normal(size=timing.FRAME_SIZE), None, 12) * 12
        for j, side in enumerate(sides):
            center = 300 + 2 * i + 6 * j
            distance = np.hypot((rows - 240) / 110, (columns - center) / 160)
            side.append(distance + (0.25 + 0.05 * j) * wobble < 1)
    masks, truth = map(np.stack, sides)
    pngs = [cv2.imencode(".png", mask * np.uint8(255))[1] for mask in masks]
    return masks, truth, pngs, "invented blobs"


if __name__ == "__main__":
    app.run(main)
