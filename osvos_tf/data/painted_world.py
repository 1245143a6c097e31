"""Paints an invented DAVIS: small videos of patterned creatures, with exact masks.

The demo and the tests need sequences of which everything is known, without a download. Each one
shows an object that drifts, turns, grows and wobbles before a panning, zooming background:

  * The object lies before all others and stays within the frame. That much a parent network can
    learn from other sequences.
  * Decoys lie on the background and move with it: blobs about as large, in the object's own colour
    or another, never with its pattern or outline. Which of all these blobs is meant, only the
    annotated frame tells.
  * Stalks or a tuft of grass in the foreground hide parts of the object for a while; hidden pixels
    are not in the mask.

The shapes, patterns and colours of `val` never occur in `train`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path, ensure_writable

RESOLUTION = "480p"  # the folder's name in DAVIS, whatever the true size

_SUPERSAMPLING = 2  # painted this much larger, then averaged, which smooths all edges
_CANVAS = 1.4  # the background is this many frames high and wide, so that it can pan
_TURN = 2 * np.pi


@dataclass(frozen=True)
class _Split:
    """What the objects of one split are made of; the two splits have nothing in common.

    colours: name -> (main, accent), RGB 0..255.
    outlines: name -> (elongation, {waves around the outline: height relative to the radius}).
    patterns: names of `_pattern`.
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


class _Look(NamedTuple):
    """An object's appearance: three names from its split."""

    colour: str
    outline: str
    pattern: str


@dataclass(frozen=True)
class _Blob:
    """A patterned, wobbling creature.

    radius: of the circle of equal area, in canvas pixels.
    waves: rows of (number around the outline, height, phase, wobble, wobble phase).
    skin: float32 RGB [side, side, 3] in 0..1, which spans two diameters.
    """

    radius: float
    elongation: float
    waves: np.ndarray
    skin: np.ndarray


@dataclass(frozen=True)
class _Pose:
    """Where a blob is: centre (x, y) in canvas pixels, angle in radians, time in 0..1."""

    centre: tuple[float, float]
    angle: float = 0.0
    scale: float = 1.0
    time: float = 0.0


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

    The lists come last: a tree that has them is whole. In every first frame most of the object can
    be seen; in later ones it may hide.

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


def _cast(split: _Split, count: int, rng: np.random.Generator) -> list[_Look]:
    """Returns `count` looks; no two share both colour and outline."""
    colours = rng.permutation(list(split.colours)).tolist()
    outlines = rng.permutation(list(split.outlines)).tolist()
    patterns = rng.permutation(split.patterns).tolist()
    return [
        _Look(
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
    look: _Look,
    frames: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (frame, mask): uint8 RGB [height, width, 3] and bool [height, width]."""
    height, width = (side * _SUPERSAMPLING for side in size)
    radius = rng.uniform(0.23, 0.28) * min(height, 0.65 * width)
    hero = _blob(
        split.outlines[look.outline], split.colours[look.colour], look.pattern, radius, rng
    )
    landscape = _choose_landscape(split.colours[look.colour], rng)
    canvas = _paint_landscape(landscape, (height, width), rng)
    _paint_decoys(canvas, split, look, radius, rng)
    direction = rng.choice((-1.0, 1.0))
    camera = _camera(canvas.shape[:2], (height, width), -direction, rng)
    path = _path(height, width, direction, rng)
    screen = _screen(landscape, radius, -direction, rng)
    light = rng.uniform(0, _TURN, size=2)
    for number in range(frames):
        time = number / max(frames - 1, 1)
        picture = cv2.warpAffine(canvas, camera(time), (width, height), flags=cv2.INTER_LINEAR)
        pose = path(time)
        _paint_shadow(picture, hero, pose)
        visible = _paint_blob(picture, hero, pose)
        visible *= 1 - screen(picture, time, path)
        yield _develop(picture, time, light, size, rng), _shrink(visible, size) >= 0.5


def _blob(
    outline: tuple[float, dict[int, float]],
    colours: tuple[tuple[int, int, int], tuple[int, int, int]],
    pattern: str,
    radius: float,
    rng: np.random.Generator,
) -> _Blob:
    elongation, heights = outline
    waves = [
        (number, height * rng.uniform(0.9, 1.1), rng.uniform(0, 0.3), 0.35, rng.uniform(0, _TURN))
        for number, height in heights.items()
    ]
    waves.append((2, 0.03, rng.uniform(0, _TURN), 0.8, rng.uniform(0, _TURN)))
    side = max(int(4 * radius), 16)
    main, accent = (np.array(colour, np.float32) / 255 for colour in colours)
    mix = _pattern(pattern, side, rng)[..., None]
    grain = 0.90 + 0.20 * _noise(side, side, 5, rng)[..., None]
    skin = np.clip((main + mix * (accent - main)) * grain, 0, 1)
    return _Blob(radius, elongation, np.array(waves), skin.astype(np.float32))


def _choose_landscape(
    colours: tuple[tuple[int, int, int], tuple[int, int, int]], rng: np.random.Generator
) -> tuple[tuple[int, int, int], ...]:
    """Draws from the half of the landscapes on which both of the object's colours show best."""

    def contrast(landscape: tuple[tuple[int, int, int], ...]) -> float:
        return min(float(np.linalg.norm(np.subtract(landscape[0], colour))) for colour in colours)

    best = sorted(_LANDSCAPES, key=contrast)[len(_LANDSCAPES) // 2 :]
    return best[rng.integers(len(best))]


def _paint_landscape(
    colours: tuple[tuple[int, int, int], ...], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Returns the background, larger than a frame, float32 RGB [height, width, 3] in 0..1."""
    height, width = (int(side * _CANVAS) for side in size)
    base, light, dark = (np.array(colour, np.float32) / 255 for colour in colours)
    hills = _noise(height, width, 4, rng)[..., None]
    grass = _noise(height, width, 7, rng, persistence=0.85)[..., None]
    canvas = base + hills * (light - base) + np.square(1 - hills) * (dark - base)
    canvas *= 0.84 + 0.32 * grass
    if rng.random() < 0.5:  # furrows, ripples
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(10, 18) / height
        y, x = np.mgrid[:height, :width].astype(np.float32)
        along = np.cos(angle) * x + np.sin(angle) * y
        wave = np.sin(_TURN * frequency * along + 5 * hills[..., 0])
        canvas *= 1 + 0.05 * wave[..., None]
    return canvas.astype(np.float32)


def _paint_decoys(
    canvas: np.ndarray,
    split: _Split,
    look: _Look,
    radius: float,
    rng: np.random.Generator,
) -> None:
    """Strews other blobs over the background; every second one has the object's main colour."""
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
        pose = _Pose((x, y), rng.uniform(0, _TURN))
        _paint_shadow(canvas, decoy, pose)
        _paint_blob(canvas, decoy, pose, blur=0.015 * radius)


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
) -> Callable[[float], _Pose]:
    """Returns time -> the object's pose: across the frame in `direction`, bobbing and turning."""
    travel = direction * rng.uniform(0.22, 0.34) * width
    middle = width * rng.uniform(0.38, 0.62), height * rng.uniform(0.42, 0.58)
    bob, rise = height * rng.uniform(0.03, 0.08), height * rng.uniform(-0.12, 0.12)
    first_angle, turn = rng.uniform(-0.4, 0.4), rng.uniform(-0.7, 0.7)
    first_scale, last_scale = rng.uniform(0.85, 1.2, size=2)
    phase = rng.uniform(0, _TURN)

    def pose(time: float) -> _Pose:
        x = middle[0] + (time - 0.5) * travel
        y = middle[1] + (time - 0.5) * rise + bob * np.sin(_TURN * time + phase)
        scale = first_scale + time * (last_scale - first_scale)
        return _Pose((x, y), first_angle + turn * time, scale, time)

    return pose


def _screen(
    landscape: tuple[tuple[int, int, int], ...],
    radius: float,
    direction: float,
    rng: np.random.Generator,
) -> Callable[[np.ndarray, float, Callable[[float], _Pose]], np.ndarray]:
    """Returns a painter (picture, time, path) -> alpha of what passes before the object.

    It meets the object half-way and comes from the side (`direction` 1: from the left), so that
    the first frame is free. A third of the sequences has none.
    """
    kind = rng.choice(("none", "stalks", "grass"))
    meeting = rng.uniform(0.4, 0.75)
    colour = np.array(landscape[2], np.float32) / 255 * rng.uniform(0.45, 0.7)
    leans = np.linspace(-1, 1, 3) + rng.uniform(-0.2, 0.2, size=3)
    speed = direction * 3.0 * radius / meeting

    def paint(picture: np.ndarray, time: float, path: Callable[[float], _Pose]) -> np.ndarray:
        height, width = picture.shape[:2]
        alpha = np.zeros((height, width), np.uint8)
        x, y = path(meeting).centre
        x += speed * (time - meeting)
        for lean in leans:
            if kind == "stalks":
                foot = x + 1.6 * lean * radius
                _fill(alpha, _blade(foot, height, 2 * height, 0.1 * lean, 0.18 * radius))
            elif kind == "grass":
                tall = height - y + (0.5 - 0.5 * abs(lean)) * radius
                foot = x + 0.3 * lean * radius
                _fill(alpha, _blade(foot, height, tall, 0.5 * lean, 0.24 * radius))
        return _blend(picture, colour, cv2.GaussianBlur(alpha, (0, 0), _SUPERSAMPLING * 0.6))

    return paint


def _develop(
    picture: np.ndarray,
    time: float,
    light: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Applies the drifting light and the sensor's noise; returns uint8 RGB of `size`."""
    frame = _shrink(picture, size)
    brightness = 1 + 0.06 * np.sin(_TURN * 0.5 * time + light[0])
    warmth = 0.02 * np.sin(_TURN * 0.4 * time + light[1])
    frame *= (brightness * np.array((1 + warmth, 1, 1 - warmth))).astype(np.float32)
    frame += rng.standard_normal(frame.shape, dtype=np.float32) * 0.008
    return np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8)


# --- brushes --------------------------------------------------------------------------------------


def _paint_blob(picture: np.ndarray, blob: _Blob, pose: _Pose, blur: float = 0.0) -> np.ndarray:
    """Paints a blob into `picture`, float32 [height, width, 3]; returns its alpha in 0..1."""
    alpha = np.zeros(picture.shape[:2], np.float32)
    points = _outline(blob, pose)
    window, corner = _window(points, 3 * blur + 2, picture.shape)
    if alpha[window].size == 0:  # outside of the picture
        return alpha
    height, width = alpha[window].shape
    shape: np.ndarray = np.zeros((height, width), np.uint8)
    _fill(shape, points - corner)
    depth = cv2.distanceTransform(shape, cv2.DIST_L2, 3) / (0.4 * blob.radius * pose.scale)
    placement = _skin_to_picture(blob, pose)
    placement[:, 2] -= corner
    skin = cv2.warpAffine(blob.skin, placement, (width, height), borderMode=cv2.BORDER_REFLECT)
    skin = skin * (0.70 + 0.30 * np.sqrt(np.minimum(depth, 1)))[..., None]
    if blur > 0:
        shape, skin = (cv2.GaussianBlur(plane, (0, 0), blur) for plane in (shape, skin))
    alpha[window] = _blend(picture[window], skin, shape)
    return alpha


def _paint_shadow(picture: np.ndarray, blob: _Blob, pose: _Pose) -> None:
    reach = blob.radius * pose.scale
    points = _outline(blob, pose) + np.array((0.06, 0.16)) * reach
    window, corner = _window(points, 0.3 * reach, picture.shape)
    if picture[window].size == 0:
        return
    shape = np.zeros(picture[window].shape[:2], np.uint8)
    _fill(shape, points - corner)
    _blend(picture[window], picture[window] * 0.55, cv2.GaussianBlur(shape, (0, 0), 0.1 * reach))


def _window(
    points: np.ndarray, margin: float, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Returns the slices of a picture of `shape` around points (x, y), and their corner (x, y)."""
    limits = np.array(shape[1::-1])
    low = np.clip(np.floor(points.min(axis=0) - margin).astype(int), 0, limits)
    high = np.clip(np.ceil(points.max(axis=0) + margin).astype(int), 0, limits)
    return (slice(low[1], high[1]), slice(low[0], high[0])), low


def _blade(foot: float, ground: float, tall: float, lean: float, half: float) -> np.ndarray:
    """Returns the outline (x, y) [points, 2] of a blade that grows from (foot, ground) to a tip.

    All in pixels but `lean`, which is how far the tip bends sideways, relative to its height.
    """
    up = np.linspace(0, 1, 24)
    spine = foot + lean * tall * (0.3 * up + 0.7 * np.square(up))
    thick = half * (1 - up) ** 0.6 * (0.8 + 0.6 * up)
    x = np.concatenate((spine - thick, (spine + thick)[::-1]))
    y = ground - tall * np.concatenate((up, up[::-1]))
    return np.stack((x, y), axis=-1)


def _outline(blob: _Blob, pose: _Pose) -> np.ndarray:
    """Returns the outline's points (x, y), float [points, 2]."""
    angle = np.linspace(0, _TURN, 120, endpoint=False)
    reach = np.ones_like(angle)
    for number, height, phase, wobble, start in blob.waves:
        swing = 1 + wobble * np.sin(_TURN * pose.time + start)
        reach += height * swing * np.cos(number * angle + phase)
    reach *= blob.radius * pose.scale / np.sqrt(np.mean(np.square(reach)))
    stretch = np.sqrt(blob.elongation)
    x, y = stretch * reach * np.cos(angle), reach * np.sin(angle) / stretch
    cosine, sine = np.cos(pose.angle), np.sin(pose.angle)
    return np.stack((cosine * x - sine * y, sine * x + cosine * y), axis=-1) + pose.centre


def _skin_to_picture(blob: _Blob, pose: _Pose) -> np.ndarray:
    """Returns the 2x3 matrix that lays the skin's centre on the pose's."""
    half = blob.skin.shape[0] / 2
    scale = 2 * blob.radius * pose.scale / half
    cosine, sine = scale * np.cos(pose.angle), scale * np.sin(pose.angle)
    rotation = np.array(((cosine, -sine), (sine, cosine)))
    return np.column_stack((rotation, np.array(pose.centre) - rotation @ (half, half)))


def _fill(alpha: np.ndarray, points: np.ndarray) -> None:
    """Fills the polygon of points (x, y) in `alpha`, uint8 [height, width], with 255."""
    bits = 4  # of the fraction of a pixel
    cv2.fillPoly(alpha, [np.rint(points * 2**bits).astype(np.int32)], 255, shift=bits)


def _blend(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lays `colour` over `picture`, in place, by uint8 alpha; returns alpha as float32 0..1."""
    alpha = alpha.astype(np.float32) / 255
    picture += alpha[..., None] * (colour - picture)
    return alpha


def _shrink(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Averages `picture` down to (height, width) = `size`."""
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def _noise(
    height: int, width: int, octaves: int, rng: np.random.Generator, persistence: float = 0.6
) -> np.ndarray:
    """Returns cloudy noise, float32 [height, width], stretched to 0..1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 2 ** (octave + 1) + 1
        coarse = rng.random((cells, cells), dtype=np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        total += persistence**octave * fine
    return (total - total.min()) / (np.ptp(total) + 1e-6)


def _pattern(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Returns how much accent each skin pixel has, float32 [side, side] in 0..1, soft-edged.

    The skin spans -2..2 radii both ways.
    """
    y, x = np.meshgrid(*[np.linspace(-2, 2, side, dtype=np.float32)] * 2, indexing="ij")
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    frequency = rng.uniform(7.5, 10.5)
    waves = {
        "stripes": lambda: np.sin(frequency * x),
        "spots": lambda: 1.2 * np.cos(frequency * x) * np.cos(frequency * y) - 0.25,
        "checks": lambda: 2 * np.sin(0.8 * frequency * x) * np.sin(0.8 * frequency * y),
        "marble": lambda: np.sin(0.6 * frequency * y + 12 * _noise(side, side, 4, rng)),
        "patches": lambda: 8 * (_noise(side, side, 5, rng) - 0.55),
        "rings": lambda: np.sin(1.2 * frequency * radius),
        "zigzag": lambda: np.sin(frequency * (y + 0.35 * np.abs((1.6 * x) % 2 - 1))),
        "cells": lambda: 9 * _cell_gap(x, y, rng) - 1.2,
        "rays": lambda: np.sin(11 * angle + 2.5 * radius),
    }
    return 1 / (1 + np.exp(-6 * waves[name]()))


def _cell_gap(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns how much farther the second nearest of scattered points is: 0 on cell borders."""
    grid = np.stack(np.meshgrid(*[np.arange(-2, 2.1, 0.5)] * 2), -1).reshape(-1, 2)
    points = (grid + rng.uniform(-0.2, 0.2, grid.shape)).astype(np.float32)
    nearest = np.full(x.shape, np.inf, np.float32)
    second = nearest.copy()
    for point_x, point_y in points:
        distance = np.hypot(x - point_x, y - point_y)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    return second - nearest
