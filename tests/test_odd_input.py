"""Odd but legal input: what a camera, a phone or a drawing program may hand over."""

import json
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

import osvos_tf
from osvos_tf.commands import cli, segment
from osvos_tf.data import davis, tfrecord
from osvos_tf.data.tfrecord_writer import write_records
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import read_mask
from osvos_tf.media.video_writer import write_video
from osvos_tf.network import model
from osvos_tf.network.files import save_model
from osvos_tf.segmentation import inference
from support.world import REPOSITORY


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    path = tmp_path_factory.mktemp("parent") / "parent.keras"
    network = model.build_foreground(width_multiplier=1 / 32, start="scratch", seed=1)
    network.get_layer("preprocess").working_height = 32
    save_model(network, path)
    return path


@pytest.fixture
def run(parent, tmp_path):
    """Runs `segment` and returns its masks by frame name."""

    def run(frames, mask, *flags, updates=1):
        out = tmp_path / "out"
        values = {
            "frames": frames, "mask": mask, "parent": parent, "out": out, "updates": updates,
            "precision": "float32",
        }  # fmt: skip
        flags = [*(f"--{name}={value}" for name, value in values.items()), *flags]
        segment.main(cli.parse(segment.FLAGS, flags))
        return {path.stem: read_mask(path) for path in sorted((out / "masks").iterdir())}

    return run


def picture(height, width, shade=0):
    frame = np.full((height, width, 3), shade, np.uint8)
    frame[..., 0] = np.linspace(0, 200, width).astype(np.uint8)
    return frame


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_mask(path, height, width, box=np.s_[2:6, 3:9]):
    mask = np.zeros((height, width), np.uint8)
    mask[box] = 255
    return save(path, mask)


def make_video(path, frames, fps=12.0):
    with write_video(path, frames[0].shape[:2], fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


# --- sizes and lengths ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [(17, 23), (1, 9), (9, 1)])
def test_small_frames(run, tmp_path, size):
    for number in range(3):
        save(tmp_path / "frames" / f"{number}.png", picture(*size, number))
    box = (slice(0, (size[0] + 1) // 2), slice(0, (size[1] + 1) // 2))
    masks = run(tmp_path / "frames", save_mask(tmp_path / "mask.png", *size, box))
    assert {mask.shape for mask in masks.values()} == {size}
    learned = osvos_tf.load(tmp_path / "out")
    found = [frame.mask for frame in learned.segment(tmp_path / "frames", snap="none")]
    assert {mask.shape for mask in found} == {size} and len(found) == 3


@pytest.mark.slow
def test_4k_frames(run, tmp_path):
    size = (2160, 3840)
    for number in range(2):
        save(tmp_path / "frames" / f"{number}.jpg", picture(*size, number))
    mask = save_mask(tmp_path / "mask.png", *size, np.s_[500:900, 600:1600])
    masks = run(tmp_path / "frames", mask)
    assert {mask.shape for mask in masks.values()} == {size}


@pytest.mark.slow
def test_a_video_of_one_frame(run, tmp_path):
    clip = make_video(tmp_path / "one.mp4", [picture(24, 40)])
    masks = run(clip, save_mask(tmp_path / "mask.png", 24, 40))
    assert list(masks) == ["00000"] and masks["00000"].shape == (24, 40)


@pytest.mark.slow
def test_an_object_of_one_pixel(run, tmp_path):
    for number in range(2):
        save(tmp_path / "frames" / f"{number}.png", picture(24, 40))
    mask = save_mask(tmp_path / "mask.png", 24, 40, np.s_[10, 20])
    assert len(run(tmp_path / "frames", mask, updates=20)) == 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert np.isfinite([loss for _, loss in record["losses"]]).all()


@pytest.mark.slow
def test_an_object_that_leaves_and_returns(run, tmp_path):
    """Where the bright square is gone there is no object; where it is back it is found."""
    present = [True, True, False, False, True]
    for number, is_there in enumerate(present):
        frame = np.full((48, 80, 3), 40, np.uint8)
        if is_there:
            frame[10:30, 8 + 8 * number : 28 + 8 * number] = (240, 160, 60)
        save(tmp_path / "frames" / f"{number}.png", frame)
    mask = save_mask(tmp_path / "mask.png", 48, 80, np.s_[10:30, 8:28])
    masks = run(tmp_path / "frames", mask, updates=150)
    sizes = [int(found.sum()) for found in masks.values()]
    assert all((size > 200) == is_there for size, is_there in zip(sizes, present, strict=True))
    assert max(sizes[2:4]) < 20
    truth = np.zeros((48, 80), bool)
    truth[10:30, 40:60] = True
    found = masks["4"] == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.7


# --- names ----------------------------------------------------------------------------------------


def test_spaces_and_unicode_in_names(run, tmp_path):
    folder = tmp_path / "Mein Hund, день 1" / "кадры 🐕"
    names = ["frame 1", "frame 2", "frame é", "кадр"]
    for name in names:
        save(folder / f"{name}.png", picture(24, 40))
    mask = save_mask(folder.parent / "Maske für frame 1.png", 24, 40)
    masks = run(folder, mask, f"--mask=кадр:{mask}")
    assert sorted(masks) == sorted(names)

    clip = make_video(folder.parent / "ein Film ß.mp4", [picture(24, 40)] * 2)
    assert open_frames(clip).names == ["00000", "00001"]


# --- kinds of images ------------------------------------------------------------------------------


def test_alpha_16_bit_and_grey_frames_together(run, tmp_path):
    grey = picture(24, 40)[..., 0]
    folder = tmp_path / "frames"
    save(folder / "0.png", picture(24, 40))
    save(folder / "1.png", np.dstack([picture(24, 40), grey]))
    save(folder / "2.png", grey)
    save(folder / "3.png", grey.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "4.png"), picture(24, 40)[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "5.tif"), grey.astype(np.uint16) * 257)
    save(folder / "6.png", np.dstack([grey, grey]))
    frames = dict(open_frames(folder))
    for name in "0", "1", "4":
        np.testing.assert_array_equal(frames[name], picture(24, 40), err_msg=name)
    for name in "2", "3", "5", "6":
        np.testing.assert_array_equal(frames[name], np.dstack([grey] * 3), err_msg=name)
    assert len(run(folder, save_mask(tmp_path / "mask.png", 24, 40))) == 7


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif, "quality": 95, "subsampling": 0}


@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientation_in_frames_and_records_alike(tmp_path, orientation):
    """A frame and its record stand upright both, so that the mask drawn on it fits."""
    path = save(tmp_path / "frames" / "0.jpg", picture(24, 40), **turned(orientation))
    frames = open_frames(path.parent)
    frames.check()
    _, frame = frames.first()
    assert frame.shape == (*frames.size, 3)
    assert frames.size == ((40, 24) if orientation > 4 else (24, 40))
    mask = save_mask(tmp_path / "mask.png", *frames.size)
    for height in (None, 20):
        sequence = davis.Sequence("bear", (davis.Frame("0", path, mask),))
        out = tmp_path / f"records{height}"
        write_records([sequence], out, "train", shards=1, height=height)
        ((example,), _) = tfrecord.load_records(out)
        image, label = (array.numpy() for array in tfrecord.parse(example))
        expected = frame
        if height:
            width = round(frames.size[1] * height / frames.size[0])
            expected = np.asarray(Image.fromarray(frame).resize((width, height)))
        assert image.shape == expected.shape and label.shape == (*image.shape[:2], 1)
        assert np.abs(image.astype(int) - expected).mean() < 3
        if orientation < 2 and height is None:
            assert path.read_bytes() in example  # the source's own bytes


# --- kinds of videos ------------------------------------------------------------------------------


def boxes(content, name):
    """Yields where the payload of each MP4 box of this name begins, wherever it lies."""
    position = content.find(name)
    while position >= 0:
        yield position + 4
        position = content.find(name, position + 4)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), (-1, 0)),  # a quarter turn clockwise: the bright right side is below
        ((-1, 0, 0, -1), (0, 0)),  # upside down: it is at the left
        ((0, -1, 1, 0), (0, 0)),  # a quarter turn the other way: it is above
    ],
    ids=["90", "180", "270"],
)
def test_a_portrait_video_stands_upright(run, tmp_path, matrix, corner):
    path = make_video(tmp_path / "clip.mp4", [picture(48, 64)] * 3)
    content = bytearray(path.read_bytes())
    a, b, c, d = (value * 0x10000 for value in matrix)
    (start,) = boxes(content, b"tkhd")
    content[start + 40 : start + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
    size = (64, 48) if a == 0 else (48, 64)
    frames = open_frames(path)
    assert frames.size == size and len(frames.names) == 3
    assert frames.read("00001")[corner][0] > 150
    masks = run(path, save_mask(tmp_path / "mask.png", *size))
    assert {mask.shape for mask in masks.values()} == {size}
    assert open_frames(tmp_path / "out" / "overlay.mp4").size == size


def test_variable_frame_rate(tmp_path):
    """Frames are frames: each comes once, however long it is shown, and keeps its time."""
    shades, times = [0, 50, 100, 150, 200, 250], [0.0, 0.04, 0.12, 0.5, 0.54, 1.2]
    path = tmp_path / "clip.mp4"
    with write_video(path, (48, 64), 12) as writer:
        for shade, time in zip(shades, times, strict=True):
            writer.write(picture(48, 64, shade), time)
    frames = open_frames(path)
    assert frames.names == [f"{number:05d}" for number in range(6)]
    for (name, frame), shade, time in zip(frames, shades, times, strict=True):
        assert abs(int(frame[..., 2].mean()) - shade) < 8
        assert frames.time(name) == pytest.approx(time, abs=1e-3)
    assert abs(int(frames.read("00003")[..., 2].mean()) - 150) < 8


# --- length ---------------------------------------------------------------------------------------

# Segments so many frames of a video by a stub, and prints the megabytes that it took at most.
LONG = """
import pathlib, re, sys
import numpy as np
from osvos_tf.media import visualize
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import write_mask
from osvos_tf.media.video_writer import write_video
from osvos_tf.parallel import parallel_map
from osvos_tf.segmentation import inference

frames, out = open_frames(sys.argv[1]), sys.argv[2]

def predict(batch):
    return (batch[..., :1] / 255).astype(np.float32)

def finish(result):
    name, frame, probability = result
    mask = inference.to_mask(probability[..., 0], 0.5)
    write_mask(f"{out}/{name}.png", mask)
    overlay.write(visualize.overlay(frame, mask))

with write_video(f"{out}/overlay.mp4", frames.size, frames.fps) as overlay:
    predictions = inference.predict_frames(frames, predict)
    count = sum(1 for _ in parallel_map(finish, predictions))
# Not `ru_maxrss`: that begins with what the parent process had.
status = pathlib.Path("/proc/self/status").read_text()
print(count, int(re.search(r"VmHWM:\\s+([0-9]+) kB", status)[1]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")
def test_10000_frames_take_no_more_memory_than_1000(tmp_path):
    megabytes = {}
    for count in (1000, 10_000):
        clip = tmp_path / f"{count}.mp4"
        with write_video(clip, (96, 160)) as writer:
            for number in range(count):
                writer.write(picture(96, 160, number % 250))
        (tmp_path / str(count)).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", LONG, str(clip), str(tmp_path / str(count))],
            cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found, used = done.stdout.split()
        assert int(found) == count == len(list((tmp_path / str(count)).glob("*.png")))
        megabytes[count] = float(used)
    # 9000 more frames are 415 MB, their masks 138 MB.
    assert megabytes[10_000] < megabytes[1000] + 30, megabytes


def test_frames_are_read_no_further_ahead_than_a_few():
    """The same for the step that is not in the process above: reading for the network."""
    drawn = []

    def frames():
        for number in range(100):
            drawn.append(number)
            yield f"{number:05d}", picture(8, 8)

    predictions = inference.predict_frames(frames(), lambda batch: batch[..., :1] / 255)
    for position, _ in enumerate(predictions):
        assert len(drawn) <= position + 4
