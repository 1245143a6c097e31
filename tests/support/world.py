"""An invented DAVIS and an invented BSDS500, small enough for any test."""

import pathlib

import cv2
import numpy as np
import scipy.io

REPOSITORY = pathlib.Path(__file__).parents[2]
SIZE = (48, 80)  # height, width
FRAMES = 4
SQUARE = 16
# split -> sequence -> (top, left) of the square in the first frame and its move to the next
WORLD = {
    "train": {"bear": ((4, 6), (3, 9)), "goat": ((28, 40), (-6, 5))},
    "val": {"swan": ((16, 60), (2, -14))},
}


def draw_bsds(root):
    """Invents a BSDS500 of two images, a lying and a standing one, each with three annotators."""
    for name, (height, width) in (("100", (48, 64)), ("21", (64, 48))):
        images, truths = root / "images" / "train", root / "groundTruth" / "train"
        for folder in (images, truths):
            folder.mkdir(parents=True, exist_ok=True)
        image = np.full((height, width, 3), 60, np.uint8)
        image[:, width // 2 :] = 190
        cv2.imwrite(str(images / f"{name}.jpg"), image)
        cell = np.empty((1, 3), object)
        for index, offset in enumerate((0, 0, 1)):
            drawn = np.zeros((height, width), np.uint8)
            drawn[:, width // 2 + offset] = 1
            cell[0, index] = {"Segmentation": drawn.astype(np.uint16) + 1, "Boundaries": drawn}
        scipy.io.savemat(truths / f"{name}.mat", {"groundTruth": cell})
    return root


def paint(root):
    for split, sequences in WORLD.items():
        lines = []
        for name, ((top, left), (down, right)) in sequences.items():
            images = root / "JPEGImages" / "480p" / name
            masks = root / "Annotations" / "480p" / name
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            for number in range(FRAMES):
                frame, mask = paint_frame(top + number * down, left + number * right)
                cv2.imwrite(str(images / f"{number:05d}.jpg"), frame)
                cv2.imwrite(str(masks / f"{number:05d}.png"), mask)
                lines.append(
                    f"/JPEGImages/480p/{name}/{number:05d}.jpg "
                    f"/Annotations/480p/{name}/{number:05d}.png\n"
                )
        path = root / "ImageSets" / "480p" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    return root


def paint_frame(top, left):
    """Returns a BGR frame with a bright square on a dark ramp, and its 0/255 mask."""
    ramp = np.linspace(20, 110, SIZE[1])[None, :, None] * [1.0, 0.6, 0.3]
    frame = np.broadcast_to(ramp, (*SIZE, 3)).astype(np.uint8)
    mask = np.zeros(SIZE, np.uint8)
    mask[top : top + SQUARE, left : left + SQUARE] = 255
    frame[mask > 0] = (60, 160, 240)
    return frame, mask
