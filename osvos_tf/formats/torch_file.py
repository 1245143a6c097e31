"""State dicts that PyTorch wrote (`torch.save`), read without PyTorch and without running code.

Two layouts: since 1.6 a zip archive of `<name>/data.pkl` and `<name>/data/<key>`; before it, four
pickles (magic number, version, system, the state dict), one of the storages' keys, then for each
key the number of its elements (int64) and their bytes. In both the state dict says of each tensor
in which storage it lies, where, and with what strides.
"""

import dataclasses
import math
import mmap
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from osvos_tf.formats import safe_pickle

_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_TYPES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
}
_MOST_AXES = 32


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A run of elements; tensors are views of it."""

    key: str
    dtype: np.dtype
    count: int
    read: Callable[[str], bytes]  # of the key

    def array(self) -> np.ndarray:
        data = self.read(self.key)
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(
                f"storage {self.key} should have {self.count} elements of {self.dtype}, and has "
                f"{len(data)} bytes"
            )
        return np.frombuffer(data, self.dtype)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file; `np.asarray` reads it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Reads the tensor's elements."""
        elements = self.storage.array()
        if not math.prod(self.shape):
            return np.zeros(self.shape, dtype or elements.dtype)
        strides = [stride * elements.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(
            elements[self.offset :], self.shape, strides, writeable=False
        )
        return np.array(view, dtype)


@contextmanager
def open_tensors(path: str | os.PathLike[str]) -> Iterator[dict[str, Tensor]]:
    """Opens a file of `torch.save` that holds a state dict, or a dict with a "state_dict" in it.

    Args:
        path: the file, of either layout.

    Yields:
        Tensors by name, which can be read until the end of the `with`.

    Raises:
        ValueError: damaged, of another layout, or more than tensors; nothing in it was run.
        zipfile.BadZipFile: a damaged archive.
    """
    if zipfile.is_zipfile(path):
        with _open_zip(path) as archive:
            yield _tensors(_read_zip(archive))
    else:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield _tensors(_read_legacy(data))


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file has one of the two layouts of `torch.save`."""
    if zipfile.is_zipfile(path):
        with _open_zip(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    with open(path, "rb") as file:
        return file.read(len(_LEGACY_START)) == _LEGACY_START


def _open_zip(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except NotImplementedError as error:  # a flipped bit can ask for a later version of zip
        raise zipfile.BadZipFile(str(error)) from error


def _read_zip(archive: zipfile.ZipFile) -> Any:
    """Returns what the archive's pickle holds; storages are read when they are used."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"an archive with {len(pickles)} files data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = folder + "byteorder"
    if order in archive.namelist() and _member(archive, order) != b"little":
        raise ValueError("numbers of a big-endian machine")

    def read(key: str) -> bytes:
        return _member(archive, f"{folder}data/{key}")

    return safe_pickle.load(
        _member(archive, pickles[0]), _functions(), lambda about: _storage(about, read)
    )


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise ValueError(f"an archive without {name}")
    # PyTorch stores; what is compressed could be a thousand times as large as the file.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"an archive with compressed files ({name}), which PyTorch does not write")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"damaged at {name} ({type(error).__name__}: {error})") from error


def _read_legacy(data: mmap.mmap) -> Any:
    """Returns what the fourth pickle holds; storages are read when they are used."""
    storages: dict[str, _Storage] = {}
    places: dict[str, slice] = {}  # where they lie is known after the state dict only

    def storage(about: Any) -> _Storage:
        found = _storage(about, lambda key: data[places[key]])
        return storages.setdefault(found.key, found)

    magic, version, system = (safe_pickle.load(data) for _ in range(3))
    if (magic, version) != (_LEGACY_MAGIC, _LEGACY_VERSION) or not isinstance(system, dict):
        raise ValueError("neither of the layouts of torch.save")
    if system.get("little_endian") is not True:
        raise ValueError("numbers of a big-endian machine")
    content = safe_pickle.load(data, _functions(), storage)
    keys = safe_pickle.load(data)
    if not isinstance(keys, list) or {type(key) for key in keys} != {str}:
        raise ValueError("without a list of storages")
    for key in keys:
        if key not in storages:
            raise ValueError(f"a storage {key!r} that no tensor uses")
        count = int.from_bytes(data.read(8), "little")
        start, size = data.tell(), count * storages[key].dtype.itemsize
        if start + size > len(data):
            raise ValueError(
                f"truncated: storage {key} should have {size} bytes, {len(data) - start} are left"
            )
        places[key] = slice(start, start + size)
        data.seek(start + size)
    absent = [key for key in storages if key not in places]
    if absent:
        raise ValueError(f"truncated: no elements of the storages {', '.join(absent)}")
    return content


def _functions() -> dict[str, Any]:
    return {
        "collections.OrderedDict": dict,
        "torch._utils._rebuild_tensor": _rebuild,
        "torch._utils._rebuild_tensor_v2": _rebuild,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        **_TYPES,
    }


def _storage(about: Any, read: Callable[[str], bytes]) -> _Storage:
    """Returns a storage that a pickle names: ("storage", type, key, device, elements, ...)."""
    kind, dtype, key, _, count, *views = about
    if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
        raise ValueError("a pickle of more than tensors")
    if any(view is not None for view in views):
        raise ValueError("storages inside storages")
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"a storage of {safe_pickle.shown(count)} elements")
    return _Storage(key, dtype, count, read)


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Returns the tensor, after checking that it lies inside its storage."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor of no storage")
    numbers = (offset, *shape, *strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a tensor with an offset that is not a whole number")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError(f"a tensor with {len(shape)} axes and {len(strides)} strides")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.count:
        raise ValueError(
            f"a tensor of shape {shape} that reaches past the {storage.count} elements of its "
            "storage"
        )
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _tensors(content: Any) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError("no state dict (a dict of tensors)")
    return {str(name): tensor for name, tensor in content.items()}
