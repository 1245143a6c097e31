"""Caffe models, written by the protobuf library in all their forms; damaged ones."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvos_tf.formats import caffe_file
from support import foreign

RANDOM = np.random.default_rng(0)
LAYERS = {
    "conv": [
        RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32),
        RANDOM.normal(size=4).astype(np.float32),
    ],
    "score": [RANDOM.normal(size=(1, 4, 1, 1)).astype(np.float32), np.float32([0.5])],
}


def read(path):
    return caffe_file.read_blobs(memoryview(path.read_bytes()))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shaped", [True, False])
def test_every_blob_comes_back(old, packed, double, shaped, tmp_path):
    form = {"old": old, "packed": packed, "double": double, "shaped": shaped}
    foreign.write_caffe(tmp_path / "model", LAYERS, **form)
    found = read(tmp_path / "model")
    assert list(found) == list(LAYERS)
    for name, arrays in LAYERS.items():
        for blob, array in zip(found[name], arrays, strict=True):
            assert blob.shape == array.shape
            assert np.asarray(blob).dtype == (np.float64 if double else np.float32)
            np.testing.assert_array_equal(np.asarray(blob, np.float32), array)


def test_both_kinds_of_layers_in_one_file(tmp_path):
    foreign.write_caffe(tmp_path / "old", {"conv": LAYERS["conv"]}, old=True)
    foreign.write_caffe(tmp_path / "new", {"score": LAYERS["score"]})
    both = (tmp_path / "old").read_bytes() + (tmp_path / "new").read_bytes()
    assert set(caffe_file.read_blobs(memoryview(both))) == {"conv", "score"}


def field(number, content):
    """A field of bytes: its key, its length, the bytes."""
    key, size = number << 3 | 2, len(content)
    assert size < 128
    return bytes([key & 127 | 128, key >> 7, size]) + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no layer with weights"),
        (field(1, b"name"), "no layer with weights"),
        (b"an ordinary text file, and no model", "not a protobuf message"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\x7fab", "truncated.*left"),
        (b"\x0a" + b"\xff" * 11, "a number that never ends"),
        (field(100, field(1, b"conv") + field(7, b"\x0a\xff\x7fab")), "truncated"),
        (2 * field(100, field(1, b"conv") + field(7, b"")), "two layers called 'conv'"),
        (field(100, field(1, b"\xff\xfe") + field(7, b"")), "decode"),
        (field(100, field(7, field(7, field(1, b"\x01" * 33)))), "a shape that Caffe"),
        (field(100, field(7, field(7, field(1, b"\xff" * 9 + b"\x01")))), "a shape that Caffe"),
    ],
)
def test_other_files_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        caffe_file.read_blobs(memoryview(content))


@pytest.mark.parametrize("numbers", [b"", b"\0" * 4, b"\0" * 9, b"\0" * 12])
def test_a_shape_without_its_numbers(numbers):
    """The shape says 2 numbers (8 bytes), or as many as there are in the world."""
    for shape in (b"\x02", b"\xff\xff\xff\xff\x07" * 4):
        blob = field(7, field(1, shape)) + field(5, numbers)
        (found,) = caffe_file.read_blobs(memoryview(field(100, field(7, blob))))[""]
        with pytest.raises(ValueError, match=rf"with {len(numbers)} bytes of numbers"):
            np.asarray(found)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("caffe") / "model"
    foreign.write_caffe(path, LAYERS)
    return path.read_bytes()


def test_a_truncated_file_says_so(model):
    """Or has less in it, where it ends between two layers."""
    whole = caffe_file.read_blobs(memoryview(model))
    for length in range(0, len(model) - 1, 3):
        with contextlib.suppress(ValueError):
            assert set(caffe_file.read_blobs(memoryview(model)[:length])) < {*whole, "more"}
    with pytest.raises(ValueError, match="truncated"):
        caffe_file.read_blobs(memoryview(model)[: len(model) // 3])


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(model, data):
    content = bytearray(model)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        for blobs in caffe_file.read_blobs(memoryview(content)).values():
            for blob in blobs:
                np.asarray(blob)
