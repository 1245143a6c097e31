"""T, how much a contour wobbles from frame to frame (CVPR 2016, section 5).

A contour's points are described by shape contexts; T is the cost of the cheapest deformation of one
frame's contour into the next one's.
"""

import itertools
import math

import numpy as np

from osvos_tf.evaluation.arrays import as_mask
from osvos_tf.evaluation.polygons import main_polygon

INSTABILITY_SCALE = 5.0  # brings T near the range of J and F


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
    masks = as_mask(masks, "masks")
    if masks.ndim != 3 or len(masks) < 2:
        raise ValueError(f"masks: wanted [frames >= 2, height, width], got shape {masks.shape}.")
    descriptors = [shape_contexts(contour_samples(mask)) for mask in masks]
    return np.array(
        [_deformation_cost(earlier, later) for earlier, later in itertools.pairwise(descriptors)]
    )


_SAMPLE_SPACING = 3.0  # pixels
_RING_EDGES = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # in mean distances
_SECTORS = 12
_EPSILON = 2.0**-52
_PI_REMAINDER = 1.2246467991473532e-16  # what is missing from math.pi
_STEEP = 1e8  # beyond this x, arctan x = pi / 2 - 1 / x to the last bit


# Step 1: from a polygon to shape contexts


def contour_samples(mask: np.ndarray) -> np.ndarray | None:
    """Returns points along the mask's main polygon: float64 [samples, 2], or None."""
    vertices = main_polygon(mask)
    if vertices is None:
        return None
    samples = []
    for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        steps = max(math.ceil(math.hypot(*(end - start)) / _SAMPLE_SPACING), 1)
        moves = np.repeat([start, (end - start) / steps], [1, steps - 1], axis=0)
        samples.append(np.cumsum(moves, axis=0))  # repeated addition, as the reference does
    return np.concatenate(samples)


def shape_contexts(samples: np.ndarray | None) -> np.ndarray | None:
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


# Step 2: the cheapest deformation of one contour into the next


def _deformation_cost(contexts: np.ndarray | None, next_contexts: np.ndarray | None) -> float:
    """Mean cost of the one-to-one pairs on the best cyclic matching; NaN without contours."""
    if contexts is None or next_contexts is None:
        return math.nan
    costs = histogram_costs(contexts, next_contexts)
    path = cheapest_path(costs)[:-1]  # from its end; its start is no candidate
    best = path[np.argmin(costs[tuple(path.T)])]
    shift = best + 1
    path = cheapest_path(np.roll(costs, -shift, axis=(0, 1)))
    path = (path + shift) % costs.shape
    for axis in (0, 1):
        path = path[_first_cheapest(path[:, axis], costs[tuple(path.T)])]
    return float(costs[tuple(path.T)].mean())


def _first_cheapest(nodes: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns, for each different node in ascending order, where its cost is lowest."""
    order = np.lexsort((costs, nodes))
    return order[np.diff(nodes[order], prepend=-1) > 0]


def histogram_costs(contexts: np.ndarray, next_contexts: np.ndarray) -> np.ndarray:
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


def cheapest_path(costs: np.ndarray) -> np.ndarray:
    """Finds the path through a grid, first node to last, whose nodes' costs sum up least.

    Steps go one row on, one column on, or both; the start costs nothing. Where two ways to a
    node are equally long, the reference keeps the one whose last node leaves Dijkstra's queue
    first: the nearer one. Only between equally near ones does the queue itself have to tell.

    Returns int64 [nodes, 2], from the path's end to its start.
    """
    lengths = distances(costs)
    row, column = lengths.shape[0] - 2, lengths.shape[1] - 2
    path = [(row, column)]
    while row or column:
        ways = (row, column - 1), (row - 1, column), (row - 1, column - 1)
        nearness = [lengths[way[0] + 1, way[1] + 1] for way in ways]
        nearest = min(nearness)
        if nearness.count(nearest) > 1:
            return cheapest_path_by_queue(costs)
        row, column = ways[nearness.index(nearest)]
        path.append((row, column))
    return np.array(path)


def distances(costs: np.ndarray) -> np.ndarray:
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


def cheapest_path_by_queue(costs: np.ndarray) -> np.ndarray:
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
    """A 4-ary heap of nodes, nearest first; equals come in the reference's order."""

    def __init__(self, distances: list[float]):
        self.distances = distances  # of each node; the caller lowers them
        self.heap: list[int] = []
        self.place: dict[int, int] = {}  # of each node in the heap

    def rise(self, node: int) -> None:
        """Adds a node, or one whose distance fell, and moves it up past all farther ones."""
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
        """Removes the first node; the last one sinks from there past each nearer child."""
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
