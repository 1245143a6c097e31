"""What is worth a word about finished results: frames in which the object is lost, or doubtful."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from osvos_tf.media.masks import VOID
from osvos_tf.segmentation.annotations import Annotation

Found = Mapping[str, Mapping[str, Any]]

_COLLAPSED = 0.1  # part of the smallest given mask below which a mask is worth a word
_SURE = 0.8  # confidence from which a frame is not worth one
_APART = 5  # frames: of those that are closer, one is named
_MOST = 3
_FITS = 0.5  # overlap of what is found in an annotated frame with its mask, from which they agree


def of_frame(
    mask: np.ndarray, confidence: Mapping[int, float], fit: float | None
) -> dict[str, Any]:
    """Returns what a record says of a frame.

    Args:
        mask: uint8 [height, width]: 0, or an object's id.
        confidence: of each object, see `SegmentedFrame`.
        fit: see `SegmentedFrame`.

    Returns:
        `area`, pixels, and `confidence`, the least; of several objects the same for each in
        `objects`, by id; `fit` where there is one.
    """
    said: dict[str, Any] = {
        "area": int(np.count_nonzero(mask)),
        "confidence": round(min(confidence.values()), 4),
    }
    if len(confidence) > 1:
        said["objects"] = {
            str(id_): {
                "area": int(np.count_nonzero(mask == id_)),
                "confidence": round(value, 4),
            }
            for id_, value in confidence.items()
        }
    if fit is not None:
        said["fit"] = round(fit, 4)
    return said


def lost(found: Found, given: tuple[Annotation, ...]) -> list[str]:
    """Says in which frames an object seems lost.

    Args:
        found: frame -> what `of_frame` says, in order.
        given: the annotated frames; their masks tell how large the objects are.
    """
    ids = next(iter(found.values()), {}).get("objects")
    if ids is None:
        areas = [int(np.count_nonzero((known.mask > 0) & (known.mask < VOID))) for known in given]
        return _lost(found, areas, "object", "Next to nothing")
    remarks = []
    for id_ in ids:
        alone = {name: frame["objects"][id_] for name, frame in found.items()}
        areas = [int(np.count_nonzero(known.mask == int(id_))) for known in given]
        what = f"object {id_}"
        remarks += _lost(
            alone, [area for area in areas if area], what, f"Next to nothing of {what}"
        )
    return remarks


def _lost(found: Found, areas: list[int], what: str, little: str) -> list[str]:
    least = _COLLAPSED * min(areas, default=0)
    empty = [name for name, frame in found.items() if not frame["area"]]
    small = [name for name, frame in found.items() if 0 < frame["area"] < least]
    return [
        f"{said} was found in {len(names)} of {len(found)} frames: "
        f"{', '.join(_runs(names, found))}. If it is there, correct one of these masks and give it "
        "as well."
        for names, said in ((empty, f"No {what}"), (small, little))
        if names
    ]


def unlike(found: Found, given: int) -> list[str]:
    """Says in which annotated frames other things are found than were given.

    Args:
        found: see `lost`.
        given: number of annotated frames that were learned from.
    """
    why = (
        "Do its objects have the numbers that they have elsewhere?"
        if given > 1
        else ("Too few updates, or an object of which too little is to be seen?")
    )
    return [
        f"Frame {name}: what is found there agrees by {frame['fit']:.0%} with the mask that was "
        f"given. {why}"
        for name, frame in found.items()
        if frame.get("fit", 1) < _FITS
    ]


def _runs(names: list[str], found: Mapping[str, Any], most: int = 5) -> Iterator[str]:
    """Yields frames that follow each other as "first to last"."""
    place = {name: number for number, name in enumerate(found)}
    runs: list[list[str]] = []
    for name in names:
        if runs and place[name] == place[runs[-1][-1]] + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    for run_ in runs[:most]:
        yield run_[0] if len(run_) == 1 else f"{run_[0]} to {run_[-1]}"
    if len(runs) > most:
        yield f"and {len(runs) - most} more stretches"


def doubtful(found: Found) -> list[str]:
    """Returns the frames that a mask would help most: where confidence is lowest, some apart.

    Args:
        found: see `lost`.
    """
    names = list(found)
    chosen: list[int] = []
    for place in sorted(range(len(names)), key=lambda place: found[names[place]]["confidence"]):
        if found[names[place]]["confidence"] >= _SURE or len(chosen) == _MOST:
            break
        if all(abs(place - other) >= _APART for other in chosen):
            chosen.append(place)
    return [names[place] for place in chosen]
