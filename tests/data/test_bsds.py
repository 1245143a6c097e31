"""BSDS500: its folders, its MATLAB files, and the annotators' consensus."""

import numpy as np
import pytest
import scipy.io

from osvos_tf.data import bsds, tfrecord
from osvos_tf.data.tfrecord_writer import write_records
from osvos_tf.errors import InputError
from support.world import draw_bsds


def write_truth(path, annotators):
    """Writes a ground truth as BSDS500 stores it: a 1xN cell of structs."""
    cell = np.empty((1, len(annotators)), object)
    for index, drawn in enumerate(annotators):
        cell[0, index] = {"Segmentation": np.zeros(drawn.shape, np.uint16), "Boundaries": drawn}
    scipy.io.savemat(path, {"groundTruth": cell})
    return path


def test_consensus(tmp_path):
    """Of four annotators: all, three, half, one and none drew on the five pixels."""
    drawn = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], np.uint8)
    path = write_truth(tmp_path / "a.mat", drawn[:, None])
    np.testing.assert_array_equal(bsds.read_boundaries(path), drawn[:, None] > 0)
    contours = bsds.read_contours(path)
    np.testing.assert_array_equal(contours, [[1, 1, 1, 255, 0]])
    assert contours.dtype == np.uint8


def test_odd_number_of_annotators(tmp_path):
    drawn = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], np.uint8)  # two of three, one, none
    path = write_truth(tmp_path / "a.mat", drawn[:, None])
    np.testing.assert_array_equal(bsds.read_contours(path), [[1, 255, 0]])


@pytest.mark.parametrize("inside", [".", "data", "BSR/BSDS500/data"])
def test_finds_the_split(tmp_path, inside):
    draw_bsds(tmp_path / inside)
    split = bsds.read_split(tmp_path, "train")
    assert split.name == "train"
    assert [frame.name for frame in split.frames] == ["100", "21"]
    assert all(frame.image.is_file() and frame.mask.suffix == ".mat" for frame in split.frames)


def test_records_hold_the_consensus(tmp_path):
    split = bsds.read_split(draw_bsds(tmp_path / "bsds"), "train")
    write_records([split], tmp_path / "records", "contours", shards=1, read_mask=bsds.read_contours)
    examples = list(tfrecord.read_records(tmp_path / "records"))
    for frame, example in zip(split.frames, examples, strict=True):
        image, contours = (value.numpy() for value in tfrecord.parse(example))
        np.testing.assert_array_equal(contours[..., 0], bsds.read_contours(frame.mask))
        assert image.shape[:2] == contours.shape[:2]
        assert set(np.unique(contours)) == {0, 1, 255}


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("groundTruth/train/21.mat", ["21.jpg has no ground truth", "21.mat"]),
        ("images/train", ["No folder", "Check its folder"]),
        ("groundTruth/train", ["No folder", "groundTruth"]),
    ],
)
def test_missing_parts_are_named(tmp_path, remove, words):
    root = draw_bsds(tmp_path)
    (root / remove).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError) as caught:
        bsds.read_split(root, "train")
    for word in words:
        assert word in str(caught.value)


def test_no_split_and_no_images(tmp_path):
    root = draw_bsds(tmp_path)
    with pytest.raises(InputError, match="images/dev"):
        bsds.read_split(root, "dev")
    for image in (root / "images/train").glob("*.jpg"):
        image.unlink()
    with pytest.raises(InputError, match=r"No \.jpg file"):
        bsds.read_split(root, "train")


@pytest.mark.parametrize("content", [b"", b"no matlab", "other variable", "truncated"])
def test_files_that_are_no_ground_truth(tmp_path, content):
    path = tmp_path / "a.mat"
    if content == "other variable":
        scipy.io.savemat(path, {"LabelMap": np.zeros((3, 4))})
    elif content == "truncated":
        write_truth(path, [np.eye(9, dtype=np.uint8)])
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="as ground truth of BSDS500"):
        bsds.read_boundaries(path)


@pytest.mark.real_data
def test_the_real_data_set(real_data):
    for split, count in (("train", 200), ("val", 100)):
        frames = bsds.read_split(real_data / "BSDS500", split).frames
        assert len(frames) == count
    boundaries = bsds.read_boundaries(frames[0].mask)
    assert boundaries.shape[1:] in ((321, 481), (481, 321)) and 4 <= len(boundaries) <= 9
    contours = bsds.read_contours(frames[0].mask)
    np.testing.assert_array_equal(contours > 0, boundaries.any(axis=0))
    assert 0.001 < (contours == 1).mean() < 0.05
