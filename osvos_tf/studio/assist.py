"""From a box to a mask, by GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004)."""

import cv2
import numpy as np

from osvos_tf.errors import InputError

_SIDE = 240  # pixels of the longer side at which it is computed: under a second
_ROUNDS = 4
_MARGIN = 0.25  # of the box, around it: the background that is looked at


def grab(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Returns what is likely the object in a box, bool [height, width].

    Args:
        image: uint8 RGB [height, width, 3].
        box: left, top, right, bottom in pixels, the last two exclusive.

    Raises:
        InputError: the box has no area within the frame.
    """
    height, width = image.shape[:2]
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(width, box[2]), min(height, box[3])
    if right - left < 2 or bottom - top < 2:
        raise InputError("This box is too small. Draw it around the object.")
    reach = [round(_MARGIN * side) + 2 for side in (bottom - top, right - left)]
    rows = slice(max(0, top - reach[0]), min(height, bottom + reach[0]))
    columns = slice(max(0, left - reach[1]), min(width, right + reach[1]))
    part = image[rows, columns]
    labels = np.full(part.shape[:2], cv2.GC_BGD, np.uint8)
    labels[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = (
        cv2.GC_PR_FGD
    )
    scale = min(1.0, _SIDE / max(part.shape[:2]))
    size = tuple(max(2, round(side * scale)) for side in part.shape[1::-1])
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    found = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    if (found == cv2.GC_BGD).any():  # else the box is the frame: nothing is known of what is around
        cv2.setRNGSeed(0)
        models = [np.zeros((1, 65)) for _ in range(2)]
        nowhere = (0, 0, 1, 1)  # the labels say where
        cv2.grabCut(small, found, nowhere, models[0], models[1], _ROUNDS, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = cv2.resize(inside, part.shape[1::-1]) > 0.5
    box_only = np.zeros_like(mask)
    box_only[top:bottom, left:right] = True
    return mask & box_only
