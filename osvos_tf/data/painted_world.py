"""Paints an invented DAVIS: small videos of patterned creatures, with exact masks.

The demo and the tests need sequences of which everything is known, without a download. Each one
shows an object that drifts, turns, grows and wobbles before a panning, zooming background:

  * The object is in front of all others and stays within the frame. A parent network can learn
    that from other sequences.
  * Decoys lie on the background and move with it: blobs about as large, in the object's own colour
    or another, never with its pattern or outline. Only the annotated frame tells
    which of these blobs is meant.
  * Stalks or a tuft of grass in the foreground hide parts of the object for a while; hidden pixels
    are not in the mask.

The shapes, patterns and colours of `val` never occur in `train`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from osvos_tf.data.painting import (
    SUPERSAMPLING,
    TURN,
    Blob,
    Look,
    Pose,
    develop,
    draw_pattern,
    make_screen,
    noise,
    paint_blob,
    paint_landscape,
    paint_shadow,
    shrink,
)
from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path, ensure_writable

RESOLUTION = "480p"  # the folder's name in DAVIS, whatever the true size


@dataclass(frozen=True)
class _Split:
    """What the objects of one split are made of; the two splits have nothing in common.

    colours: name -> (main, accent), RGB 0..255.
    outlines: name -> (elongation, {waves around the outline: height relative to the radius}).
    patterns: names of `painting.draw_pattern`.
    """

    colours: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]]
    outlines: dict[str, tuple[float, dict[int, float]]]
    patterns: tuple[str, ...]


_TRAIN = _Split(
    colours={
        "amber": ((240, 165, 50), (120, 62, 22)),
        "coral": ((238, 108, 88), (255, 218, 190)),
        "teal": ((28, 138, 138), (182, 230, 214)),
        "indigo": ((72, 82, 172), (196, 204, 244)),
        "rose": ((224, 96, 142), (255, 226, 232)),
        "lime": ((166, 200, 62), (62, 96, 34)),
        "rust": ((176, 82, 46), (244, 206, 160)),
        "sky": ((104, 174, 230), (242, 250, 255)),
        "mauve": ((158, 116, 170), (238, 222, 244)),
        "slate": ((88, 104, 126), (214, 220, 230)),
        "honey": ((226, 194, 96), (150, 92, 30)),
        "olive": ((122, 128, 58), (222, 218, 150)),
    },
    outlines={
        "ray": (1.5, {3: 0.16, 4: 0.10}),
        "pebble": (1.2, {2: 0.06, 3: 0.05}),
        "clover": (1.0, {3: 0.26}),
        "bean": (1.4, {2: 0.10, 3: 0.12}),
        "cloud": (1.4, {5: 0.09, 7: 0.07}),
        "moth": (1.2, {2: 0.12, 6: 0.15}),
        "pear": (1.3, {1: 0.10, 3: 0.10}),
        "leaf": (1.8, {2: 0.08}),
        "petal": (1.1, {6: 0.16}),
        "drop": (1.4, {3: 0.08, 1: 0.16}),
        "button": (1.0, {8: 0.04}),
        "crab": (1.4, {7: 0.15}),
    },
    patterns=("stripes", "spots", "checks", "marble", "patches"),
)
_VAL = _Split(
    colours={
        "green": ((52, 150, 88), (236, 238, 170)),
        "violet": ((128, 74, 190), (250, 208, 92)),
        "scarlet": ((206, 44, 56), (250, 238, 222)),
        "cyan": ((46, 190, 208), (28, 48, 96)),
        "ivory": ((240, 230, 204), (52, 84, 108)),
    },
    outlines={
        "kite": (1.2, {4: 0.17}),
        "star": (1.0, {5: 0.24}),
        "whale": (1.7, {1: 0.12, 3: 0.10, 5: 0.05}),
        "urchin": (1.0, {9: 0.15}),
        "heron": (1.5, {2: 0.14, 5: 0.14}),
    },
    patterns=("rings", "zigzag", "cells", "rays"),
)
_LANDSCAPES = (  # three RGB colours each, quieter than the objects'
    ((112, 136, 84), (150, 166, 106), (86, 112, 76)),  # meadow
    ((196, 176, 140), (218, 202, 170), (168, 144, 108)),  # dune
    ((92, 128, 148), (128, 162, 174), (70, 102, 126)),  # lagoon
    ((134, 130, 126), (164, 160, 154), (104, 102, 102)),  # stone
    ((142, 112, 116), (176, 146, 142), (112, 90, 102)),  # heath
    ((204, 210, 214), (226, 230, 232), (172, 184, 194)),  # snow
    ((84, 100, 80), (110, 124, 92), (64, 80, 70)),  # forest
    ((150, 130, 160), (186, 164, 180), (118, 106, 142)),  # dusk
)


def paint_davis(
    root: str | os.PathLike[str],
    *,
    train: int = 24,
    val: int = 4,
    frames: int = 16,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
) -> None:
    """Paints a DAVIS-2016 tree below `root`; the same arguments paint the same tree.

        root/JPEGImages/480p/amber-ray/00000.jpg     RGB
        root/Annotations/480p/amber-ray/00000.png    grey, 0 background, 255 object
        root/ImageSets/480p/train.txt                a line a frame: its image, its mask

    The lists come last: a tree that has them is complete. Most of the object is visible in every
    first frame; in later ones it may hide.

    Args:
        root: a new or empty folder, or one painted before, whose lists are replaced.
        train: number of sequences in `train.txt`, at most 144.
        val: number of sequences in `val.txt`, at most 25.
        frames: frames a sequence.
        size: (height, width) in pixels, each at least 32.
        seed: another seed paints another world; a sequence does not depend on how many there are.

    Raises:
        InputError: a number is out of range, or `root` cannot be written to.
    """
    _require_in_range("train", train, 0, len(_TRAIN.colours) * len(_TRAIN.outlines))
    _require_in_range("val", val, 0, len(_VAL.colours) * len(_VAL.outlines))
    _require_in_range("frames", frames, 1, 100_000)
    _require_size(size)
    root = ensure_writable(root)
    lists: dict[str, list[str]] = {}
    for number, (name, split, count) in enumerate((("train", _TRAIN, train), ("val", _VAL, val))):
        cast = _cast(split, count, np.random.default_rng((seed, number)))
        lists[name] = []
        for index, look in enumerate(cast):
            rng = np.random.default_rng((seed, number, index))
            pictures = _paint_sequence(split, look, frames, size, rng)
            lists[name] += _write_sequence(root, f"{look.colour}-{look.outline}", pictures)
    _write_lists(root, lists)


def paint_video(
    *, frames: int = 16, size: tuple[int, int] = (96, 160), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Paints one video of an object that is in no training split, with the truth.

    Args:
        frames: how many.
        size: (height, width) in pixels, each at least 32.
        seed: another seed paints another video.

    Returns:
        `(frames, masks)`: uint8 RGB [frames, height, width, 3] and bool [frames, height, width].

    Raises:
        InputError: a number is out of range.
    """
    _require_in_range("frames", frames, 1, 100_000)
    _require_size(size)
    (look,) = _cast(_VAL, 1, np.random.default_rng((seed, 1)))
    pictures = _paint_sequence(_VAL, look, frames, size, np.random.default_rng((seed, 1, 0)))
    images, masks = zip(*pictures, strict=True)
    return np.stack(images), np.stack(masks) > 0


def _require_size(size: tuple[int, int]) -> None:
    for side, length in zip(("height", "width"), size, strict=True):
        _require_in_range(side, length, 32, 10_000)


def _require_in_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} must lie in {low}..{high}. Received: {value}.")


def _cast(split: _Split, count: int, rng: np.random.Generator) -> list[Look]:
    """Returns `count` looks; no two share both colour and outline."""
    colours = rng.permutation(list(split.colours)).tolist()
    outlines = rng.permutation(list(split.outlines)).tolist()
    patterns = rng.permutation(split.patterns).tolist()
    return [
        Look(
            colours[index % len(colours)],
            outlines[(index % len(colours) + index // len(colours)) % len(outlines)],
            patterns[index % len(patterns)],
        )
        for index in range(count)
    ]


def _write_sequence(
    root: Path, sequence: str, pictures: Iterator[tuple[np.ndarray, np.ndarray]]
) -> list[str]:
    """Writes one sequence's frames and masks, and returns its lines in the list."""
    images = f"JPEGImages/{RESOLUTION}/{sequence}"
    annotations = f"Annotations/{RESOLUTION}/{sequence}"
    for folder in (images, annotations):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (frame, mask) in enumerate(pictures):
        image, annotation = f"{images}/{number:05d}.jpg", f"{annotations}/{number:05d}.png"
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, 95))
        _, png = cv2.imencode(".png", mask.astype(np.uint8) * 255)
        (root / image).write_bytes(jpeg.tobytes())
        (root / annotation).write_bytes(png.tobytes())
        lines.append(f"/{image} /{annotation}\n")
    return lines


def _write_lists(root: Path, lists: dict[str, list[str]]) -> None:
    folder = root / "ImageSets" / RESOLUTION
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        with atomic_path(folder / f"{name}.txt") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


# --- one sequence ---------------------------------------------------------------------------------


def _paint_sequence(
    split: _Split,
    look: Look,
    frames: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (frame, mask): uint8 RGB [height, width, 3] and bool [height, width]."""
    height, width = (side * SUPERSAMPLING for side in size)
    radius = rng.uniform(0.23, 0.28) * min(height, 0.65 * width)
    hero = _blob(
        split.outlines[look.outline], split.colours[look.colour], look.pattern, radius, rng
    )
    landscape = _choose_landscape(split.colours[look.colour], rng)
    canvas = paint_landscape(landscape, (height, width), rng)
    _paint_decoys(canvas, split, look, radius, rng)
    direction = rng.choice((-1.0, 1.0))
    camera = _camera(canvas.shape[:2], (height, width), -direction, rng)
    path = _path(height, width, direction, rng)
    cover = make_screen(landscape, radius, -direction, rng)
    light = rng.uniform(0, TURN, size=2)
    for number in range(frames):
        time = number / max(frames - 1, 1)
        picture = cv2.warpAffine(canvas, camera(time), (width, height), flags=cv2.INTER_LINEAR)
        pose = path(time)
        paint_shadow(picture, hero, pose)
        visible = paint_blob(picture, hero, pose)
        visible *= 1 - cover(picture, time, path)
        yield develop(picture, time, light, size, rng), shrink(visible, size) >= 0.5


def _blob(
    outline: tuple[float, dict[int, float]],
    colours: tuple[tuple[int, int, int], tuple[int, int, int]],
    pattern: str,
    radius: float,
    rng: np.random.Generator,
) -> Blob:
    elongation, heights = outline
    waves = [
        (number, height * rng.uniform(0.9, 1.1), rng.uniform(0, 0.3), 0.35, rng.uniform(0, TURN))
        for number, height in heights.items()
    ]
    waves.append((2, 0.03, rng.uniform(0, TURN), 0.8, rng.uniform(0, TURN)))
    side = max(int(4 * radius), 16)
    main, accent = (np.array(colour, np.float32) / 255 for colour in colours)
    mix = draw_pattern(pattern, side, rng)[..., None]
    grain = 0.90 + 0.20 * noise(side, side, 5, rng)[..., None]
    skin = np.clip((main + mix * (accent - main)) * grain, 0, 1)
    return Blob(radius, elongation, np.array(waves), skin.astype(np.float32))


def _choose_landscape(
    colours: tuple[tuple[int, int, int], tuple[int, int, int]], rng: np.random.Generator
) -> tuple[tuple[int, int, int], ...]:
    """Draws from the half of the landscapes on which both of the object's colours show best."""

    def contrast(landscape: tuple[tuple[int, int, int], ...]) -> float:
        return min(float(np.linalg.norm(np.subtract(landscape[0], colour))) for colour in colours)

    best = sorted(_LANDSCAPES, key=contrast)[len(_LANDSCAPES) // 2 :]
    return best[rng.integers(len(best))]


def _paint_decoys(
    canvas: np.ndarray,
    split: _Split,
    look: Look,
    radius: float,
    rng: np.random.Generator,
) -> None:
    """Scatters other blobs over the background; every second one has the object's main colour."""
    height, width = canvas.shape[:2]
    colours = [name for name in split.colours if name != look.colour]
    outlines = [name for name in split.outlines if name != look.outline]
    patterns = [name for name in split.patterns if name != look.pattern]
    for number in range(6):
        row, column = divmod(number, 3)
        main, accent = split.colours[rng.choice(colours)]
        if number % 2 == 0:
            main = tuple(
                np.clip(rng.uniform(0.85, 1.12, size=3) * split.colours[look.colour][0], 0, 255)
            )
        decoy = _blob(
            split.outlines[rng.choice(outlines)],
            (main, accent),
            rng.choice(patterns),
            radius * rng.uniform(0.8, 1.1),
            rng,
        )
        x = width * (column + rng.uniform(0.3, 0.7)) / 3
        y = height * (row + rng.uniform(0.3, 0.7)) / 2
        pose = Pose((x, y), rng.uniform(0, TURN))
        paint_shadow(canvas, decoy, pose)
        paint_blob(canvas, decoy, pose, blur=0.015 * radius)


def _camera(
    canvas: tuple[int, int], size: tuple[int, int], direction: float, rng: np.random.Generator
) -> Callable[[float], np.ndarray]:
    """Returns time -> 2x3 matrix from canvas to frame: a pan (`direction` 1: right) and a zoom."""
    (canvas_height, canvas_width), (height, width) = canvas, size
    pan = direction * rng.uniform(0.10, 0.20) * width
    tilt = rng.uniform(-0.05, 0.05) * height
    first_zoom, last_zoom = rng.uniform(0.94, 1.12, size=2)

    def matrix(time: float) -> np.ndarray:
        zoom = first_zoom + time * (last_zoom - first_zoom)
        x = width / 2 - zoom * canvas_width / 2 + (time - 0.5) * pan
        y = height / 2 - zoom * canvas_height / 2 + (time - 0.5) * tilt
        return np.array(((zoom, 0, x), (0, zoom, y)), np.float32)

    return matrix


def _path(
    height: int, width: int, direction: float, rng: np.random.Generator
) -> Callable[[float], Pose]:
    """Returns time -> the object's pose: across the frame in `direction`, bobbing and turning."""
    travel = direction * rng.uniform(0.22, 0.34) * width
    middle = width * rng.uniform(0.38, 0.62), height * rng.uniform(0.42, 0.58)
    bob, rise = height * rng.uniform(0.03, 0.08), height * rng.uniform(-0.12, 0.12)
    first_angle, turn = rng.uniform(-0.4, 0.4), rng.uniform(-0.7, 0.7)
    first_scale, last_scale = rng.uniform(0.85, 1.2, size=2)
    phase = rng.uniform(0, TURN)

    def pose(time: float) -> Pose:
        x = middle[0] + (time - 0.5) * travel
        y = middle[1] + (time - 0.5) * rise + bob * np.sin(TURN * time + phase)
        scale = first_scale + time * (last_scale - first_scale)
        return Pose((x, y), first_angle + turn * time, scale, time)

    return pose
