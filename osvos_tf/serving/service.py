"""What the two fronts of the model server share: limits, a queue, checks and metrics.

A predict request takes a slot and gives it back with its reply. The number of slots bounds the
memory: when none is free, the request is rejected at once. Three steps lead to the reply: bytes to
arrays, arrays to arrays (`Servable.run`), and back to bytes. Workers do the middle one; by default
there is one, because one call of TensorFlow keeps all cores busy.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import numpy as np
import prometheus_client
from PIL import Image
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from osvos_tf.media.images import MAX_RATIO, describe_size
from osvos_tf.serving import served_models
from osvos_tf.serving import tf_serving_messages as messages

_IMAGES = "image_bytes"  # the input whose size in pixels is known only from the images' headers
_SCAN, _MOST_SCANS = b"\xff\xda", 100  # of a JPEG; progressive ones have about ten
_ENDLESS = 2**20  # pixels a side: no limit lets them pass
_HELPERS = 2
T = TypeVar("T")
_REQUEST_COUNT = ":tensorflow:serving:request_count"
_MICROSECONDS = tuple(10 * 1.8**n for n in range(33))  # TF Serving's buckets
_LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds


@dataclasses.dataclass(frozen=True)
class Limits:
    """How many requests there may be, and what one may ask for.

    Attributes:
        queue: requests that may wait beside those that run; one more is rejected at once.
        workers: model calls at the same time.
        request_bytes: of one request: the gRPC message, the HTTP body, any array in it.
        pixels: of all images of one request together, encoded ones included. A network of full
            width takes 0.9 GB of memory for a million.
        read_seconds: for the body of an HTTP request to arrive.
        grace_seconds: for requests in flight to finish when the server stops.
    """

    queue: int = 64
    workers: int = 1
    request_bytes: int = 64 << 20
    pixels: int = 10_000_000
    read_seconds: float = 60.0
    grace_seconds: float = 30.0


@dataclasses.dataclass(frozen=True)
class Ways:
    """How a server may be asked, and how it answers, beside its two ports; each as TF Serving has.

    Attributes:
        grpc_socket_path: Unix socket on which gRPC is answered as well.
        ssl_config: file of an `SSLConfig` in text form; gRPC's port is then encrypted.
        channel_arguments: of gRPC's server, such as {"grpc.max_connection_age_ms": 60000}.
        cors: let pages of other origins ask over REST.
        tensor_content: answer over gRPC with bytes instead of typed fields.
    """

    grpc_socket_path: str | None = None
    ssl_config: str | None = None
    channel_arguments: Mapping[str, int | str] = dataclasses.field(default_factory=dict)
    cors: bool = False
    tensor_content: bool = False


class WorkQueue:
    """A few workers for model calls behind a bounded queue, and helpers for small tasks.

    Args:
        waiting: how many requests may wait.
        workers: how many model calls may run at the same time.
    """

    def __init__(self, waiting: int, workers: int):
        self.places = waiting + workers
        self.taken = 0  # places of requests that are being read, wait, run or are being answered
        self._lock = threading.Lock()
        self._workers = concurrent.futures.ThreadPoolExecutor(workers, "worker")
        self._helpers = concurrent.futures.ThreadPoolExecutor(_HELPERS, "helper")

    def __enter__(self) -> "WorkQueue":
        """The threads start when they are needed."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for the calls that run."""
        self._workers.shutdown(cancel_futures=True)
        self._helpers.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Holds a slot.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, no slot is free.
        """
        with self._lock:
            if self.taken == self.places:
                raise messages.RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self.places} requests are waiting or running already. Try again later.",
                )
            self.taken += 1
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1

    def submit(
        self, function: Callable[..., T], *arguments: object
    ) -> concurrent.futures.Future[T]:
        """Returns the `Future` of a model call."""
        return _submit(self._workers, function, *arguments)

    def submit_aside(
        self, function: Callable[..., T], *arguments: object
    ) -> concurrent.futures.Future[T]:
        """Returns the `Future` of a call by a helper: reading or writing JSON."""
        return _submit(self._helpers, function, *arguments)


class Service:
    """What gRPC and REST have in common.

    Args:
        models: `ServedModels`.
        queue: `WorkQueue`.
        limits: `Limits`.
        ways: `Ways`.
    """

    def __init__(
        self,
        models: served_models.ServedModels,
        queue: WorkQueue,
        limits: Limits,
        ways: Ways,
    ):
        self.models, self.queue, self.limits, self.ways = models, queue, limits, ways
        self.metrics = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "osvos_requests",
            "Predict requests answered",
            ["model", "protocol", "code"],
            registry=self.metrics,
        )
        self._seconds = prometheus_client.Histogram(
            "osvos_request_seconds",
            "From the arrival of a predict request to its reply",
            ["model", "protocol"],
            registry=self.metrics,
            buckets=_LATENCY_BUCKETS,
        )
        length = prometheus_client.Gauge(
            "osvos_queue_length", "Predict requests not yet answered", registry=self.metrics
        )
        length.set_function(lambda: queue.taken)
        self._versions = prometheus_client.Gauge(
            "osvos_model_version", "Version in use", ["model"], registry=self.metrics
        )
        # The same under TF Serving's names, for dashboards that have been made for it.
        self._count = prometheus_client.Gauge(
            _REQUEST_COUNT, "Requests", ["model_name", "status"], registry=self.metrics
        )
        self._latency = prometheus_client.Histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds from the arrival of a request to its reply",
            ["model_name", "API", "entrypoint"],
            registry=self.metrics,
            buckets=_MICROSECONDS,
        )

    @contextlib.contextmanager
    def predict_request(self, name: str, protocol: str) -> Iterator[None]:
        """Holds a slot for a request to model `name`; counts and times it.

        Raises:
            RequestError: no slot is free, or something was raised inside.
        """
        started = time.perf_counter()
        code = grpc.StatusCode.CANCELLED  # unless we learn otherwise
        try:
            with self.queue.place():
                yield
            code = grpc.StatusCode.OK
        except Exception as error:
            code = messages.to_request_error(error).code
            if code is grpc.StatusCode.INTERNAL:
                logging.getLogger(__name__).exception("%s: a fault of the server", name)
            raise
        finally:
            model = name if name in self.models else ""  # a label for every name would fill memory
            seconds = time.perf_counter() - started
            self._requests.labels(model, protocol, code.name).inc()
            self._seconds.labels(model, protocol).observe(seconds)
            self._count.labels(model, code.name).inc()
            self._latency.labels(model, "Predict", protocol.upper()).observe(1e6 * seconds)

    def metrics_page(self) -> bytes:
        """Returns all metrics as Prometheus reads them."""
        self._watch_versions()
        page = prometheus_client.generate_latest(self.metrics)
        # The library calls every counter ..._total, and TF Serving does not.
        gauge, counter = (f"# TYPE {_REQUEST_COUNT} {kind}\n" for kind in ("gauge", "counter"))
        return page.replace(gauge.encode(), counter.encode())

    def _watch_versions(self) -> None:
        self._versions.clear()
        for model in self.models:
            self._versions.labels(model.name).set_function(
                functools.partial(_version_in_use, model)
            )

    def check(
        self,
        servable: served_models.Servable,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
    ) -> None:
        """Raises RequestError unless a request fits the signature and the limits."""
        servable.check(signature_name, inputs, output_filter)
        height = servable.working_height
        pixels = sum(_count_pixels(name, array, height) for name, array in inputs.items())
        if pixels > self.limits.pixels:
            raise messages.invalid(
                f"A request may have {self.limits.pixels} pixels in all its images together, as "
                f"the network sees them, this one has {pixels:.0f}. Send fewer or smaller images, "
                "or raise the server's limit."
            )

    def status(
        self, name: str, version: int | str | None = None
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the `GetModelStatusResponse` for one or all versions of a model."""
        states = self.models[name].states() if name in self.models else []
        if isinstance(version, str):
            version = self.models[name].servable(version).version
        states = [state for state in states if version in (None, state[0])]
        if not states:
            which = "any versions" if version is None else f"version {version}"
            message = f"Could not find {which} of model {name}"
            raise messages.RequestError(grpc.StatusCode.NOT_FOUND, message)
        return messages.status_response(states)

    def metadata(
        self, name: str, version: int | str | None = None
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the `GetModelMetadataResponse` of the version in use."""
        servable = self.models[name].servable(version)
        return messages.metadata_response(name, servable.version, servable.signature_defs)


def _version_in_use(model: served_models.ServedModel) -> float:
    return model.version or 0  # before the first is loaded


def _submit(
    threads: concurrent.futures.Executor, function: Callable[..., T], *arguments: object
) -> concurrent.futures.Future[T]:
    """Returns the `Future` of a call, which holds the arguments no longer once it is cancelled."""
    call: list[Any] = [function, *arguments]
    future = threads.submit(_run_call, call)
    future.add_done_callback(lambda _: call.clear())
    return future


def _run_call(call: list[Any]) -> Any:
    function, *arguments = call
    return function(*arguments)


def _count_pixels(name: str, array: np.ndarray, height: int) -> float:
    """Returns the pixels of an input, a batch of images, decoded or encoded, as they are computed.

    Args:
        name: of the input.
        array: its value.
        height: at which the network looks at images: small ones are enlarged.

    Raises:
        RequestError: INVALID_ARGUMENT, an image is none, or a strip.
    """
    if name == _IMAGES:
        sizes = (_encoded_size(index, item) for index, item in enumerate(array.flat))
        return sum(_computed_pixels(*size, height) for size in sizes)
    if array.ndim != 4 or not array.shape[0]:
        return 0
    count, rows, columns, _ = array.shape
    return count * _computed_pixels(rows, columns, height)


def _computed_pixels(height: int, width: int, seen: int) -> float:
    """Returns the larger one of an image's size and what the network makes of it."""
    least = max(1, min(height, width))
    if max(height, width) > MAX_RATIO * least:
        raise messages.invalid(
            f"An image is {describe_size((height, width))}. No side may be {MAX_RATIO} times the "
            "other."
        )
    return max(height * width, seen * seen * width / max(1, height))


def _encoded_size(index: int, encoded: bytes) -> tuple[int, int]:
    """Returns (height, width) of a JPEG or PNG image. Only its header is read."""
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if encoded.count(_SCAN) > _MOST_SCANS and image.format == "JPEG":
                raise messages.invalid(
                    f"{_IMAGES}[{index}] has more than {_MOST_SCANS} scans, each of which is "
                    "decoded. Save it anew as a baseline JPEG."
                )
            return height, width
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _ENDLESS, _ENDLESS
    except (OSError, ValueError) as error:
        raise messages.invalid(
            f"{_IMAGES}[{index}] has {len(encoded)} bytes and no header of an image. Wanted a JPEG "
            "or PNG file."
        ) from error
