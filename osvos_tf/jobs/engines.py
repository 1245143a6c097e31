"""Where the workers of `segment_dataset` run: in processes on this machine, or as Ray's actors.

Either engine has `slots`, the number of workers at a time, and `start(slot, is_wanted)`, which
returns a worker when it is ready, as `dispatch.run` wants them.
"""

import contextlib
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from osvos_tf.errors import InputError, missing_package
from osvos_tf.jobs import worker
from osvos_tf.jobs.dispatch import WorkerLost
from osvos_tf.jobs.video_job import VideoJob

_PACKAGES = pathlib.Path(__file__).parents[2]  # the folder that `osvos_tf` is imported from
_LOOK_SECONDS = 0.5  # between two looks whether a worker that starts is still wanted
_CONNECT_SECONDS = 10.0
_LOG_BYTES = 2000  # of a lost worker's last words

W = TypeVar("W", "_Process", "_RayActor")


class Processes:
    """Workers on this machine, each with its own share of the cores.

    Args:
        workers: how many at a time.
        cpus: cores for each; None shares all of them.
        timeout: seconds after which a job's worker counts as hanging; None waits forever.
    """

    def __init__(self, workers: int, cpus: int | None, timeout: float | None = None) -> None:
        cores = _usable_cores()
        if cpus is not None and cpus > len(cores):
            raise InputError(f"Wanted {cpus} cores for each, but this machine has {len(cores)}.")
        self.slots = workers
        self._cores, self._cpus = cores, cpus or max(1, len(cores) // workers)
        self._timeout = timeout

    def start(self, slot: int, is_wanted: Callable[[], bool]) -> "_Process | None":
        """Starts a process; returns it once it has loaded TensorFlow."""
        first = slot * self._cpus
        share = [self._cores[i % len(self._cores)] for i in range(first, first + self._cpus)]
        process = _Process(self._cpus, share, self._timeout)
        return _when_ready(process, process.answer, is_wanted)

    def close(self) -> None:
        """Does nothing: the processes end one by one."""


class _Process:
    """One process; jobs and answers are lines of JSON on its standard input and output."""

    def __init__(self, threads: int, cores: list[int], timeout: float | None) -> None:
        self._timeout = timeout
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  open until `close`
        path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
        settings = json.dumps({"threads": threads, "cores": cores})
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-c", worker.PROGRAM, settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **worker.environment(threads), "PYTHONPATH": path},
        )
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self, job: VideoJob) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job.as_json()).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerLost(self._last_words()) from None
        reply = self.answer(self._timeout)
        if reply is None:
            self.close()
            raise WorkerLost(f"No result after {self._timeout:g} s; its worker was ended.")
        return reply

    def answer(self, seconds: float | None) -> dict[str, Any] | None:
        """Returns the next answer, or None if none came in time; raises `WorkerLost`."""
        try:
            reply = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        if reply is None:
            raise WorkerLost(self._last_words())
        return reply

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):  # half a line that nobody took
            self._process.stdin.close()
        self._log.close()

    def _listen(self) -> None:
        """Passes answers on, and None when there will be no more."""
        assert self._process.stdout is not None
        is_ready = False
        with self._process.stdout as lines:
            for line in lines:
                try:
                    answer = json.loads(line)
                except (ValueError, RecursionError):
                    answer = None
                is_ready = is_ready or answer == worker.READY
                if is_ready and isinstance(answer, dict):
                    self._answers.put(answer)
                else:  # printed by what Python loads before our own program, such as sitecustomize
                    with contextlib.suppress(OSError, ValueError):
                        os.write(self._log.fileno(), line)
        self._answers.put(None)

    def _last_words(self) -> str:
        """Returns how the process ended, and the end of what it wrote."""
        status = self._process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_BYTES))
        log = self._log.read().decode(errors="replace").strip()
        return f"Its worker ended with {how}." + (f" It wrote:\n{log}" if log else "")


class RayActors:
    """Workers on a Ray cluster, which sees the same files under the same paths.

    Args:
        address: "local" starts a cluster on this machine, "auto" finds the one that this machine
            belongs to; anything else is a cluster's address.
        workers: how many at a time; None: as many as the cluster has room for.
        cpus: of each.
        gpus: of each, fractions too.
        timeout: as for `Processes`.
    """

    def __init__(
        self,
        address: str,
        workers: int | None,
        cpus: int,
        gpus: float,
        timeout: float | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise missing_package("A Ray cluster", "distributed", error) from error
        self._ray = ray
        _require_listener(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that we start
        try:
            ray.init(address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"No Ray cluster at ray={address}: {error}") from error
        self._timeout = timeout
        self._cpus = cpus
        self._actor = ray.remote(worker.Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        room = self._room(cpus, gpus)
        if room == 0:
            self.close()
            raise InputError(
                f"No node of the Ray cluster has cpus={cpus} and gpus={gpus:g} for a sequence."
            )
        self.slots = workers or room

    def start(self, slot: int, is_wanted: Callable[[], bool]) -> "_RayActor | None":
        """Asks for an actor; returns it once the cluster has found room and it is ready."""
        actor = self._actor.remote(self._cpus, os.getcwd())
        started = _RayActor(self._ray, actor, self._timeout)
        return _when_ready(started, started.is_ready, is_wanted)

    def close(self) -> None:
        """Leaves the cluster; a local one ends."""
        self._ray.shutdown()

    def _room(self, cpus: int, gpus: float) -> int:
        """Returns how many actors fit into the cluster's nodes."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        wanted = {"CPU": cpus, "GPU": gpus}
        return sum(
            min(int(node.get(name, 0) // value) for name, value in wanted.items() if value)
            for node in nodes
        )


class _RayActor:
    """One actor."""

    def __init__(self, ray: Any, actor: Any, timeout: float | None) -> None:
        self._ray, self._actor, self._timeout = ray, actor, timeout
        self._ready = actor.ready.remote()

    def is_ready(self, seconds: float) -> bool:
        """Returns whether the actor is ready within so many seconds; raises if it fails."""
        if not self._ray.wait([self._ready], timeout=seconds)[0]:
            return False
        return self._ray.get(self._ready)

    def run(self, job: VideoJob) -> dict[str, Any]:
        try:
            return self._ray.get(self._actor.run.remote(job), timeout=self._timeout)
        except self._ray.exceptions.GetTimeoutError:
            self.close()
            raise WorkerLost(
                f"No result after {self._timeout:g} s; its worker was ended."
            ) from None
        except self._ray.exceptions.RayError as error:
            raise WorkerLost(f"Its worker was lost: {' '.join(str(error).split())}") from None

    def close(self) -> None:
        self._ray.kill(self._actor)


def _when_ready(
    worker: W, is_ready: Callable[[float], object], is_wanted: Callable[[], bool]
) -> W | None:
    """Returns the worker once `is_ready(seconds)`; None, and closes it, once it is not wanted."""
    try:
        while is_wanted():
            if is_ready(_LOOK_SECONDS):
                return worker
    except BaseException:
        worker.close()
        raise
    worker.close()
    return None


def _require_listener(address: str) -> None:
    """Raises InputError if nothing listens at an address: Ray would try for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdecimal():
        return  # "auto", "local", or a name that is Ray's own
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"No Ray cluster at ray={address}: {error}.") from error


def _usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
