"""What long work says of itself: a callback is called with a `Progress`."""

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """How far a call has come, as `on_progress` is told.

    Attributes:
        what: "learn" or "segment".
        done: updates or frames that are done.
        total: of how many; None where that is not known.
        seconds: since the work began.
        loss: of the last update; None while segmenting.
    """

    what: str
    done: int
    total: int | None
    seconds: float
    loss: float | None = None


OnProgress = Callable[[Progress], None]
