"""Commands in real processes that start in milliseconds, to be killed, starved or interrupted.

TensorFlow is imported once, by a process that forks itself for each command: its import takes most
of a small command's time.
"""

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

SECONDS = 300  # for one process on a busy machine

# Reads lines of JSON: a command, its flags, and what is to happen to it. Prints the fork's process
# id and, at its end, JSON of its wait status and of all that it said.
_SERVER = """
import encodings.cp437, importlib, itertools, json, os, signal, sys, traceback
from osvos_tf import commands, runtime
from osvos_tf.commands import cli
tf = runtime.import_tensorflow()
from osvos_tf.data import tfrecord
from osvos_tf.network import saved_model
from osvos_tf.segmentation import specialist
from osvos_tf.training import loop
import tensorflow_serving.apis.predict_pb2

def kill_at(last):
    # A step is a record written, or a file renamed or removed.
    steps = itertools.count()
    write = tf.io.TFRecordWriter.write

    def hook(event, _):
        if event in ("os.remove", "os.rename", "write record") and next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited_write(writer, record):
        write(writer, record)
        sys.audit("write record")

    sys.addaudithook(hook)
    tf.io.TFRecordWriter.write = audited_write

def limit_files(size):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

FATES = {"kill_at": kill_at, "file_bytes": limit_files, "uid": os.setuid}

def run(command, flags, fate):
    for name, value in fate.items():
        FATES[name](value)
    for number in SIGNALS:  # as in a process that begins with the command
        signal.signal(number, commands.leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    sys.argv = [command, *flags]
    module = importlib.import_module(f"osvos_tf.commands.{command}")
    try:
        cli.run(module.main, module.FLAGS, module.__doc__)
        return 0
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 1

SIGNALS = {signal.SIGINT, signal.SIGTERM}

for line in sys.stdin:
    reader, writer = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child knows what to do with them
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    else:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(reader)
        status = run(*json.loads(line))
        sys.stdout.flush()
        os._exit(status)
    os.close(writer)
    print(child, flush=True)
    with open(reader, errors="replace") as said:
        text = said.read()
    print(json.dumps([os.waitpid(child, 0)[1], text]), flush=True)
"""


class Commands:
    """Starts commands, one at a time.

    with Commands(cwd=REPOSITORY) as commands:
        child, wait = commands.start("segment", ["--frames=..."])
        os.kill(child, signal.SIGKILL)
        status, text = wait()
    """

    def __init__(self, **options):
        if not hasattr(os, "fork"):
            pytest.skip("needs os.fork and SIGKILL")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )

    def __enter__(self):
        self._process.__enter__()
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.__exit__(*error)

    def start(self, command, flags, **fate):
        """Starts a command.

        Args:
            command: its name.
            flags: as a user would write them.
            fate: `kill_at` the step so and so, `file_bytes` that a file may have at most (as on a
                full disk), `uid` of the user to become.

        Returns:
            Its process id, and a function that waits for its status, as `subprocess` has it, and
            the text that it printed.
        """
        line = json.dumps([command, [str(flag) for flag in flags], fate])
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer(), self._wait

    def finish(self, command, flags, **fate):
        """Runs a command to its end; returns its status and what it printed."""
        return self.start(command, flags, **fate)[1]()

    def run(self, command, flags, once=None):
        """Runs a command to its end, which must be a good one; returns its seconds, as `kill`."""
        _, wait = self.start(command, flags)
        began = self._await(once)
        status, text = wait()
        assert status == 0, text
        return time.monotonic() - began

    def kill(self, command, flags, seconds, number=signal.SIGKILL, once=None):
        """Kills or stops a command after so many seconds; returns whether it was still at work.

        `once` is a function: the seconds begin when what it returns is no longer what it was.
        """
        child, wait = self.start(command, flags)
        self._await(once)
        self._has_ended(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        status, text = wait()
        assert status in (0, -number if number == signal.SIGKILL else 128 + number), text
        return status != 0

    def _await(self, once):
        before = once and once()
        while once and once() == before and not self._has_ended(0.005):
            pass
        return time.monotonic()

    def _has_ended(self, seconds):
        """Waits so long at most for the command's end."""
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def _wait(self):
        status, text = self._answer()
        return os.waitstatus_to_exitcode(status), text

    def _answer(self):
        line = self._process.stdout.readline()
        return json.loads(line or pytest.fail("the commands' parent has ended"))


@contextlib.contextmanager
def in_background(cwd):
    """Yields a function that starts a command beside the test; what still runs then is killed."""
    processes = []

    def start(command, flags, **options):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", f"pipelines.{command}", *flags],
                cwd=cwd,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **options,
            )
        )
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_for(condition, *processes):
    """Waits for what processes bring about while all of them run; returns it."""
    deadline = time.monotonic() + SECONDS
    while not (result := condition()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


# For a test that kills again and again: from a command's first output on, or, in the long tests, at
# any moment.
FEW_AND_MANY = pytest.mark.parametrize(
    ("count", "anywhere"), [(6, False), pytest.param(99, True, marks=pytest.mark.long)]
)


def moments(seconds, count, seed=0):
    """Yields times between 0 and `seconds`, one in each of as many equal parts, in any order."""
    numbers = random.Random(seed)
    parts = list(range(count))
    numbers.shuffle(parts)
    for part in parts:
        yield seconds * (part + numbers.random()) / count
