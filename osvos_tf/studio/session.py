"""What `/api/session` says: all that a page shows of a desk."""

import pathlib
from typing import Any

import numpy as np

from osvos_tf.media.mask_pictures import davis_palette
from osvos_tf.studio import take_home
from osvos_tf.studio.desk import Desk


def describe(desk: Desk, root: pathlib.Path) -> dict[str, Any]:
    """Returns a desk as JSON has it.

    Args:
        desk: what is worked on.
        root: the folder that the studio was started in; paths in it are said without it.
    """
    colours = np.reshape(davis_palette(), (-1, 3)).tolist()
    return {
        "video": {
            "path": str(_shorten(pathlib.Path(desk.path).absolute(), root)),
            "frames": len(desk.names),
            "names": desk.names,
            "height": desk.size[0],
            "width": desk.size[1],
            "fps": float(desk.frames.fps),
        },
        "out": str(_shorten(desk.out, root)),
        "objects": [
            {"id": id_, "name": name, "colour": colours[id_]} for id_, name in desk.objects.items()
        ],
        "drawn": desk.drawn(),
        "news": desk.news(),
        "results": _results(desk),
        "rounds": desk.rounds(),
        "offers": take_home.offers(desk.out),
    }


def _results(desk: Desk) -> dict[str, Any] | None:
    record = desk.record()
    if record is None:
        return None
    numbers = {name: number for number, name in enumerate(desk.names)}
    return {
        "confidence": [record["found"].get(name, {}).get("confidence") for name in desk.names],
        "doubtful": [numbers[name] for name in record.get("doubtful", []) if name in numbers],
        "remarks": record.get("remarks", []),
        "updates": record.get("updates"),
    }


def _shorten(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
