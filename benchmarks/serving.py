"""Times the embedded server against the same network called directly, in the same run.

    python -m benchmarks.serving                    # about 3 minutes on two cores; prints a table
    python -m benchmarks.serving --json=rows.json

A request is one frame of 480 x 854: as pixels by gRPC, or as a JPEG by REST, answered by a PNG. The
server is a separate process. Each client sends ready-made bytes, and the next ones when it has
the reply. Direct calls and clients take turns, and a ratio compares what was measured in one turn.
The bound of a served frame is the frame called directly. `cpu_seconds` is what the process that
runs the network spent on a frame: where others use the machine too, it tells more than the clock.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import cv2
import grpc
import numpy as np
import requests
import tensorflow as tf
from absl import app, flags, logging
from tensorflow_serving.apis import predict_pb2

from benchmarks import timing
from osvos_tf.network import model, saved_model
from osvos_tf.serving import served_models
from osvos_tf.serving import tf_serving_messages as messages

_WIDTH = flags.DEFINE_float(
    "width_multiplier",
    0.25,
    "Width of the network. A narrow one leaves less time to hide costs in.",
)
_FRAMES = flags.DEFINE_integer("frames", 32, "Frames in a measurement.", lower_bound=16)
flags.adopt_module_key_flags(timing)
flags.set_default(timing.ROUNDS, 3)

_CLIENTS = (1, 4, 16)
_NAME = "benchmark"
_PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclasses.dataclass
class _Way:
    """One way to get a frame segmented, and what was measured of it.

    Attributes:
        name: of the request.
        send: asks the server, once.
        call: does what the server should do, but directly.
        steps: {what: function}; the server's own work on a request, one after the other.
        seconds: {clients: [seconds a frame, one a round]}; 0 clients are direct calls.
        cpu_seconds: the same for the processor time of the process that runs the network.
        latencies: {clients: [seconds]}.
    """

    name: str
    send: Callable
    call: Callable
    steps: dict
    seconds: dict = dataclasses.field(default_factory=dict)
    cpu_seconds: dict = dataclasses.field(default_factory=dict)
    latencies: dict = dataclasses.field(default_factory=dict)


def main(argv):
    """Prints one row a measurement."""
    del argv
    logging.set_verbosity(logging.WARNING)  # an export has much to say
    frame = timing.frame()
    settings = {
        "size": list(timing.FRAME_SIZE),
        "width_multiplier": _WIDTH.value,
        "frames": _FRAMES.value,
        "rounds": timing.ROUNDS.value,
        "cores": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        network = model.build_foreground(width_multiplier=_WIDTH.value, start="scratch", seed=0)
        version = saved_model.export_saved_model(network, pathlib.Path(folder) / _NAME)
        servable = served_models.Servable(_NAME, 1, version)
        rest, address, process = stack.enter_context(_server(version.parent))
        options = [("grpc.max_receive_message_length", -1)]
        channel = stack.enter_context(grpc.insecure_channel(address, options))
        ways = [_pixels_by_grpc(servable, channel, frame), _jpeg_by_rest(servable, rest, frame)]
        for _ in range(timing.ROUNDS.value):
            for way in ways:
                _take_turn(way, process)
        rows = [{**row, **settings} for way in ways for row in (*_rows(way), *_step_rows(way))]
    for row in rows:
        timing.show(row)
    timing.write(rows)


def _pixels_by_grpc(servable, channel, frame):
    """uint8 pixels in, float32 probabilities and uint8 masks out."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = _NAME
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(frame[None]))
    body = request.SerializeToString()
    send = channel.unary_unary(_PREDICT)  # bytes to bytes
    outputs = servable.run("", {"images": frame[None]})

    def read():
        message = predict_pb2.PredictRequest.FromString(body)
        inputs = {name: messages.from_proto(name, x, 1 << 30) for name, x in message.inputs.items()}
        servable.check("", inputs)
        return inputs

    def write():
        return messages.predict_response(request.model_spec, outputs)

    return _Way(
        "pixels by gRPC",
        send=lambda: send(body),
        call=lambda: servable.run("", {"images": frame[None]}),
        steps={"message to arrays": read, "arrays to message": write},
    )


def _jpeg_by_rest(servable, url, frame):
    """A JPEG in, a PNG of the mask out, both as base64 in JSON."""
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
    instance = {"b64": base64.b64encode(jpeg).decode()}
    body = json.dumps({"signature_name": "encoded", "instances": [instance]})
    inputs = {"image_bytes": np.array([jpeg], object)}
    outputs = servable.run("encoded", inputs)
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=max(_CLIENTS)))

    def send():
        session.post(f"{url}:predict", data=body, timeout=600).raise_for_status()

    return _Way(
        "JPEG to PNG by REST",
        send=send,
        call=lambda: servable.run("encoded", inputs),
        steps={
            "JSON to arrays": lambda: messages.from_json(body, servable.signature),
            "arrays to JSON": lambda: messages.to_json(outputs, by_row=True),
        },
    )


def _take_turn(way, server):
    """Measures direct calls and every number of clients once."""
    for clients in (0, *_CLIENTS):
        call, process = (way.send, server) if clients else (way.call, os.getpid())
        latencies = way.latencies.setdefault(clients, [])

        def timed(_, call=call, latencies=latencies):
            started = time.perf_counter()
            call()
            latencies.append(time.perf_counter() - started)

        with concurrent.futures.ThreadPoolExecutor(max(clients, 1)) as threads:
            call()  # so that threads, connections and memory are there
            cpu, started = _cpu_seconds(process), time.perf_counter()
            list(threads.map(timed, range(_FRAMES.value)))
            took, cpu = time.perf_counter() - started, _cpu_seconds(process) - cpu
        way.seconds.setdefault(clients, []).append(took / _FRAMES.value)
        way.cpu_seconds.setdefault(clients, []).append(cpu / _FRAMES.value)


def _rows(way):
    """Returns a row for direct calls and for every number of clients."""
    direct = way.seconds[0]
    for clients, seconds in way.seconds.items():
        ratios = [bound / second for bound, second in zip(direct, seconds, strict=True)]
        milliseconds = np.percentile(way.latencies[clients], (50, 90, 99)) * 1e3
        percentiles = dict(zip(("p50", "p90", "p99"), milliseconds.round(2).tolist(), strict=True))
        cpu = statistics.median(way.cpu_seconds[clients])
        who = f"{clients} client{'s' * (clients > 1)}" if clients else "called directly"
        yield {
            **timing.row(f"{way.name}, {who}", statistics.median(seconds)),
            "bound_seconds": statistics.median(direct) if clients else None,
            "fraction_of_bound": statistics.median(ratios) if clients else None,
            "clients": clients,
            "cpu_seconds": cpu,
            "latency_ms": percentiles,
            "note": f"processor {cpu * 1e3:.0f} ms; latency "
            + ", ".join(f"{name} {value:.0f}" for name, value in percentiles.items()),
        }


def _step_rows(way):
    """Returns rows that say where the time of one client's request goes."""
    median = statistics.median(way.latencies[0])
    steps = {"the network": median}
    for what, function in way.steps.items():
        steps[what] = timing.best_seconds(function, rounds=20)
    rest = statistics.median(way.latencies[1]) - sum(steps.values())
    for what, seconds in {**steps, "transport, threads, the client": rest}.items():
        share = seconds / statistics.median(way.latencies[1])
        note = f"{share:.1%} of one client's latency"
        yield timing.row(f"{way.name}, {what}", seconds, note=note)


def _cpu_seconds(process):
    """Returns the processor time of a process so far; NaN where there is no /proc."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return math.nan
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _server(base_path):
    """Starts `serve`; yields the model's URL, the gRPC address and the id of the process."""
    flags_ = [f"--model={_NAME}:{base_path}", "--rest_port=0", "--grpc_port=0"]
    command = [sys.executable, "-m", "pipelines.serve", *flags_]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = "".join(process.stdout.readline() for _ in range(3))
        try:
            rest, address = re.search(r"REST: (\S+)\ngRPC: (\S+)", said).groups()
            yield rest, address, process.pid
        finally:
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    app.run(main)
