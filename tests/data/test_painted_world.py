"""The invented DAVIS: its layout, its determinism, and that the masks tell the truth."""

import cv2
import numpy as np
import pytest
from PIL import Image

from osvos_tf.data import painted_world
from osvos_tf.data.painted_world import paint_davis
from osvos_tf.data.painting import Look
from osvos_tf.errors import InputError
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import read_mask

SMALL = {"train": 3, "val": 2, "frames": 4, "size": (48, 80)}


def read_list(root, split):
    """Returns {sequence: [(image path, mask path), ...]}."""
    sequences = {}
    for line in (root / f"ImageSets/480p/{split}.txt").read_text().splitlines():
        image, mask = line.split(" ")
        assert image.startswith("/JPEGImages/480p/") and mask.startswith("/Annotations/480p/")
        sequences.setdefault(image.split("/")[3], []).append((root / image[1:], root / mask[1:]))
    return sequences


def contents(root):
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def test_tree_has_davis_layout(tmp_path):
    paint_davis(tmp_path, **SMALL)
    train, val = read_list(tmp_path, "train"), read_list(tmp_path, "val")
    assert (len(train), len(val)) == (3, 2)
    assert not set(train) & set(val)
    for sequence, files in {**train, **val}.items():
        assert [image.name for image, _ in files] == [f"{n:05d}.jpg" for n in range(4)]
        frames = open_frames(tmp_path / "JPEGImages/480p" / sequence)
        assert (frames.size, frames.length) == ((48, 80), 4)
        for image, mask in files:
            assert image.stem == mask.stem
            stored = Image.open(mask)
            assert stored.mode == "L" and stored.size == (80, 48)
            assert set(np.unique(np.array(stored)).tolist()) <= {0, 255}
    assert len(contents(tmp_path)) == 5 * 4 * 2 + 2  # and nothing else


def test_same_arguments_paint_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        paint_davis(tmp_path / name, **SMALL, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_a_sequence_does_not_depend_on_how_many_there_are(tmp_path):
    paint_davis(tmp_path / "few", **{**SMALL, "train": 1})
    paint_davis(tmp_path / "many", **SMALL)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    shared = [name for name in few if not name.startswith("ImageSets")]
    assert all(few[name] == many[name] for name in shared)


def test_splits_share_no_shape_pattern_or_colour():
    train, val = painted_world._TRAIN, painted_world._VAL
    assert not set(train.outlines) & set(val.outlines)
    assert not set(train.patterns) & set(val.patterns)
    assert not set(train.colours) & set(val.colours)
    nearest = min(
        np.abs(np.subtract(one[0], other[0])).sum()
        for one in train.colours.values()
        for other in val.colours.values()
    )
    assert nearest >= 40


@pytest.mark.parametrize("split", [painted_world._TRAIN, painted_world._VAL], ids=["train", "val"])
def test_every_name_is_given_once(split):
    most = len(split.colours) * len(split.outlines)
    cast = painted_world._cast(split, most, np.random.default_rng(0))
    assert len({(look.colour, look.outline) for look in cast}) == most
    assert {look.pattern for look in cast} == set(split.patterns)


@pytest.mark.parametrize("split", [painted_world._TRAIN, painted_world._VAL], ids=["train", "val"])
def test_object_is_large_in_the_first_frame_and_moves(split):
    for index, look in enumerate(painted_world._cast(split, 8, np.random.default_rng(3))):
        rng = np.random.default_rng(index)
        masks = [mask for _, mask in painted_world._paint_sequence(split, look, 6, (48, 80), rng)]
        assert 0.05 < masks[0].mean() < 0.35, look
        centres = [np.argwhere(mask).mean(axis=0) for mask in (masks[0], masks[-1])]
        assert abs(centres[0][1] - centres[1][1]) > 6, look  # pixels, sideways


def test_hidden_pixels_are_not_in_the_mask():
    """Some sequences lose a part of the object half-way, others nothing."""
    solid = []
    for seed in range(9):
        rng = np.random.default_rng(seed)
        look = Look("amber", "pebble", "spots")
        shown = painted_world._paint_sequence(painted_world._TRAIN, look, 9, (48, 80), rng)
        hulls = []
        for _, mask in shown:
            outline = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
            filled = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), outline, 1)
            hulls.append(mask.sum() / filled.sum())
        assert hulls[0] > 0.85
        solid.append(min(hulls))
    assert min(solid) < 0.85 < max(solid)  # a pebble is nearly convex, unless something hides it


def test_object_and_surroundings_look_different(tmp_path):
    """The mask lies where the picture's object is: its edge is where the picture changes."""
    paint_davis(tmp_path, train=4, val=0, frames=1, size=(96, 160))
    for files in read_list(tmp_path, "train").values():
        image, mask_path = files[0]
        frame = cv2.imread(str(image)).astype(np.float32)
        mask = read_mask(mask_path)
        change = np.abs(frame[:, 1:] - frame[:, :-1]).sum(axis=-1)
        edge = mask[:, 1:] != mask[:, :-1]
        assert change[edge].mean() > 2 * change[~edge].mean()


def test_one_frame_and_a_tall_picture_work(tmp_path):
    paint_davis(tmp_path, train=0, val=1, frames=1, size=(96, 33))
    ((_, mask),) = next(iter(read_list(tmp_path, "val").values()))
    assert read_mask(mask).any()
    assert read_list(tmp_path, "train") == {}


@pytest.mark.parametrize(
    "wrong",
    [{"train": 145}, {"val": 26}, {"val": -1}, {"frames": 0}, {"size": (16, 80)}],
    ids=str,
)
def test_numbers_out_of_range_are_refused_before_anything_is_painted(tmp_path, wrong):
    with pytest.raises(InputError, match=r"must lie in .* Received"):
        paint_davis(tmp_path / "world", **wrong)
    assert not (tmp_path / "world").exists()
