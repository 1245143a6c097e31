"""Many sequences to segment: the list of them, its shards, and what of it is done already.

    OUT/<sequence>/                     a sequence's results; whole, or not under this name
    OUT/results.jsonl                   what happened, a JSON object a line; a sequence's last
                                        line counts
    OUT/results-00003-of-00016.jsonl    the same of one shard

Knows no network and no engine: whoever does the work gets `Item`s and calls `publish`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import secrets
import shlex
import shutil

from osvos_tf import davis, files, video
from osvos_tf.errors import InputError

RECORD = "run.json"  # in a sequence's folder; the last file that is written there
INPUTS = "inputs"  # its entry that says what the results were made from
FOLDERS = ("masks", "probabilities")  # folders of one PNG a frame

_PARTIAL = re.compile(r"\.(?P<sequence>.+)\.[0-9a-f]{8}")  # a folder that is being filled


@dataclasses.dataclass(frozen=True)
class Item:
    """One sequence to segment.

    Attributes:
        name: of the sequence and so of its folder of results.
        frames: folder of images, or a video file.
        masks: annotations, each a PNG's path for the first frame or `NAME:PNG` for another.
    """

    name: str
    frames: str
    masks: tuple[str, ...]


# --- what there is to do --------------------------------------------------------------------------


def from_davis(sequences):
    """Returns an `Item` for each `davis.Sequence`, annotated by the mask of its first frame."""
    items = []
    for sequence in sequences:
        first, folder = sequence.frames[0], sequence.frames[0].image.parent
        # A list may leave out frames that lie in the folder, the first among them.
        is_first = video.open_frames(folder).names[0] == first.name
        mask = str(first.mask) if is_first else f"{first.name}:{first.mask}"
        items.append(Item(sequence.name, str(folder), (mask,)))
    return _check(items, "The split")


def read_list(path, root=None):
    """Reads a text file with a sequence a line: its frames, then one mask or more.

        dog.mp4 dog_first_frame.png
        "a cat.mp4" cat.png 00042:cat_corrected.png
        left:day1/camera day1/left.png

    Words are parted and quoted as in a shell; empty lines and lines that begin with `#` are passed
    by. A sequence is called what its folder or video is called (without suffix), or `NAME` where
    its frames are given as `NAME:FRAMES`.

    Args:
        path: the list.
        root: folder that relative paths start from; None: the list's own.

    Returns:
        A tuple of `Item`.

    Raises:
        InputError: the list cannot be read or is empty, a line has no mask, two sequences have
            one name, or a name is no plain folder name.
    """
    path = pathlib.Path(path)
    root = path.parent if root is None else pathlib.Path(root)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"No list {path}. Wanted a text file: FRAMES MASK on each line.") from None
    except UnicodeDecodeError:
        raise InputError(f"The list {path} is not UTF-8 text.") from None
    items = [
        _parse(line, root, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not items:
        raise InputError(f"The list {path} is empty. Wanted FRAMES MASK on each line.")
    return _check(items, str(path))


def shard(items, index, count):
    """Returns the items of one of `count` shards, 0 <= index < count: every `count`-th."""
    return items[index::count]


def _parse(line, root, place):
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InputError(f"{place}: {error}. Words are quoted as in a shell.") from None
    if len(words) < 2:
        raise InputError(f"{place}: wanted FRAMES MASK, got {line.strip()!r}.")
    name, frames = _split(words[0], root)
    masks = []
    for word in words[1:]:
        frame, mask = _split(word, root)
        masks.append(str(root / mask) if frame is None else f"{frame}:{root / mask}")
    frames = root / frames
    if name is None:
        name = frames.name if frames.is_dir() else frames.stem
    return Item(name, str(frames), tuple(masks))


def _split(word, root):
    """Returns name and path of `NAME:PATH`; the name is None where there is only a path."""
    name, _, path = word.rpartition(":")
    # A plain path may hold a colon itself.
    return (name, path) if name and not (root / word).exists() else (None, word)


def _check(items, source):
    """Returns the items, once their names have proved good as names of folders."""
    seen = set()
    for item in items:
        davis.check_name(item.name, source)
        if item.name.startswith(".") or item.name.endswith(".jsonl") or not item.name.isprintable():
            raise InputError(
                f"{source} names {item.name!r}, which cannot name a folder of results. Give the "
                "sequence a name without a dot in front, control characters and '.jsonl'."
            )
        if item.name in seen:
            raise InputError(
                f"{source} has two sequences called {item.name!r}, whose results would share a "
                "folder. In a list, NAME:FRAMES names a sequence."
            )
        seen.add(item.name)
    return tuple(items)


# --- what was made of it --------------------------------------------------------------------------


def describe_inputs(flags):
    """Returns what decides over a sequence's results, to be compared: as JSON has it.

    Args:
        flags: name -> value, with `frames` and `mask` among them; `out` does not count.

    Returns:
        A dict: files by their checksums, so that a network or a mask with new content under the
        old name is noticed; frames, which are many, by their path; all else by its value.
    """
    inputs = {name: _identify(value) for name, value in flags.items() if name != "out"}
    return {**inputs, "frames": os.path.abspath(flags["frames"])}


def _identify(value):
    if isinstance(value, (list, tuple)):
        return [_identify(element) for element in value]
    if not isinstance(value, str):
        return value
    name, colon, path = "", "", value
    if not os.path.isfile(value):
        name, colon, path = value.rpartition(":")  # a mask's NAME:PNG
        if not os.path.isfile(path):
            return value
    status = os.stat(path)
    return f"{name}{colon}{_checksum(path, status.st_size, status.st_mtime_ns)}"


@functools.lru_cache(maxsize=64)
def _checksum(path, size, changed):
    """Returns a file's checksum, read once for all sequences; a changed file is read again."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def partial_folder(out, item):
    """Returns where an item's results are made: a hidden folder beside where they will lie."""
    return pathlib.Path(out) / f".{item.name}.{secrets.token_hex(4)}"


def publish(partial, folder, inputs):
    """Gives whole results their final name, with what they were made from noted in `RECORD`.

    Where the folder exists, its masks and other files of the same names are replaced.
    """
    record = read_record(partial)
    record["flags"]["out"] = str(folder)
    files.write_json(partial / RECORD, {**record, INPUTS: inputs})
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():
            raise
    else:
        return
    (folder / RECORD).unlink(missing_ok=True)  # from here on it is not whole
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == RECORD):
        os.replace(path, folder / path.name)
    partial.rmdir()


def remove_partial(out, items):
    """Removes what was left of these items where work on them was cut off."""
    names = {item.name for item in items}
    for path in pathlib.Path(out).iterdir():
        match = _PARTIAL.fullmatch(path.name)
        if match and match["sequence"] in names and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def read_record(folder):
    """Returns the content of a folder's `RECORD`; None where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def find_fault(item, folder, inputs):
    """Returns why a folder is not the item's whole result, in a few words; None if it is.

    Args:
        item: the `Item`.
        folder: of its results.
        inputs: what `describe_inputs` says today.
    """
    record = read_record(folder)
    if record is None:
        return f"no {RECORD} that can be read"
    before = record.get(INPUTS)
    if before != inputs:
        before = before if isinstance(before, dict) else {}
        names = before.keys() | inputs.keys()
        nothing = object()
        changed = sorted(
            name for name in names if before.get(name, nothing) != inputs.get(name, nothing)
        )
        return f"made with another {', '.join(changed)}"
    try:
        names = video.open_frames(item.frames).names if os.path.isdir(item.frames) else None
        for name in FOLDERS if inputs.get("probabilities") else FOLDERS[:1]:
            _check_pictures(folder / name, names, record)
    except InputError as error:
        return str(error)
    return None


def _check_pictures(folder, names, record):
    """Raises InputError unless there is one readable PNG for each frame."""
    found = {path.stem: path for path in folder.glob("*.png")}
    expected = set(found) if names is None else set(names)
    if len(expected) != record.get("frames") or set(found) != expected:
        missing = sorted(expected - set(found))
        which = f", {missing[0]}.png is missing" if missing else ""
        raise InputError(f"{len(found)} of {record.get('frames')} {folder.name}{which}")
    for path in found.values():
        video.check_png(path, tuple(record["size"]))


# --- what happened --------------------------------------------------------------------------------


def results_path(out, index=0, count=1):
    """Returns the file of result lines of a shard."""
    name = "results.jsonl" if count == 1 else f"results-{index:05d}-of-{count:05d}.jsonl"
    return pathlib.Path(out) / name


def append_result(path, result):
    """Adds a line to the results; a line that was cut off before stays apart from it."""
    line = json.dumps(result, ensure_ascii=False) + "\n"
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_results(path):
    """Returns sequence -> its last result; lines that were cut off are passed by."""
    results = {}
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                result = json.loads(line)
                results[result["sequence"]] = result
    return results
