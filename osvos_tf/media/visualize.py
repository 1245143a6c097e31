"""Pictures to look at: masks over frames, differences from the truth, sheets of both.

All pictures are uint8 RGB [height, width, 3]; functions return new arrays. The colours are Okabe
and Ito's, which readers with any colour vision can tell apart.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from osvos_tf.media.mask_pictures import davis_palette

OBJECT = (213, 94, 0)  # vermilion
AGREEMENT = (0, 158, 115)  # bluish green: in the mask and in the truth
ONLY_MASK = (230, 159, 0)  # orange: in the mask, not in the truth
ONLY_TRUTH = (86, 180, 233)  # sky blue: in the truth, not in the mask

_INK = (32, 32, 32)
_PAPER = (255, 255, 255)
_MIN_FONT = 11  # pixels; smaller is not legible


def overlay(
    frame: np.ndarray,
    mask: np.ndarray,
    colour: tuple[int, int, int] = OBJECT,
    opacity: float = 0.45,
) -> np.ndarray:
    """Tints the object and draws a white line within its edge and a dark one around it.

    The double line shows on every background. It is two pixels wide at 480p, and not smoothed, so
    that it marks the mask's pixels exactly.

    Args:
        frame: uint8 RGB [height, width, 3].
        mask: bool or 0/1 [height, width]; other values, such as void, are not the object.
        colour: of the tint, RGB 0..255.
        opacity: of the tint, 0..1.

    Returns:
        uint8 RGB [height, width, 3].

    Raises:
        ValueError: frame and mask differ in size or have another type.
    """
    inside = _require_mask(mask, frame, "mask")
    picture = frame.copy()
    unit = max(1, round(min(frame.shape[:2]) / 240))
    # Most of a frame is not the object, nor beside it.
    left, top, width, height = cv2.boundingRect(inside.astype(np.uint8))
    around = np.s_[
        max(0, top - unit) : top + height + unit, max(0, left - unit) : left + width + unit
    ]
    inside = inside[around]
    part = _tint(frame[around], inside, colour, opacity)
    # The frame's border is no edge of the object: outside of it, erosion assumes more of the same.
    part[inside & ~_grow(inside, unit, cv2.erode)] = _PAPER
    part[_grow(inside, unit, cv2.dilate) & ~inside] = _INK
    picture[around] = part
    return picture


def overlay_objects(frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Does what `overlay` does for each object of a label map, in the colours of DAVIS's palette.

    Args:
        frame: uint8 RGB [height, width, 3].
        labels: uint8 [height, width]: 0 background, ids.

    Returns:
        uint8 RGB [height, width, 3].
    """
    colours = np.reshape(davis_palette(), (-1, 3)).tolist()
    for number in np.unique(labels[labels > 0]).tolist():
        frame = overlay(frame, labels == number, tuple(colours[number]))
    return frame


def difference(frame: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Colours where mask and truth agree (`AGREEMENT`), and where only one of them has the object.

    `ONLY_MASK` is what was found in error, `ONLY_TRUTH` what was missed. The frame itself is grey.

    Args:
        frame: uint8 RGB [height, width, 3].
        mask: bool or 0/1 [height, width].
        truth: bool or 0/1 [height, width]; where it has other values (void) nothing is coloured.

    Returns:
        uint8 RGB [height, width, 3].

    Raises:
        ValueError: the three differ in size or have another type.
    """
    found = _require_mask(mask, frame, "mask")
    true = _require_mask(truth, frame, "truth")
    judged = np.asarray(truth) <= 1
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    picture = cv2.cvtColor((grey * 0.8 + 25).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    picture = _tint(picture, found & true, AGREEMENT, 0.5)
    picture = _tint(picture, found & ~true & judged, ONLY_MASK, 0.85)
    return _tint(picture, true & ~found, ONLY_TRUTH, 0.85)


def label(picture: np.ndarray, text: str) -> np.ndarray:
    """Writes `text` into the upper left corner, white on a dark plate.

    Args:
        picture: uint8 RGB [height, width, 3].
        text: one line; cut off where it is too long for the picture.

    Returns:
        uint8 RGB [height, width, 3].
    """
    height, width = picture.shape[:2]
    size = max(_MIN_FONT, round(min(height, width) / 18))
    gap = max(2, size // 3)
    text = _shorten(text, size, width - 4 * gap)
    canvas = Image.fromarray(picture)
    plate = (gap, gap, 3 * gap + _text_width(text, size), 2 * gap + round(1.25 * size))
    shade = Image.new("L", canvas.size, 0)
    ImageDraw.Draw(shade).rounded_rectangle(plate, radius=gap, fill=170)
    canvas.paste(_INK, mask=shade)
    middle = (2 * gap, (plate[1] + plate[3]) / 2)
    ImageDraw.Draw(canvas).text(middle, text, font=_font(size), fill=_PAPER, anchor="lm")
    return np.array(canvas)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    legend: dict[str, tuple[int, int, int]] | None = None,
) -> np.ndarray:
    """Lays pictures out in a grid on white paper.

    Args:
        rows: rows of pictures, each uint8 RGB [height, width, 3], all of one size. A row may be
            shorter than others.
        row_labels: one text a row, written left of it.
        column_labels: one text a column, written above it.
        title: written above all.
        legend: what colours mean, written below all: text -> RGB 0..255.

    Returns:
        uint8 RGB [sheet height, sheet width, 3].

    Raises:
        ValueError: there is no picture, sizes differ, or the labels are too few or too many.
    """
    height, width = _require_grid(rows, row_labels, column_labels)
    columns = max(len(row) for row in rows)
    size = max(_MIN_FONT, round(min(height, width) / 15))
    gap, margin = max(4, round(min(height, width) / 40)), size
    left = margin
    if any(row_labels):
        left += max(_text_width(text, size) for text in row_labels) + size // 2
    title_height = round(2.2 * size) if title else 0
    top = margin + title_height + (round(1.6 * size) if any(column_labels) else 0)
    below = round(2.2 * size) if legend else 0
    sheet_width = left + columns * (width + gap) - gap + margin
    sheet_height = top + len(rows) * (height + gap) - gap + below + margin
    sheet = Image.new("RGB", (sheet_width, sheet_height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    if title:
        large = round(1.3 * size)
        text = _shorten(title, large, sheet_width - left - margin)
        draw.text((left, margin), text, font=_font(large), fill=_INK, anchor="lt")
    for column, text in enumerate(column_labels):
        middle = left + column * (width + gap) + width / 2
        text = _shorten(text, size, width)
        draw.text((middle, top - 0.4 * size), text, font=_font(size), fill=_INK, anchor="ms")
    for number, row in enumerate(rows):
        y = top + number * (height + gap)
        if row_labels:
            end = (left - size // 2, y + height / 2)
            draw.text(end, row_labels[number], font=_font(size), fill=_INK, anchor="rm")
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (left + column * (width + gap), y))
    if legend:
        _draw_legend(draw, legend, (left, sheet_height - margin - size), size)
    return np.array(sheet)


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    legend: dict[str, tuple[int, int, int]],
    corner: tuple[int, int],
    size: int,
) -> None:
    x, y = corner
    for text, colour in legend.items():
        draw.rectangle((x, y, x + size - 1, y + size - 1), fill=colour)
        x += round(1.5 * size)
        draw.text((x, y + size / 2), text, font=_font(size), fill=_INK, anchor="lm")
        x += _text_width(text, size) + 2 * size


def _require_mask(mask: np.ndarray, frame: np.ndarray, name: str) -> np.ndarray:
    """Returns where `mask` is the object, bool [height, width]."""
    mask = np.asarray(mask)
    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
        raise ValueError(
            f"frame must be uint8 [height, width, 3]. Received: {frame.dtype} {frame.shape}."
        )
    if mask.shape != frame.shape[:2]:
        raise ValueError(
            f"{name} must be as large as the frame, {frame.shape[:2]}. Received: {mask.shape}."
        )
    return mask == 1


def _require_grid(
    rows: Sequence[Sequence[np.ndarray]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> tuple[int, int]:
    """Returns (height, width) of the pictures."""
    shapes = {picture.shape for row in rows for picture in row}
    if len(shapes) != 1:
        raise ValueError(f"All pictures must have one size. Received: {sorted(shapes)}.")
    columns = max(len(row) for row in rows)
    for name, labels, count in (
        ("row_labels", row_labels, len(rows)),
        ("column_labels", column_labels, columns),
    ):
        if labels and len(labels) != count:
            raise ValueError(f"{name} must be {count} texts. Received: {len(labels)}.")
    return shapes.pop()[:2]


def _tint(
    picture: np.ndarray, where: np.ndarray, colour: tuple[int, int, int], opacity: float
) -> np.ndarray:
    tinted = picture.copy()
    mixed = (1 - opacity) * picture[where] + opacity * np.array(colour)
    tinted[where] = np.rint(mixed).astype(np.uint8)
    return tinted


def _grow(mask: np.ndarray, pixels: int, operation: Callable[..., np.ndarray]) -> np.ndarray:
    """Erodes or dilates a bool mask by a disk of `pixels`."""
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return operation(mask.astype(np.uint8), brush).astype(bool)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns the typeface inside Pillow; OpenCV's changed between its versions 4 and 5."""
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text)))


def _shorten(text: str, size: int, width: int) -> str:
    """Cuts `text` to at most `width` pixels, with an ellipsis where something is missing."""
    if _text_width(text, size) <= width:
        return text
    while text and _text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"
