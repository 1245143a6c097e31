"""The studio's server: a thin layer of HTTP over the desk and the learner.

It listens on this machine alone. Every request needs the token that the address holds (a cookie
keeps it), names this machine as its host, and, where it changes something, comes from this page:
so another page in the same browser can do nothing here.
"""

import asyncio
import contextlib
import json
import pathlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import cv2
import numpy as np
from aiohttp import web

from osvos_tf import files
from osvos_tf.errors import InputError, describe_os_error
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.media.images import MAX_PIXELS
from osvos_tf.media.masks import ids_in, read_labels
from osvos_tf.studio import take_home
from osvos_tf.studio.answers import HEADERS, done, labels_png, page_file, read_json, refuse
from osvos_tf.studio.assist import grab
from osvos_tf.studio.desk import Desk
from osvos_tf.studio.learner import Learner
from osvos_tf.studio.session import describe

_STATIC = pathlib.Path(__file__).parent / "static"
_COOKIE = "osvos_studio_{port}"  # browsers share cookies among the ports of a machine
_QUALITY = 85  # of frames as JPEG
_MOST_WIDTH = 4096  # of a frame that is asked for
_UPLOAD = 2**34  # bytes of a video
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OpenDesk = Callable[[str], Desk]


class Studio:
    """The page and its API.

    Args:
        open_desk: returns the desk for the path of a video or folder.
        path: the video that is open from the beginning; None: none.
        root: folder below which paths may be opened.
        token: without which nothing is answered; None: a new one.
    """

    def __init__(
        self,
        open_desk: OpenDesk,
        path: str | None,
        root: pathlib.Path,
        token: str | None = None,
    ) -> None:
        self.token = token or secrets.token_urlsafe(16)
        self._open_desk, self._root = open_desk, root.resolve()
        self._desk = None if path is None else open_desk(path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._version = 0
        self._learner = Learner(self._on_state)
        self._uploads = tempfile.TemporaryDirectory(prefix="osvos-studio-")

    def app(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_PIXELS + 1)
        app.router.add_get("/", self._page)
        app.router.add_get("/favicon.ico", self._nothing)
        app.router.add_get(r"/static/{name:[a-z]+\.(?:js|css)}", self._static)
        app.router.add_get("/api/session", self._session)
        app.router.add_get("/api/events", self._events)
        app.router.add_post("/api/open", self._open)
        app.router.add_post("/api/upload", self._upload)
        app.router.add_get(r"/api/frames/{number:\d{1,9}}", self._frame)
        app.router.add_get(r"/api/masks/{number:\d{1,9}}", self._mask)
        app.router.add_put(r"/api/masks/{number:\d{1,9}}", self._draw)
        app.router.add_post(r"/api/masks/{number:\d{1,9}}/file", self._load)
        app.router.add_post("/api/box", self._box)
        app.router.add_post("/api/objects", self._object)
        app.router.add_post("/api/learn", self._learn)
        app.router.add_post("/api/look", self._look)
        app.router.add_post("/api/cancel", self._cancel)
        app.router.add_post("/api/back", self._back)
        app.router.add_post("/api/make", self._make)
        app.router.add_get("/api/download", self._download)
        app.on_startup.append(self._begin)
        app.on_cleanup.append(self._end)
        return app

    async def _begin(self, app: web.Application) -> None:
        self._loop = asyncio.get_running_loop()

    async def _end(self, app: web.Application) -> None:
        await asyncio.to_thread(self._learner.close)
        self._uploads.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets pass what comes from this page; turns mistakes into words."""
        host = request.host.rpartition(":")[0] or request.host
        if host not in ("127.0.0.1", "localhost", "[::1]"):
            return refuse(403, "This address is not the studio's.")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{request.host}":
            return refuse(403, "Another page may not do this.")
        cookie = _COOKIE.format(port=request.url.port)
        given = request.query.get("token") or request.cookies.get(cookie, "")
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return refuse(
                403, "This address lacks the session's token. Use the one that the command printed."
            )
        try:
            response = await handler(request)
        except InputError as error:
            return refuse(400, str(error))
        except OSError as error:
            return refuse(507, describe_os_error(error))
        if not response.prepared:
            response.headers.update(HEADERS)
        if request.query.get("token"):
            response.set_cookie(cookie, self.token, httponly=True, samesite="Strict")
        return response

    # --- the page ---------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        return page_file(_STATIC / "index.html")

    async def _nothing(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _static(self, request: web.Request) -> web.Response:
        path = _STATIC / request.match_info["name"]
        if not path.is_file():
            raise web.HTTPNotFound
        return page_file(path)

    # --- the session ------------------------------------------------------------------------------

    async def _session(self, request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(self._state))

    def _state(self) -> dict[str, Any]:
        """Returns all that a page shows, as JSON has it."""
        state = {"version": self._version, "root": str(self._root), "job": self._learner.state}
        shown = {"video": None} if self._desk is None else describe(self._desk, self._root)
        return {**state, **shown}

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the job's state, and the number of the session's version."""
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while True:
                changed = self._changed
                event = {"version": self._version, "job": self._learner.state}
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), 15)
        return response

    def _notify(self, new: bool = True) -> None:
        """Wakes all pages; `new`: there is more to fetch than the job's state."""
        self._version += new
        self._changed.set()
        self._changed = asyncio.Event()

    def _on_state(self, state: dict[str, Any]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            ended = state["state"] in ("done", "failed", "cancelled")
            self._loop.call_soon_threadsafe(self._notify, ended)

    def _require_desk(self) -> Desk:
        if self._desk is None:
            raise InputError("No video is open. Open one first.")
        return self._desk

    def _frame_of(self, request: web.Request) -> tuple[Desk, int]:
        """Returns the desk and the number of the frame that a path names."""
        desk, number = self._require_desk(), int(request.match_info["number"])
        _require_frame(desk, number)
        return desk, number

    async def _asked_frame(self, request: web.Request) -> tuple[Desk, int]:
        """Returns the desk and the number of the frame that a request's JSON names; else 0."""
        desk, number = self._require_desk(), (await read_json(request)).get("frame", 0)
        if type(number) is not int:
            raise InputError("Wanted the frame's number.")
        _require_frame(desk, number)
        return desk, number

    # --- opening ----------------------------------------------------------------------------------

    async def _open(self, request: web.Request) -> web.Response:
        path = str((await read_json(request)).get("path", ""))
        place = pathlib.Path(path).expanduser()
        place = place if place.is_absolute() else self._root / place
        if not path or not place.resolve().is_relative_to(self._root):
            raise InputError(
                f"Wanted a video or a folder of frames below {self._root}. Got {path!r}. Start the "
                "studio in the folder that holds it, or drop the file here."
            )
        await self._use(str(place.resolve()))
        return done()

    async def _upload(self, request: web.Request) -> web.Response:
        name = pathlib.PurePath(request.query.get("name", "")).name
        if not name or name.startswith(".") or not name.isprintable():
            raise InputError("Wanted a file's name.")
        path = pathlib.Path(self._root, name)
        if path.exists():
            path = pathlib.Path(self._uploads.name, name)
        size = 0
        try:
            with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
                async for block in request.content.iter_chunked(2**20):
                    size += len(block)
                    if size > _UPLOAD:
                        raise InputError(f"This file has more than {_UPLOAD >> 30} GB.")
                    await asyncio.to_thread(file.write, block)
            await self._use(str(path))
        except InputError:
            path.unlink(missing_ok=True)
            raise
        return done()

    async def _use(self, path: str) -> None:
        if self._learner.is_running:
            raise InputError("It is learning. Cancel that before you open another video.")
        self._desk = await asyncio.to_thread(self._open_desk, path)
        self._notify()

    # --- frames and masks -------------------------------------------------------------------------

    async def _frame(self, request: web.Request) -> web.Response:
        desk, number = self._frame_of(request)
        width = int(request.query.get("width", "0") or 0)

        def encode() -> bytes:
            image = desk.image(number)
            if 0 < width < min(image.shape[1], _MOST_WIDTH):
                height = max(1, round(image.shape[0] * width / image.shape[1]))
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()

        return web.Response(body=await asyncio.to_thread(encode), content_type="image/jpeg")

    async def _mask(self, request: web.Request) -> web.Response:
        desk, number = self._frame_of(request)
        labels, source = await asyncio.to_thread(desk.mask, number, self._learner.is_running)
        if labels is None:
            labels = np.zeros(desk.size, np.uint8)
        return labels_png(labels, source)

    async def _draw(self, request: web.Request) -> web.Response:
        desk, number = self._frame_of(request)
        body = await request.read()
        if len(body) != desk.size[0] * desk.size[1]:
            raise InputError(
                f"Wanted {desk.size[0] * desk.size[1]} bytes, an id a pixel. Got {len(body)}."
            )
        labels = np.frombuffer(body, np.uint8).reshape(desk.size)
        return await self._draw_on(desk, number, labels)

    async def _load(self, request: web.Request) -> web.Response:
        """Takes a mask's file for a frame: whatever `segment --mask` takes."""
        desk, number = self._frame_of(request)
        name = pathlib.PurePath(request.query.get("name", "mask.png")).name
        path = pathlib.Path(self._uploads.name, secrets.token_hex(4) + pathlib.Path(name).suffix)
        path.write_bytes(await request.read())
        try:
            labels, has_ids = await asyncio.to_thread(read_labels, path, frame=desk.names[number])
        except InputError as error:
            raise InputError(str(error).replace(str(path), name)) from None
        finally:
            path.unlink()
        chosen = int(request.query.get("object", "1") or 1)
        if has_ids:
            for id_ in sorted(set(ids_in(labels)) - set(desk.objects)):
                desk.objects = {**desk.objects, id_: f"object {id_}"}
        else:
            labels = labels * np.uint8(chosen)
        return await self._draw_on(desk, number, labels)

    async def _draw_on(self, desk: Desk, number: int, labels: np.ndarray) -> web.Response:
        await asyncio.to_thread(desk.draw, number, labels)
        await asyncio.to_thread(self._learner.prepare)
        self._notify()
        return done()

    async def _box(self, request: web.Request) -> web.Response:
        desk, values = self._require_desk(), await read_json(request)
        try:
            number, box = int(values["frame"]), tuple(int(value) for value in values["box"])
            left, top, right, bottom = box
        except (KeyError, ValueError, TypeError):
            raise InputError("Wanted a frame and a box: left, top, right, bottom.") from None
        _require_frame(desk, number)

        def find() -> np.ndarray:
            return grab(desk.image(number), (left, top, right, bottom)).astype(np.uint8)

        return labels_png(await asyncio.to_thread(find), "box")

    async def _object(self, request: web.Request) -> web.Response:
        desk, values = self._require_desk(), await read_json(request)
        id_ = values.get("id")
        id_ = desk.name_object(None if id_ is None else int(id_), str(values.get("name", "")))
        self._notify()
        return web.json_response({"id": id_})

    # --- learning ---------------------------------------------------------------------------------

    async def _learn(self, request: web.Request) -> web.Response:
        desk, frame = await self._asked_frame(request)
        await self._start(desk, await asyncio.to_thread(desk.job), frame)
        return done()

    async def _start(self, desk: Desk, job: VideoJob, frame: int) -> None:
        await asyncio.to_thread(desk.forget_looks)  # of an earlier task
        details = {"job": job.as_json(), "looks": str(desk.looks), "frame": frame}
        await asyncio.to_thread(self._learner.start, "learn", details)

    async def _look(self, request: web.Request) -> web.Response:
        _, frame = await self._asked_frame(request)
        self._learner.look(frame)
        return done()

    async def _cancel(self, request: web.Request) -> web.Response:
        self._learner.cancel()
        return done()

    async def _back(self, request: web.Request) -> web.Response:
        desk = self._require_desk()
        await self._start(desk, desk.back(str((await read_json(request)).get("round", ""))), 0)
        desk.forget_drawn()
        self._notify()
        return done()

    # --- taking home ------------------------------------------------------------------------------

    async def _make(self, request: web.Request) -> web.Response:
        """Makes what was not made with the results; the page hears when it is there."""
        desk, what = self._require_desk(), str((await read_json(request)).get("what", ""))
        task, details = take_home.order(desk.path, desk.out, what)
        await asyncio.to_thread(self._learner.start, task, details)
        return done()

    async def _download(self, request: web.Request) -> web.StreamResponse:
        desk, what = self._require_desk(), request.query.get("what", "all")
        folder = pathlib.Path(self._uploads.name)
        path = await asyncio.to_thread(take_home.pack, desk.out, what, folder)
        attachment = f'attachment; filename="{path.name}"'.encode("ascii", "replace")
        return web.FileResponse(path, headers={"Content-Disposition": attachment.decode()})


@contextlib.asynccontextmanager
async def listening(studio: Studio, port: int) -> AsyncIterator[int]:
    """Runs the server on this machine's own address; yields its port.

    Raises:
        InputError: the port is taken.
    """
    runner = web.AppRunner(studio.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        try:
            await site.start()
        except OSError as error:
            raise InputError(
                f"Port {port} cannot be used: {error.strerror}. Name another, or 0 for a free one."
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _require_frame(desk: Desk, number: int) -> None:
    if not 0 <= number < len(desk.names):
        raise InputError(f"There is no frame {number}: the video has {len(desk.names)}.")
