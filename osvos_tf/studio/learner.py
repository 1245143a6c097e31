"""Learning in a process of its own: the page never waits, a click ends it, its memory returns."""

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from osvos_tf.errors import InputError
from osvos_tf.jobs import video_job
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.jobs.worker import program
from osvos_tf.progress import Progress

IDLE: dict[str, Any] = {"state": "idle"}


class Learner:
    """One job at a time.

    Attributes:
        state: what a page shows of it: `state` is "idle", "starting", "learn" or "segment" (with
            `done`, `total`, `seconds`), "done", "cancelled" or "failed" (with `error`).

    Args:
        on_change: called, from a thread, with each new state.
    """

    def __init__(self, on_change: Callable[[dict[str, Any]], None]) -> None:
        self.state = IDLE
        self._on_change = on_change
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether a job is under way."""
        return self._process is not None

    def start(self, job: VideoJob) -> None:
        """Begins a job; InputError if there is one."""
        with self._lock:
            if self._process is not None:
                raise InputError("It is learning already. Cancel that first.")
            self._process = process = subprocess.Popen(
                [sys.executable, "-c", program(__name__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        self._say({"state": "starting"})
        threading.Thread(target=self._follow, args=(process, job), daemon=True).start()

    def cancel(self) -> None:
        """Ends the job; what was there before stays, and so does what it has learned."""
        process = self._process
        if process is not None:
            self._say({"state": "cancelled"})
            process.kill()

    def close(self) -> None:
        """Ends the job and waits for its end."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _follow(self, process: "subprocess.Popen[str]", job: VideoJob) -> None:
        assert process.stdin is not None and process.stdout is not None
        last: dict[str, Any] = {}
        try:
            process.stdin.write(json.dumps(job.as_json()) + "\n")
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
            stream.close()
        self._process = None
        if self.state["state"] == "cancelled":
            self._say({"state": "cancelled", "ended": True})
        elif last.get("state") in ("done", "failed"):
            self._say(last)
        else:
            why = "It may have run out of memory." if status in (-9, 137) else ""
            self._say({"state": "failed", "error": f"Learning ended unexpectedly. {why}".strip()})

    def _say(self, state: dict[str, Any]) -> None:
        self.state = state
        self._on_change(state)


def main() -> None:
    """Runs the process: a job as a JSON line in, its states as JSON lines out."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is a log
    job = VideoJob.from_json(json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    last = 0.0

    def say(state: dict[str, Any]) -> None:
        print(json.dumps(state), file=replies, flush=True)

    def on_progress(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.2 or progress.done in (1, progress.total):
            last = now
            say(
                {
                    "state": progress.what,
                    "done": progress.done,
                    "total": progress.total,
                    "seconds": round(progress.seconds, 1),
                }
            )

    try:
        video_job.run(job, on_progress=on_progress)
        say({"state": "done"})
    except (InputError, FloatingPointError) as error:
        say({"state": "failed", "error": str(error)})
    except Exception as error:
        traceback.print_exc()
        say({"state": "failed", "error": f"{type(error).__name__}: {error}"})


def _end_with_the_server() -> None:
    sys.stdin.read()
    os._exit(0)
