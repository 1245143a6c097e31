"""Which kind a file of weights is, what is in it, and files that are damaged or hostile."""

import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io

from osvos_tf.errors import InputError
from osvos_tf.network import model
from osvos_tf.network.files import save_model
from osvos_tf.network.weights import readers
from support import foreign

ARRAYS = {
    "a": np.arange(300, dtype=np.float32).reshape(3, 4, 25),
    "b": np.array([0.5, -2], np.float32),
}


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"pool", b"layer"]
        file.create_group("pool").attrs["weight_names"] = []
        layer = file.create_group("layer")
        layer.attrs["weight_names"] = [name.encode() for name in arrays]
        for name, array in arrays.items():
            layer[name] = array


def write_npy(path, arrays):
    with open(path, "wb") as file:
        np.save(file, arrays)


def write_mat(path, arrays):
    cell = np.empty((1, len(arrays)), object)
    cell[0] = list(arrays.values())
    with open(path, "wb") as file:
        scipy.io.savemat(file, {"cell": cell, "note": "text"})


def write_caffe(path, arrays):
    foreign.write_caffe(path, {"layer": list(arrays.values())})


WRITERS = {
    "checkpoint": (foreign.write_checkpoint, "{name}"),
    "checkpoint, version 1": (foreign.write_v1_checkpoint, "{name}"),
    "hdf5": (write_hdf5, "layer/{number}"),
    "npy": (write_npy, "{name}"),
    "torch": (foreign.write_torch_zip, "{name}"),
    "torch, legacy": (foreign.write_torch_legacy, "{name}"),
    "mat": (write_mat, "cell/{number}"),
    "caffe": (write_caffe, "layer/{number}"),
}


def read(path):
    with readers.open_arrays(path, readers.recognise(path)) as arrays:
        return {name: (tuple(array.shape), np.asarray(array)) for name, array in arrays.items()}


@pytest.mark.parametrize("writer", WRITERS)
def test_content_tells_the_kind_and_every_array_comes_back(writer, tmp_path):
    write, key = WRITERS[writer]
    path = tmp_path / "parent.v2.weights"  # dots, and no suffix that says anything
    write(path, ARRAYS)
    assert readers.recognise(path) == writer.partition(",")[0]
    found = read(path)
    if writer == "mat":  # MATLAB has no vectors
        assert found["cell/1"][0] == (1, 2)
    for number, (name, array) in enumerate(ARRAYS.items()):
        shape, value = found.pop(key.format(name=name, number=number))
        assert writer == "mat" or shape == array.shape
        np.testing.assert_array_equal(value.reshape(array.shape), array)
    assert not found


def test_a_checkpoint_by_any_of_its_files(tmp_path):
    foreign.write_checkpoint(tmp_path / "model.ckpt-50000", ARRAYS)
    files = [path for path in tmp_path.iterdir() if path.name != "checkpoint"]
    assert len(files) == 3
    for path in files:
        assert set(read(path)) == {"a", "b"}
    (tmp_path / "model.ckpt-50000.index").unlink()
    for path in files[1:]:
        with pytest.raises(InputError, match=r"model\.ckpt-50000"):
            readers.recognise(path)


def test_models_of_ours_are_told_apart(tmp_path):
    path = tmp_path / "file"
    network = model.build_foreground(width_multiplier=1 / 64, start="scratch")
    save_model(network, tmp_path / "parent.keras")
    os.replace(tmp_path / "parent.keras", path)
    assert readers.recognise(path) == "keras"


def test_npy_in_other_pickles_of_numpy(tmp_path):
    header = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header = header.ljust(79) + b"\n"
    # Python 3, protocol 2: bytes by a call; an array in column order; the module's older name.
    arrays = {"a": np.asfortranarray(ARRAYS["a"]), "b": ARRAYS["b"].astype(">f8")}
    content = pickle.dumps(np.array(arrays, object), 2)
    assert b"_codecs" in content
    (tmp_path / "file").write_bytes(header + content.replace(b"numpy._core", b"numpy.core"))
    for name, (shape, value) in read(tmp_path / "file").items():
        assert shape == ARRAYS[name].shape
        np.testing.assert_array_equal(value, ARRAYS[name])
    # Python 2: bytes as text. Written by hand: {"b": array}.
    content = (
        b"\x80\x02}U\x01bcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02\x85cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + ARRAYS["b"].tobytes() + b"tbs."
    )
    (tmp_path / "file").write_bytes(header + content)
    np.testing.assert_array_equal(read(tmp_path / "file")["b"][1], ARRAYS["b"])


class MakesFolder:
    """Pickles as a call that leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_npy_file_does_not_run(tmp_path):
    write_npy(tmp_path / "file", {"a": MakesFolder(tmp_path / "ran")})
    with pytest.raises(InputError, match=r"asks for \w+\.mkdir, .*nothing was run"):
        read(tmp_path / "file")
    assert not (tmp_path / "ran").exists()
    with open(tmp_path / "file", "rb") as file:
        np.load(file, allow_pickle=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_file_is_explained(writer, tmp_path):
    path = tmp_path / "weights"
    WRITERS[writer][0](path, ARRAYS)
    if writer == "checkpoint":
        path = tmp_path / "weights.data-00000-of-00001"
    content = path.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 100):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cannot be read as|not a \.keras|damaged"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No file"),
        (b"", "not a .keras file"),
        (b"not a model", "not a .keras file, nor any other"),
        (b"PK\x03\x04 and no more", "a damaged zip archive"),
        (b"\x93NUMPY\x01\x00 ", "cannot be read as a NumPy file"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read as an HDF5 file"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)
    with pytest.raises(InputError, match="No file"):
        readers.recognise(tmp_path)


def test_damaged_archives_are_explained(tmp_path):
    """Both were found by fuzzing."""
    whole = tmp_path / "whole"
    foreign.write_torch_zip(whole, {"a": np.zeros(2, np.float32)})
    entry = whole.read_bytes().index(b"PK\1\2")
    of_a_later_version, elsewhere = bytearray(whole.read_bytes()), bytearray(whole.read_bytes())
    of_a_later_version[entry + 6] = 82
    end = elsewhere.index(b"PK\5\6")
    elsewhere[end + 12 : end + 16] = (2**31).to_bytes(4, "little")  # the size of the list of files
    elsewhere[:2] = b"KP"
    for content in (of_a_later_version, elsewhere):
        path = tmp_path / "damaged"
        path.write_bytes(content)
        with pytest.raises(InputError, match="is a damaged zip archive"):
            readers.recognise(path)


def test_files_of_a_known_kind_with_other_things_in_them(tmp_path):
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/parent_epoch-239.pth", b"")
    with pytest.raises(InputError, match=r"models/parent_epoch-239\.pth\)\. Unpack it"):
        read(path)
    with open(path, "wb") as file:
        np.save(file, ARRAYS["a"])
    with pytest.raises(InputError, match="one array of float32, and no dict"):
        read(path)
    write_npy(path, {"a": [1, 2]})
    with pytest.raises(InputError, match="no dict of arrays"):
        read(path)
    with h5py.File(path, "w") as file:
        file["a"] = ARRAYS["a"]
    with pytest.raises(InputError, match="no layer_names"):
        read(path)
