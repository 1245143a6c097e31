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
from osvos_tf.media.masks import VOID, ids_in, read_labels
from osvos_tf.network import model
from osvos_tf.network.files import load_model
from osvos_tf.network.precision import with_precision
from osvos_tf.parallel import parallel_map
from osvos_tf.progress import OnProgress, Progress
from osvos_tf.segmentation import (
    colours,
    following,
    inference,
    objects,
    smoothing,
    snapping,
)
from osvos_tf.segmentation.adaptation import EVERY, Adapter
from osvos_tf.segmentation.annotations import Annotation, Mask, number_mask
from osvos_tf.segmentation.options import SegmentOptions

if TYPE_CHECKING:
    from osvos_tf.segmentation.specialist import Specialist


class SegmentedFrame(NamedTuple):
    """What was found in one frame.

    Attributes:
        name: the frame's.
        image: the frame, uint8 RGB [height, width, 3].
        mask: uint8 [height, width]: 0, or an object's id. In an annotated frame it is what was
            given.
        probability: id -> float32 [height, width] in 0..1, as snapped.
        confidence: id -> 0..1, how sharply the probability separates the object's mask from the
            rest: their overlap, as in J. 0 where it is not found, 1 in an annotated frame.
        fit: in an annotated frame, how much of what the network finds there is as it was given: the
            least overlap of an object, as J; else None.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    probability: dict[int, np.ndarray]
    confidence: dict[int, float]
    fit: float | None = None


class Segmenter:
    """Frames to masks, one after another: what `Specialist.segment` is made of.

    Args:
        specialist: a network that knows the objects.
        size: (height, width) of the frames, in pixels.
        options: a `SegmentOptions`.
    """

    def __init__(
        self, specialist: Specialist, size: tuple[int, int], options: SegmentOptions
    ) -> None:
        self._specialist, self._size, self._options = specialist, size, options
        self._ids = tuple(specialist.objects)
        network = with_precision(specialist.network, options.precision)  # a copy: it may learn
        self._predict = _streams(network, options, size[0])
        self._follower = following.Follower(self._predict, options.threshold)
        self._adapter: Adapter | None = None
        if options.adapt and specialist.annotations:
            how = specialist.options
            self._adapter = Adapter(network, self._ranked(), how.stage(), how.seed)
        self._steps = 0
        self._fits: dict[str, float] = {}  # annotated frame -> `SegmentedFrame.fit`

    def run(
        self, frames: Frames, on_progress: OnProgress | None = None
    ) -> Iterator[SegmentedFrame]:
        """Yields a `SegmentedFrame` for every frame of a video."""
        started = time.monotonic()
        located, ahead = self._locate(frames), inference.BATCH_SIZE
        if self._options.smooth:
            ahead = max(ahead, smoothing.frames_ahead(self._size))
            located = smoothing.smooth(located, self._size, self._options.threshold, self._planes)
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
            mask: what is given for this frame; it is returned, and the objects are looked for
                around it from then on.
            name: of the frame.
        """
        if mask is not None:
            known = Annotation(name, image, number_mask(*read_labels(mask), self._ids, name))
            self._follower.anchor(objects.planes(known.mask, self._ids))
            if self._adapter is not None:
                self._adapter.add(known._replace(mask=objects.ranks(known.mask, self._ids)))
            nothing = np.zeros((*self._size, len(self._ids)), np.float32)
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
            found = following.follow_objects(
                images,
                self._predict,
                self._options.threshold,
                self._planes,
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
            self._judge(*located)
            self._adapt(*located)
            yield smoothing.Located(*located)

    def _judge(
        self, name: str, image: np.ndarray, window: following.Window, predicted: Any
    ) -> None:
        """Notes how well what is found in an annotated frame fits what was given."""
        known = self._known(name, image)
        if known is not None:
            probabilities = window.fill(predicted["probabilities"], self._size)
            labels = objects.merge(probabilities, self._options.threshold, self._ids)
            self._fits[name] = min(
                _overlap(labels == id_, known.mask == id_, known.mask != VOID)
                for id_ in ids_in(known.mask)
            )

    def _adapt(
        self, name: str, image: np.ndarray, window: following.Window, predicted: Any
    ) -> None:
        """Lets one of `EVERY` frames teach the network."""
        self._steps += 1
        if self._adapter is None or self._steps % EVERY or self._known(name, image) is not None:
            return
        probabilities = window.fill(predicted["probabilities"], self._size)
        labels = objects.merge(probabilities, self._options.threshold, self._ids)
        self._adapter.learn(image, probabilities, objects.planes(labels, self._ids))

    def _finish(
        self, name: str, image: np.ndarray, window: following.Window, predicted: Any
    ) -> SegmentedFrame:
        probabilities, labels = self._snap(window.cut(image), predicted)
        known = self._known(name, image)
        if known is not None:
            return self._given(known, window.fill(probabilities, self._size))
        found = dict(zip(self._ids, np.moveaxis(probabilities, -1, 0), strict=True))
        return SegmentedFrame(
            name,
            image,
            window.fill(labels, self._size),
            {id_: window.fill(probability, self._size) for id_, probability in found.items()},
            {
                id_: inference.sharpness(probability, labels == id_)
                for id_, probability in found.items()
            },
        )

    def _snap(self, image: np.ndarray, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities [height, width, objects], and the label map, snapped."""
        options, probabilities = self._options, predicted["probabilities"]
        if options.snap == "bilateral":
            probabilities = colours.snap_to_colours(probabilities, image)
        labels = objects.merge(probabilities, options.threshold, self._ids)
        if options.snap == "contour":
            map_ = snapping.ucm(predicted["contours"][..., 0])
            superpixels = snapping.superpixels(map_, options.contour_threshold)
            votes = {id_: snapping.majority_vote(labels == id_, superpixels) for id_ in self._ids}
            labels = np.zeros_like(labels)
            for id_, vote in votes.items():  # of which no two have a pixel in common
                labels[vote > 0] = id_
        return probabilities, labels

    def _planes(self, name: str, image: np.ndarray) -> np.ndarray | None:
        """Returns where an annotated frame shows each object; None for other frames."""
        known = self._known(name, image)
        return None if known is None else objects.planes(known.mask, self._ids)

    def _known(self, name: str, image: np.ndarray) -> Annotation | None:
        known = (a for a in self._specialist.annotations if a.shows(name, image))
        return next(known, None)

    def _ranked(self) -> tuple[Annotation, ...]:
        """Returns the annotations with the objects' channels for their ids, from 1."""
        return tuple(
            known._replace(mask=objects.ranks(known.mask, self._ids))
            for known in self._specialist.annotations
        )

    def _given(self, known: Annotation, probabilities: np.ndarray) -> SegmentedFrame:
        """Returns an annotated frame as it was given; where it is void, as it was found."""
        void = known.mask == VOID
        found = objects.merge(probabilities, self._options.threshold, self._ids)
        mask = np.where(void, found, known.mask)
        planes = objects.planes(known.mask, self._ids)
        probabilities = np.where(void[..., None], probabilities, planes).astype(np.float32)
        by_id = dict(zip(self._ids, np.moveaxis(probabilities, -1, 0), strict=True))
        return SegmentedFrame(
            known.name,
            known.frame,
            mask,
            by_id,
            dict.fromkeys(self._ids, 1.0),
            self._fits.get(known.name),
        )


def _overlap(found: np.ndarray, given: np.ndarray, judged: np.ndarray) -> float:
    """Returns J of two bool masks [height, width] where they are judged; `given` is not empty."""
    union = np.count_nonzero((found | given) & judged)
    return np.count_nonzero(found & given & judged) / union


def _streams(network: keras.Model, options: SegmentOptions, height: int) -> inference.Predict:
    """Returns the function from frames to a dict of `probabilities` and, if wanted, `contours`."""
    if options.contour is None:
        predict = model.any_size(model.build_predictor(network, frame_height=height))
        return lambda images: {"probabilities": predict(images)}
    contour = with_precision(load_contour(options.contour), options.precision)
    return model.any_size(model.build_two_stream(network, contour, frame_height=height))


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
