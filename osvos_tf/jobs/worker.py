"""What a worker of `segment_dataset` does: sequences, one after another, TensorFlow loaded once.

A separate process on this machine (started by `engines.Processes`) or the inside of a Ray actor
(`engines.RayActors`).
"""

import gc
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import cv2

from osvos_tf import runtime
from osvos_tf.errors import InputError
from osvos_tf.jobs import video_job
from osvos_tf.jobs.video_job import VideoJob

READY: dict[str, Any] = {"ready": True}  # its first line; what comes before is a log
_THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def program(module: str) -> str:
    """Returns what `python -c` runs to start a module's `main`.

    It does so whatever lies in the current folder, even another `osvos_tf`: with `-c`, as with
    `-m`, Python looks there first.
    """
    return (
        "import sys; sys.path[:] = sys.path[sys.path[:1] == ['']:]; "
        f"from {module} import main; main()"
    )


PROGRAM = program("osvos_tf.jobs.worker")


def environment(threads: int) -> dict[str, str]:
    """Returns the environment variables that limit TensorFlow and NumPy to so many threads."""
    growth = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # a GPU may have to do for several workers
    return {**dict.fromkeys(_THREADS, str(threads)), **growth}


def prepare(threads: int, cores: Sequence[int] = ()) -> None:
    """Loads TensorFlow for so many threads, and only these cores if the system supports that."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    os.environ.update(environment(threads))
    cv2.setNumThreads(threads)
    runtime.import_tensorflow()


def segment_sequence(job: VideoJob) -> dict[str, Any]:
    """Does one sequence's job; its results are whole in the job's folder, or not there.

    Returns:
        A dict that can be a JSON object: `frames`, `updates`, `timings`, `remarks` and `damage` of
        a sequence that went well, else `error`, with `mistake` true where it is the user's, `trace`
        where it is not.
    """
    try:
        return summary(video_job.run(job))
    except (InputError, FloatingPointError) as error:
        return {"error": str(error), "mistake": True}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    finally:
        _forget()


def _forget() -> None:
    """Releases a sequence's networks and graphs, which refer to each other in circles."""
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
    gc.collect()


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a line of `results.jsonl` says of a sequence, from its record."""
    result = {"frames": record["frames"], "updates": record["updates"]}
    result["timings"] = record["seconds"]
    result.update({key: record[key] for key in ("remarks", "damage") if record.get(key)})
    return result


class Actor:
    """A worker as an object, for engines that keep those: Ray makes an actor of it."""

    def __init__(self, threads: int, folder: str) -> None:
        os.chdir(folder)  # relative paths are those of the command
        prepare(threads)

    def ready(self) -> bool:
        """Answers once the constructor is done."""
        return True

    def run(self, job: VideoJob) -> dict[str, Any]:
        """Does one sequence's job, as `segment_sequence`."""
        return segment_sequence(job)


def main() -> None:
    """Runs the process: settings as argument, then a JSON line in and one back for each job."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is a log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started us ends us
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(jobs,), daemon=True).start()
    prepare(**json.loads(sys.argv[1]))
    print(file=replies)  # ends the line, if something that came before us has begun one
    reply = READY
    while True:
        print(json.dumps(reply), file=replies, flush=True)
        reply = segment_sequence(VideoJob.from_json(jobs.get()))


def _receive(jobs: "queue.SimpleQueue[Any]") -> None:
    """Takes jobs in; ends the process, whatever it is doing, when the sender is gone."""
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    os._exit(0)
