"""Folders of results: made beside their place, and whole when they appear there.

    results/dog/                what is finished; its run.json says what it was made from
    results/.dog.unfinished/    the next one, while it is made or after it was killed
    results/.dog.lock           held by the process that makes it; the system lets go if that dies

A finished folder takes its place by one rename, and what stood there goes only then. What this
package did not make is never removed: a folder without a record is refused, and files that somebody
put into a folder of results stay in it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from osvos_tf import files
from osvos_tf.errors import InputError
from osvos_tf.places import exchange, link, lock, remove

RECORD = "run.json"  # the last file of a finished folder
WORK = "work"  # its entry that says what the results were made from, to know the same work again
_CONTENTS = "contents"  # its entry that lists what we wrote, files and folders by their paths
_STARTED = "work.json"  # in an unfinished folder: what is being made
_MAX_RECORD_BYTES = 2**28  # 100 bytes a frame: a day of video
_NOTHING = object()


@dataclasses.dataclass
class Draft:
    """A folder that is being filled.

    Attributes:
        folder: where to write; all that lies in it at the end is published.
        resumed: it holds what a killed run of the same work has left.
        worth_keeping: set this once the folder holds something that a later run of the same work
            can resume from; without it, the folder is removed where the work fails.
    """

    folder: pathlib.Path
    resumed: bool
    _out: pathlib.Path
    _work: dict[str, Any]
    worth_keeping: bool = False
    _published: bool = False

    def publish(self, record: Mapping[str, Any]) -> None:
        """Gives the folder its final name, with `record` in it as `RECORD`.

        Raises:
            InputError: a file that somebody put into the finished folder has a name that we need.
        """
        paths = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        contents = paths - {_STARTED} | {RECORD}
        foreign = _foreign(self._out)
        if taken := sorted(contents.intersection(foreign)):
            raise InputError(
                f"'{self._out}' holds {_list(taken)}, which this command did not make and whose "
                "name it needs. Move that, or name another folder."
            )
        files.write_json(
            self.folder / RECORD, {**record, WORK: self._work, _CONTENTS: sorted(contents)}
        )
        files.flush_to_disk_all(self.folder)
        for name in foreign:
            link(self._out / name, self.folder / name)
        (self.folder / _STARTED).unlink()
        _take_place(self.folder, self._out)
        self._published = True


@contextlib.contextmanager
def draft(
    out: str | os.PathLike[str], work: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[Draft]:
    """Yields the folder to make results in; nothing stands under the final name before `publish`.

        with results.draft("results/dog", work) as draft:
            write_masks(draft.folder)
            draft.publish({"frames": 70})

    Args:
        out: the finished folder.
        work: all that decides over the results, as JSON has it; see `identify`.
        overwrite: replace finished results of other work.

    Raises:
        InputError: see `require_place`; another process makes results for `out` right now; or the
            folder cannot be made.
    """
    out = require_place(out, work, overwrite=overwrite)
    files.ensure_writable(out.parent)
    folder = _unfinished(out)
    with lock(out.with_name(f".{out.name}.lock"), out):
        _recover(folder, out)
        require_place(out, work, overwrite=overwrite)  # there may be more in it since
        resumed = _started(folder) == work
        made = Draft(folder, resumed, out, dict(work), worth_keeping=resumed)
        try:
            if resumed:
                _reopen(folder)
            else:
                if folder.exists():
                    _discard(folder)
                folder.mkdir()
                files.write_json(folder / _STARTED, dict(work))
            yield made
        except (InputError, OSError) as error:  # it should name the place that the user knows
            if isinstance(error, InputError):
                error.args = (str(error).replace(str(folder), str(out)),)
            elif isinstance(error.filename, str):
                error.filename = error.filename.replace(str(folder), str(out))
            raise
        finally:
            if not made._published and not made.worth_keeping:
                with contextlib.suppress(OSError):
                    _discard(folder)


def require_place(
    out: str | os.PathLike[str],
    work: Mapping[str, Any],
    *,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> pathlib.Path:
    """Returns the folder as an absolute path, once results of `work` may take its place.

    Args:
        out: the finished folder; need not exist.
        work: see `draft`.
        overwrite: see `draft`.
        inputs: files and folders that the user named, which must not be replaced.

    Raises:
        InputError: it holds something that is not ours; or finished results of other work,
            without `overwrite`; or one of the inputs; or a rename cannot take its place.
    """
    out = pathlib.Path(os.path.realpath(os.path.expanduser(out)))
    for path, place in itertools.product(inputs, (out, _unfinished(out))):
        if pathlib.Path(os.path.realpath(path)).is_relative_to(place):
            raise InputError(
                f"'{path}' lies in '{place}', whose content would be replaced. Name another folder "
                "for the results, or copy the file to another place."
            )
    if not out.exists():
        return out
    if not out.is_dir():
        raise InputError(f"Wanted an output folder, but '{out}' is a file. Name a folder.")
    if not _visible(out):
        return _require_movable(out)
    record = read_record(out)
    if record is None:
        names = _list([path.name for path in _visible(out)])
        raise InputError(
            f"'{out}' holds what this command did not make ({names}), and no {RECORD} of finished "
            "results. Name another folder, or an empty one."
        )
    if record[WORK] != work and not overwrite:
        raise InputError(
            f"'{out}' holds finished results made with {describe_difference(record, work)}. Name "
            "another folder to keep them, or replace them with `overwrite`."
        )
    return _require_movable(out)


def is_finished(out: str | os.PathLike[str], work: Mapping[str, Any]) -> bool:
    """Returns whether a folder holds the finished results of exactly this work."""
    record = read_record(out)
    return record is not None and record[WORK] == work


def find_missing(out: str | os.PathLike[str]) -> list[str]:
    """Returns which of a folder's finished results are gone, as paths in it."""
    contents = (read_record(out) or {_CONTENTS: []})[_CONTENTS]
    return [name for name in contents if not os.path.lexists(os.path.join(out, str(name)))]


def link_own(out: pathlib.Path, folder: pathlib.Path, *, without: str) -> None:
    """Gives the files that we wrote into finished results a second name in another folder.

    Args:
        out: the results.
        folder: the other one.
        without: a folder or file in `out` that is left out.
    """
    for name in (read_record(out) or {_CONTENTS: []})[_CONTENTS]:
        parts = pathlib.PurePosixPath(name).parts
        if ".." not in parts and parts[:1] not in ((without,), ("/",)) and (out / name).is_file():
            link(out / name, folder / name)


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns the content of a folder's `RECORD`; None if there is no readable one of ours."""
    try:
        record: Any = files.read_json(pathlib.Path(folder) / RECORD, _MAX_RECORD_BYTES)
    except (OSError, ValueError):
        return None
    kinds = {WORK: dict, _CONTENTS: list}
    is_ours = isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in kinds.items()
    )
    return record if is_ours else None


def describe_difference(record: Mapping[str, Any], work: Mapping[str, Any]) -> str:
    """Says in a few words how a record's work differs from `work`."""
    return f"another {', '.join(sorted(set(_differences(record[WORK], work))))}"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **now}:
        a, b = before.get(name, _NOTHING), now.get(name, _NOTHING)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b)
        elif a != b:
            yield name


# --- what decides over results --------------------------------------------------------------------


def identify(path: str | os.PathLike[str]) -> str:
    """Returns a file's checksum, so that new content under the old name is noticed.

    A file is read once for all results of a process; one that has changed is read again.

    Raises:
        OSError: it cannot be read.
    """
    status = os.stat(path)
    return _checksum(os.path.realpath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _checksum(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


# --- taking the place -----------------------------------------------------------------------------


def _take_place(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Renames a finished folder to `out`; what stood there is removed afterwards."""
    if not out.exists() or not any(out.iterdir()):
        if os.name == "nt" and out.exists():
            out.rmdir()
        os.rename(folder, out)  # POSIX replaces an empty folder in one step
        return
    if exchange(folder, out):
        old = folder
    else:
        old = _old(out)
        try:
            os.rename(out, old)
            os.rename(folder, out)
        except BaseException:  # Ctrl-C among them
            if not out.exists():
                os.rename(old, out)
            raise
    _remove_old(old, out)


def _recover(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Completes what a killed process had begun in `_take_place`."""
    old = _old(out)
    if old.exists():
        if out.exists():
            _remove_old(old, out)
        else:
            os.rename(old, out)
    if read_record(folder) is not None and _started(folder) is None and out.exists():
        _remove_old(folder, out)


def _reopen(folder: pathlib.Path) -> None:
    """Removes from an unfinished folder what a killed process had added in `publish`."""
    if read_record(folder) is not None:
        for name in set(_foreign(folder)) - {_STARTED}:  # in the finished folder it lies as well
            remove(folder / name)
        (folder / RECORD).unlink()
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        files.remove_leftovers(place)


def _discard(folder: pathlib.Path) -> None:
    """Removes an unfinished folder; if that is cut short, nobody resumes from what is left."""
    (folder / _STARTED).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _remove_old(old: pathlib.Path, out: pathlib.Path) -> None:
    """Removes the folder that `out` has replaced; what somebody laid into it is in `out` too."""
    for name in _foreign(old):
        if not os.path.lexists(out / name):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(old / name, out / name)
    for path in old.iterdir():
        if path.name != RECORD:  # it says until the end what is ours
            remove(path)
    shutil.rmtree(old)


def _unfinished(out: pathlib.Path) -> pathlib.Path:
    return out.parent / f".{out.name}.unfinished"  # not `with_name`: "/" has no name


def _old(out: pathlib.Path) -> pathlib.Path:
    return out.with_name(f".{out.name}.replaced")


def _started(folder: pathlib.Path) -> Any:
    """Returns the work that an unfinished folder was begun for, or None."""
    try:
        return files.read_json(folder / _STARTED)
    except (OSError, ValueError):
        return None


def _require_movable(out: pathlib.Path) -> pathlib.Path:
    """Returns the folder after checking that a rename can replace it.

    Raises:
        InputError: it is where a file system is mounted, or the folder that we are in.
    """
    if os.path.ismount(out) or pathlib.Path.cwd().is_relative_to(out):
        raise InputError(
            f"Results take the place of their folder as a whole, which '{out}' does not allow: it "
            "is a mount point or holds the current folder. Name a folder in it: "
            f"'{out / 'results'}'."
        )
    return out


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what a file manager would show."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _foreign(folder: pathlib.Path) -> list[str]:
    """Returns what lies in a finished folder and was not written by us, as paths in it.

    A folder that is not ours counts as one.
    """
    if not folder.is_dir():
        return []
    record = read_record(folder) or {_CONTENTS: []}
    ours = {name for name in record[_CONTENTS] if isinstance(name, str)}
    return list(_others(folder, folder, ours))


def _others(place: pathlib.Path, folder: pathlib.Path, ours: set[str]) -> Iterator[str]:
    """Yields what lies in `place`, which is `folder` or in it, and is not among `ours`."""
    for path in sorted(place.iterdir()):
        name = path.relative_to(folder).as_posix()
        if name not in ours:
            yield name
        elif path.is_dir() and not path.is_symlink():
            yield from _others(path, folder, ours)


def _list(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
