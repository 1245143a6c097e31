"""Every kind of result that `--save` names, made of a few painted frames and read back."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from osvos_tf.formats import annotations
from osvos_tf.jobs import outputs
from osvos_tf.media import cutout
from osvos_tf.media.frames import open_frames, open_video
from osvos_tf.media.masks import read_mask
from osvos_tf.segmentation.segmenter import SegmentedFrame

SIZE = HEIGHT, WIDTH = 96, 160
COUNT = 6


def disk(number):
    """A disk that moves: its probability falls from 1 to 0 over a few pixels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(y - HEIGHT / 2, x - 40 - 10 * number) - 24
    return (1 / (1 + np.exp(distance))).astype(np.float32)


def segmented(number, confidence=0.9):
    probability = disk(number)
    image = np.full((*SIZE, 3), (20, 60, 200), np.uint8)
    image = np.rint(
        image * (1 - probability[..., None]) + np.array([240, 120, 30]) * probability[..., None]
    ).astype(np.uint8)
    mask = (probability > 0.5).astype(np.uint8)
    return SegmentedFrame(f"{number:05d}", image, mask, {1: probability}, {1: confidence})


FRAMES = [segmented(number, 0.9 - 0.1 * number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that there is, of six frames."""
    folder = tmp_path_factory.mktemp("results")
    frames = open_video(np.stack([frame.image for frame in FRAMES]))
    place = outputs.Place(folder, frames, {1: "dog & cat"})
    with outputs.opened(outputs.KINDS, place) as write:
        for frame in FRAMES:
            write(frame)
    return folder


def test_nothing_else_is_left(folder):
    expected = {*outputs.FOLDERS, *(name for name, _ in outputs.FILES.values())}
    assert {path.name for path in folder.iterdir()} == expected
    for kind in outputs.FOLDERS:
        names = sorted(path.name for path in (folder / kind).iterdir())
        assert names == [f"{frame.name}.png" for frame in FRAMES]


def test_masks_and_labels(folder):
    for frame in FRAMES:
        np.testing.assert_array_equal(read_mask(folder / f"masks/{frame.name}.png"), frame.mask)
        with Image.open(folder / f"labels/{frame.name}.png") as labels:
            assert labels.mode == "P" and labels.getpalette()[3:6] == [128, 0, 0]
            np.testing.assert_array_equal(labels, frame.mask)


def test_alpha_is_soft_and_agrees_with_the_mask(folder):
    for frame in FRAMES:
        with Image.open(folder / f"alpha/{frame.name}.png") as image:
            assert image.mode.startswith("I;16")
            alpha = np.asarray(image) / 65535
        truth = frame.probability[1]
        assert np.abs(alpha - truth).max() < 0.35 and np.abs(alpha - truth).mean() < 0.01
        assert ((alpha > 0.05) & (alpha < 0.95)).sum() > 50
        assert (alpha[truth > 0.99] > 0.98).all() and (alpha[truth < 0.01] < 0.02).all()


def test_the_foreground_holds_nothing_of_the_background(folder):
    """On any ground, the edge shows the object's orange and that ground, none of the old blue."""
    for frame in FRAMES:
        rgba = np.asarray(Image.open(folder / f"foreground/{frame.name}.png")).astype(float)
        alpha = rgba[..., 3:] / 255
        edge = (alpha[..., 0] > 0.2) & (alpha[..., 0] < 0.8)
        assert np.abs(rgba[edge][:, :3] - [240, 120, 30]).mean() < 25
        assert np.abs(frame.image[edge] - np.array([240, 120, 30])).mean() > 40  # as it was
        assert (rgba[alpha[..., 0] == 0] == 0).all()
        # Laid over what it was cut from, it is the frame again, but for rounding.
        again = alpha * rgba[..., :3] + (1 - alpha) * np.array([20, 60, 200])
        assert np.abs(again - frame.image).mean() < 2


def test_videos_of_the_foreground(folder):
    for name, tolerance in (("foreground.mov", 2), ("foreground.webm", 30)):
        with av.open(str(folder / name)) as source:
            stream = source.streams.video[0]
            assert len(list(source.demux(stream))) >= COUNT
        frames = open_frames(folder / name)
        assert len(list(frames)) == COUNT and frames.size == SIZE
        centre = frames[2][HEIGHT // 2, 60].astype(int)
        assert np.abs(centre - [240, 120, 30]).max() <= max(8, tolerance)
    with av.open(str(folder / "foreground.mov")) as source:
        for frame, shown in zip(FRAMES, source.decode(video=0), strict=True):
            alpha = np.asarray(Image.open(folder / f"foreground/{frame.name}.png"))[..., 3]
            assert np.abs(shown.to_ndarray(format="rgba")[..., 3].astype(int) - alpha).max() <= 1


def test_annotation_tools_read_what_was_found(folder):
    for name in ("coco.json", "cvat.xml"):
        pictures = annotations.read(folder / name)
        assert annotations.names_of(pictures) in (["dog & cat 1"], ["dog & cat"])
        for frame in FRAMES:
            mask = read_mask(folder / name, frame=frame.name)
            np.testing.assert_array_equal(mask, frame.mask)
    entry = json.loads((folder / "coco.json").read_text())["annotations"][0]
    assert entry["area"] == FRAMES[0].mask.sum()


def test_contact_sheet(folder):
    with Image.open(folder / "contact_sheet.jpg") as sheet:
        assert sheet.width > 4 * WIDTH and sheet.height > 3 * HEIGHT


@pytest.mark.parametrize("count", [1, 5, 16, 17, 100, 1000])
def test_spread_frames_are_spread(count):
    spread, least = outputs._Spread(8), outputs._Least(8)
    values = np.random.default_rng(count).random(count)
    for number, value in enumerate(values):
        spread.add(np.array(number)) if spread.wants() else spread.skip()
        least.add(value, np.array(number))
    places = [int(picture) for picture in spread.pictures()]
    assert len(places) == min(8, count) and places[0] == 0 and places[-1] >= count * 0.7 - 1
    gaps = np.diff(places)
    assert not len(gaps) or (gaps.min() > 0 and gaps.max() <= 2 * gaps.min() + 2)
    groups = [range(start, min(count, start + 5)) for start in range(0, count, 5)]
    worst = [min(group, key=lambda number: values[number]) for group in groups]
    expected = sorted(sorted(worst, key=lambda number: values[number])[:8])
    assert [int(picture) for picture in least.pictures()] == expected


def test_an_object_that_is_nowhere(tmp_path):
    frames = open_video(np.zeros((2, *SIZE, 3), np.uint8))
    place = outputs.Place(tmp_path, frames, {1: "object 1"})
    with outputs.opened(outputs.KINDS, place) as write:
        for number in range(2):
            nothing = np.zeros(SIZE, np.float32)
            image = np.zeros((*SIZE, 3), np.uint8)
            write(
                SegmentedFrame(f"{number}", image, nothing.astype(np.uint8), {1: nothing}, {1: 0})
            )
    assert not np.asarray(Image.open(tmp_path / "foreground/0.png")).any()
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"] == []


def test_a_failure_leaves_no_file(tmp_path):
    frames = open_video(np.stack([frame.image for frame in FRAMES]))
    place = outputs.Place(tmp_path, frames, {1: "object 1"})
    with pytest.raises(KeyError), outputs.opened(tuple(outputs.FILES), place) as write:
        write(FRAMES[0])
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_alpha_at_the_border_of_the_frame_is_whole():
    """The border is no edge of the object."""
    frame = np.full((40, 60, 3), 90, np.uint8)
    np.testing.assert_array_equal(cutout.soft_alpha(frame, np.ones((40, 60), bool)), 1)
    np.testing.assert_array_equal(cutout.soft_alpha(frame, np.zeros((40, 60), bool)), 0)
