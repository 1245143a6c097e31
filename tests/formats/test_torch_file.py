"""PyTorch's two layouts: hand-assembled files, genuine ones where PyTorch is at hand, bad ones."""

import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvos_tf.formats import torch_file
from support import foreign

WRITERS = {"zip": foreign.write_torch_zip, "legacy": foreign.write_torch_legacy}
STATE = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a.bias": np.array([0.5, -1, 7], np.float64),
    "half": np.array([[1, 2], [3, 4]], np.float16),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "number": np.array(3, np.float32),
    "none": np.zeros((0, 4), np.float32),
}


def read(path):
    with torch_file.open_tensors(path) as tensors:
        return {name: np.asarray(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_tensor_comes_back(layout, tmp_path):
    WRITERS[layout](tmp_path / "file", STATE)
    assert torch_file.is_torch_file(tmp_path / "file")
    found = read(tmp_path / "file")
    assert list(found) == list(STATE)
    for name, array in STATE.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_shapes_are_known_before_reading(tmp_path):
    foreign.write_torch_zip(tmp_path / "file", STATE)
    with torch_file.open_tensors(tmp_path / "file") as tensors:
        assert {n: t.shape for n, t in tensors.items()} == {n: a.shape for n, a in STATE.items()}


@pytest.mark.parametrize("legacy", [False, True])
def test_genuine_files(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32)
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    state["part"] = base[5:17].reshape(3, 4).T  # shares a storage, with an offset and strides
    state["whole"] = base
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save(state, tmp_path / "file", _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(tmp_path / "file") != legacy
    found = read(tmp_path / "file")
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy())
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "file")
    assert list(read(tmp_path / "file")) == list(state)


class MakesFolder:
    """Pickles as a call that leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("layout", ["zip", "legacy, first", "legacy, state", "legacy, keys"])
def test_code_in_a_file_does_not_run(layout, tmp_path):
    path, ran = tmp_path / "file", tmp_path / "ran"
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"w": MakesFolder(ran)}, 2))
    else:
        pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, []]
        number = {"legacy, first": 0, "legacy, state": 3, "legacy, keys": 4}[layout]
        pickles[number] = MakesFolder(ran)
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in pickles))
    with pytest.raises(ValueError, match=r"asks for \w+\.mkdir"):
        read(path)
    assert not ran.exists()


def in_archive(files, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def contents(tmp_path):
    foreign.write_torch_zip(tmp_path / "good", STATE)
    with zipfile.ZipFile(tmp_path / "good") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archive/data/0": None}, "without archive/data/0"),
        ({"archive/data/0": b"1234"}, "storage 0 should have 24 elements of float32"),
        ({"archive/byteorder": b"big"}, "big-endian"),
        ({"other/data.pkl": b""}, "2 files data.pkl"),
        ({"archive/data.pkl": pickle.dumps([1, 2], 2)}, "no state dict"),
        ({"archive/data.pkl": pickle.dumps({"epoch": 3}, 2)}, "no state dict"),
        ({"archive/data.pkl": b""}, "pickle exhausted"),
    ],
)
def test_archives_with_something_amiss(change, message, tmp_path):
    files = {n: c for n, c in {**contents(tmp_path), **change}.items() if c is not None}
    (tmp_path / "file").write_bytes(in_archive(files))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "file")


def test_compressed_archives_are_refused(tmp_path):
    """They could be a thousand times as large as the file."""
    (tmp_path / "file").write_bytes(in_archive(contents(tmp_path), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="compressed"):
        read(tmp_path / "file")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((0, (5,), (1,)), "reaches past the 4 elements"),
        ((3, (2,), (1,)), "reaches past"),
        ((0, (2, 2), (1, 3)), "reaches past"),
        ((0, (1 << 40, 1 << 40), (1, 0)), "reaches past"),
        ((-1, (2,), (1,)), "not a whole number"),
        ((0, (2,), (-1,)), "not a whole number"),
        ((0, (2.0,), (1,)), "not a whole number"),
        ((0, (2,), (1, 1)), "1 axes and 2 strides"),
        ((0, (1,) * 33, (1,) * 33), "33 axes"),
    ],
)
def test_tensors_stay_inside_their_storage(place, message):
    storage = torch_file._Storage("0", np.dtype("<f4"), 4, lambda key: bytes(16))
    with pytest.raises(ValueError, match=message):
        torch_file._rebuild(storage, *place)


def test_an_empty_tensor_has_a_storage_too(tmp_path):
    content = b"\x80\x02}X\1\0\0\0actorch._utils\n_rebuild_tensor\n(}K\0K\0\x85K\1\x85tRs."
    (tmp_path / "file").write_bytes(in_archive({"archive/data.pkl": content}))
    with pytest.raises(ValueError, match="a tensor of no storage"):
        read(tmp_path / "file")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    for layout, write in WRITERS.items():
        write(folder / layout, {"a": STATE["a.bias"], "b": STATE["half"]})
    return folder


@pytest.mark.parametrize("layout", WRITERS)
def test_a_truncated_file_says_so(layout, small, tmp_path):
    content = (small / layout).read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "file").write_bytes(content[:length] or b"x")
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            read(tmp_path / "file")


def test_a_later_version_of_zip_is_a_damaged_archive(small, tmp_path):
    content = bytearray((small / "zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 64  # the version that is needed, times ten
    (tmp_path / "file").write_bytes(content)
    for open_file in (read, torch_file.is_torch_file):
        with pytest.raises(zipfile.BadZipFile, match=r"version 6\.4"):
            open_file(tmp_path / "file")


@pytest.mark.parametrize("layout", WRITERS)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(layout, small, data):
    content = bytearray((small / layout).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = small / f"damaged {layout}"
    path.write_bytes(content)
    with contextlib.suppress(ValueError, zipfile.BadZipFile):
        read(path)
