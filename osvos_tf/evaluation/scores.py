"""Scores of a segmented video in one call: J, F and T as the DAVIS benchmark computes them."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.evaluation import metrics
from osvos_tf.media.images import describe_size
from osvos_tf.media.masks import VOID, read_mask

Masks = str | os.PathLike[str] | np.ndarray | Iterable[Any]


class Scores(NamedTuple):
    """How good a segmented video is.

    Attributes:
        J: mean overlap of regions, 0..1.
        F: mean accuracy of boundaries, 0..1.
        T: how much the contour wobbles, 0 or more; lower is better, NaN where it has no value.
    """

    J: float
    F: float
    T: float


def evaluate(masks: Masks, truth: Masks) -> Scores:
    """Scores masks against the truth; DAVIS leaves out the first and the last frame.

    Args:
        masks: of every frame: a folder of PNGs (or one that `segment` has left), an array
            [frames, height, width], or what `Specialist.segment` yields. Of each, whatever
            `masks.read_mask` takes; void counts as background.
        truth: likewise; void pixels count nowhere. Of two folders, the truth's names count.

    Raises:
        InputError: a mask cannot be read or is missing, numbers or sizes differ, or there are fewer
            than three frames.
    """
    names = _names(truth)
    expected = _read(truth, names, "truth")
    found = _read(masks, names, "masks")
    if found.shape != expected.shape:
        raise InputError(
            f"Wanted a mask for each true one, of one size. Got {_describe(found)} for "
            f"{_describe(expected)}."
        )
    if len(expected) < 3:
        raise InputError(
            f"Wanted 3 frames or more: the first and the last do not count. Got {len(expected)}."
        )
    void = expected == VOID
    scores = metrics.sequence_scores(found == 1, expected == 1, void if void.any() else None)
    return Scores(float(scores.J.mean()), float(scores.F.mean()), scores.T)


def _folder(masks: Masks) -> pathlib.Path | None:
    """Returns the folder that PNGs lie in, None for masks in memory."""
    if not isinstance(masks, (str, os.PathLike)):
        return None
    folder = pathlib.Path(os.path.expanduser(masks))
    return folder / "masks" if (folder / "masks").is_dir() else folder


def _names(masks: Masks) -> list[str] | None:
    folder = _folder(masks)
    if folder is None:
        return None
    names = sorted(path.name for path in folder.glob("*.png"))
    if not names:
        raise InputError(f"No mask in '{folder}'. Wanted a folder of PNGs, one a frame.")
    return names


def _read(masks: Masks, names: list[str] | None, what: str) -> np.ndarray:
    """Returns uint8 [frames, height, width], 0 background, 1 object, 255 void."""
    folder = _folder(masks)
    if folder is not None:
        names = names or _names(masks) or []
        sources: list[Any] = [folder / name for name in names]
    else:
        sources = [getattr(mask, "mask", mask) for mask in masks]  # type: ignore[union-attr]  # no path
    read = [read_mask(source, picked_by=None) for source in sources]
    sizes = {mask.shape for mask in read}
    if len(sizes) != 1:
        raise InputError(f"Wanted {what} of one size. Got {len(read)} of {len(sizes)} sizes.")
    return np.stack(read)


def _describe(masks: np.ndarray) -> str:
    return f"{len(masks)} of {describe_size(masks.shape[1:])}"
