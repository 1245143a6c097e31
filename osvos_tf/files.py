"""Output files that are whole or absent, and folders that are known to be writable."""

import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from osvos_tf.errors import InputError

MAX_JSON_BYTES = 2**24  # a manifest has 200 bytes a shard and 20 a sequence


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path to write to, which becomes `path` only if all goes well.

        with atomic_path("report.html") as temporary:
            temporary.write_text(page)

    The temporary file lies in the same folder, so that the final rename is atomic; its name
    starts with a dot, so that readers of the folder skip it, and ends in the whole of the final
    name, so that libraries which choose a format by suffix choose the right one.

    Args:
        path: the final file, replaced if it exists. Its folder must exist.

    Yields:
        The temporary path; no file lies there yet.

    Raises:
        OSError: the file was not written, or cannot be moved to `path`. As for any exception in
            the body, `path` is then as it was before, and the temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # what the user knows; a write says no name at all
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes a value as a JSON file, whole or not at all; raises as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def remove_leftovers(folder: str | os.PathLike, older_than: float = 0.0) -> None:
    """Removes what a killed process left of `atomic_path` in a folder.

    Args:
        folder: need not exist.
        older_than: seconds; spares what another process may be writing just now.
    """
    for path in Path(folder).glob(".????????.*"):
        if re.fullmatch(r"\.[0-9a-f]{8}\..+", path.name):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= older_than:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_json(path: str | os.PathLike, most: int | None = None) -> object:
    """Returns the value of a JSON file.

    Args:
        path: the file.
        most: the most bytes that it may have; None: `MAX_JSON_BYTES`.

    Raises:
        ValueError: it is not JSON, or larger; OSError: it cannot be read.
    """
    path = Path(path)
    most = MAX_JSON_BYTES if most is None else most
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    if path.stat().st_size > most:
        raise ValueError(f"it has more than {most} bytes, which is the limit")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def ensure_writable(folder: str | os.PathLike) -> Path:
    """Makes `folder` and its parents where they are missing, and checks that it can be written to.

    Call it before long work, so that a mistyped output folder costs seconds and not hours.

    Returns:
        The folder as a `Path`.

    Raises:
        InputError: it cannot be made, is not a folder, or cannot be written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # has no name that a kill could leave there
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Wanted an output folder that can be written to, but '{folder}' is not: {reason}. "
            "Name another folder, or change this one's permissions."
        ) from error
    return folder


def flush_to_disk(path: Path) -> None:
    """Waits until the file's content is on the disk, so that a power cut cannot leave it empty."""
    # Windows refuses to flush a file that is open for reading only, hence "r+b".
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def flush_to_disk_all(folder: Path) -> None:
    """Waits until all files of a folder are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            flush_to_disk(path)
