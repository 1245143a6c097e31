"""Maps in threads: order, bounds, errors."""

import threading
import time

import pytest

from osvos_tf.parallel import parallel_map


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_one_worker_keeps_order_and_bounds_what_is_under_way(count):
    read = []

    def items():
        for i in range(count):
            read.append(i)
            yield i

    results = []
    for result in parallel_map(lambda i: i * i, items(), ahead=2):
        results.append(result)
        assert len(read) <= len(results) + 2
    assert results == [i * i for i in range(count)]


def test_one_worker_works_beside_the_caller():
    """The caller draws the second item while the first is being worked on, or this never ends."""
    second_drawn = threading.Event()

    def items():
        yield 1
        second_drawn.set()
        yield 2

    assert list(parallel_map(lambda _: second_drawn.wait(60), items())) == [True, True]


def test_an_error_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda i: 1 // i, [1, 0, 1]))


def test_several_workers_keeps_the_order():
    def slow_at_first(batch):
        time.sleep(0.05 if batch % 3 == 0 else 0.0)
        return batch * 10

    assert list(parallel_map(slow_at_first, range(20), workers=4)) == list(range(0, 200, 10))
    assert list(parallel_map(slow_at_first, [], workers=4)) == []


@pytest.mark.parametrize("in_flight", [1, 3])
def test_several_workers_reads_little_ahead_and_works_side_by_side(in_flight):
    read = []
    together = threading.Barrier(in_flight, timeout=60)

    def predict(batch):
        together.wait()
        return batch

    def batches():
        for index in range(12):
            read.append(index)
            yield index

    for done in parallel_map(predict, batches(), workers=in_flight, ahead=in_flight):
        assert len(read) - done <= in_flight + 1


def test_several_workers_stops_at_an_error():
    def fail_at_three(batch):
        if batch == 3:
            raise RuntimeError("three")
        return batch

    seen = []
    with pytest.raises(RuntimeError, match="three"):
        for result in parallel_map(fail_at_three, iter(range(100)), workers=2, wait=False):
            seen.append(result)
    assert seen == [0, 1, 2]
