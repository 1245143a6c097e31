"""A map in threads that keeps the order and reads only a little ahead."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int = 1,
    ahead: int = 4,
    wait: bool = True,
) -> Iterator[R]:
    """Yields `function(item)` for every item, in order, computed in threads beside the caller.

    The items themselves are drawn by the caller's thread: one worker suffices for two steps of a
    pipeline to run side by side.

    Args:
        function: of one item; with several workers, threads must be able to share it.
        items: iterable; read at most `ahead` items further than what was yielded.
        workers: threads.
        ahead: bound on the items under way, and so on memory.
        wait: whether an error, or the end of this iterator, waits for the items under way.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)
