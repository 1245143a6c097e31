"""Online adaptation: while a video is segmented, its later frames teach too.

What the network is sure of in a frame becomes that frame's mask, everything far from it background,
and the rest is void; the network learns from it beside an annotated frame, which keeps it from
drifting away. The idea is OnAVOS's (Voigtlaender and Leibe, BMVC 2017).
"""

import itertools
from collections.abc import Iterator

import cv2
import keras
import numpy as np
import tensorflow as tf

from osvos_tf.data import augment, input_pipeline
from osvos_tf.media.masks import VOID
from osvos_tf.network import model
from osvos_tf.segmentation import inference
from osvos_tf.segmentation.annotations import Annotation
from osvos_tf.training import loop, recipes

EVERY = 5  # frames: one of so many teaches
_UPDATES = 3  # from each of them
_CONFIDENT = 0.5  # sharpness, see `inference.sharpness`, below which a frame teaches nothing
_SURE = 0.97  # probability above which a pixel teaches that it is the object
# Both as parts of the frame's height: how far inside the mask a pixel must be to teach that it is
# the object, how far outside to teach that it is not. OnAVOS's 15 and 220 pixels are .03 and .46.
_INSIDE, _OUTSIDE = 0.02, 0.25


class Adapter:
    """Teaches a network what it finds.

    Args:
        network: a network that knows the object; changed in place.
        annotations: the frames that it has learned from, at least one.
        stage: how it has learned; it goes on like that, at a fifth of the rate.
        seed: of augmentation.
    """

    def __init__(
        self,
        network: keras.Model,
        annotations: tuple[Annotation, ...],
        stage: recipes.Stage,
        seed: int = 0,
    ) -> None:
        self._annotations, self._seed = list(annotations), seed
        self._stage = recipes.adapting(stage)
        shape = annotations[0].frame.shape[:2]
        height = stage.height or model.working_height(network) or shape[0]
        self._size = input_pipeline.view_size(shape, height)
        self._frame: tuple[np.ndarray, np.ndarray] = annotations[0].frame, annotations[0].mask
        self._update = loop.make_update(network, self._batches(), self._stage)
        self._number = 0

    def add(self, annotation: Annotation) -> None:
        """Holds on to one more annotated frame."""
        self._annotations.append(annotation)

    def learn(self, image: np.ndarray, probabilities: np.ndarray, masks: np.ndarray) -> bool:
        """Learns from a frame that was segmented.

        Args:
            image: uint8 RGB [height, width, 3].
            probabilities: float32 [height, width, objects] in 0..1.
            masks: bool [height, width, objects]: what was taken for each object.

        Returns:
            Whether it teaches anything: the network is confident of an object, and sure of some
            of its pixels.

        Raises:
            FloatingPointError: see `loop.train`.
        """
        labels = labels_of(probabilities, masks)
        if labels is None:
            return False
        self._frame = image, labels
        for _ in range(_UPDATES):
            self._update(self._number)
            self._number += 1
        return True

    def _batches(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Yields batches of two views: of an annotated frame, in turn, and of the last one."""
        for number in itertools.count():
            known = self._annotations[number % len(self._annotations)]
            frames = (known.frame, known.mask), self._frame
            views = [self._view(*frame, 2 * number + i) for i, frame in enumerate(frames)]
            images, labels = zip(*views, strict=True)
            yield tf.stack(images), tf.stack(labels)

    def _view(
        self, image: np.ndarray, mask: np.ndarray, number: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.constant([self._seed, number], tf.int64)
        frame = tf.constant(image), tf.constant(mask[..., None])
        return augment.augment(*frame, seed, self._stage.augmentation, self._size)


def labels_of(probabilities: np.ndarray, masks: np.ndarray) -> np.ndarray | None:
    """Returns what a segmented frame can teach.

    Args:
        probabilities: float32 [height, width, objects] in 0..1.
        masks: bool [height, width, objects]: what was taken for each object.

    Returns:
        uint8 [height, width]: 1, 2 and so on where the network is sure of the first, the second
        object, well inside its mask; 0 far from all masks; 255 elsewhere. None where it is sure of
        nothing.
    """
    height = masks.shape[0]
    away = _distance(1 - masks.any(axis=-1).astype(np.uint8))
    labels = np.full(masks.shape[:2], VOID, np.uint8)
    labels[away > _OUTSIDE * height] = 0
    is_sure = False
    for number in range(masks.shape[-1]):
        mask, probability = masks[..., number].astype(np.uint8), probabilities[..., number]
        if inference.sharpness(probability, mask) < _CONFIDENT:
            continue
        # Pixels beyond the frame count as the object: its border is none of the object's.
        depth = _distance(np.pad(mask, 1, constant_values=1))[1:-1, 1:-1]
        sure = (depth > _INSIDE * height) & (probability > _SURE)
        labels[sure] = number + 1
        is_sure |= bool(sure.any())
    return labels if is_sure else None


def _distance(inside: np.ndarray) -> np.ndarray:
    """Returns how far each pixel of a mask, uint8 0/1, is from the nearest that is not in it."""
    return cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
