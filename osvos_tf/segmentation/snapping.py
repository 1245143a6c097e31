"""Snapping a mask to learned contours (Caelles et al., CVPR 2017, section 3.2).

The contours that a second network finds part a frame into superpixels, whose pixels vote:

    labels = superpixels(ucm(contours))
    mask = majority_vote(mask, labels)

Functions take one frame at a time and are deterministic. The watershed and the merging are our own:
higra's `labelisation_watershed` takes 120 ms where ours takes 24, its `mean_pb_hierarchy` 323 where
ours takes 49 (480 x 854, one core).
"""

import warnings
from typing import NamedTuple

import cv2
import numpy as np

with warnings.catch_warnings():
    # Python warns of invalid escapes in higra's docstrings each time that it compiles them.
    warnings.simplefilter("ignore")
    import higra as hg

from osvos_tf.segmentation.colours import as_probability

UCM_THRESHOLD = 0.29  # the authors' `th_ucm`
REFINE_MIXED = (0.3, 0.7)  # shares of object between which a superpixel is of two kinds
REFINE_LARGE = 0.05  # of the whole mask: a mixed superpixel with more object keeps its own mask

_RIDGE_BLUR = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1], np.float32) / 25
_BLUNTNESS = 0.25  # square pixels that blur an arc, so that a short one has little direction


def ucm(contours: np.ndarray) -> np.ndarray:
    """Builds the ultrametric contour map: how strong a contour separates neighbouring pixels.

    The oriented watershed transform and ultrametric contour map of Arbelaez et al., "Contour
    Detection and Hierarchical Image Segmentation", PAMI 2011. The basins of the map are the
    finest regions. A contour between two regions is as strong as the map is along it on average,
    less where it runs across the map's ridges. The two regions with the weakest contour between
    them become one, and so on until one is left.

    Args:
        contours: how likely a contour runs through each pixel, float `[height, width]` in 0..1.

    Returns:
        float32 `[2 * height + 1, 2 * width + 1]` in 0..1. Pixel (row, column) is the cell
        (2 * row + 1, 2 * column + 1) and holds 0. The cell between two neighbours holds the
        strength at which their regions become one, or 0 within a region. A corner holds the
        largest of the four cells around it, the frame's border 1.

    Raises:
        ValueError: not a map of values in 0..1.
    """
    contours = as_probability(contours, "contours")
    arcs = _find_arcs(_watershed(contours))
    edges = np.zeros(2 * contours.size - sum(contours.shape), np.float32)
    if arcs.edges.size:
        edges[arcs.edges] = _merging_strength(arcs, _arc_strength(contours, arcs))[arcs.arc]
    grid = _double_grid(edges, contours.shape)
    rows, columns = grid[2:-1:2, 1::2], grid[1::2, 2:-1:2]
    grid[2:-1:2, 2:-1:2] = np.maximum(
        np.maximum(rows[:, :-1], rows[:, 1:]), np.maximum(columns[:-1], columns[1:])
    )
    grid[[0, -1]] = 1
    grid[:, [0, -1]] = 1
    return grid


def superpixels(ucm: np.ndarray, threshold: float = UCM_THRESHOLD) -> np.ndarray:
    """Cuts an ultrametric contour map: pixels with no stronger contour between them are one.

    Args:
        ucm: the map, as `ucm` returns it.
        threshold: in 0..1; a higher one merges superpixels, and never splits any.

    Returns:
        int32 `[height, width]`, labels 1 .. number of superpixels.

    Raises:
        ValueError: not a map on the double grid, or the threshold is not in 0..1.
    """
    ucm = as_probability(ucm, "ucm")
    if not (ucm.shape[0] % 2 and ucm.shape[1] % 2 and min(ucm.shape) > 1):
        raise ValueError(
            f"ucm: wanted shape [2 * height + 1, 2 * width + 1], got shape {ucm.shape}."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: wanted a number in 0..1, got {threshold}.")
    return _components(ucm <= threshold)


def majority_vote(mask: np.ndarray, labels: np.ndarray, refine: bool = False) -> np.ndarray:
    """Makes each superpixel object if more than half of its pixels are; a tie is background.

    Args:
        mask: bool or 0/1 `[height, width]`.
        labels: superpixels, integers from 0, `[height, width]`.
        refine: leave large superpixels of two kinds as they are. Those with more than 70 %
            object become object; those with 30 to 70 % keep their pixels if that is more than 5 %
            of the whole mask's object. It is in the authors' code too, switched off.

    Returns:
        uint8 0/1 `[height, width]`.

    Raises:
        ValueError: the shapes differ, the mask has other values, or `labels` are not labels.
    """
    mask, labels = _as_mask(mask), np.asarray(labels)
    if labels.shape != mask.shape:
        raise ValueError(f"labels: wanted the mask's shape {mask.shape}, got {labels.shape}.")
    if labels.dtype.kind not in "ui" or labels.min() < 0:
        raise ValueError(f"labels: wanted integers from 0, got {labels.dtype} {labels.min()}.")
    sizes = np.bincount(labels.ravel())
    objects = np.bincount(labels[mask], minlength=len(sizes))
    if not refine:
        return (2 * objects > sizes)[labels].view(np.uint8)
    share = objects / np.maximum(sizes, 1)
    low, high = REFINE_MIXED
    mixed = (share >= low) & (share <= high) & (objects > REFINE_LARGE * objects.sum())
    return ((share > high)[labels] | (mixed[labels] & mask)).view(np.uint8)


# Reading arguments


def _as_mask(array: np.ndarray) -> np.ndarray:
    """Returns the mask as bool [height, width]."""
    array = np.asarray(array)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"mask: wanted [height, width], got shape {array.shape}.")
    mask = array == 1
    if not np.array_equal(mask, array != 0):
        raise ValueError(f"mask: wanted values 0 and 1, got {np.unique(array)[:8]}.")
    return mask


# Neighbouring pixels
#
# An edge joins two neighbours. All edges of a frame are in one list: first those between a pixel
# and its right neighbour, row by row, then those between a pixel and its lower neighbour.


def _ends(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the image holds at the first and at the second end of each edge."""
    first = image[:, :-1].ravel(), image[:-1].ravel()
    second = image[:, 1:].ravel(), image[1:].ravel()
    return np.concatenate(first), np.concatenate(second)


def _to_right_and_down(edges: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Splits a list of edges: to the right [height, width - 1], down [height - 1, width]."""
    height, width = shape
    right, down = np.split(edges, [height * (width - 1)])
    return right.reshape(height, width - 1), down.reshape(height - 1, width)


def _double_grid(edges: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns [2 * height + 1, 2 * width + 1], 0 but for the cells between two pixels."""
    grid = np.zeros((2 * shape[0] + 1, 2 * shape[1] + 1), edges.dtype)
    grid[1::2, 2:-1:2], grid[2:-1:2, 1::2] = _to_right_and_down(edges, shape)
    return grid


def _components(is_open: np.ndarray) -> np.ndarray:
    """Labels the pixels of a bool double grid: int32 [height, width], from 1."""
    _, labels = cv2.connectedComponents(is_open.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    return labels[1::2, 1::2].copy()


def _joined(is_open: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels the pixels by which edges join them: int32 [height, width], from 1."""
    grid = _double_grid(is_open, shape)
    grid[1::2, 1::2] = True
    return _components(grid)


# The ultrametric contour map


def _watershed(contours: np.ndarray) -> np.ndarray:
    """Labels the map's basins: int32 [height, width], from 1.

    The watershed cut of Cousty et al., PAMI 2009. A drop of water leaves its pixel over the
    lowest edge, where an edge is as high as its two pixels on average. Neighbours whose edge is
    the lowest of both form a plateau. All drops on a plateau leave over one edge, whichever; where
    none leads further down, it is the bottom of a basin.
    """
    first, second = _ends(contours)
    height = first + second
    lowest_first, lowest_second = _ends(_lowest_edge(height, contours.shape))
    is_open = (height == lowest_first) & (height == lowest_second)
    plateaus = _joined(is_open, contours.shape)
    plateau_first, plateau_second = _ends(plateaus)
    exits = np.full(plateaus.max() + 1, -1)
    leaves_first = np.flatnonzero((height == lowest_first) & (height > lowest_second))
    leaves_second = np.flatnonzero((height == lowest_second) & (height > lowest_first))
    exits[plateau_first[leaves_first]] = leaves_first
    exits[plateau_second[leaves_second]] = leaves_second
    is_open[exits[exits >= 0]] = True
    return _joined(is_open, contours.shape)


def _lowest_edge(heights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the height of each pixel's lowest edge."""
    lowest = np.full(shape, np.inf, heights.dtype)
    right, down = _to_right_and_down(heights, shape)
    for side in (lowest[:, :-1], lowest[:, 1:]):
        np.minimum(side, right, out=side)
    for side in (lowest[:-1], lowest[1:]):
        np.minimum(side, down, out=side)
    return lowest


class _Arcs(NamedTuple):
    """The boundaries between regions. An arc is all edges between the same two regions.

    Attributes:
        edges: the edges between different regions, int [edges].
        arc: the arc of each of them, int [edges].
        regions: the two regions of each arc, int [2, arcs], from 0.
    """

    edges: np.ndarray
    arc: np.ndarray
    regions: np.ndarray


def _find_arcs(regions: np.ndarray) -> _Arcs:
    """Returns the `_Arcs` of labelled regions, int32 [height, width] from 1."""
    ends = _ends(regions - 1)
    edges = np.flatnonzero(ends[0] != ends[1])
    first, second = (end[edges].astype(np.int64) for end in ends)
    count = regions.max()
    pairs = np.minimum(first, second) * count + np.maximum(first, second)
    pairs, arc = np.unique(pairs, return_inverse=True)
    return _Arcs(edges, arc, np.stack(np.divmod(pairs, count)))


def _arc_strength(contours: np.ndarray, arcs: _Arcs) -> np.ndarray:
    """Returns how strong the contour is along each arc on average, float64 [arcs].

    Basins meet on the ridges between them, but also beside a strong ridge, across its slope. The
    map is high there and yet shows no contour: therefore each edge counts with the cosine of the
    angle between its arc and its ridge, as far as they have a direction. Directions are complex
    numbers of twice the angle, for which opposite ones are the same.
    """
    lengths = np.bincount(arcs.arc)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(arcs.arc, values) / lengths

    height, width = contours.shape
    is_down = arcs.edges >= height * (width - 1)
    first, second = (
        ends[arcs.edges] for ends in _ends(np.arange(contours.size).reshape(-1, width))
    )
    rows, columns = np.divmod(first, width)
    y, x = rows + is_down / 2, columns + ~is_down / 2  # the middle between both pixels
    y, x = y - mean(y)[arcs.arc], x - mean(x)[arcs.arc]
    yy, xx, xy = mean(y * y), mean(x * x), mean(x * y)
    direction = ((xx - yy + 2j * xy) / (xx + yy + _BLUNTNESS))[arcs.arc]

    ridge = _ridge_direction(contours).ravel()
    ridge = ridge[first] + ridge[second]
    ridge = np.divide(ridge, np.abs(ridge), out=np.zeros_like(ridge), where=ridge != 0)
    # |cos angle| = sqrt((1 + cos 2 angle) / 2), here for lengths up to 1
    turn = np.abs(direction) * np.abs(ridge) - (direction * ridge.conj()).real
    strength = np.maximum(contours.ravel()[first], contours.ravel()[second])
    return mean(strength * np.sqrt(1 - np.minimum(turn, 2) / 2))


def _ridge_direction(contours: np.ndarray) -> np.ndarray:
    """Returns the direction of the least downward curvature: complex64 [height, width]."""
    smooth = cv2.sepFilter2D(
        contours, cv2.CV_32F, _RIDGE_BLUR, _RIDGE_BLUR, borderType=cv2.BORDER_REFLECT
    )
    xx, yy, xy = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((2, 0), (0, 2), (1, 1)))
    return xx - yy + 2j * xy


def _merging_strength(arcs: _Arcs, strength: np.ndarray) -> np.ndarray:
    """Returns the strength at which each arc disappears, float64 [arcs].

    The two regions with the weakest arc merge; arcs that become one have the mean strength,
    weighted by their lengths.
    """
    graph = hg.UndirectedGraph(int(arcs.regions.max()) + 1)
    graph.add_edges(*arcs.regions)
    lengths = np.bincount(arcs.arc).astype(np.float64)
    tree, strengths = hg.binary_partition_tree_average_linkage(graph, strength, lengths)
    # A mean is no smaller than what it is of, but for rounding.
    return hg.saliency(tree, np.maximum.accumulate(strengths), graph, handle_rag=False)
