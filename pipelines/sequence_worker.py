"""What a worker of `segment_dataset` does: sequences, one after another, TensorFlow loaded once.

A process of its own on this machine (`python -m pipelines.sequence_worker`, started by
`engines.Processes`) or the inside of a Ray actor (`engines.RayActors`).
"""

import gc
import json
import os
import pathlib
import queue
import shutil
import signal
import sys
import threading
import traceback

import cv2
from absl import flags

from osvos_tf import files, worklist
from osvos_tf.errors import InputError
from pipelines import cli, segment

_THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def environment(threads):
    """Returns the environment variables by which TensorFlow and NumPy keep to so many threads."""
    growth = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # a GPU may have to do for several workers
    return {**dict.fromkeys(_THREADS, str(threads)), **growth}


def prepare(threads, cores=()):
    """Loads TensorFlow for so many threads; on these cores alone, where the system can do that."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    os.environ.update(environment(threads))
    cv2.setNumThreads(threads)
    cli.import_tensorflow()


def segment_sequence(item, arguments, out):
    """Runs `segment` on one sequence; its results are whole in `out`/<name>, or not there.

    Args:
        item: a `worklist.Item`.
        arguments: of `segment`, but for those that follow from the item.
        out: folder of all results.

    Returns:
        A dict that can be a JSON object: `frames`, `updates` and `timings` of a sequence that went
        well, else `error`, with `mistake` true where it is the user's, `trace` where it is not.
    """
    partial = worklist.partial_folder(out, item)
    try:
        args = parse(item, arguments, partial)
        inputs = describe_inputs(args)
        segment.main(args)
        worklist.publish(partial, pathlib.Path(out) / item.name, inputs)
    except (InputError, flags.Error) as error:
        return {"error": str(error), "mistake": True}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _forget()
    return summary(pathlib.Path(out) / item.name)


def _forget():
    """Lets go of a sequence's networks and graphs, which point at each other in circles."""
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
    gc.collect()


def parse(item, arguments, folder):
    """Returns the parsed flags of `segment` for an item."""
    own = [f"--frames={item.frames}", *(f"--mask={mask}" for mask in item.masks), f"--out={folder}"]
    return cli.parse(segment.FLAGS, [*arguments, *own], "segment")


def describe_inputs(args):
    """Returns what decides over a sequence's results, from its parsed flags."""
    values = {name: args[name].value for name in args}
    if args.parent == "compact":  # a file as well, which another version of the package may change
        values["parent"] = str(files.COMPACT_PARENT)
    return worklist.describe_inputs(values)


def summary(folder):
    """Returns what the results' own record says of a sequence."""
    record = worklist.read_record(folder)
    return {name: record[key] for name, key in
            (("frames", "frames"), ("updates", "updates"), ("timings", "seconds"))}  # fmt: skip


class Actor:
    """A worker as an object, for engines that keep those: Ray makes an actor of it."""

    def __init__(self, threads, folder):
        os.chdir(folder)  # relative paths are those of the command
        prepare(threads)

    def ready(self):
        """Answers once the constructor is done."""
        return True

    def run(self, item, arguments, out):
        """Segments a sequence, as `segment_sequence`."""
        return segment_sequence(item, arguments, out)


def main():
    """The process: settings as argument, then a JSON line in and one back for each sequence."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what `segment` prints is a log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started us ends us
    jobs = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(jobs,), daemon=True).start()
    prepare(**json.loads(sys.argv[1]))
    reply = {"ready": True}
    while True:
        print(json.dumps(reply), file=replies, flush=True)
        job = jobs.get()
        reply = segment_sequence(worklist.Item(**job["item"]), job["arguments"], job["out"])


def _receive(jobs):
    """Takes jobs in; ends the process, whatever it is at, when whoever gave them is gone."""
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
