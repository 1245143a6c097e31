"""When a training ends: with its stage or budget, once it has learned, or on request."""

import math
import sys
import time
from collections.abc import Callable

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import tensorflow as tf

from osvos_tf.training import distribution
from osvos_tf.training.recipes import Stage


class End:
    """When training ends: with its stage, or earlier for one of three reasons."""

    def __init__(
        self,
        stage: Stage,
        budget: float | None,
        is_learned: Callable[[int], bool] | None,
        stop: Callable[[], bool] | None,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._clock, self._is_learned, self._stop = Clock(budget), is_learned, stop
        self._cooldown, self._last, self._strategy = stage.cooldown, stage.last_update, strategy
        self._asked = self._stopped = False  # this process; any

    def after(self, done: int) -> int:
        """Returns how many updates there will be at the end, as it looks after `done` of them."""
        return done if self._stopped else min(self._last, done + self._clock.affordable())

    def tick(self) -> None:
        """Takes the time of an update."""
        self._clock.tick()

    def ask(self, done: int) -> None:
        """Asks whether the object is learned, and whether to stop."""
        if self._is_learned is not None and self._is_learned(done):
            self._last, self._is_learned = min(self._last, done + self._cooldown), None
        if self._stop is not None:
            self._asked = bool(self._stop())
            self._stopped = distribution.sum_over_workers(self._strategy, self._asked) > 0

    def require_own_wish(self) -> None:
        """Raises tf.errors.AbortedError where another process stopped, and this one with it."""
        if self._stopped and not self._asked:
            raise tf.errors.AbortedError(None, None, "Another worker was told to stop.")


class Clock:
    """How many more updates fit into a budget of seconds, judged by those made so far."""

    def __init__(self, budget: float | None):
        self._budget = budget
        self._start = time.monotonic()
        # Seconds after which the first and the latest update were done.
        self._ticks: list[float] = []
        self._made = 0

    def tick(self) -> None:
        """Counts an update."""
        self._made += 1
        self._ticks = [*self._ticks[:1], time.monotonic() - self._start]

    def affordable(self) -> int:
        """Returns a number of updates; a very large one without a budget or before any is known."""
        if self._budget is None:
            return sys.maxsize
        left = self._budget - (time.monotonic() - self._start)
        if left <= 0:
            return 0
        if self._made < 2:  # the first builds the graph
            return sys.maxsize
        first, latest = self._ticks
        return math.ceil(left * (self._made - 1) / (latest - first))
