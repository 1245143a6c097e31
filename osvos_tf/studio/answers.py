"""What the studio's server answers with, and the JSON that it is asked with."""

import json
import pathlib
from typing import Any

import cv2
import numpy as np
from aiohttp import web

from osvos_tf.errors import InputError

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_SUFFIXES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def page_file(path: pathlib.Path) -> web.Response:
    """Returns a file of the page."""
    kind = _SUFFIXES[path.suffix]
    return web.Response(text=path.read_text(encoding="utf-8"), content_type=kind, charset="utf-8")


def labels_png(labels: np.ndarray, source: str) -> web.Response:
    """Returns a label map as a grey PNG, whose values are ids."""
    png = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    return web.Response(body=png, content_type="image/png", headers={"X-Source": source})


def done() -> web.Response:
    """Says that a request was carried out."""
    return web.json_response({})


def refuse(status: int, words: str) -> web.Response:
    """Says in words why a request was not carried out."""
    return web.json_response({"error": words}, status=status, headers=HEADERS)


async def read_json(request: web.Request) -> dict[str, Any]:
    """Returns the request's JSON object."""
    try:
        value = json.loads(await request.text())
    except (ValueError, UnicodeDecodeError):
        value = None
    if not isinstance(value, dict):
        raise InputError("Wanted a JSON object.")
    return value
