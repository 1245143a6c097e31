"""Windows that follow objects: less to compute, and fewer wrong finds."""

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
# From (name, frame) to where its objects are, bool [height, width, objects]; None: not known.
Given = Callable[[str, np.ndarray], np.ndarray | None]


class Window(NamedTuple):
    """Part of a frame: pixel rows `top` to `bottom`, columns `left` to `right`, ends exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the window's part of an array [height, width, ...]."""
        return pixels[self.top : self.bottom, self.left : self.right]

    def within(self, other: "Window") -> "Window":
        """Returns this window as part of another that holds it."""
        top, left = other.top, other.left
        return Window(self.top - top, self.left - left, self.bottom - top, self.right - left)

    def fill(self, part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns [height, width, ...] with `part` in the window and zero elsewhere."""
        whole = np.zeros((*size, *part.shape[2:]), part.dtype)
        self.cut(whole)[...] = part
        return whole


def follow_objects(
    frames: Iterable[tuple[str, np.ndarray]],
    predict: Predict,
    threshold: float,
    given: Given = lambda name, frame: None,
    *,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[str, np.ndarray, Window, Any]]:
    """Yields (name, frame, window, prediction in the window) of every frame, see `Follower`.

    Args:
        frames: see `predict_frames`.
        predict: see `Follower`.
        threshold: see `Follower`.
        given: returns where the objects of an annotated frame are, see `Follower.anchor`; None for
            other frames.
        batch_size: frames per call.
    """
    follower = Follower(predict, threshold)
    for number, batch in enumerate(batched(frames, batch_size)):
        masks = [given(*frame) for frame in batch]
        if number == 0 and masks[0] is not None:
            follower.anchor(masks[0])
        found = follower.locate([frame for _, frame in batch], masks)
        for (name, frame), (window, prediction) in zip(batch, found, strict=True):
            yield name, frame, window, prediction


class _Track(NamedTuple):
    """Where an object was last: its bounding box, None for anywhere, and its area in pixels.

    `reach` is a factor on the margin around the box.
    """

    box: Window | None
    area: int
    reach: float = 1.0


class Follower:
    """Predictions in a window that follows the objects: less to compute, fewer wrong finds.

    Each object has a window, which is its bounding box in the frame before, with a margin, and is
    found nowhere else. Where an object touches its window's border or is lost, gone or shrunk to a
    fraction of what it was, the frame is predicted again with margins twice as wide, up to the
    whole frame: so that a thing of the same looks far away is not taken for one that has moved.
    What is predicted is the smallest window around those of all objects.

    Args:
        predict: function of windows, uint8 [batch, height, width, 3], that returns a dict with
            `probabilities`, float32 [batch, height, width, objects].
        threshold: probability above which a pixel is an object.
    """

    def __init__(self, predict: Predict, threshold: float) -> None:
        self._predict, self._threshold = predict, threshold
        self._tracks: list[_Track] = []  # of each object; none: not known yet
        self._size = (0, 0)

    def anchor(self, masks: np.ndarray) -> None:
        """Searches the next frame around given masks, bool [height, width, objects]."""
        whole = Window(0, 0, *masks.shape[:2])
        self._tracks = [_track(masks[..., k], whole) for k in range(masks.shape[-1])]

    def locate(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None] = ()
    ) -> Iterator[tuple[Window, Any]]:
        """Yields (window, prediction in it) of each of the next frames, one batch, in order.

        Args:
            images: uint8 RGB [height, width, 3] each.
            masks: what is given for each, see `anchor`, from which the objects are followed on;
                None where nothing is.
        """
        done = 0
        while done < len(images):
            self._size = images[done].shape[:2]
            windows = [self._window(track) for track in self._tracks]
            window = _around(windows) if windows else Window(0, 0, *self._size)
            crops = np.stack([window.cut(image) for image in images[done:]])
            for prediction in unbatched(self._predict(crops)):
                if not self._accepts(prediction["probabilities"], windows, window):
                    break
                mask = masks[done] if masks else None
                yield window, prediction
                done += 1
                if mask is not None:
                    self.anchor(mask)
                    break

    def _window(self, track: _Track) -> Window:
        """Returns the window of an object in the next frames."""
        if track.box is None:
            return Window(0, 0, *self._size)
        ends = []
        for first, last, length in zip(track.box[:2], track.box[2:], self._size, strict=True):
            margin = track.reach * max(_LEAST_MARGIN * max(self._size), _MARGIN * (last - first))
            low = max(0, math.floor((first - margin) / _GRID) * _GRID)
            high = min(length, math.ceil((last + margin) / _GRID) * _GRID)
            ends.append((low, high))
        (top, bottom), (left, right) = ends
        return Window(top, left, bottom, right)

    def _accepts(self, probabilities: np.ndarray, windows: list[Window], window: Window) -> bool:
        """Remembers the objects found in a window; False: search a larger one instead.

        Args:
            probabilities: float32 [height, width, objects] of the window; set to zero for each
                object outside its own.
            windows: of each object; none: not known yet.
            window: around all of them.
        """
        windows = windows or [window] * probabilities.shape[-1]
        tracks = []
        is_lost = False
        for number, own in enumerate(windows):
            part = own.within(window)
            _clear_around(probabilities[..., number], part)
            found = part.cut(probabilities[..., number]) > self._threshold
            track = _track(found, own)
            if self._tracks and self._is_lost(found, own, track.area, self._tracks[number].area):
                before = self._tracks[number]
                self._tracks[number] = before._replace(reach=2 * before.reach)
                is_lost = True
            tracks.append(track)
        if not is_lost:
            self._tracks = tracks
        return not is_lost

    def _is_lost(self, found: np.ndarray, window: Window, area: int, before: int) -> bool:
        if window == Window(0, 0, *self._size):
            return False
        edges = (found[0], found[:, 0], found[-1], found[:, -1])
        inner = (window.top, window.left, self._size[0] - window.bottom,
                 self._size[1] - window.right)  # fmt: skip
        touches = any(edge.any() for edge, space in zip(edges, inner, strict=True) if space)
        return touches or area < _LOST * before


def _track(found: np.ndarray, window: Window) -> _Track:
    """Returns the track of an object found in a window, bool [height, width]."""
    area = int(np.count_nonzero(found))
    if not area:
        return _Track(None, 0)
    rows, columns = (np.flatnonzero(found.any(axis)) for axis in (1, 0))
    box = Window(
        window.top + int(rows[0]),
        window.left + int(columns[0]),
        window.top + int(rows[-1]) + 1,
        window.left + int(columns[-1]) + 1,
    )
    return _Track(box, area)


def _around(windows: Sequence[Window]) -> Window:
    """Returns the smallest window that holds some others."""
    tops, lefts, bottoms, rights = zip(*windows, strict=True)
    return Window(min(tops), min(lefts), max(bottoms), max(rights))


def _clear_around(plane: np.ndarray, part: Window) -> None:
    """Sets to zero what lies outside a part of a plane [height, width]."""
    plane[: part.top] = 0
    plane[part.bottom :] = 0
    plane[:, : part.left] = 0
    plane[:, part.right :] = 0
