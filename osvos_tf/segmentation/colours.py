"""Snapping a mask to the colours of its frame, the cheaper way: the fast bilateral solver.

    probability = snap_to_colours(probability, frame)

It takes one frame at a time and is deterministic.
"""

from collections.abc import Callable

import cv2
import numpy as np

# The bilateral solver, for frames 480 pixels high; see benchmarks/snapping.py for the choice.
SIGMA_SPATIAL = 7.0  # pixels that share a vertex
SIGMA_LUMA = 12.0  # grey levels that do, of 0..255
SIGMA_CHROMA = 6.0  # and colour differences, of 0..255
SMOOTHNESS = 16.0  # lambda: the cost of differing neighbours, relative to that of changed pixels
CONFIDENCE_FLOOR = 0.01  # of a pixel whose probability is one half
BALANCING_STEPS = 3
SOLVER_STEPS = 6  # more come closer to the solution, and the solution is too smooth
_ROUNDING = 1e-6  # beyond 0..1, as resampled probabilities often are
_TINY = 1e-12  # squared length of a residual that is nothing but rounding


def snap_to_colours(probability: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Smooths a probability where the frame is smooth, so that its edges move to the frame's.

    The fast bilateral solver of Barron and Poole, ECCV 2016: pixels that are close in place and
    colour share a vertex of a five-dimensional grid. Its value should be near its neighbours' and
    near its pixels', above all near those with a probability close to 0 or 1.

    Args:
        probability: of the object, float `[height, width]` in 0..1; or of several,
            `[height, width, objects]`.
        frame: uint8 RGB `[height, width, 3]`.

    Returns:
        float32 in 0..1, of the probability's shape.

    Raises:
        ValueError: the shapes differ, or an array has another type.
    """
    probability, frame = np.asarray(probability), np.asarray(frame)
    several = probability[..., None] if probability.ndim == 2 else probability
    planes = [as_probability(plane, "probability") for plane in np.moveaxis(several, -1, 0)]
    if frame.dtype != np.uint8 or frame.shape != (*planes[0].shape, 3):
        raise ValueError(
            f"frame: wanted uint8 of shape {(*planes[0].shape, 3)}, "
            f"got {frame.dtype} of shape {frame.shape}."
        )
    vertices, neighbours = _bilateral_grid(frame)
    snapped = [
        np.clip(_solve(vertices, neighbours, plane.ravel()), 0, 1)[vertices].reshape(plane.shape)
        for plane in planes
    ]
    return np.stack(snapped, axis=-1).reshape(probability.shape)


# The snap_to_colours solver


def as_probability(array: np.ndarray, name: str) -> np.ndarray:
    """Returns the array as float32 [height, width], all values in 0..1."""
    array = np.asarray(array)
    if array.ndim != 2 or not array.size or array.dtype.kind != "f":
        raise ValueError(
            f"{name}: wanted float [height, width], got {array.dtype} of shape {array.shape}."
        )
    low, high = array.min(), array.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also where they are NaN
        raise ValueError(f"{name}: wanted values in 0..1, got {low} to {high}.")
    return np.clip(array, 0, 1).astype(np.float32)


def _bilateral_grid(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins the pixels by place and colour.

    Returns:
        The vertex of each pixel, int [pixels], and the neighbours of each vertex, one bin away
        in one of the five dimensions: int [10, vertices]. The number of vertices stands for none.
    """
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    luma, red, blue = cv2.split(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb))
    keys, stride = np.zeros(luma.shape, np.int64), 1
    strides: list[int] = []
    for coordinate, sigma in (
        (blue, SIGMA_CHROMA),
        (red, SIGMA_CHROMA),
        (luma, SIGMA_LUMA),
        (columns, SIGMA_SPATIAL),
        (rows, SIGMA_SPATIAL),
    ):
        bins = (coordinate / sigma).astype(np.int64)
        keys += bins * stride
        strides.append(stride)
        stride *= int(bins.max()) + 2  # one bin stays empty: beyond the last there is nothing
    grid, vertices = np.unique(keys.ravel(), return_inverse=True)
    neighbours = np.full((2 * len(strides), len(grid)), len(grid))
    for (lower, upper), stride in zip(neighbours.reshape(-1, 2, len(grid)), strides, strict=True):
        place = np.searchsorted(grid, grid + stride)
        found = np.flatnonzero(np.append(grid, -1)[place] == grid + stride)
        upper[found] = place[found]
        lower[place[found]] = found
    return vertices, neighbours


def _solve(vertices: np.ndarray, neighbours: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Returns the vertices' values, float32: smooth, and close to their pixels' probability.

    The values x solve (lambda (D - N B N) + C) x = C p: B adds a vertex and its neighbours up, the
    diagonal matrices N and D balance that, so that equal values cost nothing, and C is the
    confidence in p, the mean probability of the vertex.
    """
    count = neighbours.shape[1]
    confidence = np.maximum(np.abs(2 * probability - 1), CONFIDENCE_FLOOR)

    def splat(values: np.ndarray | None) -> np.ndarray:
        return np.bincount(vertices, values, count).astype(np.float32)

    def blur(values: np.ndarray) -> np.ndarray:
        around = np.append(values, np.float32(0))[neighbours]
        return len(neighbours) * values + around.sum(axis=0)

    def system(values: np.ndarray) -> np.ndarray:
        roughness = sizes * values - scale * blur(scale * values)
        return SMOOTHNESS * roughness + data * values

    sizes = splat(None)
    scale = np.ones_like(sizes)
    for _ in range(BALANCING_STEPS):
        scale = np.sqrt(scale * sizes / blur(scale))
    sizes = scale * blur(scale)  # a little off, but now in balance
    data, wanted = splat(confidence), splat(confidence * probability)
    diagonal = SMOOTHNESS * (sizes - len(neighbours) * scale**2) + data
    return _conjugate_gradients(system, diagonal, wanted, wanted / data)


def _conjugate_gradients(
    system: Callable[[np.ndarray], np.ndarray],
    diagonal: np.ndarray,
    wanted: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """Solves system(values) = wanted, from `values`, in `SOLVER_STEPS` steps.

    Args:
        system: a linear function, symmetric and positive definite.
        diagonal: of its matrix.
        wanted: the right side, float32 [vertices].
        values: where to start, float32 [vertices].
    """
    residual = wanted - system(values)
    direction = scaled = residual / diagonal
    length = residual @ scaled
    for _ in range(SOLVER_STEPS):
        if length < _TINY:
            break
        image = system(direction)
        step = length / (direction @ image)
        values = values + step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        previous, length = length, residual @ scaled
        direction = scaled + length / previous * direction
    return values
