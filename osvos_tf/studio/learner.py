"""Work in a process of its own: the page never waits, a click ends it, its memory returns.

While it learns it looks, now and then, at the frame that is on the page: a label map in the folder
that the job came with, which each later look replaces.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from osvos_tf import files, runtime
from osvos_tf.errors import InputError, describe_os_error
from osvos_tf.jobs import additions, video_job
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.jobs.worker import program
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import write_labels
from osvos_tf.progress import Progress

IDLE: dict[str, Any] = {"state": "idle"}
_FIRST_LOOK = 4  # updates after which the object is told from most of the rest


class Learner:
    """One task at a time.

    Attributes:
        state: what a page shows of it: `state` is "idle", "starting", "learn", "segment" or "save"
            (with `done`, `total`, `seconds`), "done", "cancelled" or "failed" (with `error`).
            `looks` counts the looks while it learns.

    Args:
        on_change: called, from a thread, with each new state.
    """

    def __init__(self, on_change: Callable[[dict[str, Any]], None]) -> None:
        self.state = IDLE
        self._on_change = on_change
        self._process: subprocess.Popen[str] | None = None
        self._spare: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether a task is under way."""
        return self._process is not None

    def prepare(self) -> None:
        """Starts the process that the next task runs in: it takes seconds to load TensorFlow."""
        with self._lock:
            if self._process is None and (self._spare is None or self._spare.poll() is not None):
                self._spare = _start()

    def start(self, task: str, details: Mapping[str, Any]) -> None:
        """Begins a task, one of `TASKS`, with its arguments; InputError if there is one."""
        with self._lock:
            if self._process is not None:
                raise InputError("It is at work already. Cancel that first.")
            process, self._spare = self._spare, None
            if process is None or process.poll() is not None:
                process = _start()
            self._process = process
        self._say({"state": "starting"})
        order = {"task": task, "details": details}
        threading.Thread(target=self._follow, args=(process, order), daemon=True).start()

    def look(self, frame: int) -> None:
        """Says which frame is on the page."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has just ended
                process.stdin.write(f"{frame}\n")
                process.stdin.flush()

    def cancel(self) -> None:
        """Ends the task; what was there before stays, and so does what it has learned."""
        process = self._process
        if process is not None:
            self._say({"state": "cancelled"})
            process.kill()

    def close(self) -> None:
        """Ends all processes and waits for their end."""
        for process in (self._process, self._spare):
            if process is not None:
                process.kill()
                process.wait()

    def _follow(self, process: "subprocess.Popen[str]", order: dict[str, Any]) -> None:
        assert process.stdin is not None and process.stdout is not None
        last: dict[str, Any] = {}
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                last = json.loads(line)
                if last["state"] not in ("done", "failed") and self.state["state"] != "cancelled":
                    self._say(last)
        except (OSError, ValueError):
            last = {}
        process.kill()
        status = process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        self._process = None
        if self.state["state"] == "cancelled":
            self._say({"state": "cancelled", "ended": True})
        elif last.get("state") in ("done", "failed"):
            self._say(last)
        else:
            why = "It may have run out of memory." if status in (-9, 137) else ""
            self._say({"state": "failed", "error": f"It ended unexpectedly. {why}".strip()})

    def _say(self, state: dict[str, Any]) -> None:
        self.state = state
        self._on_change(state)


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program(__name__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


# --- in the process -------------------------------------------------------------------------------


Say = Callable[[dict[str, Any]], None]


class _Page:
    """The page at the other end: hears how far a task has come, and says which frame it shows.

    Attributes:
        frame: number of the frame; None before it has said so.
        looks: as in `Learner.state`.
    """

    def __init__(self, say: Say) -> None:
        self.frame: int | None = None
        self.looks = 0
        self._say, self._last = say, 0.0

    def listen(self) -> None:
        """Takes frames' numbers in; ends the process when the server is gone."""
        for line in sys.stdin:
            self.frame = int(line)
        os._exit(0)

    def __call__(self, progress: Progress, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._last > 0.2 or progress.done in (1, progress.total):
            self._last = now
            self._say(
                {
                    "state": progress.what,
                    "done": progress.done,
                    "total": progress.total,
                    "seconds": round(progress.seconds, 1),
                    "looks": self.looks,
                }
            )


class _Looker:
    """Looks at the frame that is on the page: early, whenever that changes, and ever more rarely.

    Args:
        path: of the video.
        folder: where label maps go.
    """

    def __init__(self, path: str, folder: pathlib.Path) -> None:
        self._frames, self._folder = open_frames(path), folder
        self._names = list(self._frames.names)
        self._last = (-1, 0)  # frame, updates

    def __call__(self, progress: Progress, frame: int) -> bool:
        """Looks at a frame if it is time; returns whether there is something new to see."""
        before, updates = self._last
        if progress.look is None:
            shutil.rmtree(self._folder, ignore_errors=True)  # real masks come now
            return False
        if progress.done < (_FIRST_LOOK if before != frame else 2 * updates):
            return False
        self._last = frame, progress.done
        name = self._names[frame]
        labels = progress.look(self._frames.read(name))
        write_labels(files.ensure_writable(self._folder) / f"{name}.png", labels)
        return True


def _learn(page: _Page, job: dict[str, Any], looks: str, frame: int) -> None:
    wanted = VideoJob.from_json(job)
    looker = _Looker(wanted.frames, pathlib.Path(looks))

    def on_progress(progress: Progress) -> None:
        is_new = looker(progress, frame if page.frame is None else page.frame)
        page.looks += is_new
        page(progress, at_once=is_new)

    video_job.run(wanted, on_progress=on_progress)


def _add(page: _Page, path: str, out: str, kinds: list[str]) -> None:
    additions.add(pathlib.Path(out), open_frames(path), kinds, page)


def _export(page: _Page, out: str, to: str) -> None:
    from osvos_tf.segmentation import specialist

    specialist.load(out).export(to)


TASKS: dict[str, Callable[..., None]] = {"learn": _learn, "add": _add, "export": _export}


def main() -> None:
    """Runs the process: a task as a JSON line in, then frames' numbers; states as JSON out."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is a log
    runtime.import_tensorflow()
    from osvos_tf.segmentation import specialist  # noqa: F401 (while nobody waits)

    def say(state: dict[str, Any]) -> None:
        print(json.dumps(state), file=replies, flush=True)

    order = json.loads(sys.stdin.readline() or "null")
    if order is None:  # the server is gone
        return
    page = _Page(say)
    threading.Thread(target=page.listen, daemon=True).start()
    try:
        TASKS[order["task"]](page, **order["details"])
        say({"state": "done"})
    except (InputError, FloatingPointError) as error:
        say({"state": "failed", "error": str(error)})
    except OSError as error:
        say({"state": "failed", "error": describe_os_error(error)})
    except Exception as error:
        traceback.print_exc()
        say({"state": "failed", "error": f"{type(error).__name__}: {error}"})
