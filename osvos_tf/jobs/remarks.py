"""What is worth a word about finished results: frames in which the object is lost, or doubtful."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from osvos_tf.segmentation.annotations import Annotation

Found = Mapping[str, Mapping[str, Any]]

_COLLAPSED = 0.1  # part of the smallest given mask below which a mask is worth a word
_SURE = 0.8  # confidence from which a frame is not worth one
_APART = 5  # frames: of those that are closer, one is named
_MOST = 3


def lost(found: Found, given: tuple[Annotation, ...]) -> list[str]:
    """Says in which frames the object seems lost.

    Args:
        found: frame -> its `area` in pixels and its `confidence`, in order.
        given: the annotated frames; their masks tell how large the object is.
    """
    areas = [int(np.count_nonzero(known.mask == 1)) for known in given]
    least = _COLLAPSED * min(areas, default=0)
    empty = [name for name, frame in found.items() if not frame["area"]]
    small = [name for name, frame in found.items() if 0 < frame["area"] < least]
    remarks = []
    for names, what in ((empty, "No object was found"), (small, "Next to nothing was found")):
        if names:
            remarks.append(
                f"{what} in {len(names)} of {len(found)} frames: {', '.join(_runs(names, found))}. "
                "If it is there, correct one of these masks and give it as well."
            )
    return remarks


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
