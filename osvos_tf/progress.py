"""Progress of long work, as callbacks receive it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Progress(NamedTuple):
    """How far a call has come.

    Attributes:
        what: "learn", "segment", or "save" where only files are made of masks that are there.
        done: updates or frames done.
        total: how many there are; None if unknown.
        seconds: since the work began.
        loss: of the last update while learning, else None.
        look: while learning, a function from a frame, uint8 RGB [height, width, 3], to the label
            map that the network as it is finds there, uint8 [height, width]; else None.
    """

    what: str
    done: int
    total: int | None
    seconds: float
    loss: float | None = None
    look: Callable[[np.ndarray], np.ndarray] | None = None


OnProgress = Callable[[Progress], None]
