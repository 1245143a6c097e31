"""The window that follows an object: less to compute, and fewer wrong finds."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from osvos_tf.segmentation.inference import BATCH_SIZE, Predict, batched, unbatched

# The window that follows an object. Its margin on each side is a part of the object's own height or
# width, and at least a part of the frame's longer side. Its corners lie on a grid, so that its size
# seldom changes. An object whose area shrinks to less than a part from frame to frame is lost.
_MARGIN = 0.35
_LEAST_MARGIN = 0.05
_GRID = 32
_LOST = 0.3


class Window(NamedTuple):
    """Part of a frame: pixel rows `top` to `bottom`, columns `left` to `right`, ends exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the window's part of an array [height, width, ...]."""
        return pixels[self.top : self.bottom, self.left : self.right]

    def fill(self, part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns [height, width] with `part` in the window and zero elsewhere."""
        whole = np.zeros(size, part.dtype)
        self.cut(whole)[...] = part
        return whole


def follow_object(
    frames: Iterable[tuple[str, np.ndarray]],
    predict: Predict,
    is_object: Callable[[Any], np.ndarray],
    *,
    mask: np.ndarray | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[str, np.ndarray, Window, Any]]:
    """Yields (name, frame, window, prediction in the window) of every frame, see `Follower`.

    Args:
        frames: see `predict_frames`.
        predict: see `predict_frames`; takes windows as it takes frames.
        is_object: see `Follower`.
        mask: see `Follower`.
        batch_size: frames per call.
    """
    follower = Follower(predict, is_object, mask)
    for batch in batched(frames, batch_size):
        found = follower.locate([frame for _, frame in batch])
        for (name, frame), (window, prediction) in zip(batch, found, strict=True):
            yield name, frame, window, prediction


class Follower:
    """Predictions in a window that follows the object: less to compute, fewer wrong finds.

    The window for a batch is the object's bounding box in the frame before, with a margin. A frame
    is predicted again, as a whole, where its object touches the window's border or is lost: gone,
    or shrunk to a fraction of what it was.

    Args:
        predict: see `predict_frames`; takes windows as it takes frames.
        is_object: function from one prediction ([height, width], or a dict) to a bool mask.
        mask: bool or 0/1 [height, width]: the object in the first frame; None: look for it.
    """

    def __init__(
        self,
        predict: Predict,
        is_object: Callable[[Any], np.ndarray],
        mask: np.ndarray | None = None,
    ) -> None:
        self._predict, self._is_object = predict, is_object
        self._box: Window | None = None  # of the object in the last frame; None: anywhere
        self._area = 0
        self._size = (0, 0)
        if mask is not None:
            self.anchor(mask)

    def anchor(self, mask: np.ndarray) -> None:
        """Searches the next frame around the object of a mask, bool or 0/1 [height, width]."""
        if np.any(mask):
            self._remember(np.asarray(mask, bool), Window(0, 0, *np.shape(mask)))

    def locate(self, images: Sequence[np.ndarray]) -> Iterator[tuple[Window, Any]]:
        """Yields (window, prediction in it) of each of the next frames, one batch, in order.

        Args:
            images: uint8 RGB [height, width, 3] each.
        """
        done = 0
        while done < len(images):
            window = self._window(images[done].shape[:2])
            crops = np.stack([window.cut(image) for image in images[done:]])
            for prediction in unbatched(self._predict(crops)):
                if not self._accepts(self._is_object(prediction), window):
                    break
                yield window, prediction
                done += 1

    def _window(self, size: tuple[int, int]) -> Window:
        """Returns the window for the next frames, of (height, width) `size`."""
        self._size = size
        if self._box is None:
            return Window(0, 0, *size)
        ends = []
        for first, last, length in zip(self._box[:2], self._box[2:], size, strict=True):
            margin = max(_LEAST_MARGIN * max(size), _MARGIN * (last - first))
            low = max(0, math.floor((first - margin) / _GRID) * _GRID)
            high = min(length, math.ceil((last + margin) / _GRID) * _GRID)
            ends.append((low, high))
        (top, bottom), (left, right) = ends
        return Window(top, left, bottom, right)

    def _accepts(self, found: np.ndarray, window: Window) -> bool:
        """Remembers the object found in a window; False: search the whole frame instead."""
        if window != Window(0, 0, *self._size):
            area = np.count_nonzero(found)
            edges = (found[0], found[:, 0], found[-1], found[:, -1])
            inner = (window.top, window.left, self._size[0] - window.bottom,
                     self._size[1] - window.right)  # fmt: skip
            touches = any(edge.any() for edge, space in zip(edges, inner, strict=True) if space)
            if touches or area < _LOST * self._area:
                self._box = None
                return False
        self._remember(found, window)
        return True

    def _remember(self, found: np.ndarray, window: Window) -> None:
        self._area, self._box = int(np.count_nonzero(found)), None
        if self._area:
            rows, columns = (np.flatnonzero(found.any(axis)) for axis in (1, 0))
            self._box = Window(
                window.top + int(rows[0]),
                window.left + int(columns[0]),
                window.top + int(rows[-1]) + 1,
                window.left + int(columns[-1]) + 1,
            )
