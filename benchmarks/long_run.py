"""Lets the package work for an hour, and watches memory and file handles: does anything grow?

    python -m benchmarks.long_run --out=runs/long --json=rows.json --svg=curve.svg
    python -m benchmarks.long_run --minutes=5 --out=runs/short

The commands of a user run side by side on an invented world, in real processes: `train_parent` with
a checkpoint every few seconds; `segment_dataset` over a list without end; `serve`, asked for masks
all the time, while `export_saved_model` gives it a new version every minute and old versions are
removed. At the end all are told to stop. Fails if a request does, or one of the commands. Reads
`/proc`, so it needs Linux.
"""

import collections
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from absl import app, flags

from benchmarks import timing
from osvos_tf import files
from osvos_tf.data import davis, painted_world
from osvos_tf.data.tfrecord_writer import write_records
from osvos_tf.media.frames import open_frames
from osvos_tf.network import model
from osvos_tf.network.files import save_model
from osvos_tf.serving import client
from osvos_tf.serving.client_base import ServingError

_MINUTES = flags.DEFINE_float("minutes", 60.0, "How long.", lower_bound=1.0)
_OUT = flags.DEFINE_string("out", None, "Folder for all files, a new one.", required=True)
_SVG = flags.DEFINE_string("svg", None, "File to draw the curve of memory to.")
_PORT = flags.DEFINE_integer("port", 8573, "Of the server.")
flags.adopt_module_key_flags(timing)

_SAMPLE_SECONDS = 10
_SWAP_SECONDS = 60
_KEPT = 3  # versions
_SHOWN = 12  # lines of the printed table
_SEQUENCES = 5000  # more than an hour has time for
_ROLES = {"training": "#0072b2", "serving": "#d55e00", "segment_dataset": "#009e73",
          "its worker": "#cc79a7"}  # fmt: skip
"""What is watched -> its colour."""

Running = dict[str, "subprocess.Popen[bytes]"]  # what is watched -> its process
Rows = list[dict[str, Any]]


def main(argv: list[str]) -> None:
    """Prints a table of memory and handles over time."""
    del argv
    out = files.ensure_writable(_OUT.value)
    _prepare(out)
    rows: Rows = []
    errors: list[str] = []
    requests: collections.Counter[str] = collections.Counter()
    done = threading.Event()
    with contextlib.ExitStack() as stack:
        running = {role: _start(role, command, out, stack) for role, command in _commands(out)}
        asking = threading.Thread(target=_ask, args=(out, done, errors, requests))
        asking.start()
        try:
            _watch(out, running, rows, errors)
        finally:
            done.set()
            asking.join()
        statuses = {role: _stop(process) for role, process in running.items()}
    _show(rows)
    print(f"{dict(requests)}; exit statuses {statuses}")
    timing.write(rows)
    if _SVG.value:
        pathlib.Path(_SVG.value).write_text(draw(rows))
    wanted = {"training": 143, "serving": 143, "segment_dataset": 143}
    if not requests:
        errors.append("no request was answered")
    if errors or statuses != wanted:
        raise SystemExit(f"Failed: {errors[:3]}, {statuses}, wanted {wanted}")


def _prepare(out: pathlib.Path) -> None:
    """Leaves records, a small parent, a list of sequences and a first version in the folder."""
    painted_world.paint_davis(out / "DAVIS", train=4, val=1)
    write_records(davis.read_split(out / "DAVIS", "train"), out / "records", "train")
    network = model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=0)
    save_model(network, out / "parent.keras")
    (sequence,) = davis.read_split(out / "DAVIS", "val")
    frame = sequence.frames[0]
    lines = (f"s{n:04d}:{frame.image.parent} {frame.mask}\n" for n in range(_SEQUENCES))
    (out / "list.txt").write_text("".join(lines))
    _export(out)


def _commands(out: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields (role, the command's name and flags)."""
    parent = f"--parent={out / 'parent.keras'}"
    yield "training", ["train_parent", f"--records={out / 'records'}", f"--workdir={out / 'run'}",
                       "--recipe=scratch", "--weights=random", "--width_multiplier=0.0625",
                       "--height=64", "--updates=10000000", "--checkpoint_seconds=5"]  # fmt: skip
    yield "segment_dataset", ["segment_dataset", f"--list={out / 'list.txt'}", parent,
                              f"--out={out / 'results'}", "--updates=5"]  # fmt: skip
    yield "serving", ["serve", f"--model=dog:{out / 'saved_models'}", "--rest_port=0",
                      f"--grpc_port={_PORT.value}"]  # fmt: skip


def _start(
    role: str, command: list[str], out: pathlib.Path, stack: contextlib.ExitStack
) -> "subprocess.Popen[bytes]":
    log = stack.enter_context((out / f"{role}.log").open("wb"))
    name, *arguments = command
    process = subprocess.Popen(
        [sys.executable, "-m", f"pipelines.{name}", *arguments], stdout=log, stderr=log
    )
    stack.callback(process.kill)
    return process


def _stop(process: "subprocess.Popen[bytes]") -> int:
    """Tells a process to stop as a system would; returns its exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=300)


def _watch(out: pathlib.Path, running: Running, rows: Rows, errors: list[str]) -> None:
    """Samples all processes, and swaps versions, until time is up."""
    start = time.monotonic()
    swapped = sampled = start
    while (now := time.monotonic()) - start < 60 * _MINUTES.value and not errors:
        if now - sampled >= _SAMPLE_SECONDS:
            sampled = now
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                for role, pid in _pids(running):
                    rows.append(_sample(role, pid, (now - start) / 60))
        if now - swapped >= _SWAP_SECONDS:
            swapped = now
            _export(out)
        for role, process in running.items():
            if process.poll() is not None:
                errors.append(f"{role} ended, see {out / role}.log")
        time.sleep(0.5)


def _export(out: pathlib.Path) -> None:
    """Exports the next version and removes the oldest."""
    folder = out / "saved_models"
    command = [f"--model={out / 'parent.keras'}", f"--out={folder}"]
    subprocess.run(
        [sys.executable, "-m", "pipelines.export_saved_model", *command],
        check=True,
        capture_output=True,
    )
    versions = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    for version in versions[:-_KEPT]:
        shutil.rmtree(folder / str(version))


def _ask(
    out: pathlib.Path,
    done: threading.Event,
    errors: list[str],
    requests: "collections.Counter[str]",
) -> None:
    """Asks the server for masks without pause, once it is there."""
    (sequence,) = davis.read_split(out / "DAVIS", "val")
    images = open_frames(sequence.frames[0].image.parent)
    frames = np.stack([frame for _, frame in images][:2])
    started = False
    while not done.is_set():
        try:
            with client.connect(f"127.0.0.1:{_PORT.value}", "dog") as predict:
                while not done.is_set():
                    predict(frames)
                    started = True
                    requests["answered"] += 1
        except (OSError, ValueError, grpc.RpcError, ServingError) as error:
            if started:
                errors.append(str(error))
                return
            time.sleep(1)


def _pids(running: Running) -> Iterator[tuple[str, int]]:
    """Yields (role, process id) of all that is watched."""
    for role, process in running.items():
        yield role, process.pid
    pid = running["segment_dataset"].pid
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield "its worker", int(child)


def _sample(role: str, pid: int, minute: float) -> dict[str, Any]:
    process = pathlib.Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "what": role,
        "minute": round(minute, 2),
        "pid": pid,
        "bytes": int(status["VmRSS"].split()[0]) * 1024,
        "handles": len(os.listdir(process / "fd")),
        "threads": int(status["Threads"]),
    }


def _show(rows: Rows) -> None:
    print(f"{'minute':>8}" + "".join(f"{role:>28}" for role in _ROLES))
    minutes = sorted({row["minute"] for row in rows})
    for minute in minutes[:: max(1, len(minutes) // _SHOWN)]:
        found = {row["what"]: row for row in rows if row["minute"] == minute}
        cells = (
            f"{found[role]['bytes'] / 2**20:8.0f} MiB {found[role]['handles']:4d} handles"
            if role in found
            else ""
            for role in _ROLES
        )
        print(f"{minute:8.1f}" + "".join(f"{cell:>28}" for cell in cells))


def draw(rows: Rows) -> str:
    """Returns an SVG picture of memory over time, a line a process."""
    width, height, left, bottom = 720, 360, 70, 50
    top = max(row["bytes"] for row in rows)
    last = max(row["minute"] for row in rows)

    def place(row: dict[str, Any]) -> str:
        x = left + row["minute"] / last * (width - left - 20)
        return f"{x:.1f} {height - bottom - row['bytes'] / top * (height - bottom - 30):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left} 30V{height - bottom}H{width - 20}" stroke="#888" fill="none"/>',
        f'<text x="{left - 8}" y="36" text-anchor="end">{top / 2**20:.0f}</text>',
        f'<text x="{left - 8}" y="{height - bottom}" text-anchor="end">0</text>',
        f'<text x="{left - 40}" y="16">MiB</text>',
        f'<text x="{width - 20}" y="{height - bottom + 18}" text-anchor="end">{last:.0f} min'
        "</text>",
    ]
    for number, (role, colour) in enumerate(_ROLES.items()):
        lines = collections.defaultdict(list)
        for row in rows:
            if row["what"] == role:
                lines[row["pid"]].append(place(row))
        for line in lines.values():
            parts.append(
                f'<path d="M{"L".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        x = left + number * 150
        parts.append(f'<text x="{x}" y="{height - 12}" fill="{colour}">{role}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    app.run(main)
