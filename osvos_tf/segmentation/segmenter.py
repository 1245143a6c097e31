"""The stepper below `Specialist.segment`: frame by frame, from predictions to masks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.media.frames import Frames
from osvos_tf.media.masks import VOID, read_mask
from osvos_tf.network import model
from osvos_tf.network.files import load_model
from osvos_tf.network.precision import with_precision
from osvos_tf.parallel import parallel_map
from osvos_tf.progress import OnProgress, Progress
from osvos_tf.segmentation import colours, following, inference, smoothing, snapping
from osvos_tf.segmentation.adaptation import EVERY, Adapter
from osvos_tf.segmentation.annotations import Annotation, Mask
from osvos_tf.segmentation.options import SegmentOptions

if TYPE_CHECKING:
    from osvos_tf.segmentation.specialist import Specialist


class SegmentedFrame(NamedTuple):
    """What was found in one frame.

    Attributes:
        name: the frame's.
        image: the frame, uint8 RGB [height, width, 3].
        mask: uint8 [height, width]: 0, or the object's id. In an annotated frame it is what was
            given.
        probability: id -> float32 [height, width] in 0..1, as snapped.
        confidence: id -> 0..1, how sharply the probability separates the mask from the rest: their
            overlap, as in J. 0 where no object is found, 1 in an annotated frame.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    probability: dict[int, np.ndarray]
    confidence: dict[int, float]


class Segmenter:
    """Frames to masks, one after another: what `Specialist.segment` is made of.

    Args:
        specialist: a network that knows the object.
        size: (height, width) of the frames, in pixels.
        options: a `SegmentOptions`.
    """

    def __init__(
        self, specialist: Specialist, size: tuple[int, int], options: SegmentOptions
    ) -> None:
        self._specialist, self._size, self._options = specialist, size, options
        (self._id,) = specialist.objects
        network = with_precision(specialist.network, options.precision)  # a copy: it may learn
        if options.contour is None:
            predictor = model.build_predictor(network, frame_height=size[0])
        else:
            contour = with_precision(load_contour(options.contour), options.precision)
            predictor = model.build_two_stream(network, contour, frame_height=size[0])
        self._predict = model.any_size(predictor)
        self._follower = following.Follower(self._predict, self._is_object)
        self._adapter: Adapter | None = None
        if options.adapt and specialist.annotations:
            how = specialist.options
            self._adapter = Adapter(network, specialist.annotations, how.stage(), how.seed)
        self._steps = 0

    def run(
        self, frames: Frames, on_progress: OnProgress | None = None
    ) -> Iterator[SegmentedFrame]:
        """Yields a `SegmentedFrame` for every frame of a video."""
        started = time.monotonic()
        located, ahead = self._locate(frames), inference.BATCH_SIZE
        if self._options.smooth:
            ahead = max(ahead, smoothing.frames_ahead(self._size))
            located = smoothing.smooth(located, self._size, self._options.threshold, self._mask_of)
        # While the network looks at the next frames, a thread beside it snaps the last ones.
        found = parallel_map(lambda located: self._finish(*located), located, ahead=ahead)
        for done, frame in enumerate(found, start=1):
            if on_progress is not None:
                on_progress(Progress("segment", done, frames.length, time.monotonic() - started))
            yield frame

    def step(
        self, image: np.ndarray, mask: Mask | None = None, *, name: str = ""
    ) -> SegmentedFrame:
        """Segments the next frame, which is not smoothed: that takes the frames after it.

        Args:
            image: uint8 RGB [height, width, 3].
            mask: what is given for this frame; it is returned, and the object is looked for around
                it from then on.
            name: of the frame.
        """
        if mask is not None:
            known = Annotation(name, image, read_mask(mask))
            self._follower.anchor(known.mask == 1)
            if self._adapter is not None:
                self._adapter.add(known)
            nothing = np.zeros(self._size, np.float32)
            return self._given(known, nothing)
        if self._options.follow:
            ((window, predicted),) = self._follower.locate([image])
        else:
            window = following.Window(0, 0, *self._size)
            ((_, _, predicted),) = inference.predict_frames([(name, image)], self._predict)
        self._adapt(name, image, window, predicted)
        return self._finish(name, image, window, predicted)

    def _locate(self, frames: Frames) -> Iterator[smoothing.Located]:
        """Yields all frames with their windows and what is predicted in these."""
        images = inference.read_ahead(frames)
        # All frames between two lessons are predicted by the same network, in one call.
        batch_size = inference.BATCH_SIZE if self._adapter is None else EVERY
        found: Iterator[tuple[str, np.ndarray, following.Window, Any]]
        if self._options.follow:
            known = self._known(*frames.first())
            found = following.follow_object(
                images,
                self._predict,
                self._is_object,
                mask=None if known is None else known.mask,
                batch_size=batch_size,
            )
        else:
            whole = following.Window(0, 0, *self._size)
            found = (
                (name, frame, whole, predicted)
                for name, frame, predicted in inference.predict_frames(
                    images, self._predict, batch_size=batch_size
                )
            )
        for located in found:
            self._adapt(*located)
            yield smoothing.Located(*located)

    def _adapt(
        self, name: str, image: np.ndarray, window: following.Window, predicted: Any
    ) -> None:
        """Lets one of `EVERY` frames teach the network."""
        self._steps += 1
        if self._adapter is None or self._steps % EVERY or self._known(name, image) is not None:
            return
        probability = predicted["probabilities"] if isinstance(predicted, dict) else predicted
        probability = window.fill(np.asarray(probability), self._size)
        self._adapter.learn(image, probability, probability > self._options.threshold)

    def _is_object(self, predicted: Any) -> np.ndarray:
        probability = predicted["probabilities"] if isinstance(predicted, dict) else predicted
        return probability > self._options.threshold

    def _finish(
        self, name: str, image: np.ndarray, window: following.Window, predicted: Any
    ) -> SegmentedFrame:
        probability, mask = self._snap(window.cut(image), predicted)
        confidence = inference.sharpness(probability, mask)
        probability = window.fill(probability, self._size)
        known = self._known(name, image)
        if known is not None:
            return self._given(known, probability)
        mask = window.fill(mask, self._size) * np.uint8(self._id)
        return SegmentedFrame(name, image, mask, {self._id: probability}, {self._id: confidence})

    def _snap(self, image: np.ndarray, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns probability and mask 0/1, both [height, width], snapped as the options say."""
        options = self._options
        if options.snap == "none":
            return predicted, inference.to_mask(predicted, options.threshold)
        if options.snap == "contour":
            mask = inference.to_mask(predicted["probabilities"], options.threshold)
            map_ = snapping.ucm(predicted["contours"])
            labels = snapping.superpixels(map_, options.contour_threshold)
            return predicted["probabilities"], snapping.majority_vote(mask, labels)
        predicted = colours.snap_to_colours(predicted, image)
        return predicted, inference.to_mask(predicted, options.threshold)

    def _mask_of(self, name: str, image: np.ndarray) -> np.ndarray | None:
        """Returns where an annotated frame shows the object, 0/1; None for other frames."""
        known = self._known(name, image)
        return None if known is None else (known.mask == 1).astype(np.uint8)

    def _known(self, name: str, image: np.ndarray) -> Annotation | None:
        known = (a for a in self._specialist.annotations if a.shows(name, image))
        return next(known, None)

    def _given(self, known: Annotation, probability: np.ndarray) -> SegmentedFrame:
        """Returns an annotated frame as it was given; where it is void, as it was found."""
        void = known.mask == VOID
        found = np.where(void, probability, known.mask == 1).astype(np.float32)
        inside = np.where(void, probability > self._options.threshold, known.mask == 1)
        mask = inside.astype(np.uint8) * np.uint8(self._id)
        return SegmentedFrame(known.name, known.frame, mask, {self._id: found}, {self._id: 1.0})


def load_contour(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a contour network from a `.keras` file.

    Raises:
        InputError: it cannot be loaded, or is another network.
    """
    network = load_model(path)
    if network.name != "contour":
        raise InputError(
            f"'{path}' holds a {network.name} network, not the contours that are wanted. Name a "
            "network of train_contour."
        )
    return network
