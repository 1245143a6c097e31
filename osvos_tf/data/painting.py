"""How the painted world draws: outlines, skins, shadows, screens, noise and patterns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

SUPERSAMPLING = 2  # painted this much larger, then averaged, which smooths all edges
TURN = 2 * np.pi
CANVAS = 1.4  # the background is this many frames high and wide, so that it can pan


class Look(NamedTuple):
    """An object's appearance: three names from its split."""

    colour: str
    outline: str
    pattern: str


@dataclass(frozen=True)
class Blob:
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
class Pose:
    """Where a blob is: centre (x, y) in canvas pixels, angle in radians, time in 0..1."""

    centre: tuple[float, float]
    angle: float = 0.0
    scale: float = 1.0
    time: float = 0.0


def paint_landscape(
    colours: tuple[tuple[int, int, int], ...], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Returns the background, larger than a frame, float32 RGB [height, width, 3] in 0..1."""
    height, width = (int(side * CANVAS) for side in size)
    base, light, dark = (np.array(colour, np.float32) / 255 for colour in colours)
    hills = noise(height, width, 4, rng)[..., None]
    grass = noise(height, width, 7, rng, persistence=0.85)[..., None]
    canvas = base + hills * (light - base) + np.square(1 - hills) * (dark - base)
    canvas *= 0.84 + 0.32 * grass
    if rng.random() < 0.5:  # furrows, ripples
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(10, 18) / height
        y, x = np.mgrid[:height, :width].astype(np.float32)
        along = np.cos(angle) * x + np.sin(angle) * y
        wave = np.sin(TURN * frequency * along + 5 * hills[..., 0])
        canvas *= 1 + 0.05 * wave[..., None]
    return canvas.astype(np.float32)


def make_screen(
    landscape: tuple[tuple[int, int, int], ...],
    radius: float,
    direction: float,
    rng: np.random.Generator,
) -> Callable[[np.ndarray, float, Callable[[float], Pose]], np.ndarray]:
    """Returns a painter (picture, time, path) -> alpha of what passes before the object.

    It meets the object half-way and comes from the side (`direction` 1: from the left), so that
    the first frame is free. A third of the sequences has none.
    """
    kind = rng.choice(("none", "stalks", "grass"))
    meeting = rng.uniform(0.4, 0.75)
    colour = np.array(landscape[2], np.float32) / 255 * rng.uniform(0.45, 0.7)
    leans = np.linspace(-1, 1, 3) + rng.uniform(-0.2, 0.2, size=3)
    speed = direction * 3.0 * radius / meeting

    def paint(picture: np.ndarray, time: float, path: Callable[[float], Pose]) -> np.ndarray:
        height, width = picture.shape[:2]
        alpha = np.zeros((height, width), np.uint8)
        x, y = path(meeting).centre
        x += speed * (time - meeting)
        for lean in leans:
            if kind == "stalks":
                foot = x + 1.6 * lean * radius
                _fill(alpha, blade(foot, height, 2 * height, 0.1 * lean, 0.18 * radius))
            elif kind == "grass":
                tall = height - y + (0.5 - 0.5 * abs(lean)) * radius
                foot = x + 0.3 * lean * radius
                _fill(alpha, blade(foot, height, tall, 0.5 * lean, 0.24 * radius))
        return blend(picture, colour, cv2.GaussianBlur(alpha, (0, 0), SUPERSAMPLING * 0.6))

    return paint


def develop(
    picture: np.ndarray,
    time: float,
    light: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Applies the drifting light and the sensor's noise; returns uint8 RGB of `size`."""
    frame = shrink(picture, size)
    brightness = 1 + 0.06 * np.sin(TURN * 0.5 * time + light[0])
    warmth = 0.02 * np.sin(TURN * 0.4 * time + light[1])
    frame *= (brightness * np.array((1 + warmth, 1, 1 - warmth))).astype(np.float32)
    frame += rng.standard_normal(frame.shape, dtype=np.float32) * 0.008
    return np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8)


# --- brushes --------------------------------------------------------------------------------------


def paint_blob(picture: np.ndarray, blob: Blob, pose: Pose, blur: float = 0.0) -> np.ndarray:
    """Paints a blob into `picture`, float32 [height, width, 3]; returns its alpha in 0..1."""
    alpha = np.zeros(picture.shape[:2], np.float32)
    points = outline(blob, pose)
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
    alpha[window] = blend(picture[window], skin, shape)
    return alpha


def paint_shadow(picture: np.ndarray, blob: Blob, pose: Pose) -> None:
    """Darkens the ground beside a blob, in place."""
    reach = blob.radius * pose.scale
    points = outline(blob, pose) + np.array((0.06, 0.16)) * reach
    window, corner = _window(points, 0.3 * reach, picture.shape)
    if picture[window].size == 0:
        return
    shape = np.zeros(picture[window].shape[:2], np.uint8)
    _fill(shape, points - corner)
    blend(picture[window], picture[window] * 0.55, cv2.GaussianBlur(shape, (0, 0), 0.1 * reach))


def _window(
    points: np.ndarray, margin: float, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Returns the slices of a picture of `shape` around points (x, y), and their corner (x, y)."""
    limits = np.array(shape[1::-1])
    low = np.clip(np.floor(points.min(axis=0) - margin).astype(int), 0, limits)
    high = np.clip(np.ceil(points.max(axis=0) + margin).astype(int), 0, limits)
    return (slice(low[1], high[1]), slice(low[0], high[0])), low


def blade(foot: float, ground: float, tall: float, lean: float, half: float) -> np.ndarray:
    """Returns the outline (x, y) [points, 2] of a blade that grows from (foot, ground) to a tip.

    All in pixels but `lean`, which is how far the tip bends sideways, relative to its height.
    """
    up = np.linspace(0, 1, 24)
    spine = foot + lean * tall * (0.3 * up + 0.7 * np.square(up))
    thick = half * (1 - up) ** 0.6 * (0.8 + 0.6 * up)
    x = np.concatenate((spine - thick, (spine + thick)[::-1]))
    y = ground - tall * np.concatenate((up, up[::-1]))
    return np.stack((x, y), axis=-1)


def outline(blob: Blob, pose: Pose) -> np.ndarray:
    """Returns the outline's points (x, y), float [points, 2]."""
    angle = np.linspace(0, TURN, 120, endpoint=False)
    reach = np.ones_like(angle)
    for number, height, phase, wobble, start in blob.waves:
        swing = 1 + wobble * np.sin(TURN * pose.time + start)
        reach += height * swing * np.cos(number * angle + phase)
    reach *= blob.radius * pose.scale / np.sqrt(np.mean(np.square(reach)))
    stretch = np.sqrt(blob.elongation)
    x, y = stretch * reach * np.cos(angle), reach * np.sin(angle) / stretch
    cosine, sine = np.cos(pose.angle), np.sin(pose.angle)
    return np.stack((cosine * x - sine * y, sine * x + cosine * y), axis=-1) + pose.centre


def _skin_to_picture(blob: Blob, pose: Pose) -> np.ndarray:
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


def blend(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lays `colour` over `picture`, in place, by uint8 alpha; returns alpha as float32 0..1."""
    alpha = alpha.astype(np.float32) / 255
    picture += alpha[..., None] * (colour - picture)
    return alpha


def shrink(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Averages `picture` down to (height, width) = `size`."""
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def noise(
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


def draw_pattern(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
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
        "marble": lambda: np.sin(0.6 * frequency * y + 12 * noise(side, side, 4, rng)),
        "patches": lambda: 8 * (noise(side, side, 5, rng) - 0.55),
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
