"""Smoothing along motion: a frame's probability is averaged with what its neighbours say of it.

Each frame is predicted on its own, so masks flicker. Here the probabilities of the frames before
and after are carried along the optical flow to where their pixels have gone, and averaged. Near
frames count more than far ones, frames in which the network is sure more than others, and pixels
whose colour has changed on the way hardly.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from osvos_tf.segmentation import inference
from osvos_tf.segmentation.following import Given, Window

_HEIGHT = 240  # pixels at which flow and averages are computed, at most
_DECAY = 0.95  # of a neighbour's weight from frame to frame
_COLOUR = 20.0  # difference, of 0..255, at which a pixel's weight is 1/e
_PATCH = 5  # pixels over which colours are compared
_DOUBT = 0.3  # least certainty of a frame
_AHEAD = 16  # frames that are looked ahead, twice as many at most
_LEAST = 16  # pixels of the shorter side below which there is no flow
_MEMORY = 2**28  # bytes of frames that may wait


class Located(NamedTuple):
    """A frame on its way: its name, pixels, the window that was looked at, what was predicted."""

    name: str
    image: np.ndarray
    window: Window
    predicted: Any


@dataclasses.dataclass
class _Frame:
    """A frame that waits for those after it.

    `own` is what it says itself, `sums` what it and the frames before it come to, both [objects,
    height, width, 2]: weighted probability and weight. `on` is the flow from the frame before to
    here, with how far colours agree.
    """

    located: Located
    colours: np.ndarray
    own: np.ndarray
    sums: np.ndarray
    on: tuple[np.ndarray, np.ndarray] | None = None


def smooth(
    located: Iterable[Located],
    size: tuple[int, int],
    threshold: float,
    given: Given,
) -> Iterator[Located]:
    """Yields the frames with smoothed probabilities, up to 32 frames later.

    Args:
        located: frames in order; `predicted` is a dict in which `probabilities` is float32 [height,
            width, objects] of the window.
        size: (height, width) of the frames.
        threshold: probability above which a pixel is the object.
        given: returns the masks, bool [height, width, objects], that a frame (name, pixels) was
            given; None where it was given none.
    """
    smoother = _Smoother(size, threshold, given)
    ahead = frames_ahead(size)
    waiting: list[_Frame] = []
    for frame in located:
        waiting.append(smoother.prepare(frame, waiting[-1] if waiting else None))
        if len(waiting) == 2 * ahead:
            yield from smoother.finish(waiting, ahead)
            del waiting[:ahead]
    yield from smoother.finish(waiting, len(waiting))


def frames_ahead(size: tuple[int, int]) -> int:
    """Returns how many frames of (height, width) are smoothed, and so come, at a time."""
    return int(np.clip(_MEMORY // (2 * size[0] * size[1] * 3), 1, _AHEAD))


class _Smoother:
    """Averages of frames of one size, see `smooth`."""

    def __init__(
        self,
        size: tuple[int, int],
        threshold: float,
        given: Given,
    ) -> None:
        self._size, self._threshold, self._given = size, threshold, given
        height = min(_HEIGHT, size[0])
        self._small = max(1, round(size[1] * height / size[0])), height  # width first, as OpenCV
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        columns, rows = np.meshgrid(*map(np.arange, self._small))
        self._grid = np.dstack((columns, rows)).astype(np.float32)

    def prepare(self, located: Located, before: _Frame | None) -> _Frame:
        """Returns a frame with the sum of it and all frames before it."""
        predicted = np.moveaxis(located.predicted["probabilities"], -1, 0)
        masks = self._given(located.name, located.image)
        if masks is None:
            weights = [self._certainty(probability) ** 2 for probability in predicted]
            wholes = [located.window.fill(probability, self._size) for probability in predicted]
        else:
            weights = [1.0] * len(predicted)
            wholes = list(np.moveaxis(masks.astype(np.float32), -1, 0))
        own = np.stack(
            [
                np.dstack((small, np.ones_like(small))) * np.float32(weight)
                for small, weight in zip(map(self._shrink, wholes), weights, strict=True)
            ]
        )
        frame = _Frame(located, self._shrink(located.image), own, own)
        if before is not None and min(self._small) >= _LEAST:
            back = self._agreement(frame.colours, before.colours)
            frame.on = self._agreement(before.colours, frame.colours)
            frame.sums = own + self._carry(before.sums, back)
        return frame

    def finish(self, frames: list[_Frame], count: int) -> Iterator[Located]:
        """Yields the first `count` frames, each averaged with those before and after it."""
        averages: list[np.ndarray] = []
        after: np.ndarray | None = None  # what the frames after this one say of its pixels
        for frame in reversed(frames):
            sums = frame.sums if after is None else frame.sums + after
            averages.append(sums[..., 0] / sums[..., 1])
            behind = frame.own if after is None else frame.own + after
            after = None if frame.on is None else self._carry(behind, frame.on)
        for frame, average in zip(frames[:count], reversed(averages), strict=False):
            yield frame.located._replace(predicted=self._enlarge(frame.located, average))

    def _certainty(self, probability: np.ndarray) -> float:
        """Returns how sure the network is of what it found, or of that there is nothing."""
        mask = probability > self._threshold
        if mask.any():
            return max(_DOUBT, inference.sharpness(probability, mask))
        return max(_DOUBT, 1 - float(probability.max()) / self._threshold)

    def _shrink(self, pixels: np.ndarray) -> np.ndarray:
        return cv2.resize(pixels, self._small, interpolation=cv2.INTER_AREA)

    def _enlarge(self, located: Located, averages: np.ndarray) -> Any:
        """Returns the prediction of the window with averages in the probabilities' place."""
        parts = [located.window.cut(cv2.resize(average, self._size[::-1])) for average in averages]
        return {**located.predicted, "probabilities": np.clip(np.stack(parts, axis=-1), 0, 1)}

    def _move(self, pixels: Any, places: Any) -> np.ndarray:
        """Returns pixels [height, width, channels] from their places in another frame."""
        second: Any = None  # its type stubs want a second map, which there is none of
        return cv2.remap(pixels, places, second, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _agreement(self, here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns where each pixel of `here` lies `there`, and how far the colours agree, 0..1."""
        grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (here, there)]
        places = self._grid + self._flow.calc(*grey, None)
        difference = cv2.absdiff(here, self._move(there, places)).astype(np.float32).mean(-1)
        difference = cv2.blur(difference, (_PATCH, _PATCH))
        return places, np.exp(-((difference / _COLOUR) ** 2))

    def _carry(self, sums: np.ndarray, motion: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Returns a neighbour's sums where its pixels are now, with what weight is left."""
        places, agreement = motion
        moved = np.stack([self._move(sums_of_one, places) for sums_of_one in sums])
        return moved * (_DECAY * agreement[..., None])
