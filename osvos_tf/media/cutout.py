"""An object cut out of its frame: a soft alpha, and colours that hold nothing of the background."""

import cv2
import numpy as np

# Parts of the frame's height: how far from the mask's edge the alpha may be soft, and over how far
# it is fitted to the frame's colours.
_REACH, _RADIUS = 0.015, 0.0125
_SMOOTHNESS = 1e-4  # of the guided filter: differences of colour below its root are no edge
_SOFTNESS = 0.6  # what is filtered rises from 0 to 1 in this part of its range: less haze
_WIDE, _NARROW = 0.1, 0.0125  # parts of the frame's height that colours are averaged over
_TINY = 1e-5


def soft_alpha(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns how much of each pixel is the object, by the mask and the frame's own edges near it.

    The guided filter (He, Sun and Tang, ECCV 2010) fits the mask's edge to the frame's colours.

    Args:
        frame: uint8 RGB [height, width, 3].
        mask: bool or 0/1 [height, width].

    Returns:
        float32 [height, width] in 0..1: 1 well inside the mask, 0 far from it.
    """
    inside = (np.asarray(mask) > 0).astype(np.uint8)
    radius, reach = (max(1, round(part * inside.shape[0])) for part in (_RADIUS, _REACH))
    left, top, width, height = cv2.boundingRect(inside)
    alpha = np.zeros(inside.shape, np.float32)
    margin = 2 * radius + reach
    part = np.s_[
        max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin
    ]
    fitted = cv2.ximgproc.guidedFilter(
        frame[part].astype(np.float32) / 255, inside[part].astype(np.float32), radius, _SMOOTHNESS
    )
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    # Beyond the frame's border there is more of the same.
    grown, core = cv2.dilate(inside, brush)[part], cv2.erode(inside, brush)[part]
    soft = np.clip((fitted - 0.5) / _SOFTNESS + 0.5, 0, 1)
    alpha[part] = np.where(core > 0, 1, soft * grown)
    return alpha


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
