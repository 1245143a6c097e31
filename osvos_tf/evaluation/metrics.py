"""How good a segmented video is: the DAVIS-2016 measures J, F and T.

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

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

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
INSTABILITY_SCALE = 5.0  # brings T near the range of J and F


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


def temporal_instability(masks: np.ndarray) -> float:
    """Computes T, how much the contour wobbles through a sequence (CVPR 2016, section 5, "T").

    Every mask given is compared with the next. For the published protocol pass the annotation
    of frame 0, then the results of frames 1 .. n-2: DAVIS never uses the last frame, so leave
    it out (`sequence_scores` does). A method's T is the mean over `STABLE_SEQUENCES`.

    Args:
      masks: `[frames, height, width]`, two frames or more.

    Returns:
      A float, 0 or more, lower is better: 5 x the mean of `pair_instability`. Pairs without a
      value are passed over, so an empty result is not punished; NaN where no pair has one.

    Raises:
      ValueError: not a stack of at least two masks.
    """
    values = pair_instability(masks)
    values = values[~np.isnan(values)]
    return float(INSTABILITY_SCALE * values.mean()) if values.size else math.nan


def pair_instability(masks: np.ndarray) -> np.ndarray:
    """Computes the cost of deforming each mask's contour into the next one's.

    Args:
      masks: `[frames, height, width]`, two frames or more.

    Returns:
      float64 `[frames - 1]` in 0..1, NaN where one of the two masks has no contour that can be
      followed. The benchmark stores these values; T is 5 x their mean.

    Raises:
      ValueError: not a stack of at least two masks.
    """
    masks = _as_mask(masks, "masks")
    if masks.ndim != 3 or len(masks) < 2:
        raise ValueError(f"masks: wanted [frames >= 2, height, width], got shape {masks.shape}.")
    descriptors = [_shape_contexts(_contour_samples(mask)) for mask in masks]
    return np.array(
        [_deformation_cost(earlier, later) for earlier, later in itertools.pairwise(descriptors)]
    )


def statistics(values: np.ndarray) -> Statistics:
    """Sums up the per-frame values of one sequence (CVPR 2016, section 5).

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
    masks, truth = _as_mask(masks, "masks"), _as_mask(truth, "truth")
    if masks.ndim != 3 or len(masks) < 3:
        raise ValueError(f"masks: wanted [frames >= 3, height, width], got shape {masks.shape}.")
    scored = slice(1, -1)
    void = None if void is None else _as_mask(void, "void")
    _check_shapes(masks, truth, void)
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


# Reading masks


def _as_mask(array: np.ndarray, name: str) -> np.ndarray:
    """Returns the array as bool [height, width] or [frames, height, width]."""
    array = np.asarray(array)
    if array.ndim not in (2, 3) or 0 in array.shape[-2:]:
        raise ValueError(
            f"{name}: wanted [height, width] or [frames, height, width], got shape {array.shape}."
        )
    if array.dtype == bool:
        return array
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name}: wanted bool or numbers, got dtype {array.dtype}.")
    is_object = array != 0
    object_value = 255 if array.dtype.kind in "ui" and array.max(initial=0) == 255 else 1
    if not np.array_equal(is_object, array == object_value):
        values = np.unique(array)
        found = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise ValueError(f"{name}: wanted a mask of 0 and 1 (or 0 and 255), got values {found}.")
    return is_object


def _check_shapes(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None) -> None:
    if mask.shape != truth.shape:
        raise ValueError(f"truth: wanted the mask's shape {mask.shape}, got {truth.shape}.")
    if void is not None and mask.shape != void.shape:
        raise ValueError(f"void: wanted the mask's shape {mask.shape}, got {void.shape}.")


def _per_frame(
    measure: _Measure, mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None
) -> float | np.ndarray:
    """Applies a measure to a frame, or to each frame of a stack."""
    mask, truth = _as_mask(mask, "mask"), _as_mask(truth, "truth")
    void = None if void is None else _as_mask(void, "void")
    _check_shapes(mask, truth, void)
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
    box = _bounding_box(mask | truth)
    if box is None:
        return 1.0
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*mask.shape))
    boundaries = _packed_boundaries(mask[box], truth[box], radius)
    lengths = [_count_bits(boundary) for boundary in boundaries]
    if not all(lengths):
        return 0.0 if any(lengths) else 1.0
    near = _dilate(boundaries, radius)
    precision = _count_bits(boundaries[0] & near[1]) / lengths[0]
    recall = _count_bits(boundaries[1] & near[0]) / lengths[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _bounding_box(region: np.ndarray) -> tuple[slice, slice] | None:
    """Returns slices around the True pixels and one pixel more on each side, None if empty."""
    filled = np.flatnonzero(region.any(axis=1))
    if not filled.size:
        return None
    rows = slice(max(filled[0] - 1, 0), filled[-1] + 2)
    filled = np.flatnonzero(region[rows].any(axis=0))
    return rows, slice(max(filled[0] - 1, 0), filled[-1] + 2)


def _packed_boundaries(mask: np.ndarray, truth: np.ndarray, margin: int) -> np.ndarray:
    """Returns the boundary maps of two bool crops, 64 pixels a word: uint64 [2, rows, words].

    A pixel is on the boundary if it differs from its right, lower or lower right neighbour.
    Beyond the crop the outermost pixels repeat, which is right both inside the frame, where
    they are background, and at its border, where there is no boundary. Pixel c is bit c % 64 of
    word c // 64. Each row ends with at least `margin` zero bits.
    """
    rows, columns = mask.shape
    crops = np.zeros((2, rows + 1, -(-(columns + 1 + margin) // 64) * 64), bool)
    crops[0, :-1, :columns], crops[1, :-1, :columns] = mask, truth
    crops[:, -1] = crops[:, -2]
    crops[:, :, columns] = crops[:, :, columns - 1]
    pixels = np.packbits(crops, bitorder="little").view("<u8").reshape(2, rows + 1, -1)
    right = pixels >> 1
    right[:, :, :-1] |= pixels[:, :, 1:] << 63
    some, every = pixels | right, pixels & right
    boundaries = (some[:, :-1] | some[:, 1:]) & ~(every[:, :-1] & every[:, 1:])
    word, bit = divmod(columns, 64)  # forget what the repeated column and the margin compared
    boundaries[:, :, word] &= (1 << bit) - 1
    boundaries[:, :, word + 1 :] = 0
    return boundaries


def _dilate(maps: np.ndarray, radius: int) -> np.ndarray:
    """Dilates packed maps by the disk dx^2 + dy^2 <= radius^2, within their own rows.

    From the disk's top row to its middle the rows only grow: so widen the whole map step by
    step, and at each width OR it in from the rows that far above and below.
    """
    rows = maps.shape[1]
    dilated, width = np.zeros_like(maps), 0
    for distance in range(radius, -1, -1):
        wanted = math.isqrt(radius * radius - distance * distance)
        while width < wanted:
            step = min(wanted - width, 2 * width + 1, 63)
            maps, width = _widen(maps, step), width + step
        inside = max(rows - distance, 0)
        dilated[:, distance:] |= maps[:, :inside]
        dilated[:, :inside] |= maps[:, distance:]
    return dilated


def _widen(maps: np.ndarray, step: int) -> np.ndarray:
    """ORs packed maps with themselves moved `step` (< 64) pixels to both sides.

    All rows are one long string of bits; the zeros between them keep rows apart.
    """
    words = maps.reshape(-1)
    wide = words | words << step | words >> step
    wide[1:] |= words[:-1] >> (64 - step)
    wide[:-1] |= words[1:] << (64 - step)
    return wide.reshape(maps.shape)


def _count_bits(words: np.ndarray) -> int:
    return int(cv2.norm(words.view(np.uint8), cv2.NORM_HAMMING))


# T, step 1: from a mask to the polygons around its regions
#
# Curves run along the cracks between object and background pixels, from one pixel corner to the
# next. A corner is a flat index into the [height + 1, width + 1] lattice of corners. A crossing
# is a corner with four cracks: two regions that touch there and nowhere else nearby.

_RIGHT, _DOWN, _LEFT, _UP = range(4)  # directions; the opposite of d is d ^ 2
_SIMPLIFICATION_TOLERANCES = (0.1, 3.0)  # two passes, in half pixels
_SAMPLE_SPACING = 3.0  # pixels
_RING_EDGES = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # in mean distances
_SECTORS = 12
_EPSILON = 2.0**-52
_PI_REMAINDER = 1.2246467991473532e-16  # what is missing from math.pi
_STEEP = 1e8  # beyond this x, arctan x = pi / 2 - 1 / x to the last bit

# When a graph of this many nodes has just been filled, the hash map in the reference's binary
# has grown at its last insertion, and then lists the nodes in another order.
_REORDERED_NODE_COUNTS = {
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89,
    97, 103, 109, 113, 127, 137, 139, 149, 157, 167, 179, 193, 199, 211, 227, 241, 257, 277,
    293, 313, 337, 359, 383, 409, 439, 467, 503, 541, 577, 619, 661, 709, 761, 823, 887, 953,
    1031, 1109, 1193, 1289, 1381, 1493, 1613, 1741, 1879, 2029, 2179, 2357, 2549, 2753, 2971,
    3209, 3469, 3739, 4027, 4349, 4703, 5087, 5503, 5953, 6427, 6949, 7517, 8123,
}  # fmt: skip


class _Piece(NamedTuple):
    """Cracks between two nodes: the corners passed, both nodes' corners included."""

    origin: int
    end: int
    corners: list[int]

    def other_end(self, node: int) -> int:
        return self.end if node == self.origin else self.origin

    def leaves_horizontally(self, node: int) -> bool:
        """Whether the crack next to the node is horizontal."""
        near = self.corners[:2] if node == self.origin else self.corners[-2:]
        return abs(near[0] - near[1]) == 1

    def walked_from(self, node: int) -> list[int]:
        return self.corners if node == self.origin else self.corners[::-1]


_Curve = list[tuple[int, _Piece]]  # its pieces in order, with the node that each one leaves from


def _main_polygon(mask: np.ndarray) -> np.ndarray | None:
    """Returns the polygon with the most vertices around a region or hole, None if there is none.

    Returns float64 [entries, 2], (row, column) of pixel corners, the first one repeated at the
    end. A region's polygon runs clockwise on the screen, a hole's the other way.
    """
    box = _bounding_box(mask)
    if box is None:
        return None
    offset = np.array([side.start for side in box])
    polygon: np.ndarray | None = None
    rank = (3, 1)  # more than three entries, else the polygon has no inside
    curves = _closed_curves(mask[box])
    for number in sorted(range(len(curves)), key=lambda number: -len(curves[number])):
        if len(curves[number]) < rank[0]:
            break
        candidate = _simplified(curves[number], mask[box])
        if (len(candidate), -number) > rank:  # of equals, the first in the list
            polygon, rank = candidate, (len(candidate), -number)
    return None if polygon is None else polygon + offset


def _simplified(corners: list[int], mask: np.ndarray) -> np.ndarray:
    """Turns a closed curve around a region or hole of the mask into an oriented polygon."""
    curve = np.stack(np.divmod(corners, mask.shape[1] + 1), axis=1)
    top_left = curve[np.argmin(corners)]  # the pixel below and right of it lies inside
    is_hole = not mask[tuple(top_left)]
    vertices = 2.0 * curve
    for tolerance in _SIMPLIFICATION_TOLERANCES:
        vertices = _farthest_point_thinning(_radial_thinning(vertices, tolerance), tolerance)
    if (_turning_area(vertices) > 0) == is_hole:
        vertices = vertices[::-1]
    return vertices / 2


def _closed_curves(mask: np.ndarray) -> list[list[int]]:
    """Returns the curves around all regions and holes: lists of corners, the first repeated.

    First come the pieces from crossing to crossing, then the curves without a crossing, whose
    start becomes a node as well. The order of all this decides where a curve starts.
    """
    cracks, steps = _cracks(mask)
    nodes = {corner: node for node, corner in enumerate(np.flatnonzero(cracks == 0b1111).tolist())}
    free = bytearray(cracks)  # the cracks at each corner that no piece has used
    pieces: list[_Piece] = []

    def add_piece(corner: int, direction: int) -> None:
        if free[corner] & 1 << direction:
            corners = _follow(corner, direction, free, steps, nodes)
            pieces.append(_Piece(nodes[corners[0]], nodes[corners[-1]], corners))

    for crossing in reversed(list(nodes)):
        for direction in (_UP, _LEFT, _DOWN, _RIGHT):
            add_piece(crossing, direction)
    for corner in np.flatnonzero(cracks & 1 << _DOWN).tolist():
        if free[corner] & 1 << _DOWN:
            nodes[corner] = len(nodes)
            add_piece(corner, _DOWN)
    return [_joined(curve) for curve in _assembled(pieces, len(nodes))]


def _follow(
    corner: int,
    direction: int,
    free: bytearray,
    steps: tuple[int, int, int, int],
    nodes: dict[int, int],
) -> list[int]:
    """Uses up free cracks from one node to the next; returns the corners passed."""
    corners = [corner]
    while True:
        free[corner] &= ~(1 << direction)
        corner += steps[direction]
        free[corner] &= ~(1 << (direction ^ 2))
        corners.append(corner)
        if corner in nodes:
            return corners
        direction = free[corner].bit_length() - 1  # the only way on


def _cracks(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Returns which ways a crack leaves each corner, and what a step that way adds to it.

    Cracks: uint8 [(height + 1) * (width + 1)], bit d set for direction d.
    """
    padded = np.pad(mask, 1)
    up_left, up_right = padded[:-1, :-1], padded[:-1, 1:]
    down_left, down_right = padded[1:, :-1], padded[1:, 1:]
    ways = (up_right ^ down_right, down_left ^ down_right, up_left ^ down_left, up_left ^ up_right)
    cracks = sum(way.astype(np.uint8) << direction for direction, way in enumerate(ways))
    stride = mask.shape[1] + 1
    return cracks.ravel(), (1, stride, -1, -stride)


def _assembled(pieces: list[_Piece], node_count: int) -> list[_Curve]:
    """Joins pieces to closed curves that never cross themselves or each other.

    Returns lists of (node, piece): the pieces in order, with the node that each one leaves from.
    """
    unused: list[list[int]] = [[] for _ in range(node_count)]  # piece numbers, ascending
    for number, piece in enumerate(pieces):
        for node in {piece.origin, piece.end}:
            unused[node].append(number)
    order = list(range(node_count - 1, -1, -1))
    if node_count in _REORDERED_NODE_COUNTS:
        order = order[:1] + order[:0:-1]
    curves: list[_Curve] = []
    for node in order:
        while unused[node]:
            curves += _walk(node, pieces, unused)
    return curves


def _walk(node: int, pieces: list[_Piece], unused: list[list[int]]) -> list[_Curve]:
    """Walks unused pieces from the node until back there; cuts off each loop that closes."""
    loops: list[_Curve] = []
    walk: dict[int, _Piece] = {}  # in order: node -> the piece it leaves by
    while True:
        number = unused[node][0]
        if walk:  # never go straight through a crossing
            straight = next(reversed(walk.values())).leaves_horizontally(node)
            if pieces[number].leaves_horizontally(node) == straight:
                number = unused[node][1]
        piece = pieces[number]
        for end in {piece.origin, piece.end}:
            unused[end].remove(number)
        walk[node] = piece
        node = piece.other_end(node)
        if node in walk:
            loop = [walk.popitem()]
            while loop[-1][0] != node:
                loop.append(walk.popitem())
            loops.append(loop[::-1])
            if not walk:
                return loops


def _joined(curve: _Curve) -> list[int]:
    """Returns the corners along a closed curve of (node, piece), the first one repeated."""
    node, piece = curve[0]
    corners = piece.walked_from(node)[:1]
    for node, piece in curve:
        corners += piece.walked_from(node)[1:]
    return corners


def _radial_thinning(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Drops each point nearer than the tolerance to the last one kept; keeps both ends."""
    kept = [0]
    rows, columns = points.T.tolist()
    for i in range(1, len(points) - 1):
        last = kept[-1]
        distance = (rows[i] - rows[last]) ** 2 + (columns[i] - columns[last]) ** 2
        if distance >= tolerance**2:
            kept.append(i)
    return points[[*kept, len(points) - 1]]


def _farthest_point_thinning(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplifies a polyline by Douglas and Peucker's rule, all its segments at once.

    Splits each segment at the point farthest from it (the later one of equals) as long as that
    is farther than the tolerance.
    """
    index = np.arange(len(points))
    kept = (index == 0) | (index == len(points) - 1)
    while True:
        ends = np.flatnonzero(kept)
        segment = np.minimum(np.cumsum(kept) - 1, len(ends) - 2)
        distance = _squared_distance(points, points[ends[segment]], points[ends[segment + 1]])
        farthest = np.maximum.reduceat(distance, ends[:-1])[segment]
        split = (distance == farthest) & (farthest > tolerance**2)
        if not split.any():
            return points[kept]
        chosen = np.maximum.reduceat(np.where(split, index, 0), ends[:-1])
        kept[chosen] = True


def _squared_distance(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Squared distances of points from segments; the foot's place is rounded to float32."""
    along, offset = ends - starts, points - starts
    projection, length = (offset * along).sum(axis=1), (along * along).sum(axis=1)
    place = projection.astype(np.float32) / np.maximum(length, 1).astype(np.float32)
    foot = starts + place.astype(np.float64)[:, None] * along
    foot = np.where((length <= projection)[:, None], ends, foot)
    foot = np.where((projection <= 0)[:, None], starts, foot)
    return ((points - foot) ** 2).sum(axis=1)


def _turning_area(vertices: np.ndarray) -> float:
    """Twice the area of a polygon of (row, column), positive if it runs clockwise on screen."""
    following = np.roll(vertices, -1, axis=0)
    return ((following[:, 0] - vertices[:, 0]) * (following[:, 1] + vertices[:, 1])).sum()


# T, step 2: from a polygon to shape contexts


def _contour_samples(mask: np.ndarray) -> np.ndarray | None:
    """Returns points along the mask's main polygon: float64 [samples, 2], or None."""
    vertices = _main_polygon(mask)
    if vertices is None:
        return None
    samples = []
    for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        steps = max(math.ceil(math.hypot(*(end - start)) / _SAMPLE_SPACING), 1)
        moves = np.repeat([start, (end - start) / steps], [1, steps - 1], axis=0)
        samples.append(np.cumsum(moves, axis=0))  # repeated addition, as the reference does
    return np.concatenate(samples)


def _shape_contexts(samples: np.ndarray | None) -> np.ndarray | None:
    """Describes each sample by where the others lie, as a histogram over 5 rings x 12 sectors.

    Belongie et al., "Shape Matching and Object Recognition Using Shape Contexts", PAMI 2002.

    Returns float64 [60, samples], each column summing up to 1; None for None.
    """
    if samples is None:
        return None
    rows, columns = (axis[None] - axis[:, None] for axis in samples.T)
    distance = np.sqrt(rows * rows + columns * columns)
    distance /= distance.mean()
    ring = sum((distance >= edge).astype(np.int64) for edge in _RING_EDGES)
    sector = np.floor(_angle(rows, columns) / (2 * math.pi / _SECTORS)).astype(np.int64)
    bins = (len(_RING_EDGES) + 1) * _SECTORS  # the last ring is everything beyond
    places = np.arange(len(samples))[:, None] * bins + ring * _SECTORS + sector
    counts = np.bincount(places.ravel(), minlength=len(samples) * bins)
    counts = counts.reshape(len(samples), bins)[:, :-_SECTORS].T.astype(np.float64)
    return counts / (counts.sum(axis=0) + _EPSILON)


def _angle(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Angles of the vectors (row, column) from the row axis: float64 in 0..2 pi.

    Many contour points share a row or a column, or almost do: they lie on the edge between two
    sectors, where the last bit decides. Hence atan2 is put together as C libraries do it, close
    to the column axis without arctan, whose last bit differs from one NumPy to the next. 2 pi
    follows the reference's rule for remainders, by which "nearly a whole turn" is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.abs(columns / rows)
        upright = math.pi / 2 - (1 / slope - _PI_REMAINDER / 2)
    acute = np.where(slope > _STEEP, upright, np.arctan(slope))
    acute = np.where(rows < 0, math.pi - (acute - _PI_REMAINDER), acute)
    angle = np.where(columns < 0, -acute, acute)
    on_axis = columns == 0
    angle[on_axis] = np.where(rows[on_axis] < 0, math.pi, 0.0)
    angle += 2 * math.pi
    turns = angle / (2 * math.pi)
    angle[angle >= 2 * math.pi] -= 2 * math.pi
    angle[np.abs(turns - 1) <= _EPSILON * turns] = 0
    return angle


# T, step 3: the cheapest deformation of one contour into the next


def _deformation_cost(contexts: np.ndarray | None, next_contexts: np.ndarray | None) -> float:
    """Mean cost of the one-to-one pairs on the best cyclic matching; NaN without contours."""
    if contexts is None or next_contexts is None:
        return math.nan
    costs = _histogram_costs(contexts, next_contexts)
    path = _cheapest_path(costs)[:-1]  # from its end; its start is no candidate
    best = path[np.argmin(costs[tuple(path.T)])]
    shift = best + 1
    path = _cheapest_path(np.roll(costs, -shift, axis=(0, 1)))
    path = (path + shift) % costs.shape
    for axis in (0, 1):
        path = path[_first_cheapest(path[:, axis], costs[tuple(path.T)])]
    return float(costs[tuple(path.T)].mean())


def _first_cheapest(nodes: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns, for each different node in ascending order, where its cost is lowest."""
    order = np.lexsort((costs, nodes))
    return order[np.diff(nodes[order], prepend=-1) > 0]


def _histogram_costs(contexts: np.ndarray, next_contexts: np.ndarray) -> np.ndarray:
    """Chi-squared distances between the columns of two [60, samples].

    Most bins are empty, and to an empty bin the distance is the same for every row.

    Returns float64 [samples, next samples], 0..1.
    """
    from_empty = next_contexts**2 / (next_contexts + _EPSILON)
    costs = np.empty((contexts.shape[1], next_contexts.shape[1]))
    terms = np.empty_like(from_empty)
    for row, context in zip(costs, contexts.T, strict=True):
        filled = np.flatnonzero(context)
        ours, theirs = context[filled, None], next_contexts[filled]
        np.copyto(terms, from_empty)
        terms[filled] = (ours - theirs) ** 2 / (ours + theirs + _EPSILON)
        np.add.reduce(terms, axis=0, out=row)
    return costs / 2


def _cheapest_path(costs: np.ndarray) -> np.ndarray:
    """Finds the path through a grid, first node to last, whose nodes' costs sum up least.

    Steps go one row on, one column on, or both; the start costs nothing. Where two ways to a
    node are equally long, the reference keeps the one whose last node leaves Dijkstra's queue
    first: the nearer one. Only between equally near ones does the queue itself have to tell.

    Returns int64 [nodes, 2], from the path's end to its start.
    """
    distances = _distances(costs)
    row, column = distances.shape[0] - 2, distances.shape[1] - 2
    path = [(row, column)]
    while row or column:
        ways = (row, column - 1), (row - 1, column), (row - 1, column - 1)
        nearness = [distances[way[0] + 1, way[1] + 1] for way in ways]
        nearest = min(nearness)
        if nearness.count(nearest) > 1:
            return _cheapest_path_by_queue(costs)
        row, column = ways[nearness.index(nearest)]
        path.append((row, column))
    return np.array(path)


def _distances(costs: np.ndarray) -> np.ndarray:
    """Returns the least sum of costs up to each node: float64 [rows + 1, columns + 1].

    Row 0 and column 0 lie before the grid, infinitely far. Nodes on one antidiagonal don't
    depend on each other; in flat order they are `columns` apart.
    """
    rows, columns = costs.shape
    distances = np.full((rows + 1, columns + 1), np.inf)
    distances[1:, 1:] = costs
    distances[1, 1] = 0
    flat, stride = distances.reshape(-1), columns + 1
    for diagonal in range(1, rows + columns - 1):
        first, last = max(0, diagonal - columns + 1), min(diagonal, rows - 1)
        start = (first + 1) * stride + diagonal - first + 1
        count = last - first + 1
        left, up, both, here = (
            flat[start - back :][: count * columns : columns] for back in (1, stride, stride + 1, 0)
        )
        here += np.minimum(np.minimum(left, up), both)
    return distances


def _cheapest_path_by_queue(costs: np.ndarray) -> np.ndarray:
    """Finds the same path by Dijkstra's algorithm, with the reference's order among equals."""
    rows, columns = costs.shape
    corner = rows * columns - 1
    cost_of: list[float] = costs.ravel().tolist()
    distances = [math.inf] * len(cost_of)
    parents: dict[int, int] = {}
    distances[0] = 0.0
    queue = _NodeQueue(distances)
    queue.rise(0)
    while (node := queue.pop()) != corner:
        down, right = node + columns <= corner, (node + 1) % columns > 0
        for allowed, step in ((right, 1), (down, columns), (right and down, columns + 1)):
            if allowed and distances[node] + cost_of[node + step] < distances[node + step]:
                distances[node + step] = distances[node] + cost_of[node + step]
                parents[node + step] = node
                queue.rise(node + step)
    path = [corner]
    while path[-1]:
        path.append(parents[path[-1]])
    return np.stack(np.divmod(path, columns), axis=1)


class _NodeQueue:
    """A 4-ary heap of nodes, nearest first, that serves equals in the reference's order."""

    def __init__(self, distances: list[float]):
        self.distances = distances  # of each node; the caller lowers them
        self.heap: list[int] = []
        self.place: dict[int, int] = {}  # of each node in the heap

    def rise(self, node: int) -> None:
        """Takes in a new node, or one whose distance is lower now: up past all farther ones."""
        heap, place, distances = self.heap, self.place, self.distances
        i = place.get(node, len(heap))
        if i == len(heap):
            heap.append(node)
        while i and distances[heap[(i - 1) // 4]] > distances[node]:
            heap[i] = heap[(i - 1) // 4]
            place[heap[i]] = i
            i = (i - 1) // 4
        heap[i], place[node] = node, i

    def pop(self) -> int:
        """Takes out the first node; the last one sinks from there past each nearer child."""
        heap, place, distances = self.heap, self.place, self.distances
        first, node = heap[0], heap.pop()
        if not heap:
            return first
        i = 0
        while children := heap[4 * i + 1 : 4 * i + 5]:
            child = min(children, key=distances.__getitem__)
            if distances[child] >= distances[node]:
                break
            heap[i], place[child] = child, i
            i = 4 * i + 1 + children.index(child)
        heap[i], place[node] = node, i
        return first
