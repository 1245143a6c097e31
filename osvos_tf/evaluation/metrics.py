"""How good a segmentation is: the DAVIS-2016 measures J, F and T.

J compares regions, F compares contours, T tells how much the contour wobbles from frame to
frame (Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", CVPR 2016, section 5). The published tables come from the benchmark's reference
implementation; where the paper leaves a choice open, the values here follow the tables.

Masks are `[height, width]` or `[frames, height, width]`: bool, or numbers that are all 0 or 1,
or integers that are all 0 or 255. Object pixels are the ones that are not 0.

    J = region_similarity(masks, truth)                    # one value a frame
    mean, recall, decay = statistics(J[1:-1])              # DAVIS leaves both ends out
    J, F, T = sequence_scores(masks, truth)                # the same, for a whole sequence
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from osvos_tf.evaluation.arrays import as_mask, bounding_box, check_shapes
from osvos_tf.evaluation.temporal import temporal_instability

STABLE_SEQUENCES = {
    "train": (
        "bear", "boat", "bus", "car-turn", "dance-jump", "drift-turn", "elephant", "flamingo",
        "hike", "hockey", "kite-walk", "mallard-water", "motocross-bumps", "rhino", "stroller",
        "surf", "train",
    ),
    "val": (
        "blackswan", "camel", "car-roundabout", "car-shadow", "cows", "drift-straight",
        "kite-surf", "paragliding-launch", "scooter-black", "soapbox",
    ),
}  # fmt: skip
"""DAVIS-2016 sequences that count towards a method's T: no occlusion, no strong deformation."""

BOUNDARY_TOLERANCE = 0.008  # of the frame's diagonal: 8 pixels at 480 x 854
RECALL_THRESHOLD = 0.5


# Measures two bool masks [height, width]; the third is void, or None.
_Measure = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]


class Statistics(NamedTuple):
    """What a table row says about one sequence; see `statistics`."""

    mean: float
    recall: float
    decay: float


class SequenceScores(NamedTuple):
    """J and F, float64 [frames - 2] for frames 1 .. frames - 2, and the sequence's T."""

    J: np.ndarray
    F: np.ndarray
    T: float


def region_similarity(
    mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None
) -> float | np.ndarray:
    """Computes J, the intersection over union of two masks (CVPR 2016, section 5, "J").

    Args:
      mask: the result, `[height, width]` or `[frames, height, width]`.
      truth: the annotation, same shape.
      void: pixels that count neither as hit nor as miss, same shape; None for none.

    Returns:
      A float in 0..1, or float64 `[frames]`. Two empty masks score 1.

    Raises:
      ValueError: the shapes differ, or an array is not a mask.
    """
    return _per_frame(_region_similarity, mask, truth, void)


def boundary_accuracy(
    mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None
) -> float | np.ndarray:
    """Computes F, the F-measure of two masks' boundaries (CVPR 2016, section 5, "F").

    A boundary pixel is right if the other boundary passes within 0.8 % of the frame's diagonal
    (Euclidean, rounded up to whole pixels). F is the harmonic mean of the share of `mask`'s
    boundary that is right (precision) and of the share of `truth`'s that is found (recall).
    An object that touches the frame's border has no boundary there.

    Args:
      mask: the result, `[height, width]` or `[frames, height, width]`.
      truth: the annotation, same shape.
      void: pixels that both masks leave empty before boundaries are drawn; None for none.

    Returns:
      A float in 0..1, or float64 `[frames]`. Two masks without a boundary score 1.

    Raises:
      ValueError: the shapes differ, or an array is not a mask.
    """
    return _per_frame(_boundary_accuracy, mask, truth, void)


def statistics(values: np.ndarray) -> Statistics:
    """Summarises the per-frame values of one sequence (CVPR 2016, section 5).

    Args:
      values: J or F of the scored frames in order, `[frames]`, one or more.

    Returns:
      `Statistics`: the mean; the recall, which is the share of values above 0.5; and the decay,
      which is the mean of the first quarter minus the mean of the last (negative: improving).
      Neighbouring quarters share the frame where they meet.

    Raises:
      ValueError: not a list of at least one number.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values: wanted one number a frame, got shape {values.shape}.")
    edges = [math.floor((len(values) - 1) * quarter / 4 + 0.5) for quarter in range(5)]
    first, last = values[: edges[1] + 1], values[edges[3] :]
    return Statistics(
        mean=float(values.mean()),
        recall=float((values > RECALL_THRESHOLD).mean()),
        decay=float(first.mean() - last.mean()),
    )


def sequence_scores(
    masks: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None
) -> SequenceScores:
    """Scores a whole sequence by the DAVIS-2016 protocol.

    Frame 0, whose mask was given, and the last frame are not scored. T starts from the
    annotation of frame 0 and takes no notice of void.

    Args:
      masks: the results of all frames, `[frames, height, width]`, three or more.
      truth: the annotations, same shape.
      void: pixels to ignore in J and F, same shape; None for none.

    Returns:
      `SequenceScores`: J and F of frames 1 .. frames - 2, and T.

    Raises:
      ValueError: the shapes differ, an array is not a mask, or there are too few frames.
    """
    masks, truth = as_mask(masks, "masks"), as_mask(truth, "truth")
    if masks.ndim != 3 or len(masks) < 3:
        raise ValueError(f"masks: wanted [frames >= 3, height, width], got shape {masks.shape}.")
    scored = slice(1, -1)
    void = None if void is None else as_mask(void, "void")
    check_shapes(masks, truth, void)
    arrays = masks[scored], truth[scored], void if void is None else void[scored]
    return SequenceScores(
        J=_over_frames(_region_similarity, *arrays),
        F=_over_frames(_boundary_accuracy, *arrays),
        T=temporal_instability(np.concatenate([truth[:1], masks[scored]])),
    )


def object_scores(
    labels: np.ndarray, truth: np.ndarray, void_label: int = 255
) -> dict[int, SequenceScores]:
    """Scores every object of a sequence of label maps on its own, as DAVIS-2017 does.

    The objects are those of the annotations. An id that only the results have is scored nowhere,
    but its pixels are missing from the object that they belong to.

    Args:
      labels: object ids of the results, integers `[frames, height, width]`; 0 is background.
      truth: the annotations, same shape.
      void_label: the id in `truth` of pixels to ignore in J and F.

    Returns:
      A dict of object id -> `SequenceScores`, by ascending id.

    Raises:
      ValueError: as `sequence_scores`, or the arrays hold no integers.
    """
    labels, truth = np.asarray(labels), np.asarray(truth)
    for name, array in (("labels", labels), ("truth", truth)):
        if array.dtype.kind not in "ui":
            raise ValueError(f"{name}: wanted integer object ids, got dtype {array.dtype}.")
    void = truth == void_label
    ids = np.setdiff1d(truth, (0, void_label)).tolist()
    return {i: sequence_scores(labels == i, truth == i, void if void.any() else None) for i in ids}


def _per_frame(
    measure: _Measure, mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None
) -> float | np.ndarray:
    """Applies a measure to a frame, or to each frame of a stack."""
    mask, truth = as_mask(mask, "mask"), as_mask(truth, "truth")
    void = None if void is None else as_mask(void, "void")
    check_shapes(mask, truth, void)
    if mask.ndim == 2:
        return measure(mask, truth, void)
    return _over_frames(measure, mask, truth, void)


def _over_frames(
    measure: _Measure, masks: np.ndarray, truths: np.ndarray, voids: np.ndarray | None
) -> np.ndarray:
    """Applies a measure to each frame of bool stacks [frames, height, width]: float64 [frames]."""
    each_void = [None] * len(masks) if voids is None else voids
    return np.array([measure(*frame) for frame in zip(masks, truths, each_void, strict=True)])


# J and F


def _region_similarity(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None) -> float:
    """J of bool arrays [height, width]."""
    if void is not None:
        mask, truth = mask & ~void, truth & ~void
    mask, truth = mask.view(np.uint8), truth.view(np.uint8)
    intersection = cv2.countNonZero(cv2.bitwise_and(mask, truth))
    union = cv2.countNonZero(mask) + cv2.countNonZero(truth) - intersection
    return intersection / union if union else 1.0


def _boundary_accuracy(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None) -> float:
    """F of bool arrays [height, width]."""
    if void is not None:
        mask, truth = mask & ~void, truth & ~void
    box = bounding_box(mask | truth)
    if box is None:
        return 1.0
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*mask.shape))
    maps = [_boundary(crop[box]) for crop in (mask, truth)]
    lengths = [cv2.countNonZero(map_) for map_ in maps]
    if not all(lengths):
        return 0.0 if any(lengths) else 1.0
    near = [cv2.dilate(map_, _disk(radius)) for map_ in maps]
    precision = cv2.countNonZero(maps[0] & near[1]) / lengths[0]
    recall = cv2.countNonZero(maps[1] & near[0]) / lengths[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(crop: np.ndarray) -> np.ndarray:
    """Returns uint8 0/1: where a pixel differs from its right, lower or lower right neighbour.

    Beyond the crop the outermost pixels repeat. That is right inside the frame, where they are
    background, and at its border, where there is no boundary.
    """
    padded = np.pad(crop, ((0, 1), (0, 1)), "edge")
    corners = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    some, every = np.logical_or.reduce(corners), np.logical_and.reduce(corners)
    return (some & ~every).view(np.uint8)


@functools.lru_cache(maxsize=8)
def _disk(radius: int) -> np.ndarray:
    """Returns uint8 0/1 [2 * radius + 1] twice: dx^2 + dy^2 <= radius^2."""
    along = np.arange(-radius, radius + 1) ** 2
    return (along[:, None] + along <= radius * radius).astype(np.uint8)
