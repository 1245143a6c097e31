"""Masks for annotation tools to go on with: COCO JSON and CVAT XML."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np

from osvos_tf.formats.annotations import coco_counts, runs


class Area(NamedTuple):
    """One object in one frame, as both formats want it.

    Attributes:
        frame: name of the frame.
        object: id of the object.
        box: left, top, width, height.
        pixels: number of them.
        counts: COCO's run lengths, of the whole frame.
        runs: run lengths along the rows of the box, background first.
    """

    frame: str
    object: int
    box: tuple[int, int, int, int]
    pixels: int
    counts: str
    runs: tuple[int, ...]


def areas_of(frame: str, mask: np.ndarray) -> list[Area]:
    """Returns the objects of a label map, uint8 [height, width], in which 0 is the background."""
    areas = []
    for number in np.unique(mask[mask > 0]).tolist():
        inside = mask == number
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        top, left = int(rows[0]), int(columns[0])
        part = inside[top : rows[-1] + 1, left : columns[-1] + 1]
        box = left, top, part.shape[1], part.shape[0]
        lengths = tuple(runs(part.reshape(-1)))
        areas.append(Area(frame, number, box, int(inside.sum()), coco_counts(inside), lengths))
    return areas


def coco(
    frames: Sequence[str], size: tuple[int, int], areas: Sequence[Area], names: Mapping[int, str]
) -> str:
    """Returns COCO JSON; `file_name`s are the frames' names with .png.

    Args:
        frames: names of all frames, in order.
        size: (height, width) of the frames.
        areas: what was found in them.
        names: id -> name of the objects.
    """
    height, width = size
    ids = {name: number for number, name in enumerate(frames, start=1)}
    value: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": f"{name}.png", "height": height, "width": width}
            for name, number in ids.items()
        ],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "annotations": [
            {
                "id": number,
                "image_id": ids[area.frame],
                "category_id": area.object,
                "track_id": area.object,
                "bbox": list(area.box),
                "area": area.pixels,
                "iscrowd": 1,  # as COCO marks what is given in run lengths
                "segmentation": {"size": [height, width], "counts": area.counts},
            }
            for number, area in enumerate(areas, start=1)
        ],
    }
    return json.dumps(value)


def cvat(
    frames: Sequence[str], size: tuple[int, int], areas: Sequence[Area], names: Mapping[int, str]
) -> str:
    """Returns "CVAT for images 1.1" XML, see `coco`."""
    by_frame: dict[str, list[Area]] = {name: [] for name in frames}
    for area in areas:
        by_frame[area.frame].append(area)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    for number, (frame, found) in enumerate(by_frame.items()):
        name = quoteattr(f"{frame}.png")
        lines.append(f'  <image id="{number}" name={name} width="{size[1]}" height="{size[0]}">')
        for area in found:
            left, top, width, height = area.box
            lines.append(
                f'    <mask label={quoteattr(names[area.object])} source="auto" occluded="0" '
                f'rle="{", ".join(map(str, area.runs))}" left="{left}" top="{top}" '
                f'width="{width}" height="{height}" z_order="0"/>'
            )
        lines.append("  </image>")
    return "\n".join([*lines, "</annotations>", ""])
