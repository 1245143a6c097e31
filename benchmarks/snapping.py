"""Measures what snapping gains on degraded masks of DAVIS, and its time on one core.

    export OMP_NUM_THREADS=1
    python -m benchmarks.snapping --davis=../shared/data/DAVIS --contour=contour.keras
    python -m benchmarks.snapping --davis=DAVIS --sequences=dog,libby --json=rows.json
    python -m benchmarks.snapping --davis=DAVIS --split=train --tune   # eight minutes

The annotations of every 10th frame are degraded in three ways: resampled to 1/16 and back, by
averages and bilinearly (`down16`: a soft and rounded boundary, half of it within two pixels of the
truth) or by nearest pixels (`blocks`), and with a boundary that wavers by 4 pixels (`jitter`). Both
snappings then try to mend that. Without `--contour` the frame's gradient is the contour map; it
also fires inside objects and on texture, and says little about what learned contours gain.

`--tune` changes one constant of the bilateral solver at a time. Mean gain in J on DAVIS train
(207 frames; resampled, jittered), and milliseconds a frame:

    as it is                 +.0099 +.0306 40
    SIGMA_SPATIAL   5        +.0100 +.0214 57   6 +.0097 +.0261 44    8 +.0082 +.0335 38
                   10        +.0074 +.0405 34  14 +.0039 +.0486 30
    SIGMA_LUMA      8        +.0097 +.0285 48  16 +.0095 +.0320 38   24 +.0078 +.0333 32
    SIGMA_CHROMA    4        +.0095 +.0264 43   8 +.0093 +.0333 37   12 +.0077 +.0356 34
    SMOOTHNESS      2        +.0095 +.0110 41   4 +.0101 +.0150 40    8 +.0102 +.0217 40
                   32        +.0091 +.0408 39 128 +.0074 +.0533 41
    SOLVER_STEPS    3        +.0086 +.0275 38  12 +.0094 +.0309 46   25 +.0093 +.0309 59

The confidence's floor (0.001, 0.1) and the balancing steps (1, 10) change nothing. Stronger
smoothing mends rougher masks and harms good ones, which lose first where an object is as dark as
its shadow. Hence the choice: the smaller gain is within .0003 of the best. OpenCV's own solver is
no choice: its wheels come without it (no Eigen). Its fast global smoother takes 14 ms and reached
+.0100 +.0215 or +.0061 +.0408 on 51 of the frames.
"""

import time
from unittest import mock

import cv2
import numpy as np
from absl import app, flags

import osvos_tf
from benchmarks import timing
from osvos_tf.data import davis
from osvos_tf.evaluation import metrics
from osvos_tf.media.masks import read_mask
from osvos_tf.segmentation import colours, snapping

_DAVIS = flags.DEFINE_string("davis", None, "DAVIS root.", required=True)
_CONTOUR = flags.DEFINE_string("contour", None, "Contour network (.keras); unset: the gradient.")
_SPLIT = flags.DEFINE_string("split", "val", "Name of a list in ImageSets.")
_SEQUENCES = flags.DEFINE_list("sequences", [], "Sequences, by comma; unset: all of the split.")
_EVERY = flags.DEFINE_integer("every", 10, "Take every that many frames.", lower_bound=1)
_THRESHOLD = flags.DEFINE_float(
    "contour_threshold", snapping.UCM_THRESHOLD, "Where the contour map is cut."
)
_TUNE = flags.DEFINE_bool("tune", False, "Try the bilateral solver's parameters instead.")
flags.adopt_module_key_flags(timing)

REDUCTION = 16  # the stride of the network's coarsest side
JITTER_PIXELS = 4.0  # standard deviation of the boundary's displacement
JITTER_WAVELENGTH = 10.0  # sigma of its smoothing, in pixels
GRADIENT_SIGMAS = (1, 2, 4)  # pixels
GRADIENT_HALF = 3.0  # the gradient, in CIELAB units per sigma, that is a contour of 0.5

VARIATIONS = {
    "SIGMA_SPATIAL": (5.0, 6.0, 8.0, 10.0, 14.0),
    "SIGMA_LUMA": (8.0, 16.0, 24.0),
    "SIGMA_CHROMA": (4.0, 8.0, 12.0),
    "SMOOTHNESS": (2.0, 4.0, 8.0, 32.0, 128.0),
    "CONFIDENCE_FLOOR": (0.001, 0.1),
    "BALANCING_STEPS": (1, 10),
    "SOLVER_STEPS": (3, 12, 25),
}
"""Constants of `segmentation.colours`, and what `--tune` sets each of them to, one at a time."""

_COLUMNS = ("J_before", "J_contours", "J_bilateral", "superpixels")
_TIMED_SEQUENCES = 5
_ROUNDS = 5


def main(argv):
    """Prints a row a sequence, then a row a step."""
    del argv
    cv2.setNumThreads(1)
    sequences = davis.read_split(_DAVIS.value, _SPLIT.value, sequences=_SEQUENCES.value)
    if _TUNE.value:
        rows = tune(sequences)
    else:
        predict = network(_CONTOUR.value) if _CONTOUR.value else gradient
        rows = gains(sequences, predict) + seconds(sequences, predict)
    timing.write(rows)


# Degraded masks and contours


def reduce(truth):
    """Resamples a mask to 1/16 and back: float32 probability of the same shape."""
    height, width = truth.shape
    small = max(width // REDUCTION, 1), max(height // REDUCTION, 1)
    small = cv2.resize(truth.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    return np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


def jitter(truth):
    """Moves a mask's boundary to and fro: float32 probability, almost all of it 0 or 1."""
    noise = np.random.default_rng(0).standard_normal((*truth.shape, 2), np.float32)
    moves = cv2.GaussianBlur(noise, None, JITTER_WAVELENGTH)
    moves *= JITTER_PIXELS / moves.std()
    rows, columns = np.indices(truth.shape, np.float32)
    places = np.dstack([columns, rows]) + moves
    border = cv2.BORDER_REPLICATE
    moved = cv2.remap(truth.astype(np.float32), places, None, cv2.INTER_LINEAR, borderMode=border)
    return np.clip(moved, 0, 1)


def block(truth):
    """Resamples a mask to 1/16 and back by nearest pixels: float32, 0 or 1."""
    height, width = truth.shape
    small = max(width // REDUCTION, 1), max(height // REDUCTION, 1)
    nearest = cv2.INTER_NEAREST_EXACT
    blocks = cv2.resize(truth.astype(np.float32), small, interpolation=nearest)
    return cv2.resize(blocks, (width, height), interpolation=nearest)


DEGRADATIONS = {"down16": reduce, "blocks": block, "jitter": jitter}


def gradient(frame):
    """The stand-in for learned contours: the CIELAB gradient over three scales, mapped to 0..1."""
    colours = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    total = np.zeros(frame.shape[:2], np.float32)
    for sigma in GRADIENT_SIGMAS:
        smooth = cv2.GaussianBlur(colours, None, sigma)
        slopes = [cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))]
        total += sigma * np.sqrt(np.square(slopes).sum(axis=(0, 3)))
    mean = total / len(GRADIENT_SIGMAS)
    return mean / (mean + GRADIENT_HALF)


def network(path):
    """Returns the contour network as a function: uint8 RGB frame -> strength [height, width]."""
    from osvos_tf.network import model

    predictor = model.build_predictor(osvos_tf.load_model(path))
    return lambda frame: predictor.predict_on_batch(frame[None])[0, :, :, 0]


def read(frame):
    """Returns the image, uint8 RGB, and the annotation, bool, of a `davis.Frame`."""
    image = cv2.cvtColor(cv2.imread(str(frame.image)), cv2.COLOR_BGR2RGB)
    return image, read_mask(frame.mask) > 0


# What is measured


def gains(sequences, predict):
    """Scores the degraded masks and what both snappings make of them: one row a sequence."""
    print(f"{'J':20}{'degraded':12}before  contours  bilateral  superpixels")
    rows = []
    for sequence in sequences:
        scores, counts = {name: [] for name in DEGRADATIONS}, []
        for frame in sequence.frames[:: _EVERY.value]:
            image, truth = read(frame)
            labels = snapping.superpixels(snapping.ucm(predict(image)), _THRESHOLD.value)
            counts.append(labels.max())
            for name, degrade in DEGRADATIONS.items():
                scores[name].append(_scores(degrade(truth), truth, labels, image))
        rows += [
            _gain_row(sequence.name, name, (*np.mean(values, axis=0), np.mean(counts)))
            for name, values in scores.items()
        ]
    for name in DEGRADATIONS:
        values = [[row[key] for key in _COLUMNS] for row in rows if row["degraded"] == name]
        rows.append(_gain_row("mean", name, np.mean(values, axis=0)))
    return rows


def seconds(sequences, predict):
    """Times each step on one frame of some sequences: one row a step."""
    times = []
    for sequence in sequences[:_TIMED_SEQUENCES]:
        image, truth = read(sequence.frames[0])
        contours, probability = predict(image), reduce(truth)
        ucm = snapping.ucm(contours)
        labels, mask = snapping.superpixels(ucm), probability > 0.5
        steps = {
            "contours to contour map": lambda c=contours: snapping.ucm(c),
            "contour map to superpixels": lambda u=ucm: snapping.superpixels(u),
            "majority vote": lambda m=mask, s=labels: snapping.majority_vote(m, s),
            "bilateral solver": lambda p=probability, i=image: colours.snap_to_colours(p, i),
        }
        # Processor time, which other programs on the machine disturb less than the clock's.
        best = [timing.best_seconds(s, _ROUNDS, time.process_time) for s in steps.values()]
        times.append(best)
    spent = dict(zip(steps, np.mean(times, axis=0).tolist(), strict=True))
    spent["contours to snapped mask"] = sum(spent.values()) - spent["bilateral solver"]
    size = list(mask.shape)
    for what, value in spent.items():
        print(f"{what:32}{value * 1e3:8.1f} ms of one core, a frame of {size[0]} x {size[1]}")
    return [timing.row(what, value, size=size, cores=1) for what, value in spent.items()]


def tune(sequences):
    """Scores the bilateral solver with its constants changed, one at a time: one row a change."""
    cases = []
    for sequence in sequences:
        for frame in sequence.frames[:: _EVERY.value]:
            image, truth = read(frame)
            for name, degrade in DEGRADATIONS.items():
                probability = degrade(truth)
                before = metrics.region_similarity(probability > 0.5, truth)
                cases.append((name, probability, image, truth, before))
    trials = [("SIGMA_SPATIAL", colours.SIGMA_SPATIAL)]  # all constants as they are
    trials += [(name, value) for name, values in VARIATIONS.items() for value in values]
    print(f"{'mean gain in J':28}" + "".join(f"{name:>10}" for name in DEGRADATIONS) + "   seconds")
    return [_trial_row(name, value, cases) for name, value in trials]


def _scores(probability, truth, labels, image):
    """J of a degraded mask, of its superpixels' vote, and after the bilateral solver."""
    mask = probability > 0.5
    snapped = snapping.majority_vote(mask, labels)
    smoothed = colours.snap_to_colours(probability, image) > 0.5
    return [metrics.region_similarity(each, truth) for each in (mask, snapped, smoothed)]


def _gain_row(sequence, degraded, values):
    before, contours, bilateral, superpixels = values
    print(
        f"{sequence:20}{degraded:10}{before:8.4f}{contours - before:+10.4f}"
        f"{bilateral - before:+11.4f}{superpixels:13.0f}",
        flush=True,
    )
    numbers = dict(zip(_COLUMNS, map(float, values), strict=True))
    return {"what": f"J of {sequence}", "degraded": degraded, "every": _EVERY.value} | numbers


def _trial_row(name, value, cases):
    gains = {name: [] for name in DEGRADATIONS}
    start = time.process_time()
    with mock.patch.object(colours, name, value):
        for degraded, probability, image, truth, before in cases:
            mask = colours.snap_to_colours(probability, image) > 0.5
            gains[degraded].append(metrics.region_similarity(mask, truth) - before)
    spent = (time.process_time() - start) / len(cases)
    means = {degraded: float(np.mean(values)) for degraded, values in gains.items()}
    what = f"{name} = {value:g}"
    gain = "".join(f"{mean:+10.4f}" for mean in means.values())
    print(f"{what:28}{gain}{spent:10.3f}", flush=True)
    return timing.row(what, spent, **means)


if __name__ == "__main__":
    app.run(main)
