"""Label maps: which image belongs to which, and where labels meet."""

import numpy as np
import pytest
import scipy.io
from PIL import Image

from osvos_tf.data import label_maps
from osvos_tf.errors import InputError


def save(path, labels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(labels))
    if mode == "P":
        picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0] + [77] * 759)
    picture.save(path)
    return path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


LABELS = np.array([[3, 3, 7, 7], [3, 3, 7, 7], [5, 5, 5, 5]], np.uint8)
CONTOURS = [[0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("mode", ["L", "P", "I;16", ".mat"])
def test_contours_are_where_labels_meet(tmp_path, mode):
    if mode == ".mat":
        path = tmp_path / "a.mat"
        scipy.io.savemat(path, {"LabelMap": LABELS.astype(np.uint16)})
    else:
        labels = LABELS.astype(np.uint16) * 100 if mode == "I;16" else LABELS
        path = save(tmp_path / "a.png", labels, mode)
    found = label_maps.read_contours(path)
    np.testing.assert_array_equal(found, CONTOURS)
    assert found.dtype == np.uint8


def test_void_is_not_known(tmp_path):
    labels = np.array([[1, 1, 255, 2, 2, 3]], np.uint8)
    found = label_maps.read_contours(save(tmp_path / "a.png", labels))
    np.testing.assert_array_equal(found, [[0, 255, 255, 0, 1, 0]])


def test_a_mask_has_no_void(tmp_path):
    found = label_maps.read_contours(save(tmp_path / "a.png", np.array([[0, 255, 0]], np.uint8)))
    np.testing.assert_array_equal(found, [[1, 1, 0]])


@pytest.mark.parametrize(
    ("images", "maps"), [("images", "labels"), ("JPEGImages", "Annotations"), (".", ".")]
)
@pytest.mark.parametrize("names", [["a", "b"], ["480p/bear/00000", "480p/goat/00000"]])
def test_images_and_maps_pair_by_name(tmp_path, images, maps, names):
    touch(tmp_path / images, *(f"{name}.jpg" for name in names), "lonely.jpg")
    touch(tmp_path / maps, *(f"{name}.png" for name in names), "other.png")
    frames = label_maps.read_folder(tmp_path).frames
    assert [frame.name for frame in frames] == names
    for frame in frames:
        assert frame.image == tmp_path / images / f"{frame.name}.jpg"
        assert frame.mask == tmp_path / maps / f"{frame.name}.png"


def test_images_elsewhere(tmp_path):
    touch(tmp_path / "voc", "2008_1.jpg", "2008_2.jpg")
    touch(tmp_path / "context", "2008_2.mat", "2008_3.mat")
    split = label_maps.read_folder(tmp_path / "context", tmp_path / "voc")
    assert split.name == "context"
    assert [frame.name for frame in split.frames] == ["2008_2"]


def test_nothing_pairs(tmp_path):
    touch(tmp_path, "a.jpg", "b.png", "c.png")
    with pytest.raises(InputError, match=r"1 images in .* 2 label maps in .*`images`"):
        label_maps.read_folder(tmp_path)
    with pytest.raises(InputError, match="No folder"):
        label_maps.read_folder(tmp_path / "absent")


def test_files_that_are_no_label_map(tmp_path):
    colours = save(tmp_path / "colours.png", np.zeros((4, 5, 3), np.uint8))
    broken = touch(tmp_path, "broken.png", "broken.mat") / "broken.png"
    real = tmp_path / "real.mat"
    scipy.io.savemat(real, {"LabelMap": np.zeros((3, 4))})
    two = tmp_path / "two.mat"
    scipy.io.savemat(two, {"a": LABELS, "b": LABELS})
    for path, word in (
        (colours, "one whole number a pixel"),
        (real, "one whole number a pixel"),
        (broken, "Cannot read label map"),
        (tmp_path / "broken.mat", "Cannot read label map"),
        (two, "one two-dimensional array"),
    ):
        with pytest.raises(InputError, match=word):
            label_maps.read_contours(path)
