"""The studio as a person uses it, in Chromium: mark, learn, look, correct, take home."""

import contextlib
import io
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

import osvos_tf
from osvos_tf.data import painted_world
from osvos_tf.media.video_writer import write_video
from support.world import REPOSITORY

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.slow,
]
COUNT = 8
PATIENCE = 60_000  # milliseconds
sync_api.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def world():
    frames, truth = painted_world.paint_video()
    return frames[:COUNT], truth[:COUNT] > 0


@pytest.fixture
def folder(tmp_path, world):
    (tmp_path / "parrot").mkdir()
    for number, frame in enumerate(world[0]):
        Image.fromarray(frame).save(tmp_path / "parrot" / f"{number:05d}.png")
    return tmp_path


class Server:
    """The command in a process of its own."""

    def __init__(self, folder, *flags):
        command = [sys.executable, "-m", "pipelines.studio", "--nobrowser", *flags]
        if not any(flag.startswith("--frames=") for flag in flags):
            command += [f"--frames={folder / 'parrot'}"]
        if not any(flag.startswith("--out=") for flag in flags):
            command += [f"--out={folder / 'results' / 'parrot'}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        self.address = re.search(r"http\S+", self.process.stdout.readline())[0]

    def session(self):
        address = self.address.replace("/?", "/api/session?")
        with urllib.request.urlopen(address) as answer:
            return json.load(answer)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def serve(folder):
    servers = []

    def serve(*flags):
        servers.append(Server(folder, *flags))
        return servers[-1]

    yield serve
    for server in servers:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def page(browser):
    errors = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()
    assert errors == []


def at(page, world, x, y):
    """Returns where a frame's pixel is on the page, as it is fitted into the canvas."""
    box = page.get_by_test_id("canvas").bounding_box()
    height, width = world[0].shape[1:3]
    scale = 0.97 * min(box["width"] / width, box["height"] / height)
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    return left + (float(x) + 0.5) * scale, top + (float(y) + 0.5) * scale


def opened(page, server, frame=0):
    page.goto(server.address)
    sync_api.expect(page.locator(f'#canvas[data-frame="{frame}"]')).to_be_visible()


def go(page, frame):
    page.get_by_test_id("frame-number").fill(str(frame))
    page.get_by_test_id("frame-number").press("Enter")
    sync_api.expect(page.locator(f'#canvas[data-frame="{frame}"]')).to_be_visible()


def outline(mask):
    """Returns the corners of a polygon around a mask."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.approxPolyDP(max(contours, key=cv2.contourArea), 1.0, True)[:, 0]


def wait_for(page, words):
    sync_api.expect(page.get_by_test_id("status")).to_have_text(words)


def drawn(page, frame):
    """Returns the label map that the server has of a frame."""
    answer = page.request.get(page.url.split("?")[0] + f"api/masks/{frame}")
    return np.array(Image.open(io.BytesIO(answer.body())))


def score(folder, truth):
    return osvos_tf.evaluate(folder / "results" / "parrot", truth.astype(np.uint8)).J


def test_the_whole_loop_by_mouse(page, serve, world, folder):
    _, truth = world
    server = serve("--parent=compact", "--updates=24", "--save=overlay,coco")
    opened(page, server)
    sync_api.expect(page.get_by_test_id("learn")).to_be_disabled()
    rows, columns = np.nonzero(truth[0])
    page.get_by_test_id("tool-box").click()
    page.mouse.move(*at(page, world, columns.min() - 3, rows.min() - 3))
    page.mouse.down()
    page.mouse.move(*at(page, world, columns.max() + 3, rows.max() + 3), steps=4)
    page.mouse.up()
    sync_api.expect(page.get_by_test_id("learn")).to_be_enabled()
    page.get_by_test_id("learn").click()
    sync_api.expect(page.get_by_test_id("cancel")).to_be_visible()
    page.reload()  # in the middle
    sync_api.expect(page.get_by_test_id("progress")).to_be_visible()
    wait_for(page, "Done.")
    before = score(folder, truth)
    assert before > 0.5
    assert (folder / "results" / "parrot" / "overlay.mp4").exists()

    worst = COUNT - 2
    go(page, worst)
    page.get_by_test_id("clear").click()
    page.get_by_test_id("tool-polygon").click()
    for x, y in outline(truth[worst]):
        page.mouse.click(*at(page, world, x, y))
    page.get_by_test_id("canvas").press("Enter")  # a corner where the last one is: closed
    sync_api.expect(page.get_by_test_id("correct")).to_be_enabled()
    second = page.context.new_page()  # another tab sees the same
    second.goto(server.address)
    sync_api.expect(second.get_by_test_id("correct")).to_be_enabled()
    page.get_by_test_id("correct").click()
    sync_api.expect(page.get_by_test_id("cancel")).to_be_visible()
    wait_for(page, "Done.")
    assert score(folder, truth) > before
    sync_api.expect(page.get_by_test_id("correct")).to_be_disabled()  # nothing is new
    sync_api.expect(page.get_by_test_id("rounds").locator("li")).to_have_count(1)
    sync_api.expect(second.get_by_test_id("rounds").locator("li")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_test_id("download").click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"parrot/masks/00000.png", "parrot/specialist.keras", "parrot/coco.json"} <= set(names)
    assert not any("rounds" in name for name in names)


class Keys:
    """The cursor on the canvas, moved by arrows of 4 pixels, from the middle of the frame."""

    def __init__(self, page, world):
        self.page = page
        height, width = world[0].shape[1:3]
        self.x, self.y = width // 2, height // 2

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def enter_at(self, x, y):
        right, down = round((float(x) - self.x) / 4), round((float(y) - self.y) / 4)
        self.press(*["ArrowRight" if right > 0 else "ArrowLeft"] * abs(right))
        self.press(*["ArrowDown" if down > 0 else "ArrowUp"] * abs(down))
        self.x, self.y = self.x + 4 * right, self.y + 4 * down
        self.press("Enter")


def test_by_keyboard_alone_through_a_kill(page, serve, world, folder):
    _, truth = world
    server = serve("--parent=compact", "--updates=1000")
    opened(page, server)
    page.get_by_test_id("canvas").focus()
    keys, learn = Keys(page, world), page.get_by_test_id("learn")
    keys.press("b", "]", "]", "Enter", "e", "Enter", "b", "Enter")
    sync_api.expect(learn).to_be_enabled()
    keys.press("Control+z", "Control+z", "Control+z")
    sync_api.expect(learn).to_be_disabled()
    rows, columns = np.nonzero(truth[0])
    keys.press("x")
    keys.enter_at(columns.min() - 4, rows.min() - 4)
    keys.enter_at(columns.max() + 4, rows.max() + 4)
    sync_api.expect(learn).to_be_enabled()
    keys.press("Control+z")
    sync_api.expect(learn).to_be_disabled()
    keys.press("Control+Shift+Z")
    sync_api.expect(learn).to_be_enabled()
    keys.press("l")
    sync_api.expect(page.get_by_test_id("cancel")).to_be_visible()
    server.kill()
    sync_api.expect(page.get_by_test_id("status")).to_contain_text("does not answer")

    server = serve("--parent=compact", "--updates=24")
    opened(page, server)
    assert server.session()["drawn"] == [0]
    keys.press("l")
    wait_for(page, "Done.")
    before = score(folder, truth)
    assert before > 0.5
    keys.press("End", "v")
    last = page.locator(f'#canvas[data-frame="{COUNT - 1}"][data-source="found"]')
    sync_api.expect(last).to_be_visible()
    assert page.get_by_test_id("view-mode").input_value() == "contour"
    page.get_by_test_id("clear").press("Enter")
    page.get_by_test_id("canvas").focus()
    keys = Keys(page, world)
    keys.press("p")
    for x, y in outline(truth[-1]):
        keys.enter_at(x, y)
    keys.press("Enter")
    sync_api.expect(page.get_by_test_id("correct")).to_be_enabled()
    keys.press("l")
    sync_api.expect(page.get_by_test_id("cancel")).to_be_visible()
    wait_for(page, "Done.")
    assert score(folder, truth) > before


def test_cancel_and_objects(page, serve, world):
    server = serve("--parent=compact", "--updates=1000")
    opened(page, server)
    page.mouse.click(*at(page, world, 30, 30))
    page.get_by_test_id("object-add").click()
    page.get_by_test_id("object-2").click()
    page.mouse.click(*at(page, world, 60, 60))
    sync_api.expect(page.get_by_test_id("learn")).to_be_enabled()
    page.get_by_test_id("learn").click()
    sync_api.expect(page.get_by_test_id("cancel")).to_be_visible()
    page.get_by_test_id("cancel").click()
    wait_for(page, "Cancelled. What was there before is there.")
    sync_api.expect(page.get_by_test_id("learn")).to_be_enabled()
    state = server.session()
    assert (state["drawn"], [one["id"] for one in state["objects"]]) == ([0], [1, 2])
    page.get_by_test_id("open-path").fill("/etc/hostname")
    page.get_by_test_id("open-button").click()
    sync_api.expect(page.get_by_test_id("status")).to_contain_text("Wanted a video")


def test_looks_while_it_learns(page, serve, world):
    """Frames are shown as they are found meanwhile; what is drawn stays what it is."""
    server = serve("--parent=compact", "--updates=1000")
    opened(page, server)
    rows, columns = np.nonzero(world[1][0])
    page.mouse.click(*at(page, world, columns.mean(), rows.mean()))
    sync_api.expect(page.get_by_test_id("learn")).to_be_enabled()
    page.get_by_test_id("learn").click()
    for frame in (0, 5):
        go(page, frame)
        look = page.locator(f'#canvas[data-frame="{frame}"][data-source="look"]')
        sync_api.expect(look).to_be_visible()
        sync_api.expect(page.get_by_text("A first look")).to_be_visible()
    page.get_by_test_id("cancel").click()
    wait_for(page, "Cancelled. What was there before is there.")
    go(page, 0)
    sync_api.expect(page.get_by_test_id("canvas")).to_have_attribute("data-source", "drawn")
    sync_api.expect(page.get_by_text("A first look")).to_be_hidden()


def test_what_was_not_made_is_made_when_it_is_taken_home(page, serve, world, folder):
    server = serve("--parent=compact", "--updates=1", "--noadapt", "--save=")
    opened(page, server)
    page.mouse.click(*at(page, world, 60, 60))
    page.get_by_test_id("learn").click()
    wait_for(page, "Done.")
    out = folder / "results" / "parrot"
    before = {path.name: path.read_bytes() for path in (out / "masks").iterdir()}
    for what, name in (
        ("coco", "coco.json"),
        ("webm", "foreground.webm"),
        ("masks", "parrot-masks.zip"),
        ("specialist", "specialist.keras"),
        ("saved_model", "parrot-saved_model.zip"),
    ):
        page.get_by_test_id("download-what").select_option(what)
        with page.expect_download() as download:
            page.get_by_test_id("download-one").click()
        assert download.value.suggested_filename == name
        assert download.value.path().stat().st_size
    assert {path.name: path.read_bytes() for path in (out / "masks").iterdir()} == before
    assert len(json.loads((out / "coco.json").read_text())["images"]) == COUNT
    assert (out / "saved_models" / "parrot" / "1" / "saved_model.pb").exists()
    assert server.session()["rounds"] == []


def test_a_polygon_is_changed_before_it_is_closed(page, serve, world):
    opened(page, serve())
    page.get_by_test_id("tool-polygon").click()
    corners = [(20, 20), (60, 20), (60, 60), (90, 90)]
    for corner in corners:
        page.mouse.click(*at(page, world, *corner))
    page.get_by_test_id("canvas").press("Backspace")  # the last one goes
    page.mouse.move(*at(page, world, 60, 60))
    page.mouse.down()
    page.mouse.move(*at(page, world, 60, 80), steps=3)  # and the one before moves
    page.mouse.up()
    page.mouse.click(*at(page, world, 20, 20))  # the first one closes it
    sync_api.expect(page.get_by_test_id("learn")).to_be_enabled()
    found = drawn(page, 0)
    wanted = cv2.fillPoly(np.zeros_like(found), [np.int32([(20, 20), (60, 20), (60, 80)])], 1)
    assert np.count_nonzero(found & wanted) / np.count_nonzero(found | wanted) > 0.95


def test_two_fingers_zoom_and_draw_nothing(browser, serve, world):
    context = browser.new_context(viewport={"width": 1024, "height": 768}, has_touch=True)
    page = context.new_page()
    opened(page, serve())
    touch = context.new_cdp_session(page)

    def send(kind, *points):
        places = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    (left, top), (right, bottom) = at(page, world, 40, 40), at(page, world, 60, 60)
    send("touchStart", (left, top))
    send("touchStart", (left, top), (right, bottom))
    send("touchMove", (left - 40, top - 40), (right + 40, bottom + 40))
    send("touchEnd")
    sync_api.expect(page.get_by_test_id("undo")).to_be_disabled()
    sync_api.expect(page.get_by_test_id("learn")).to_be_disabled()
    send("touchStart", (left, top))  # one finger draws, smaller now on the frame
    send("touchEnd")
    sync_api.expect(page.get_by_test_id("learn")).to_be_enabled()
    context.close()


def test_what_cannot_be_used_is_told_in_words(page, serve, world, folder):
    opened(page, serve())
    notes, other = folder / "notes.mp4", folder / "other.png"
    notes.write_bytes(b"these are notes, and no video at all")
    Image.fromarray(np.uint8(world[1][0][:-1]) * 255).save(other)
    status = page.get_by_test_id("status")
    page.get_by_test_id("load-mask").set_input_files(other)
    height, width = world[0].shape[1:3]
    sync_api.expect(status).to_contain_text(f"This mask is {width}x{height - 1}")
    page.get_by_test_id("upload").set_input_files(notes)
    told = page.locator("[data-testid=status].error")  # before that it says what it reads
    sync_api.expect(told).to_contain_text("notes.mp4")
    sync_api.expect(page.locator('#canvas[data-frame="0"]')).to_be_visible()  # what was open is
    assert notes.read_bytes().startswith(b"these")


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk(page, serve, world, small_disk):
    server = serve("--parent=compact", "--updates=1", "--noadapt", f"--out={small_disk / 'out'}")
    opened(page, server)
    page.mouse.click(*at(page, world, 60, 60))
    page.get_by_test_id("learn").click()
    status = page.get_by_test_id("status")
    sync_api.expect(status).to_contain_text("No space left on device")
    assert not (small_disk / "out").exists() and server.session()["drawn"] == [0]
    filler = open(small_disk / "filler", "wb", buffering=0)  # noqa: SIM115
    with filler, contextlib.suppress(OSError):
        while filler.write(b"0" * 4096):
            pass
    go(page, 1)
    page.mouse.click(*at(page, world, 60, 60))
    sync_api.expect(status).to_contain_text("No space left on device")
    (small_disk / "filler").unlink()
    page.mouse.click(*at(page, world, 70, 70))
    page.wait_for_timeout(300)
    assert server.session()["drawn"] == [0, 1]


def test_a_long_video_weighs_no_more(page, serve, folder, world):
    """Over 2,000 frames: the page's nodes and heap, and the server's memory."""
    frames = world[0]
    clip = folder / "long.mp4"
    with write_video(clip, frames.shape[1:3]) as video:
        for number in range(2000):
            video.write(frames[number % COUNT])
    server = serve(f"--frames={clip}")
    opened(page, server)
    measure = page.context.new_cdp_session(page)
    measure.send("Performance.enable")

    def weigh():
        measure.send("HeapProfiler.collectGarbage")
        found = {
            one["name"]: one["value"] for one in measure.send("Performance.getMetrics")["metrics"]
        }
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        return found["Nodes"], found["JSHeapUsedSize"], int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def jump(count):
        for number in range(count):
            go(page, (number * 617 + 1) % 2000)

    jump(15)
    nodes, heap, memory = weigh()
    jump(30)
    later = weigh()
    assert later[0] < 1.5 * nodes and later[1] < 1.5 * heap + 2**20
    assert later[2] < memory + 50_000  # KiB: decoded frames that FFmpeg and the system keep
