"""`report.html`: one page with its style and pictures inside, which loads nothing.

The words, the style and the drawing are in `report.html.jinja`; here is what they are filled with.
Every name is escaped: methods and sequences are called what users call them.
"""

import base64
import dataclasses
import datetime
import io
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import jinja2
import numpy as np
from PIL import Image

from osvos_tf.evaluation import report
from osvos_tf.media import visualize

PUBLISHED = {
    "OSVOS": (0.798, 0.936, 0.149, 0.806, 0.926, 0.150, 0.378),
    "OSVOS-S": (0.856, 0.968, 0.055, 0.875, 0.959, 0.082, 0.217),
    "OnAVOS": (0.861, 0.961, 0.052, 0.849, 0.897, 0.058, 0.190),
}
"""What the DAVIS site lists for DAVIS-2016 val, in the order of `report.MEASURES`."""

VAL_2016 = (
    "blackswan", "bmx-trees", "breakdance", "camel", "car-roundabout", "car-shadow", "cows",
    "dance-twirl", "dog", "drift-chicane", "drift-straight", "goat", "horsejump-high", "kite-surf",
    "libby", "motocross-jump", "paragliding-launch", "parkour", "scooter-black", "soapbox",
)  # fmt: skip
"""The sequences that the published means are over."""

HIGHER_IS_BETTER = (True, True, False, True, True, False, False)  # by measure

_PICTURE_SIZE = (640, 480)  # width and height that a picture in the page fits into
_JPEG_QUALITY = 80
_COLOURS, _DASHES = 6, 4  # how many of each the style sheet has for the methods' lines
# The plot of J over time, in units of its viewBox.
_LEFT, _RIGHT, _TOP, _BOTTOM = 26, 352, 8, 118


@dataclasses.dataclass(frozen=True)
class Example:
    """A frame to look at: its scores and what they come from.

    Attributes:
        method, sequence, frame: names.
        J, F: of this frame.
        image: uint8 RGB [height, width, 3].
        mask: the method's, bool or 0/1 [height, width].
        truth: the annotation, 0/1 and 255 for void [height, width].
    """

    method: str
    sequence: str
    frame: str
    J: float
    F: float
    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray


def render(
    results: report.Results,
    sequences: Sequence[str],
    examples: Iterable[Example],
    *,
    split: str,
    resolution: str,
    date: datetime.date,
    version: str,
) -> str:
    """Returns the page as HTML text.

    Args:
        results: dict of method name -> list of `SequenceResult`, at least one of each.
        sequences: names of all sequences that were asked for, in order.
        examples: `Example`s, the worst first.
        split: name of the DAVIS list.
        resolution: name of the DAVIS folder, such as "480p".
        date: `datetime.date` of the evaluation.
        version: of this package.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    methods = _methods(results, sequences)
    names = report.names_of(results, sequences)
    scored = [name for name in names if any(name in method["rows"] for method in methods)]
    scored_sequences = {row.sequence for rows in results.values() for row in rows}
    complete = not any(method["partial"] or method["left_out"] for method in methods)
    return environment.get_template("report.html.jinja").render(
        methods=methods,
        scored=scored,
        complete=complete,
        best=_best(methods),
        brackets=any(method["rows"].keys() - method["in_T"] for method in methods),
        charts=[_chart(name, methods) for name in scored],
        examples=[_pictures(example, methods) for example in examples],
        published=PUBLISHED,
        published_sequences=len(VAL_2016),
        of_published=len(scored_sequences & set(VAL_2016)),
        comparable=complete and set(scored) == set(VAL_2016),
        legend_colours={
            "prediction only": visualize.ONLY_MASK,
            "ground truth only": visualize.ONLY_TRUTH,
            "both": visualize.AGREEMENT,
        },
        split=split,
        resolution=resolution,
        date=date,
        version=version,
    )


def _methods(results: report.Results, sequences: Sequence[str]) -> list[dict[str, Any]]:
    """What the page says about each method, in their order."""
    methods = []
    names = report.names_of(results, sequences)
    for number, (name, rows) in enumerate(results.items()):
        methods.append(
            {
                "name": name,
                "style": f"m{number % _COLOURS} d{number % _DASHES}",
                "rows": {row.name: row for row in rows},
                "measures": report.summarise(rows),
                "values": {
                    **dict.fromkeys(names, [math.nan] * len(report.MEASURES)),
                    **{row.name: row.measures() for row in rows},
                },
                "frames": sum(len(row.frames) for row in rows),
                "partial": [row for row in rows if row.remark],
                "left_out": report.left_out(rows, sequences),
                "in_T": {row.name for row in rows if row.sequence in report.sequences_in_T(rows)},
            }
        )
    return methods


def _best(methods: Sequence[dict[str, Any]]) -> list[float | None]:
    """Returns for each measure the best value as printed; None where methods cannot be compared.

    Methods are compared if there are several and all were scored on the same frames.
    """
    covered = {
        tuple((name, row.frames) for name, row in method["rows"].items()) for method in methods
    }
    if len(methods) < 2 or len(covered) > 1:
        return [None] * len(report.MEASURES)
    columns = np.round([method["measures"] for method in methods], 3).T
    return [
        None if np.isnan(column).all() else (np.nanmax if higher else np.nanmin)(column).item()
        for column, higher in zip(columns, HIGHER_IS_BETTER, strict=True)
    ]


def _chart(sequence: str, methods: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lays out J over time for one sequence: lines, ticks, and the same in words."""
    rows = {m["name"]: m["rows"][sequence] for m in methods if sequence in m["rows"]}
    names = next(iter(rows.values())).expected
    x = np.linspace(_LEFT, _RIGHT, len(names)) if len(names) > 1 else [(_LEFT + _RIGHT) / 2]
    places = {name: index for index, name in enumerate(names)}
    ticks = sorted({0, (len(names) - 1) // 2, len(names) - 1})
    lines, words = [], []
    for method in methods:
        row = rows.get(method["name"])
        if row is None:
            continue
        worst = int(np.argmin(row.scores.J))
        points = [
            (places[name], x[places[name]], _BOTTOM - (_BOTTOM - _TOP) * value)
            for name, value in zip(row.frames, row.scores.J, strict=True)
        ]
        lines.append({"style": method["style"], "path": _path(points), "worst": points[worst][1:]})
        words.append(
            f"{method['name']}: mean {row.scores.J.mean():.3f}, "
            f"lowest {row.scores.J[worst]:.3f} at frame {row.frames[worst]}"
        )
    return {
        "sequence": sequence,
        "lines": lines,
        "ticks": [(x[index], names[index]) for index in ticks],
        "levels": [(_BOTTOM - (_BOTTOM - _TOP) * level, level) for level in (0, 0.5, 1)],
        "words": "; ".join(words),
    }


def _path(points: Iterable[tuple[int, float, float]]) -> str:
    """Returns SVG path data through (place, x, y) points, with a gap where a place is missing."""
    steps, before = [], None
    for place, x, y in points:
        # A line of no length, with round ends, shows a frame that has no neighbour.
        start = "" if before is not None and place == before + 1 else f"M{x:.1f},{y:.1f}"
        steps.append(f"{start}L{x:.1f},{y:.1f}")
        before = place
    return "".join(steps)


def _pictures(example: Example, methods: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Paints an example and packs its three pictures into the page."""
    height, width = example.truth.shape
    scale = min(_PICTURE_SIZE[0] / width, _PICTURE_SIZE[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(example.image, size, interpolation=smooth)
    mask, truth = (
        cv2.resize(plane.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        for plane in (example.mask, example.truth)
    )
    found = visualize.overlay(image, mask, visualize.ONLY_MASK)
    true = visualize.overlay(image, truth, visualize.ONLY_TRUTH)
    return {
        "example": example,
        "style": next(m["style"] for m in methods if m["name"] == example.method),
        "size": size,
        "pictures": [
            ("Prediction" if mask.any() else "Prediction (empty)", _data_uri(found)),
            ("Ground truth" if (truth == 1).any() else "Ground truth (empty)", _data_uri(true)),
            ("Difference", _data_uri(visualize.difference(image, mask, truth))),
        ],
    }


def _data_uri(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
