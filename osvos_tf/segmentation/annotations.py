"""Annotated frames, from which an object is learned."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from osvos_tf.errors import InputError
from osvos_tf.media.frames import Frames
from osvos_tf.media.images import describe_size
from osvos_tf.media.masks import read_mask

Mask = str | os.PathLike[str] | Image.Image | np.ndarray


class Annotation(NamedTuple):
    """A frame whose mask is known.

    Attributes:
        name: the frame's.
        frame: uint8 RGB [height, width, 3]. By its pixels the frame is known again.
        mask: uint8 [height, width]: 0 background, 1 object, 255 void.
    """

    name: str
    frame: np.ndarray
    mask: np.ndarray

    def shows(self, name: str, frame: np.ndarray) -> bool:
        """Returns whether this annotates a frame, and not one of that name in another video."""
        return name == self.name and np.array_equal(frame, self.frame)


def read_annotations(
    frames: Frames,
    masks: Mapping[int | str, Mask],
    object_id: int | None = None,
    threshold: float | None = None,
) -> tuple[Annotation, ...]:
    """Reads the masks of some frames.

    Args:
        frames: the video.
        masks: see `specialist.learn`.
        object_id: see `LearnOptions.object`.
        threshold: see `LearnOptions.mask_threshold`.

    Raises:
        InputError: see `specialist.learn`; or two keys mean the same frame.
    """
    if not isinstance(masks, Mapping) or not masks:
        raise InputError(
            "Wanted masks by frame, such as {0: 'first_frame.png'}: a frame's position or name, "
            f"and its mask. Got {type(masks).__name__ if not isinstance(masks, Mapping) else '{}'}."
        )
    known: dict[str, Annotation] = {}
    for key, source in masks.items():
        name = frames.find(key)
        if name in known:
            raise InputError(f"Two masks annotate frame {name!r}. Give each frame one.")
        image = frames.read(name)
        mask = read_mask(source, object_id, picked_by="`object`", threshold=threshold, frame=name)
        is_path = isinstance(source, (str, os.PathLike))
        _check(mask, f"'{source}'" if is_path else f"of frame {name!r}", image, name)
        known[name] = Annotation(name, image, mask)
    return tuple(known.values())


def _check(mask: np.ndarray, where: str, image: np.ndarray, name: str) -> None:
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"Mask {where} is {describe_size(mask.shape)}, frame {name!r} is "
            f"{describe_size(image.shape)}. Draw it at the frame's size."
        )
    for value, what in ((1, "object"), (0, "background")):
        if not (mask == value).any():
            raise InputError(
                f"Mask {where} has no {what} pixel, so there is nothing to learn. Wanted 255 on "
                "the object and 0 elsewhere."
            )
