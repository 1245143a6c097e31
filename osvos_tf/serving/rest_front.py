"""The REST side of the model server: TF Serving's paths, JSON and status codes; and /metrics."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc
import numpy as np
import prometheus_client
from aiohttp import web

from osvos_tf.serving import served_models
from osvos_tf.serving import tf_serving_messages as messages
from osvos_tf.serving.service import Service

T = TypeVar("T")
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_VERSION_PATH = r"(?:/versions/(?P<version>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?"
_STATUS_PATH = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION_PATH}(?P<metadata>/metadata)?", re.IGNORECASE
)
_PREDICT_PATH = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION_PATH}:(?P<method>predict|classify|regress)",
    re.IGNORECASE,
)
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@contextlib.contextmanager
def running(service: Service, listening: socket.socket) -> Iterator[None]:
    """Runs the REST interface: an event loop in its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rest")
    thread.start()
    try:
        rest = _Rest(service)
        asyncio.run_coroutine_threadsafe(rest.start(listening), loop).result()
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(rest.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _version(match: re.Match[str]) -> int | str | None:
    """Returns the version or label in a request's path, or None."""
    return match["label"] or (int(match["version"]) if match["version"] else None)


class _Rest:
    """Answers HTTP requests. Threads do what takes long, so that other requests are heard."""

    def __init__(self, service: Service):
        self._service, self._headers = service, _CORS if service.ways.cors else {}
        self._reading = 0  # requests whose body is arriving
        self._stopping = False
        app = web.Application(client_max_size=service.limits.request_bytes + 1)
        for path in ("/metrics", "/monitoring/prometheus/metrics"):
            app.router.add_get(path, self.metrics)
        app.router.add_route("*", "/{version:[vV]1}/{path:.*}", self.answer)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # when the client goes away
            shutdown_timeout=service.limits.grace_seconds,
        )

    async def start(self, listening: socket.socket) -> None:
        """Accepts connections on a listening socket."""
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """Accepts no more, and finishes what it has."""
        self._stopping = True
        for site in list(self._runner.sites):
            await site.stop()
        # The runner throws away what arrives once it is told to stop: bodies under way come first.
        deadline = time.monotonic() + self._service.limits.grace_seconds
        while self._reading and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self._runner.cleanup()

    async def metrics(self, request: web.Request) -> web.Response:
        """What a Prometheus server collects."""
        content_type = prometheus_client.CONTENT_TYPE_LATEST
        page = self._service.metrics_page()
        return web.Response(body=page, headers={"Content-Type": content_type})

    async def answer(self, request: web.Request) -> web.Response:
        """What TF Serving has below /v1/: predict, status and metadata."""
        # As there, a query makes the path one that there is not.
        path = request.path + (f"?{request.query_string}" if request.query_string else "")
        try:
            if request.method == "OPTIONS" and self._headers:
                return web.Response(headers=self._headers)
            if request.method == "POST" and (match := _PREDICT_PATH.fullmatch(path)):
                text = await self._ask(request, match)
            elif request.method == "GET" and (match := _STATUS_PATH.fullmatch(path)):
                text = self._describe(match["name"], _version(match), bool(match["metadata"]))
            else:
                raise messages.invalid(f"Malformed request: {request.method} {path}")
        except Exception as error:
            problem = messages.to_request_error(error)
            status = _HTTP_STATUS.get(problem.code, 500)
            return web.json_response({"error": str(problem)}, status=status, headers=self._headers)
        return web.Response(text=text, content_type="application/json", headers=self._headers)

    def _describe(self, name: str | None, version: int | str | None, metadata: bool) -> str:
        if name is None:
            raise messages.invalid("Missing model name in request.")
        if metadata:
            return messages.metadata_to_json(self._service.metadata(name, version))
        return messages.message_to_json(self._service.status(name, version))

    async def _ask(self, request: web.Request, match: re.Match[str]) -> str:
        name, version, method = match["name"], _version(match), match["method"].lower()
        if method != "predict":
            signature = self._service.models[name].servable(version).signature("")
            raise messages.other_kind(method, signature)
        return await self._predict(request, name, version)

    async def _predict(self, request: web.Request, name: str, version: int | str | None) -> str:
        with self._service.predict_request(name, "rest"):
            servable = self._service.models[name].servable(version)
            body = await self._read(request)
            signature_name, inputs, by_row = await self._aside(self._parse, servable, body)
            future = self._service.queue.submit(servable.run, signature_name, inputs)
            outputs = await asyncio.wrap_future(future)
            return await self._aside(messages.to_json, outputs, by_row)

    async def _read(self, request: web.Request) -> bytes:
        """Returns the body of a request."""
        if self._stopping:
            raise messages.RequestError(grpc.StatusCode.UNAVAILABLE, "The server is stopping.")
        limits = self._service.limits
        self._reading += 1
        try:
            if (request.content_length or 0) <= limits.request_bytes:
                return await asyncio.wait_for(request.read(), limits.read_seconds)
        except asyncio.TimeoutError:
            message = f"The body did not arrive within {limits.read_seconds} seconds."
            raise messages.RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from None
        except ConnectionError as error:
            raise messages.RequestError(
                grpc.StatusCode.CANCELLED, "The client has gone."
            ) from error
        except web.RequestPayloadError as error:
            raise messages.invalid(f"The body cannot be read: {error}") from error
        except web.HTTPRequestEntityTooLarge:
            pass
        finally:
            self._reading -= 1
        raise messages.invalid(
            f"A body may have {limits.request_bytes} bytes. Send less at a time."
        )

    def _parse(
        self, servable: served_models.Servable, body: bytes
    ) -> tuple[str, dict[str, np.ndarray], bool]:
        signature_name, inputs, by_row = messages.from_json(body, servable.signature)
        self._service.check(servable, signature_name, inputs)
        return signature_name, inputs, by_row

    async def _aside(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.wrap_future(self._service.queue.submit_aside(function, *arguments))
