"""Masks as annotation tools write them: labelme, COCO and Label Studio JSON, CVAT XML.

Each reader returns the pictures that a file annotates; what is an object's id in a picture is the
place of its name among the names of the file, from 1.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

SUFFIXES = (".json", ".xml")
TOOLS = "labelme, COCO or Label Studio (JSON) or CVAT (XML)"

_MOST_BYTES = 2**29
_MOST_PIXELS = 2**26
_SUB_PIXELS = 4  # bits behind the point of a polygon's corners


@dataclasses.dataclass(frozen=True)
class Shape:
    """One object's area in a picture: polygons, each float [corners, 2] (x, y), or a mask.

    A mask is bool [height, width] with its upper left corner at (`top`, `left`).
    """

    name: str
    polygons: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    top: int = 0
    left: int = 0


@dataclasses.dataclass(frozen=True)
class Picture:
    """An annotated picture: its file's name or its number, its (height, width), what is in it."""

    name: str
    size: tuple[int, int]
    shapes: tuple[Shape, ...]


def read(path: str | os.PathLike[str]) -> tuple[Picture, ...]:
    """Reads an annotation file.

    Raises:
        ValueError: it is none of these formats, damaged, or holds no area of an object.
        OSError: it cannot be read.
    """
    path = pathlib.Path(path)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MB")
    try:
        content = path.read_bytes()
        found = _xml(content) if path.suffix.lower() == ".xml" else _json(content)
    except (KeyError, TypeError, IndexError, OverflowError, AttributeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error
    pictures = tuple(picture for picture in found if picture.shapes)
    if not pictures:
        raise ValueError("it holds no polygon and no mask")
    for picture in pictures:
        height, width = picture.size
        if not 0 < height * width <= _MOST_PIXELS or min(picture.size) < 1:
            raise ValueError(f"it says that a picture is {width}x{height} pixels large")
    return pictures


def label_map(picture: Picture, names: Sequence[str]) -> np.ndarray:
    """Draws a picture's objects.

    Args:
        picture: one of `read`.
        names: of all objects; their places, from 1, are the ids.

    Returns:
        uint8 [height, width], 0 where no object is. What comes later in the file lies on top.
    """
    labels = np.zeros(picture.size, np.uint8)
    for shape in picture.shapes:
        number = min(254, names.index(shape.name) + 1)
        if shape.mask is None:
            corners = [
                np.rint(polygon * 2**_SUB_PIXELS).astype(np.int32) for polygon in shape.polygons
            ]
            cv2.fillPoly(labels, corners, number, shift=_SUB_PIXELS)
        else:
            height, width = shape.mask.shape
            area = labels[shape.top : shape.top + height, shape.left : shape.left + width]
            area[shape.mask[: area.shape[0], : area.shape[1]]] = number
    return labels


def names_of(pictures: Sequence[Picture]) -> list[str]:
    """Returns the names of all objects, in the order in which they come."""
    return list(dict.fromkeys(shape.name for picture in pictures for shape in picture.shapes))


# --- JSON -----------------------------------------------------------------------------------------


def _json(content: bytes) -> list[Picture]:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if isinstance(value, dict) and "shapes" in value:
        return [_labelme(value)]
    if isinstance(value, dict) and "annotations" in value and "images" in value:
        return list(_coco(value))
    tasks = value if isinstance(value, list) else [value]
    if tasks and all(isinstance(task, dict) for task in tasks):
        results = [(task, list(_label_studio_results(task))) for task in tasks]
        if any(found for _, found in results):
            return [_label_studio(task, found) for task, found in results if found]
    raise ValueError(f"it is not a file of {TOOLS}")


def _labelme(value: Mapping[str, Any]) -> Picture:
    shapes = []
    for shape in value["shapes"]:
        group = shape.get("group_id")
        name = str(shape["label"]) + ("" if group is None else f" {group}")
        if shape.get("shape_type") in ("polygon", None, ""):
            shapes.append(Shape(name, (_corners(shape["points"]),)))
    size = int(value["imageHeight"]), int(value["imageWidth"])
    return Picture(str(value.get("imagePath") or ""), size, tuple(shapes))


def _coco(value: Mapping[str, Any]) -> Iterator[Picture]:
    categories = {entry["id"]: str(entry["name"]) for entry in value.get("categories", ())}
    by_image: dict[Any, list[Shape]] = {}
    for number, entry in enumerate(value["annotations"], start=1):
        # Videos say which object it is; pictures do not, so each annotation is one.
        which = entry.get("track_id", entry.get("instance_id", number))
        name = f"{categories.get(entry.get('category_id'), 'object')} {which}"
        area = entry.get("segmentation")
        if isinstance(area, list) and area:
            polygons = tuple(_corners(np.reshape(points, (-1, 2))) for points in area)
            shape = Shape(name, polygons)
        elif isinstance(area, dict):
            shape = Shape(name, mask=coco_mask(area["counts"], area["size"]))
        else:
            continue
        by_image.setdefault(entry["image_id"], []).append(shape)
    for image in value["images"]:
        size = int(image["height"]), int(image["width"])
        shapes = tuple(by_image.get(image["id"], ()))
        yield Picture(str(image.get("file_name", image["id"])), size, shapes)


def coco_mask(counts: str | Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Decodes COCO's run lengths: bool [height, width] of runs down the columns, 0 first.

    Args:
        counts: the lengths, or as text: each as groups of five bits, low first, in characters from
            "0" on, bit 6 set where more follow; from the third on the difference to two before.
        size: (height, width).
    """
    height, width = (int(side) for side in size)
    lengths = _unpack(counts) if isinstance(counts, str) else [int(count) for count in counts]
    return _from_runs(lengths, width, height).T


def coco_counts(mask: np.ndarray) -> str:
    """Encodes a mask, bool [height, width], as `coco_mask` decodes it."""
    lengths = runs(np.asarray(mask, bool).T.reshape(-1))
    text = []
    for place, length in enumerate(lengths):
        value = length - (lengths[place - 2] if place > 2 else 0)
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text.append(chr(48 + group + 32 * more))
    return "".join(text)


def runs(flat: np.ndarray) -> list[int]:
    """Returns the run lengths of a bool array [pixels], False first, be it of length 0."""
    ends = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff(np.concatenate(([0], ends, [flat.size]))).tolist()


def _from_runs(lengths: Sequence[int], rows: int, columns: int) -> np.ndarray:
    """Returns bool [rows, columns] of run lengths along the rows, False first."""
    if not 0 < rows * columns <= _MOST_PIXELS:
        raise ValueError(f"it says that a mask has {rows * columns} pixels")
    if min(lengths, default=0) < 0 or sum(lengths) != rows * columns:
        raise ValueError(f"its runs cover {sum(lengths)} pixels of {rows * columns}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(rows, columns)


def _unpack(text: str) -> list[int]:
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"its run lengths hold the character {character!r}")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def _label_studio_results(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for annotation in task.get("annotations") or task.get("completions") or [task]:
        for result in annotation.get("result") or ():
            if result.get("type") in ("brushlabels", "polygonlabels", "brush", "polygon"):
                yield result


def _label_studio(task: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Picture:
    size = int(results[0]["original_height"]), int(results[0]["original_width"])
    shapes = []
    for result in results:
        value = result["value"]
        names = value.get("brushlabels") or value.get("polygonlabels") or ["object"]
        if "rle" in value:
            shapes.append(Shape(str(names[0]), mask=_label_studio_mask(value["rle"], size)))
        elif "points" in value:  # in percent
            corners = _corners(value["points"]) * [size[1] / 100, size[0] / 100]
            shapes.append(Shape(str(names[0]), (corners,)))
    data = task.get("data")
    source = next(iter(data.values()), "") if isinstance(data, dict) else ""
    return Picture(str(task.get("file_upload") or source), size, tuple(shapes))


def _label_studio_mask(packed: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Decodes a brush stroke: bit-packed runs of RGBA values, of which alpha counts.

    32 bits say how many values there are, 5 of how many bits less one, four times 4 the lengths of
    counts less one. Then blocks: a bit that says whether one value is repeated, two that pick the
    length of a count, the count less one, and the value or the values.
    """
    bits = np.unpackbits(np.asarray(packed, np.uint8))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > bits.size:
            raise ValueError("its brush stroke ends early")
        value = 0
        for bit in bits[place - count : place].tolist():
            value = 2 * value + bit
        return value

    total, width = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1] or total > 4 * _MOST_PIXELS or width > 8:
        raise ValueError(f"its brush stroke has {total} values for {size[1]}x{size[0]} pixels")
    values = np.zeros(total, np.uint8)
    weights = 1 << np.arange(width - 1, -1, -1)
    done = 0
    while done < total:
        repeated = take(1)
        count = min(take(lengths[take(2)]) + 1, total - done)
        if repeated:
            values[done : done + count] = take(width)
        else:
            if place + count * width > bits.size:
                raise ValueError("its brush stroke ends early")
            block = bits[place : place + count * width].reshape(count, width)
            values[done : done + count] = block @ weights
            place += count * width
        done += count
    return values.reshape(*size, 4)[..., 3] > 127


# --- XML ------------------------------------------------------------------------------------------


def _xml(content: bytes) -> list[Picture]:
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("it declares entities, which CVAT never does")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from error
    if root.tag != "annotations":
        raise ValueError(f"it is not a file of {TOOLS}: its root is <{root.tag}>")
    return [*_cvat_images(root), *_cvat_tracks(root)]


def _cvat_images(root: ElementTree.Element) -> Iterator[Picture]:
    for image in root.iter("image"):
        size = int(image.attrib["height"]), int(image.attrib["width"])
        drawn = [child for child in image if child.tag in _CVAT_SHAPES]
        drawn.sort(key=lambda child: int(child.get("z_order", 0)))
        shapes = tuple(_CVAT_SHAPES[child.tag](child, child.attrib["label"]) for child in drawn)
        yield Picture(image.get("name", ""), size, shapes)


def _cvat_tracks(root: ElementTree.Element) -> Iterator[Picture]:
    tracks = list(root.iter("track"))
    if not tracks:
        return
    sizes = [element for element in root.iter("original_size")]
    if not sizes:
        raise ValueError("it does not say how large its frames are")
    size = int(sizes[0].findtext("height", "0")), int(sizes[0].findtext("width", "0"))
    by_frame: dict[int, list[Shape]] = {}
    for track in tracks:
        name = f"{track.attrib['label']} {track.attrib['id']}"
        for child in track:
            if child.tag in _CVAT_SHAPES and child.get("outside", "0") == "0":
                shape = _CVAT_SHAPES[child.tag](child, name)
                by_frame.setdefault(int(child.attrib["frame"]), []).append(shape)
    for frame, shapes in sorted(by_frame.items()):
        yield Picture(str(frame), size, tuple(shapes))


def _cvat_polygon(element: ElementTree.Element, name: str) -> Shape:
    points = [point.split(",") for point in element.attrib["points"].split(";")]
    return Shape(name, (_corners(points),))


def _cvat_mask(element: ElementTree.Element, name: str) -> Shape:
    height, width = int(element.attrib["height"]), int(element.attrib["width"])
    lengths = [int(length) for length in element.attrib["rle"].replace(",", " ").split()]
    values = _from_runs(lengths, height, width)
    top, left = int(element.attrib["top"]), int(element.attrib["left"])
    if min(top, left) < 0:
        raise ValueError("a mask begins outside of its picture")
    return Shape(name, mask=values, top=top, left=left)


_CVAT_SHAPES: dict[str, Callable[[ElementTree.Element, str], Shape]] = {
    "polygon": _cvat_polygon,
    "mask": _cvat_mask,
}


def _corners(points: Any) -> np.ndarray:
    """Returns a polygon's corners, float64 [corners, 2]; ValueError if they are none."""
    corners = np.asarray(points, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise ValueError("a polygon's corners are no pairs of numbers")
    if np.abs(corners).max(initial=0) > 2**20:
        raise ValueError("a polygon's corner lies far outside of its picture")
    return corners
