"""What is made of segmented frames, kind by kind, while they come: `--save`.

masks/NAME.png           grey, 0 and 255; of several objects, ids with DAVIS's palette; always
overlay.mp4              the video with the object tinted, its sound kept
alpha/NAME.png           16-bit grey: how much of each pixel is the object
foreground/NAME.png      the object on nothing: RGBA, straight
foreground.mov           the same as ProRes 4444
foreground.webm          the same as VP9
labels/NAME.png          ids with DAVIS's palette
probabilities/NAME.png   8-bit grey; of several objects, the highest
contact_sheet.jpg        frames from the beginning to the end, and the most doubtful ones
coco.json, cvat.xml      for annotation tools
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image

from osvos_tf import files
from osvos_tf.errors import InputError
from osvos_tf.formats import annotation_writer
from osvos_tf.media import cutout, visualize
from osvos_tf.media.frames import Frames
from osvos_tf.media.images import write_png
from osvos_tf.media.masks import check_png, read_labels, write_labels, write_mask, write_probability
from osvos_tf.media.video_writer import PRORES_4444, VP9_ALPHA, Format, write_video

if TYPE_CHECKING:
    from osvos_tf.segmentation.segmenter import SegmentedFrame

MASKS = "masks"
_DEEP = 65535
_COLUMNS, _ROWS, _THUMBNAIL = 4, 2, 320  # of a contact sheet: 2 rows each, 320 pixels wide
_NEIGHBOURS = 5  # frames of which the most doubtful one is shown
_QUALITY = 90  # of its JPEG


class Place(NamedTuple):
    """Where results go.

    Attributes:
        folder: of the results.
        frames: the video.
        names: id -> name of the objects.
    """

    folder: pathlib.Path
    frames: Frames
    names: Mapping[int, str]


Write = Callable[["SegmentedFrame"], None]


def read_mask(path: pathlib.Path, ids: Iterable[int]) -> np.ndarray:
    """Returns one of the masks as a label map, uint8 [height, width].

    Args:
        path: of the PNG.
        ids: of the objects; a mask of 0 and 255 shows the first.

    Raises:
        InputError: it cannot be read.
    """
    labels, has_ids = read_labels(path)
    return labels if has_ids else labels * np.uint8(min(ids, default=1))


def _write_mask(path: pathlib.Path, frame: "SegmentedFrame") -> None:
    if len(frame.confidence) > 1:
        write_labels(path, frame.mask)
    else:
        write_mask(path, (frame.mask > 0).astype(np.uint8))


def _write_probability(path: pathlib.Path, frame: "SegmentedFrame") -> None:
    write_probability(path, np.max(np.stack(list(frame.probability.values())), axis=0))


def _write_alpha(path: pathlib.Path, frame: "SegmentedFrame") -> None:
    alpha = cutout.soft_alpha(frame.image, frame.mask)
    write_png(path, np.rint(alpha * _DEEP).astype(np.uint16))


def _write_foreground(path: pathlib.Path, frame: "SegmentedFrame") -> None:
    write_png(path, cv2.cvtColor(_cut_out(frame), cv2.COLOR_RGBA2BGRA))


def _write_labels(path: pathlib.Path, frame: "SegmentedFrame") -> None:
    write_labels(path, frame.mask)


def _cut_out(frame: "SegmentedFrame") -> np.ndarray:
    """Returns the objects on nothing, uint8 RGBA [height, width, 4]."""
    return cutout.foreground(frame.image, cutout.soft_alpha(frame.image, frame.mask))


def _tinted(frame: "SegmentedFrame") -> np.ndarray:
    """Returns the frame with its objects tinted, uint8 RGB [height, width, 3]."""
    if len(frame.confidence) > 1:
        return visualize.overlay_objects(frame.image, frame.mask)
    return visualize.overlay(frame.image, frame.mask > 0)


@contextlib.contextmanager
def _overlay(path: pathlib.Path, place: Place) -> Iterator[Write]:
    frames = place.frames
    with write_video(path, frames.size, frames.fps, sound=frames.sound) as video:
        yield lambda frame: video.write(_tinted(frame), frames.time(frame.name))


@contextlib.contextmanager
def _cutout_video(format: Format, path: pathlib.Path, place: Place) -> Iterator[Write]:
    frames = place.frames
    with write_video(path, frames.size, frames.fps, format=format) as video:
        yield lambda frame: video.write(_cut_out(frame), frames.time(frame.name))


@contextlib.contextmanager
def _contact_sheet(path: pathlib.Path, place: Place) -> Iterator[Write]:
    spread, doubtful = _Spread(_COLUMNS * _ROWS), _Least(_COLUMNS * _ROWS)

    def write(frame: "SegmentedFrame") -> None:
        confidence = min(frame.confidence.values())
        if not (spread.wants() | doubtful.wants(confidence)):
            spread.skip()
            doubtful.skip()
            return
        picture = _tinted(frame)
        width = min(_THUMBNAIL, picture.shape[1])
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        spread.add(visualize.label(small, frame.name))
        doubtful.add(confidence, visualize.label(small, f"{frame.name}  {confidence:.0%}"))

    yield write
    rows = [*_in_rows(spread.pictures()), *_in_rows(doubtful.pictures())]
    labels = ["In order"] + [""] * (len(rows) - 1)
    labels[len(_in_rows(spread.pictures()))] = "Doubtful"
    sheet = Image.fromarray(visualize.contact_sheet(rows, row_labels=labels))
    with files.atomic_path(path) as temporary:
        sheet.save(temporary, "JPEG", quality=_QUALITY)


def _in_rows(pictures: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [pictures[start : start + _COLUMNS] for start in range(0, len(pictures), _COLUMNS)]


class _Spread:
    """Keeps pictures that are spread evenly over a stream whose end is not known."""

    def __init__(self, count: int) -> None:
        self._count, self._kept, self._number, self._stride = count, list[np.ndarray](), 0, 1

    def wants(self) -> bool:
        return self._number % self._stride == 0

    def skip(self) -> None:
        self._number += 1

    def add(self, picture: np.ndarray) -> None:
        if self.wants():
            self._kept.append(picture)
            if len(self._kept) == 2 * self._count:  # every second one goes
                self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._number += 1

    def pictures(self) -> list[np.ndarray]:
        places = np.linspace(0, len(self._kept) - 1, min(self._count, len(self._kept)))
        return [self._kept[place] for place in np.rint(places).astype(int)]


class _Least:
    """Keeps the pictures of the least values, of each few neighbours one."""

    def __init__(self, count: int) -> None:
        self._count, self._number = count, 0
        self._kept: dict[int, tuple[float, np.ndarray]] = {}  # by group of neighbours

    def wants(self, value: float) -> bool:
        group = self._number // _NEIGHBOURS
        if group in self._kept:
            return value < self._kept[group][0]
        return len(self._kept) < self._count or value < self._kept[self._surest()][0]

    def skip(self) -> None:
        self._number += 1

    def add(self, value: float, picture: np.ndarray) -> None:
        if self.wants(value):
            self._kept[self._number // _NEIGHBOURS] = value, picture
            if len(self._kept) > self._count:
                del self._kept[self._surest()]
        self._number += 1

    def _surest(self) -> int:
        return max(self._kept, key=lambda group: self._kept[group][0])

    def pictures(self) -> list[np.ndarray]:
        """In order of the stream."""
        return [picture for _, (_, picture) in sorted(self._kept.items(), key=lambda kept: kept[0])]


@contextlib.contextmanager
def _tool_file(encode: Callable[..., str], path: pathlib.Path, place: Place) -> Iterator[Write]:
    frames: list[str] = []
    areas: list[annotation_writer.Area] = []

    def write(frame: "SegmentedFrame") -> None:
        frames.append(frame.name)
        areas.extend(annotation_writer.areas_of(frame.name, frame.mask))

    yield write
    with files.atomic_path(path) as temporary:
        temporary.write_text(
            encode(frames, place.frames.size, areas, place.names), encoding="utf-8"
        )


# Kind, which is its folder's name -> how a frame's picture is written.
FOLDERS: dict[str, Callable[[pathlib.Path, "SegmentedFrame"], None]] = {
    MASKS: _write_mask,
    "probabilities": _write_probability,
    "alpha": _write_alpha,
    "foreground": _write_foreground,
    "labels": _write_labels,
}
# Kind -> the file's name and how it is made.
FILES: dict[
    str, tuple[str, Callable[[pathlib.Path, Place], contextlib.AbstractContextManager[Write]]]
] = {
    "overlay": ("overlay.mp4", _overlay),
    "prores": ("foreground.mov", functools.partial(_cutout_video, PRORES_4444)),
    "webm": ("foreground.webm", functools.partial(_cutout_video, VP9_ALPHA)),
    "contact_sheet": ("contact_sheet.jpg", _contact_sheet),
    "coco": ("coco.json", functools.partial(_tool_file, annotation_writer.coco)),
    "cvat": ("cvat.xml", functools.partial(_tool_file, annotation_writer.cvat)),
}
KINDS = (*FOLDERS, *FILES)


@contextlib.contextmanager
def opened(kinds: tuple[str, ...], place: Place) -> Iterator[Write]:
    """Yields a function that writes a frame to all kinds; files are whole once it is left."""
    folders = {
        files.ensure_writable(place.folder / kind): FOLDERS[kind]
        for kind in kinds
        if kind in FOLDERS
    }
    with contextlib.ExitStack() as stack:
        made = [FILES[kind] for kind in kinds if kind in FILES]
        writers = [stack.enter_context(make(place.folder / name, place)) for name, make in made]

        def write(frame: "SegmentedFrame") -> None:
            for folder, write_picture in folders.items():
                write_picture(folder / f"{frame.name}.png", frame)
            for write_to_file in writers:
                write_to_file(frame)

        yield write


def check(
    folder: pathlib.Path, kinds: tuple[str, ...], names: Iterable[str], size: Sequence[int]
) -> None:
    """Raises InputError unless what was made is there, and each picture is whole.

    Args:
        folder: of the results.
        kinds: what was made.
        names: of the frames.
        size: (height, width) of the frames.
    """
    for kind in kinds:
        if kind not in FOLDERS:
            if not (folder / FILES[kind][0]).is_file():
                raise InputError(f"{FILES[kind][0]} is missing")
            continue
        there, wanted = {path.stem for path in (folder / kind).glob("*.png")}, set(names)
        if missing := sorted(wanted - there):
            count = len(wanted) - len(missing)
            raise InputError(f"{count} of {len(wanted)} {kind}, {missing[0]}.png is missing")
        for name in wanted:
            check_png(folder / kind / f"{name}.png", (size[0], size[1]))
