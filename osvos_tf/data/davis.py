"""A DAVIS tree: its sequences and frames, from the 2016 pair lists or the 2017 name lists.

    ROOT/JPEGImages/<resolution>/<sequence>/<frame>.jpg      or another image's suffix
    ROOT/Annotations/<resolution>/<sequence>/<frame>.png
    ROOT/ImageSets/<resolution>/<split>.txt          2016: an image and a mask path per line
    ROOT/ImageSets/<year>/<split>.txt                2017: a sequence name per line

Paths in a list begin with a slash that means the root.
"""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterable

from osvos_tf.errors import InputError
from osvos_tf.media.images import IMAGE_SUFFIXES

LIST_YEARS = ("2016", "2017")  # looked at in this order, after the list of the resolution


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame: the path of its image, and of the PNG with its mask if it has one."""

    name: str
    image: pathlib.Path
    mask: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A video: its name and its frames in order of time."""

    name: str
    frames: tuple[Frame, ...]


def read_split(
    root: str | os.PathLike[str],
    split: str,
    *,
    resolution: str = "480p",
    sequences: Collection[str] = (),
    every_mask: bool = True,
) -> tuple[Sequence, ...]:
    """Finds the sequences of a split and checks that every image and mask file is there.

    Args:
        root: DAVIS root, the folder that holds JPEGImages, Annotations and ImageSets.
        split: name of a list, such as "train", or a list inside ImageSets, such as "2017/train".
        resolution: name of the folder below JPEGImages and Annotations.
        sequences: names of the sequences to keep; empty keeps all.
        every_mask: False: frames may have none, as in the test lists of DAVIS-2017.

    Returns:
        A tuple of `Sequence`, in the order of the list.

    Raises:
        InputError: no such tree, split or sequence, an empty split, or a missing image or mask.
    """
    root = pathlib.Path(root)
    for folder in (root / "JPEGImages" / resolution, root / "Annotations" / resolution):
        if not folder.is_dir():
            raise InputError(
                f"No folder {folder}. A DAVIS root holds JPEGImages/{resolution} and "
                f"Annotations/{resolution}; found in {root}: {_listing(root)}. Check its folder "
                "and the resolution."
            )
    path = _find_list(root, split, resolution)
    lines = _read_lines(path)
    if not lines:
        raise InputError(f"The split list {path} is empty. Name a split with sequences.")
    if len(lines[0]) > 1:
        found = _from_pairs(root, path, lines, every_mask)
    else:
        found = _from_names(root, path, lines, resolution, every_mask)
    _require_once([frame.image for sequence in found for frame in sequence.frames], path)
    return select(tuple(found), sequences, path)


def check_name(name: str, source: str | os.PathLike[str]) -> None:
    """Raises InputError unless `name` is usable as one folder or file name, never a path."""
    if not name or name in (".", "..") or any(c in name for c in "/\\\0"):
        raise InputError(f"{source} names {name!r}, which is not a plain sequence or frame name.")


def _listing(folder: pathlib.Path) -> str:
    if not folder.is_dir():
        return "nothing, the folder does not exist"
    return ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"


def _find_list(root: pathlib.Path, split: str, resolution: str) -> pathlib.Path:
    sets = root / "ImageSets"
    if "/" in split:
        candidates = [sets / f"{split}.txt"]
    else:
        candidates = [sets / folder / f"{split}.txt" for folder in (resolution, *LIST_YEARS)]
    for path in candidates:
        if path.is_file():
            return path
    known = sorted(str(p.relative_to(sets).with_suffix("")) for p in sets.glob("*/*.txt"))
    raise InputError(
        f"No list for split {split!r}: looked for {', '.join(map(str, candidates))}. "
        f"Splits found: {', '.join(known) or 'none'}."
    )


def _read_lines(path: pathlib.Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise InputError(f"The split list {path} is not UTF-8 text.") from None
    return [line.split() for line in text.splitlines() if line.strip()]


def _from_pairs(
    root: pathlib.Path, path: pathlib.Path, lines: list[list[str]], every_mask: bool
) -> list[Sequence]:
    """2016 form: `/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png` lines."""
    frames: dict[str, list[Frame]] = {}
    for number, fields in enumerate(lines, start=1):
        if len(fields) != 2:
            raise InputError(
                f"{path}, line {number}: wanted an image and a mask path, got {len(fields)} "
                "fields. DAVIS-2016 lists have two paths a line, DAVIS-2017 lists one name."
            )
        # The paths start with a slash, which would make them absolute: they mean the DAVIS root.
        image, mask = (pathlib.Path(field.lstrip("/")) for field in fields)
        if ".." in image.parts + mask.parts:
            raise InputError(f"{path}, line {number}: the paths must stay inside {root}.")
        image, mask = _other_suffix(root / image, IMAGE_SUFFIXES), root / mask
        mask = _other_suffix(mask, (".png",))
        for name in (image.parent.name, image.stem, mask.name):
            check_name(name, f"{path}, line {number},")
        _require(image, "image", path)
        if every_mask:
            _require(mask, "mask", path)
        frame = Frame(image.stem, image, mask if mask.is_file() else None)
        frames.setdefault(image.parent.name, []).append(frame)
    return [Sequence(name, tuple(found)) for name, found in frames.items()]


def _from_names(
    root: pathlib.Path,
    path: pathlib.Path,
    lines: list[list[str]],
    resolution: str,
    every_mask: bool,
) -> list[Sequence]:
    """2017 form: one sequence name a line; the frames are what lies in the sequence's folder."""
    found = []
    for number, fields in enumerate(lines, start=1):
        if len(fields) != 1:
            raise InputError(
                f"{path}, line {number}: wanted one sequence name, as in the lines before, got "
                f"{len(fields)} fields."
            )
        (name,) = fields
        check_name(name, path)
        if not (root / "JPEGImages" / resolution / name).is_dir():
            folder = root / "JPEGImages" / resolution / name
            raise InputError(f"{path} names sequence {name!r}, but there is no folder {folder}.")
        sequence = read_sequence(root, name, resolution)
        if every_mask:
            for frame in sequence.frames:
                place = root / "Annotations" / resolution / name / f"{frame.name}.png"
                _require(frame.mask or place, "mask", path)
        found.append(sequence)
    return found


def read_sequence(root: pathlib.Path, name: str, resolution: str = "") -> Sequence:
    """Returns a sequence by what lies in its folders; its frames may have no mask.

    Raises:
        InputError: there is no frame, two have one name, or a mask has none.
    """
    images, masks = (root / kind / resolution / name for kind in ("JPEGImages", "Annotations"))
    found = _by_stem(images, IMAGE_SUFFIXES)
    if not found:
        raise InputError(
            f"Sequence {name!r} has no frame in {images}: wanted {', '.join(IMAGE_SUFFIXES)}."
        )
    drawn = _by_stem(masks, (".png",)) if masks.is_dir() else {}
    for orphan in sorted(drawn.keys() - found.keys()):
        _require(images / f"{orphan}.jpg", "image", drawn[orphan])
    frames = (Frame(stem, image, drawn.get(stem)) for stem, image in sorted(found.items()))
    return Sequence(name, tuple(frames))


def _by_stem(folder: pathlib.Path, suffixes: Collection[str]) -> dict[str, pathlib.Path]:
    """Returns the files of a folder by their names; InputError where two share one."""
    found: dict[str, pathlib.Path] = {}
    for file in folder.iterdir():
        if file.suffix.lower() in suffixes and not file.name.startswith("."):
            if file.stem in found:
                raise InputError(
                    f"{folder} holds both {found[file.stem].name} and {file.name}: one too many."
                )
            found[file.stem] = file
    return found


def _other_suffix(file: pathlib.Path, suffixes: Collection[str]) -> pathlib.Path:
    """Returns the file, or one of its name with another suffix, such as .JPG, if only that exists.

    Lists say .jpg whatever the tree was converted to.
    """
    if file.is_file():
        return file
    variants = (*suffixes, *map(str.upper, suffixes))
    others = [file.with_suffix(suffix) for suffix in variants]
    return next((other for other in others if other.is_file()), file)


def _require(file: pathlib.Path, kind: str, source: pathlib.Path) -> None:
    if not file.is_file():
        raise InputError(
            f"No {kind} {file.name} for sequence {file.parent.name!r} in {file.parent}, although "
            f"{source} asks for it. Complete the tree, or name other sequences."
        )


def _require_once(images: Iterable[pathlib.Path], source: pathlib.Path) -> None:
    seen = set()
    for image in images:
        if image in seen:
            raise InputError(f"{source} names {image} twice. Remove one of the two lines.")
        seen.add(image)


def select(
    found: tuple[Sequence, ...], names: Collection[str], path: pathlib.Path
) -> tuple[Sequence, ...]:
    """Returns the sequences of these names, all if there are none; InputError names unknown ones.

    Args:
        found: the sequences.
        names: of those to keep, in this order.
        path: where they are from, for the message.
    """
    if not names:
        return found
    by_name = {sequence.name: sequence for sequence in found}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InputError(
            f"{path} has no sequence {', '.join(map(repr, unknown))}; it has: "
            f"{', '.join(sorted(by_name))}."
        )
    return tuple(by_name[name] for name in dict.fromkeys(names))
