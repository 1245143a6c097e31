"""Times J, F and T against the straightforward way, on one core.

    python -m benchmarks.metrics                  # half a minute; prints a table
    python -m benchmarks.metrics --json=rows.json

Uses the DAVIS val annotations and the OSVOS authors' results where they lie beside the project
(`OSVOS_DATA` names the data folder, else `../shared/data`), and invented blobs otherwise. The
bound of J + F is the time to read the two masks from memory once, at the rate of a large copy.
"""

import json
import math
import os
import pathlib
import time

import cv2
import numpy as np
from absl import app, flags

from osvos_tf import metrics

_JSON = flags.DEFINE_string("json", None, "File to write the rows to.")

_INVENTED_FRAMES = 120
_INSTABILITY_FRAMES = 24
_ROUNDS = 3


def main(argv):
    """Prints one row a measurement."""
    del argv
    cv2.setNumThreads(1)
    masks, truth, pngs, source = _real_masks() or _invented_masks()
    settings = {"masks": source, "frames": len(masks), "size": list(masks.shape[1:]), "cores": 1}
    bound = 2 * masks[0].size / _bytes_per_second()
    straightforward, ours = _compare(straightforward_scores, fast_scores, masks, truth)
    decoding = _best_seconds(lambda: [cv2.imdecode(png, 0) for png in pngs]) / len(pngs)
    sequence = masks[:_INSTABILITY_FRAMES]
    instability = _best_seconds(lambda: metrics.pair_instability(sequence), rounds=1)
    rows = [
        _row("J + F of a frame, straightforward", straightforward, bound, settings),
        _row("J + F of a frame, osvos_tf", ours, bound, settings),
        _row("raw T of a pair, osvos_tf", instability / (len(sequence) - 1), None, settings),
        _row("decoding a mask's PNG", decoding, None, settings),
    ]
    rows[1]["times_as_fast"] = straightforward / ours
    for row in rows:
        fraction = row["fraction_of_bound"]
        share = f"{fraction:8.1%} of the bound" if fraction else ""
        print(f"{row['what']:36}{row['seconds'] * 1e3:9.3f} ms{share}")
    print(f"J + F: {straightforward / ours:.1f} times as fast, every value equal ({source})")
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1) + "\n")


def fast_scores(mask, truth):
    """J and F of one frame by `osvos_tf.metrics`."""
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


def _best_seconds(function, rounds=_ROUNDS):
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _bytes_per_second():
    source = np.ones(1 << 27, np.uint8)
    target = source.copy()
    return 2 * source.size / _best_seconds(lambda: np.copyto(target, source))


def _row(what, seconds, bound, settings):
    fraction = bound / seconds if bound else None
    return {
        "what": what,
        "seconds": seconds,
        "bound_seconds": bound,
        "fraction_of_bound": fraction,
        **settings,
    }


def _real_masks():
    """Returns (masks, truth, PNG files' bytes, what they are), None where there are none."""
    project = pathlib.Path(__file__).resolve().parents[1]
    data = pathlib.Path(os.environ.get("OSVOS_DATA", project.parent / "shared" / "data"))
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
    rows, columns = np.mgrid[:480, :854]
    sides = ([], [])
    for i in range(_INVENTED_FRAMES):
        wobble = cv2.GaussianBlur(randomness.normal(size=(480, 854)), None, 12) * 12
        for j, side in enumerate(sides):
            center = 300 + 2 * i + 6 * j
            distance = np.hypot((rows - 240) / 110, (columns - center) / 160)
            side.append(distance + (0.25 + 0.05 * j) * wobble < 1)
    masks, truth = map(np.stack, sides)
    pngs = [cv2.imencode(".png", mask * np.uint8(255))[1] for mask in masks]
    return masks, truth, pngs, "invented blobs"


if __name__ == "__main__":
    app.run(main)
