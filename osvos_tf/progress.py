"""Progress of long work, as callbacks receive it."""

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """How far a call has come.

    Attributes:
        what: "learn" or "segment".
        done: updates or frames done.
        total: how many there are; None if unknown.
        seconds: since the work began.
        loss: of the last update; None while segmenting.
    """

    what: str
    done: int
    total: int | None
    seconds: float
    loss: float | None = None


OnProgress = Callable[[Progress], None]
