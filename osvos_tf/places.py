"""Steps on whole folders that happen at once or not at all: locks, exchanges and links."""

import contextlib
import ctypes
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from osvos_tf.errors import InputError

# --- the lock -------------------------------------------------------------------------------------

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are not noticed there
    fcntl = None  # type: ignore[assignment]  # the module, or its absence


@contextlib.contextmanager
def lock(path: str | os.PathLike[str], what: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a lock file for this process; the lock goes when the process ends, however it ends.

    Args:
        path: the lock file; it is removed afterwards.
        what: the folder that it guards, for the message.

    Raises:
        InputError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"Another run is writing to '{what}' right now. Wait for it, or name another "
                "folder."
            ) from None
        except OSError:  # a file system without locks
            break
        if _is_same(descriptor, path):  # else its last holder has just removed it
            break
        os.close(descriptor)
    try:
        yield
    finally:
        pathlib.Path(path).unlink(missing_ok=True)
        os.close(descriptor)


def _is_same(descriptor: int, path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def exchange(a: pathlib.Path, b: pathlib.Path) -> bool:
    """Swaps the names of two folders in one step; returns False where the system cannot."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(a), os.fsencode(b)
    here, swap = -100, 2  # AT_FDCWD of Linux; RENAME_EXCHANGE there, RENAME_SWAP on macOS
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return library.renameat2(here, names[0], here, names[1], swap) == 0
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return library.renamex_np(*names, swap) == 0
    return False


def link(path: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a file, or all files of a folder, a second name; copies where links are impossible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, target, symlinks=True, copy_function=_link_file)
    else:
        _link_file(path, target)


def _link_file(path: str | pathlib.Path, target: str | pathlib.Path) -> None:
    try:
        os.link(path, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(path, target, follow_symlinks=False)


def remove(path: pathlib.Path) -> None:
    """Removes a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
