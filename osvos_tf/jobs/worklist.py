"""Many sequences to segment: the list of them, its shards, and what happened to each.

    OUT/<sequence>/                     a sequence's results; whole, or not under this name
    OUT/results.jsonl                   what happened, a JSON object a line; a sequence's last
                                        line counts
    OUT/results-00003-of-00016.jsonl    the same of one shard

Knows no network and no engine.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import object_ids


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


def from_davis(sequences: Iterable[davis.Sequence]) -> tuple[Item, ...]:
    """Returns an `Item` for each `davis.Sequence`.

    It is annotated by its first mask, and, where not all frames have one as in YouTube-VOS, by
    those that show an object for the first time.
    """
    items = []
    for sequence in sequences:
        given = _introducing(sequence)
        folder = given[0].image.parent
        # A list may leave out frames that lie in the folder, the first among them.
        first = open_frames(folder).names[0]
        masks = [
            str(frame.mask) if frame.name == first else f"{frame.name}:{frame.mask}"
            for frame in given
        ]
        items.append(Item(sequence.name, str(folder), tuple(masks)))
    return _check(items, "The split")


def _introducing(sequence: davis.Sequence) -> list[davis.Frame]:
    """Returns the annotated frames that are given."""
    annotated = [frame for frame in sequence.frames if frame.mask]
    if len(annotated) == len(sequence.frames):
        return annotated[:1]
    given, seen = annotated[:1], set(object_ids(str(annotated[0].mask)))
    for frame in annotated[1:]:
        ids = set(object_ids(str(frame.mask)))
        if ids - seen:
            given.append(frame)
            seen |= ids
    return given


def read_list(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> tuple[Item, ...]:
    """Reads a text file with a sequence a line: its frames, then one mask or more.

        dog.mp4 dog_first_frame.png
        "a cat.mp4" cat.png 00042:cat_corrected.png
        left:day1/camera day1/left.png

    Words are split and quoted as in a shell; empty lines and lines that begin with `#` are
    skipped. A sequence has the name of its folder or video (without suffix), or `NAME` if its
    frames are given as `NAME:FRAMES`.

    Args:
        path: the list.
        root: folder that relative paths start from; None: the list's own.

    Returns:
        A tuple of `Item`.

    Raises:
        InputError: the list cannot be read or is empty, a line has no mask, two sequences have
            the same name, or a name is not a plain folder name.
    """
    path = pathlib.Path(path)
    root = path.parent if root is None else pathlib.Path(root)
    if path.exists() and not path.is_file():
        raise InputError(f"The list {path} is no file. Wanted a text file: FRAMES MASK a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
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


def shard(items: tuple[Item, ...], index: int, count: int) -> tuple[Item, ...]:
    """Returns the items of one of `count` shards, 0 <= index < count: every `count`-th."""
    return items[index::count]


def _parse(line: str, root: pathlib.Path, place: str) -> Item:
    if re.search(r"(^|[\s:])[A-Za-z]:\\|\w\\\w", line):
        raise InputError(
            f"{place}: it has a Windows path: {line.strip()!r}. A backslash quotes what follows it "
            "here, as in a shell. Write paths with slashes."
        )
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InputError(f"{place}: {error}. Words are quoted as in a shell.") from None
    if "\0" in line:
        raise InputError(f"{place}: it holds a zero byte, which no path does: {line!r}.")
    if len(words) < 2:
        raise InputError(f"{place}: wanted FRAMES MASK, got {line.strip()!r}.")
    name, given = _split(words[0], root)
    given = os.path.expanduser(given)
    masks = []
    for word in words[1:]:
        frame, mask = _split(word, root)
        mask = os.path.expanduser(mask)
        masks.append(str(root / mask) if frame is None else f"{frame}:{root / mask}")
    frames = root / given
    if name is None:
        name = frames.name if os.path.isdir(frames) else frames.stem
    return Item(name, str(frames), tuple(masks))


def _split(word: str, root: pathlib.Path) -> tuple[str | None, str]:
    """Returns name and path of `NAME:PATH`; the name is None where there is only a path."""
    name, _, path = word.rpartition(":")
    # A plain path may hold a colon itself.
    return (name, path) if name and not os.path.exists(root / word) else (None, word)


def _check(items: Sequence[Item], source: str) -> tuple[Item, ...]:
    """Returns the items after checking that their names can be names of folders."""
    seen: set[str] = set()
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


# --- what happened --------------------------------------------------------------------------------


def results_path(out: str | os.PathLike[str], index: int = 0, count: int = 1) -> pathlib.Path:
    """Returns the file of result lines of a shard."""
    name = "results.jsonl" if count == 1 else f"results-{index:05d}-of-{count:05d}.jsonl"
    return pathlib.Path(out) / name


def append_result(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Adds a line to the results; a line cut off earlier stays separate."""
    line = json.dumps(result, ensure_ascii=False) + "\n"
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_results(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns sequence -> its last result; lines that were cut off are skipped."""
    results = {}
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            # RecursionError: brackets without end.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                result = json.loads(line)
                results[result["sequence"]] = result
    return results
