"""Output files that are whole or absent, and folders that can really be written to."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osvos_tf.errors import InputError

# The parent network that comes with the package.
COMPACT_PARENT = Path(__file__).resolve().parents[1] / "saved_models" / "compact" / "parent.keras"


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path to write to, which becomes `path` only if all goes well.

        with atomic_path("report.html") as temporary:
            temporary.write_text(page)

    The temporary file lies in the same folder, so that the final rename is atomic; its name
    starts with a dot, so that readers of the folder pass it by, and ends in the whole of the final
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
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes a value as a JSON file, whole or not at all; raises as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def ensure_writable(folder: str | os.PathLike) -> Path:
    """Makes `folder` and its parents where they are missing, and checks that it can be written to.

    Call it before long work, so that a mistyped output folder costs seconds and not hours.

    Returns:
        The folder as a `Path`.

    Raises:
        InputError: the folder cannot be made, is no folder, or takes no files.
    """
    folder = Path(folder)
    probe = folder / f".{secrets.token_hex(4)}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Wanted an output folder that can be written to, but '{folder}' is none: {reason}. "
            "Name another folder, or change this one's permissions."
        ) from error
    return folder


def flush_to_disk(path: Path) -> None:
    """Waits until the file's content is on the disk, so that a power cut cannot leave it empty."""
    # Windows refuses to flush a file that is open for reading only, hence "r+b".
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
