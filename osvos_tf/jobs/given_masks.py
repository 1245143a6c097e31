"""The masks of a job: which frames they annotate, and which lie where results will replace them."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from osvos_tf.media.frames import Frames
from osvos_tf.media.images import open_image
from osvos_tf.media.mask_pictures import davis_palette


def split(value: str) -> tuple[str | None, str]:
    """Returns a mask's frame name and path; None stands for the first frame.

    A path may contain a colon, so anything that is a file is a path.
    """
    name, _, path = value.rpartition(":")
    return (name, path) if name and not os.path.isfile(value) else (None, value)


def by_frame(masks: Sequence[str], frames: Frames) -> dict[str, list[str]]:
    """Returns name of a frame -> paths of its masks; InputError if there is no such frame."""
    paths: dict[str, list[str]] = {}
    for value in masks:
        name, path = split(value)
        paths.setdefault(frames.find(0 if name is None else name), []).append(path)
    return paths


def outside(masks: Sequence[str], frames: Frames, folder: str | os.PathLike[str]) -> list[str]:
    """Returns the paths of masks but for those in `folder` that come back as they are.

    That is a mask which was corrected where an earlier run wrote it.
    """
    paths = []
    for name, given in by_frame(masks, frames).items():
        own_place = os.path.realpath(os.path.join(folder, f"{name}.png"))
        paths += [
            path for path in given if os.path.realpath(path) != own_place or not _is_ours(path)
        ]
    return paths


def in_place(masks: Sequence[str], folder: str | os.PathLike[str]) -> dict[str, str]:
    """Returns frame -> path of the masks that lie in `folder`."""
    place = os.path.realpath(folder)
    paths = [split(value)[1] for value in masks]
    return {
        pathlib.Path(path).stem: path
        for path in paths
        if os.path.dirname(os.path.realpath(path)) == place
    }


def _is_ours(path: str) -> bool:
    """Returns whether a mask's file is as results have it: grey, 0 and 255, or with a palette."""
    with open_image(path) as image:
        if image.mode == "P":
            return image.getpalette() == davis_palette()
        return image.mode == "L" and set(np.unique(np.asarray(image)).tolist()) <= {0, 255}
