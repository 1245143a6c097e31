"""From a mask to the polygons around its regions, as the reference implementation of T has them."""

from typing import NamedTuple

import numpy as np

from osvos_tf.evaluation.arrays import bounding_box

# Curves run along the cracks between object and background pixels, from one pixel corner to the
# next. A corner is a flat index into the [height + 1, width + 1] lattice of corners. A crossing
# is a corner with four cracks: two regions that touch there and nowhere else nearby.

_RIGHT, _DOWN, _LEFT, _UP = range(4)  # directions; the opposite of d is d ^ 2
_SIMPLIFICATION_TOLERANCES = (0.1, 3.0)  # two passes, in half pixels

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


def main_polygon(mask: np.ndarray) -> np.ndarray | None:
    """Returns the polygon with the most vertices around a region or hole, None if there is none.

    Returns float64 [entries, 2], (row, column) of pixel corners, the first one repeated at the
    end. A region's polygon runs clockwise on the screen, a hole's the other way.
    """
    box = bounding_box(mask)
    if box is None:
        return None
    offset = np.array([side.start for side in box])
    polygon: np.ndarray | None = None
    rank = (3, 1)  # more than three entries, else the polygon has no inside
    curves = closed_curves(mask[box])
    for number in sorted(range(len(curves)), key=lambda number: -len(curves[number])):
        if len(curves[number]) < rank[0]:
            break
        candidate = simplified(curves[number], mask[box])
        if (len(candidate), -number) > rank:  # of equals, the first in the list
            polygon, rank = candidate, (len(candidate), -number)
    return None if polygon is None else polygon + offset


def simplified(corners: list[int], mask: np.ndarray) -> np.ndarray:
    """Turns a closed curve around a region or hole of the mask into an oriented polygon."""
    curve = np.stack(np.divmod(corners, mask.shape[1] + 1), axis=1)
    top_left = curve[np.argmin(corners)]  # the pixel below and right of it lies inside
    is_hole = not mask[tuple(top_left)]
    vertices = 2.0 * curve
    for tolerance in _SIMPLIFICATION_TOLERANCES:
        vertices = _farthest_point_thinning(_radial_thinning(vertices, tolerance), tolerance)
    if (turning_area(vertices) > 0) == is_hole:
        vertices = vertices[::-1]
    return vertices / 2


def closed_curves(mask: np.ndarray) -> list[list[int]]:
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
    """Uses the free cracks from one node to the next; returns the corners passed."""
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
    """Walks along unused pieces back to the node; cuts off each loop that closes."""
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


def turning_area(vertices: np.ndarray) -> float:
    """Twice the area of a polygon of (row, column), positive if it runs clockwise on screen."""
    following = np.roll(vertices, -1, axis=0)
    return ((following[:, 0] - vertices[:, 0]) * (following[:, 1] + vertices[:, 1])).sum()
