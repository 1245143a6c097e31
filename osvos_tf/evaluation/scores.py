"""Scores of a segmented video in one call: J, F and T as the DAVIS benchmark computes them."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.evaluation import metrics
from osvos_tf.media.images import describe_size
from osvos_tf.media.masks import VOID, ids_in, read_labels

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
            `masks.read_labels` takes; void counts as background.
        truth: likewise; void pixels count nowhere. Of two folders, the truth's names count.

    Returns:
        A `Scores`. Where both have the ids of several objects, the means over objects, as in
        DAVIS-2017; else all objects count as one.

    Raises:
        InputError: a mask cannot be read or is missing, numbers or sizes differ, or there are fewer
            than three frames.
    """
    names = _names(truth)
    expected, expected_ids = _read(truth, names, "truth")
    found, found_ids = _read(masks, names, "masks")
    if found.shape != expected.shape:
        raise InputError(
            f"Wanted a mask for each true one, of one size. Got {_describe(found)} for "
            f"{_describe(expected)}."
        )
    if len(expected) < 3:
        raise InputError(
            f"Wanted 3 frames or more: the first and the last do not count. Got {len(expected)}."
        )
    if not (len(expected_ids) > 1 and found_ids):
        expected, found = (np.where(x == VOID, VOID, x > 0) for x in (expected, found))
    scores = list(metrics.object_scores(found, expected, VOID).values())
    if not scores:
        nothing = np.zeros(expected.shape, bool)
        scores = [metrics.sequence_scores(found == 1, nothing, expected == VOID)]
    J, F, T = (np.array([getattr(s, name) for s in scores]) for name in ("J", "F", "T"))
    known = T[~np.isnan(T)]
    return Scores(float(J.mean()), float(F.mean()), float(known.mean()) if known.size else np.nan)


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


def _read(masks: Masks, names: list[str] | None, what: str) -> tuple[np.ndarray, list[int]]:
    """Returns label maps, uint8 [frames, height, width], and the ids in them; none: no ids."""
    folder = _folder(masks)
    if folder is not None:
        names = names or _names(masks) or []
        sources: list[Any] = [folder / name for name in names]
    else:
        sources = [getattr(mask, "mask", mask) for mask in masks]  # type: ignore[union-attr]  # no path
    read = [read_labels(source) for source in sources]
    sizes = {labels.shape for labels, _ in read}
    if len(sizes) != 1:
        raise InputError(f"Wanted {what} of one size. Got {len(read)} of {len(sizes)} sizes.")
    stack = np.stack([labels for labels, _ in read])
    return stack, ids_in(stack) if any(has_ids for _, has_ids in read) else []


def _describe(masks: np.ndarray) -> str:
    return f"{len(masks)} of {describe_size(masks.shape[1:])}"
