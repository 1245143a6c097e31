"""Devices and machines that train together: a `tf.distribute` strategy, and what they agree on.

A *worker* is a process, most often on a separate machine; a *replica* is one of its devices, with a
copy of the weights. The replicas share the views of each update and sum their gradients, so that
an update is what one device would have made of all its views.
"""

import functools
import json
import os
from collections.abc import Callable

import tensorflow as tf

from osvos_tf.errors import InputError

STRATEGIES = ("auto", "one", "mirrored", "multi_worker")
# What an operation raises once another worker is gone, or has restarted.
LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)
_KEY = "TF_CONFIG"
_TASKS = ("chief", "worker")  # in the order in which workers are counted
_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def cluster() -> tuple[list[str], int]:
    """Returns the addresses of all workers and this one's place among them; none without a list.

    Raises:
        InputError: the environment variable `TF_CONFIG` cannot be followed.
    """
    text = os.environ.get(_KEY)
    if not text:
        return [], 0
    try:
        config = json.loads(text)
        listed, task = config["cluster"], config["task"]
        counts = {name: len(listed.get(name, [])) for name in _TASKS}
        if set(listed) - set(_TASKS) or task["type"] not in listed:
            raise ValueError(f"tasks are {' and '.join(_TASKS)} here")
        index = int(task["index"])
        if not 0 <= index < counts[task["type"]]:
            raise ValueError(f"there is no {task['type']} {index}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{_KEY} cannot be followed: {error!r}. Wanted something like {_EXAMPLE}. Got {text}"
        ) from error
    before = counts["chief"] if task["type"] == "worker" else 0
    return [address for name in _TASKS for address in listed.get(name, [])], before + index


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the `tf.distribute.Strategy` of that name. Call it before TensorFlow computes.

    Args:
        name: "one" device; "mirrored": all GPUs of this machine; "multi_worker": all workers that
            the environment variable `TF_CONFIG` lists, and all their GPUs; "auto": the last one
            that fits what there is.

    Raises:
        InputError: "multi_worker" without a `TF_CONFIG`, or with one that cannot be followed.
    """
    if name not in STRATEGIES:
        raise ValueError(f"name must be one of {STRATEGIES}. Received: {name!r}.")
    workers, _ = cluster()
    if name == "multi_worker" and not workers:
        raise InputError(
            f"The strategy multi_worker needs the environment variable {_KEY}, which lists all "
            f"workers and says which one this is, for example {_EXAMPLE}"
        )
    if name == "multi_worker" or (name == "auto" and len(workers) > 1):
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise InputError(
                f"The workers {', '.join(workers)} of {_KEY} did not find each other: "
                f"{error.message}"
            ) from error
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns (index, count): which of the workers this is, from 0, the one that writes."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    workers, index = cluster()
    return index, len(workers)


def sum_over_workers(strategy: tf.distribute.Strategy, number: float) -> float:
    """Returns the sum of a number over all workers, float; waits until all have called this."""
    _, workers = worker(strategy)
    if workers == 1:
        return float(number)
    added = _adder(strategy)(tf.constant(number, tf.float64))
    replicas = strategy.num_replicas_in_sync // workers
    return float(strategy.experimental_local_results(added)[0]) / replicas


@functools.cache
def _adder(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function that sums a tensor over all replicas."""

    def add(value: tf.Tensor) -> tf.Tensor:
        own = tf.identity(value)  # on the replica's device
        return tf.distribute.get_replica_context().all_reduce("SUM", own)

    return tf.function(lambda value: strategy.run(add, (value,)))
