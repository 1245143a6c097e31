"""Progress of a command: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import tqdm

T = TypeVar("T")

_PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal
# A bar of seconds: a rate of seconds a second would say nothing.
_SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} seconds{postfix}"
# What a terminal would obey, and what it cannot show.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Progress:
    """A progress bar on a terminal, a line every ten seconds elsewhere; on standard error.

        with Progress("Training", total=500, unit="update") as progress:
            progress.advance(note="loss 0.31")

    It also wraps an iterator: `for x in progress.over(iterator)`. Where time is what runs out:

        with Progress("Training", total=15, unit="second") as progress:
            progress.advance(note="loss 0.31", to=seconds)
    """

    def __init__(
        self, what: str, total: float | None = None, unit: str = "frame", first: int = 0
    ) -> None:
        self._what, self._total, self._unit, self._count = what, total, unit, first
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            desc=what,
            total=total,
            unit=unit,
            initial=first,
            disable=not self._is_terminal,
            bar_format=_SECONDS if unit == "second" else None,
        )
        self._start = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        """Starts the clock."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Prints the last state."""
        self._bar.close()
        if not self._is_terminal and kind is None:
            took = f"{time.monotonic() - self._start:.0f} s"
            self._print("" if self._unit == "second" else took)

    def advance(self, note: str = "", to: float | None = None) -> None:
        """Counts one more unit, or all up to number `to`; `note` is shown beside it."""
        step = 1 if to is None else int(to) - self._count
        self._count += step
        self._bar.set_postfix_str(printable(note), refresh=False)
        self._bar.update(step)
        if not self._is_terminal and time.monotonic() - self._printed >= _PLAIN_SECONDS:
            self._printed = time.monotonic()
            self._print(note)

    def over(self, iterator: Iterable[T]) -> Iterator[T]:
        """Yields the iterator's elements, counting them."""
        for element in iterator:
            yield element
            self.advance()

    def _print(self, note: str) -> None:
        of = f" of {self._total:.12g}" if self._total else ""
        more = f", {note}" if note else ""
        text = printable(f"{self._what}: {self._count}{of} {self._unit}s{more}")
        print(text, file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """Returns the text with control characters spelled out: names may hold anything."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))
