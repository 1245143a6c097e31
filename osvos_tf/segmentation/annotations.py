"""Annotated frames, from which objects are learned."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from osvos_tf.errors import InputError
from osvos_tf.media.frames import Frames
from osvos_tf.media.images import describe_size
from osvos_tf.media.masks import VOID, ids_in, read_labels, read_mask

Mask = str | os.PathLike[str] | Image.Image | np.ndarray
# Of one frame: a mask or label map, or a mask an object.
Masks = Mask | list[Mask] | tuple[Mask, ...]


class Annotation(NamedTuple):
    """A frame whose mask is known.

    Attributes:
        name: the frame's.
        frame: uint8 RGB [height, width, 3]. By its pixels the frame is known again.
        mask: uint8 [height, width]: 0 background, an object's id, 255 void.
    """

    name: str
    frame: np.ndarray
    mask: np.ndarray

    def shows(self, name: str, frame: np.ndarray) -> bool:
        """Returns whether this annotates a frame, and not one of that name in another video."""
        return name == self.name and np.array_equal(frame, self.frame)


def read_annotations(
    frames: Frames,
    masks: Mapping[int | str, Masks],
    picked: Sequence[int] | None = None,
    threshold: float | None = None,
    known: Sequence[int] = (),
) -> tuple[Annotation, ...]:
    """Reads the masks of some frames.

    Args:
        frames: the video.
        masks: see `specialist.learn`.
        picked: see `LearnOptions.object`.
        threshold: see `LearnOptions.mask_threshold`.
        known: ids of the objects that there may be; none: any.

    Raises:
        InputError: see `specialist.learn`; two keys mean the same frame; or it is not clear which
            object a mask shows.
    """
    if not isinstance(masks, Mapping) or not masks:
        raise InputError(
            "Wanted masks by frame, such as {0: 'first_frame.png'}: a frame's position or name, "
            f"and its mask. Got {type(masks).__name__ if not isinstance(masks, Mapping) else '{}'}."
        )
    given: dict[str, Annotation] = {}
    plain: list[str] = []  # frames whose masks have no ids
    for key, source in masks.items():
        name = frames.find(key)
        if name in given:
            raise InputError(f"Two masks annotate frame {name!r}. Give each frame one.")
        image = frames.read(name)
        if isinstance(source, (list, tuple)):
            labels = _layered(source, threshold, image, name)
        else:
            labels, has_ids = read_labels(
                source, picked, picked_by="`object`", threshold=threshold, frame=name
            )
            _check(labels, _place(source, name), image, name)
            if not has_ids or (ids_in(labels) == [1] and len(known) == 1):
                plain.append(name)
        given[name] = Annotation(name, image, labels)
    ids = sorted({*known}.union(*(ids_in(a.mask) for a in given.values() if a.name not in plain)))
    if known and len(ids) > len(known):
        raise InputError(
            f"Wanted masks of the objects that are known, {_listed(known)}. Got {_listed(ids)}. "
            "Learn anew with all masks to add an object."
        )
    for name in plain:
        given[name] = given[name]._replace(mask=number_mask(given[name].mask, False, ids, name))
    return tuple(given.values())


def number_mask(labels: np.ndarray, has_ids: bool, ids: Sequence[int], name: str) -> np.ndarray:
    """Returns a label map of known objects; a plain mask shows the only one, or the first.

    Args:
        labels: see `masks.read_labels`.
        has_ids: whether it is one.
        ids: of the objects that are known.
        name: of the frame.

    Raises:
        InputError: there are several objects, and a plain mask does not say which it shows.
    """
    if has_ids:
        return labels
    if len(ids) > 1:
        raise InputError(
            f"The mask of frame {name!r} is black and white, but there are objects {_listed(ids)}: "
            "which one is it? Give a label map, such as a PNG with DAVIS's palette."
        )
    return np.where(labels == 1, ids[0] if ids else 1, labels).astype(np.uint8)


def _layered(
    masks: Sequence[Mask], threshold: float | None, image: np.ndarray, name: str
) -> np.ndarray:
    """Returns the label map of a mask an object, 1, 2 and so on; later ones lie in front."""
    if not 0 < len(masks) < VOID:
        raise InputError(f"Wanted 1 to {VOID - 1} masks of frame {name!r}. Got {len(masks)}.")
    labels = np.zeros(image.shape[:2], np.uint8)
    for number, source in enumerate(masks, start=1):
        mask = read_mask(source, picked_by=None, threshold=threshold, frame=name)
        _check(mask, _place(source, name), image, name)
        labels[(mask == VOID) & (labels == 0)] = VOID
        labels[mask == 1] = number
    for number, source in enumerate(masks, start=1):
        if not (labels == number).any():
            raise InputError(
                f"Mask {_place(source, name)} is covered wholly by those after it, which lie in "
                "front. Give it after them."
            )
    return labels


def _place(source: Mask, name: str) -> str:
    return f"'{source}'" if isinstance(source, (str, os.PathLike)) else f"of frame {name!r}"


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def _check(labels: np.ndarray, where: str, image: np.ndarray, name: str) -> None:
    if labels.shape != image.shape[:2]:
        raise InputError(
            f"Mask {where} is {describe_size(labels.shape)}, frame {name!r} is "
            f"{describe_size(image.shape)}. Draw it at the frame's size."
        )
    for missing, what in ((not ids_in(labels), "object"), (not (labels == 0).any(), "background")):
        if missing:
            raise InputError(
                f"Mask {where} has no {what} pixel, so there is nothing to learn. Wanted 255 on "
                "the object and 0 elsewhere."
            )
