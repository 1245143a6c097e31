"""Results in a real browser: Chromium plays them from the beginning to the end."""

import http.server
import shutil
import threading

import numpy as np
import pytest

from osvos_tf.media.video_writer import H264, VP9_ALPHA, write_video

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
SIZE, COUNT = (48, 64), 12


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture(scope="module")
def page():
    with sync_api.sync_playwright() as playwright:
        arguments = ["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser.new_page()
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("format", [H264, VP9_ALPHA], ids=lambda format: format.suffix)
def test_chromium_plays_it_to_the_end(page, tmp_path, format):
    name = f"video{format.suffix}"
    channels = 4 if format.alpha else 3
    with write_video(tmp_path / name, SIZE, 12, format=format) as video:
        for number in range(COUNT):
            video.write(np.full((*SIZE, channels), 20 * number, np.uint8))
    (tmp_path / "page.html").write_text(f'<video id="video" src="{name}" muted autoplay></video>')
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        page.wait_for_function("video.ended || video.error", timeout=30_000)
        assert page.evaluate("video.error && video.error.message") is None
        assert page.evaluate("[video.videoWidth, video.videoHeight]") == [64, 48]
        assert abs(page.evaluate("video.duration") - COUNT / 12) < 0.1
    finally:
        server.shutdown()
        server.server_close()
