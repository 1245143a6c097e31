"""An object cut out of its frame: a soft alpha, and colours that hold nothing of the background."""

import cv2
import numpy as np

# The alpha rises from 0 to 1 while the probability passes through this part of its range around the
# threshold: less leaves stairs, more leaves haze.
_SOFTNESS = 0.7
_REACH = 0.01  # part of the frame's height within which the mask's edge may be soft
_WIDE, _NARROW = 0.1, 0.0125  # parts of the frame's height that colours are averaged over
_TINY = 1e-5


def soft_alpha(probability: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """Returns how much of each pixel is the object; above one half exactly where the mask is.

    Args:
        probability: float32 [height, width] in 0..1.
        mask: bool or 0/1 [height, width].
        threshold: the probability at which the object begins.

    Returns:
        float32 [height, width] in 0..1: 1 well inside the mask, 0 far from it.
    """
    inside = np.asarray(mask) > 0
    below = probability / max(threshold, _TINY) / 2
    above = 1 - (1 - probability) / max(1 - threshold, _TINY) / 2
    scaled = np.where(probability <= threshold, below, above)
    alpha = np.clip((scaled - 0.5) / _SOFTNESS + 0.5, 0, 1).astype(np.float32)
    # A given or a snapped mask may differ from its probability: then the mask is right.
    alpha = np.where(inside, np.maximum(alpha, 0.502), np.minimum(alpha, 0.498))
    reach = max(1, round(_REACH * inside.shape[0]))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    grown = cv2.dilate(inside.astype(np.uint8), brush)
    core = cv2.erode(inside.astype(np.uint8), brush, borderValue=1)
    return np.where(core > 0, 1.0, alpha * grown).astype(np.float32)


def foreground(frame: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Returns the object's own colours with its alpha, straight (not premultiplied).

    A pixel at the edge shows a mix of object and background. The object's part is estimated from
    the colours nearby, first wide, then narrow: blur fusion (Forte, ICIP 2021).

    Args:
        frame: uint8 RGB [height, width, 3].
        alpha: float32 [height, width] in 0..1.

    Returns:
        uint8 RGBA [height, width, 4].
    """
    rgba = np.zeros((*alpha.shape, 4), np.uint8)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not rows.size:
        return rgba
    margin = round(_WIDE * frame.shape[0])
    part = np.s_[
        max(0, rows[0] - margin) : rows[-1] + margin + 1,
        max(0, columns[0] - margin) : columns[-1] + margin + 1,
    ]
    image, weight = frame[part].astype(np.float32), alpha[part][..., None]
    object_, background = image, image
    for radius in (_WIDE, _NARROW):
        size = max(3, round(radius * frame.shape[0]) | 1)
        object_, background = _fuse(image, weight, object_, background, size)
    rgba[part][..., :3] = np.rint(np.clip(object_, 0, 255)).astype(np.uint8)
    rgba[..., 3] = np.rint(alpha * 255).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def _fuse(
    image: np.ndarray, weight: np.ndarray, object_: np.ndarray, background: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns better colours of object and background, all float32 [height, width, 3]."""

    def blur(values: np.ndarray) -> np.ndarray:
        blurred = cv2.blur(values, (size, size))
        return blurred if blurred.ndim == 3 else blurred[..., None]

    object_ = blur(object_ * weight) / (blur(weight) + _TINY)
    background = blur(background * (1 - weight)) / (blur(1 - weight) + _TINY)
    rest = image - weight * object_ - (1 - weight) * background
    return np.clip(object_ + weight * rest, 0, 255), background
