"""The studio's API by itself: who may ask, and what mistakes are answered."""

import asyncio
import io
import json

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from osvos_tf.segmentation.options import LearnOptions, SegmentOptions
from osvos_tf.studio.app import Studio
from osvos_tf.studio.desk import Desk
from support.world import paint

TOKEN = "secret"


@pytest.fixture
def studio(tmp_path):
    paint(tmp_path / "DAVIS")

    def open_desk(path):
        out = str(tmp_path / "results" / "bear")
        return Desk(path, out, LearnOptions(), SegmentOptions(), ())

    return Studio(open_desk, str(tmp_path / "DAVIS/JPEGImages/480p/bear"), tmp_path, TOKEN)


@pytest.fixture
def ask(studio):
    """Returns a function of requests that gives their answers: status, headers, bytes."""

    def ask(*requests):
        async def work():
            answers = []
            async with TestClient(TestServer(studio.app())) as client:
                for method, path, settings in requests:
                    settings = {"headers": {}, **settings}
                    if "token" not in path:
                        cookie = {"Cookie": f"osvos_studio_{client.port}={TOKEN}"}
                        settings["headers"] = {**cookie, **settings["headers"]}
                    async with client.request(method, path, **settings) as answer:
                        answers.append((answer.status, dict(answer.headers), await answer.read()))
            return answers

        return asyncio.run(work())

    return ask


def words(answer):
    return json.loads(answer[2])["error"]


def test_the_address_holds_a_token_that_a_cookie_keeps(ask):
    (page,) = ask(("GET", f"/?token={TOKEN}", {}))
    assert page[0] == 200 and b"osvos" in page[2]
    assert "HttpOnly" in page[1]["Set-Cookie"] and "SameSite=Strict" in page[1]["Set-Cookie"]
    assert "default-src 'none'" in page[1]["Content-Security-Policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": "osvos_studio_8000=guessed"},
        {"Cookie": ""},
        {"Host": "attacker.example"},  # DNS rebinding
        {"Host": "attacker.example:8000"},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/session", "/static/app.js", "/api/frames/0"])
def test_another_page_can_do_nothing(ask, headers, path):
    ((status, _, body),) = ask(("GET", path, {"headers": headers}))
    assert status == 403 and b"error" in body and b"secret" not in body


def test_frames_and_masks(ask):
    labels = np.zeros((48, 80), np.uint8)
    labels[3:9, 4:20] = 1
    frame, small, nothing, drawn, mask, session, gone = ask(
        ("GET", "/api/frames/2", {}),
        ("GET", "/api/frames/2?width=40", {}),
        ("GET", "/api/masks/2", {}),
        ("PUT", "/api/masks/2", {"data": labels.tobytes()}),
        ("GET", "/api/masks/2", {}),
        ("GET", "/api/session", {}),
        ("GET", "/api/frames/4", {}),
    )
    assert Image.open(io.BytesIO(frame[2])).size == (80, 48)
    assert Image.open(io.BytesIO(small[2])).size == (40, 24)
    assert (
        nothing[1]["X-Source"] == "none" and not np.array(Image.open(io.BytesIO(nothing[2]))).any()
    )
    assert drawn[0] == 200 and mask[1]["X-Source"] == "drawn"
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(mask[2]))), labels)
    state = json.loads(session[2])
    assert (state["drawn"], state["news"], state["results"]) == ([2], [2], None)
    assert state["video"]["frames"] == 4 and state["objects"][0]["name"] == "object 1"
    assert gone[0] == 400 and "has 4" in words(gone)


@pytest.mark.parametrize(
    ("method", "path", "data", "message"),
    [
        ("PUT", "/api/masks/0", b"123", "Wanted 3840 bytes"),
        ("PUT", "/api/masks/0", b"\x05" * 3840, "no object 5"),
        ("POST", "/api/learn", b"{}", "Nothing is drawn yet"),
        ("POST", "/api/open", b'{"path": "/etc"}', "below"),
        ("POST", "/api/open", b'{"path": "../.."}', "below"),
        ("POST", "/api/open", b'{"path": "DAVIS/none.mp4"}', "none.mp4"),
        ("POST", "/api/open", b"[]", "Wanted a JSON object"),
        ("POST", "/api/box", b'{"frame": 0}', "Wanted a frame and a box"),
        ("POST", "/api/box", b'{"frame": 0, "box": [900, 9, 910, 9]}', "too small"),
        ("POST", "/api/back", b'{"round": "../../x"}', "There is no round"),
        ("POST", "/api/objects", b'{"id": 9, "name": "x"}', "no object 9"),
        ("POST", "/api/upload?name=notes.txt", b"no video", "notes.txt"),
        ("POST", "/api/upload?name=../x.mp4", b"no video", "x.mp4"),
        ("POST", "/api/upload?name=", b"no video", "Wanted a file's name"),
        ("POST", "/api/masks/0/file?name=mask.png", b"no picture", "mask.png"),
        ("GET", "/api/download", b"", "no results yet"),
    ],
)
def test_mistakes_are_answered_in_words(ask, tmp_path, method, path, data, message):
    before = sorted(tmp_path.rglob("*"))
    answer, session = ask((method, path, {"data": data}), ("GET", "/api/session", {}))
    assert answer[0] == 400 and message in words(answer)
    assert json.loads(session[2])["video"]["frames"] == 4  # the same video is open still
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mask_of_another_size_is_said(ask):
    png = io.BytesIO()
    Image.new("L", (30, 20), 255).save(png, "PNG")
    (answer,) = ask(("POST", "/api/masks/0/file?name=mask.png", {"data": png.getvalue()}))
    assert answer[0] == 400 and "This mask is 30x20" in words(answer)


def test_files_of_masks_bring_their_objects(ask):
    labels = np.zeros((48, 80), np.uint8)
    labels[3:9, 4:20], labels[20:30, 4:20] = 3, 1
    png = io.BytesIO()
    image = Image.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(png, "PNG")
    loaded, session = ask(
        ("POST", "/api/masks/1/file?name=mask.png", {"data": png.getvalue()}),
        ("GET", "/api/session", {}),
    )
    assert loaded[0] == 200
    assert [one["id"] for one in json.loads(session[2])["objects"]] == [1, 3]


def test_an_upload_is_opened(ask, tmp_path):
    picture = io.BytesIO()
    frames = [Image.new("RGB", (64, 48), (20 * n, 0, 0)) for n in range(3)]
    frames[0].save(picture, "GIF", save_all=True, append_images=frames[1:])
    answer, session = ask(
        ("POST", "/api/upload?name=red.gif", {"data": picture.getvalue()}),
        ("GET", "/api/session", {}),
    )
    assert answer[0] == 200 and json.loads(session[2])["video"]["frames"] == 3
    assert (tmp_path / "red.gif").read_bytes() == picture.getvalue()
