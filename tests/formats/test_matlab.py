"""The `.mat` reader against SciPy's, and against files that lie."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from osvos_tf.formats import matlab

NUMBERS = arrays.arrays(
    st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "bool"]),
    arrays.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=5),
)
NAMES = st.text("abcdefgh_", min_size=1, max_size=20).filter(lambda name: name[0] != "_")


def as_cell(values):
    cell = np.empty((1, len(values)), object)
    for index, value in enumerate(values):
        cell[0, index] = value
    return cell


VALUES = st.recursive(
    NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4).map(as_cell) | st.dictionaries(NAMES, inner, min_size=1)
    ),
    max_leaves=6,
)


def assert_same(found, written):
    if isinstance(written, dict):
        assert [set(element) for element in found] == [set(written)]
        for field, value in written.items():
            assert_same(found[0][field], value)
    elif written.dtype == object:
        assert len(found) == written.size
        for ours, theirs in zip(found, written.ravel(), strict=True):
            assert_same(ours, theirs)
    else:
        np.testing.assert_array_equal(found, written)


@settings(deadline=None, max_examples=60)
@given(
    variables=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
    do_compression=st.booleans(),
)
def test_reads_what_scipy_writes(tmp_path_factory, variables, do_compression):
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    scipy.io.savemat(path, variables, do_compression=do_compression, long_field_names=True)
    found = matlab.read(path)
    assert set(found) == set(variables)
    for name, value in variables.items():
        assert_same(found[name], value)


def test_text_and_sparse_matrices_are_passed_by(tmp_path):
    variables = {"text": "words", "sparse": scipy.sparse.eye_array(4).tocsc(), "x": np.eye(2)}
    scipy.io.savemat(tmp_path / "a.mat", variables)
    assert set(matlab.read(tmp_path / "a.mat")) == {"x"}


def test_real_ground_truth(real_data):
    paths = sorted((real_data / "BSDS500").rglob("*.mat"))
    if not paths:
        pytest.skip("no BSDS500 there")
    for path in paths[:3]:
        ours = matlab.read(path)["groundTruth"]
        theirs = scipy.io.loadmat(path)["groundTruth"].ravel()
        for a, b in zip(ours, theirs, strict=True):
            for field in ("Segmentation", "Boundaries"):
                np.testing.assert_array_equal(a[0][field], b[field][0, 0])


# --- files that lie -------------------------------------------------------------------------------


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(class_, shape, rest):
    flags = element(6, struct.pack("<II", class_, 0))
    sides = element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, flags + sides + element(1, b"x") + rest)


def write(path, *elements):
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + b"".join(elements))
    return path


FIELD = element(5, struct.pack("<i", 8)) + element(1, b"field\0\0\0")


@pytest.mark.parametrize("shape", [(46_000, 46_000), (2**31 - 1,) * 3, (-5, 3), (5,)])
@pytest.mark.parametrize("class_", range(1, 18))
def test_sizes_are_not_believed(tmp_path, class_, shape):
    for rest in (b"", element(1, b""), FIELD, element(9, bytes(8))):
        path = write(tmp_path / "a.mat", matrix(class_, shape, rest))
        with contextlib.suppress(ValueError):
            assert not matlab.read(path)  # a class that is passed by


def test_a_struct_without_fields_takes_no_memory(tmp_path):
    rest = element(5, struct.pack("<i", 8)) + element(1, b"")
    path = write(tmp_path / "a.mat", matrix(2, (2**30, 1), rest))
    assert matlab.read(path) == {"x": []}


def test_a_compressed_element_is_unpacked_up_to_the_limit(tmp_path):
    bomb = struct.pack("<II", 15, 1000) + zlib.compress(bytes(10**6)).ljust(1000)
    path = write(tmp_path / "a.mat", bomb)
    with pytest.raises(ValueError, match="larger than 10000 bytes unpacked"):
        matlab.read(path, max_bytes=10_000)


def test_cells_in_cells_have_a_limit(tmp_path):
    value = matrix(6, (1, 1), element(9, bytes(8)))
    for _ in range(2000):
        value = matrix(1, (1, 1), value)
    with pytest.raises(ValueError, match="depth 9"):
        matlab.read(write(tmp_path / "a.mat", value))


def test_objects_are_counted_and_not_only_bytes(tmp_path):
    nothing = struct.pack("<II", 14, 0)  # a matrix of eight bytes
    cells = matrix(1, (200_000, 1), nothing * 200_000)
    packed = zlib.compress(cells)
    path = write(tmp_path / "a.mat", struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match="more than 100000 matrices"):
        matlab.read(path)
    names = element(5, struct.pack("<i", 1)) + element(1, b"a" * 5000)
    with pytest.raises(ValueError, match="5000 bytes of names 1 long"):
        matlab.read(write(tmp_path / "a.mat", matrix(2, (1, 1), names)))
    with pytest.raises(ValueError, match="2000000 axes"):
        matlab.read(write(tmp_path / "a.mat", matrix(6, (1,) * 2_000_000, element(9, bytes(8)))))


@settings(deadline=None, max_examples=200)
@given(data=st.data(), do_compression=st.booleans())
def test_damaged_files(tmp_path_factory, data, do_compression):
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    cell = as_cell([{"a": np.eye(3), "b": np.arange(6, dtype="u1").reshape(2, 3)}])
    scipy.io.savemat(path, {"cell": cell, "x": np.eye(2)}, do_compression=do_compression)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        matlab.read(path)
