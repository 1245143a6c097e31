"""What is made of segmented frames, kind by kind, while they come: `--save`.

masks/NAME.png           grey, 0 and 255; of several objects label maps with DAVIS's palette; always
overlay.mp4              the video with the object tinted, its sound kept
alpha/NAME.png           16-bit grey: how much of each pixel is the object
foreground/NAME.png      the object on nothing: RGBA, straight
foreground.mov           the same as ProRes 4444
foreground.webm          the same as VP9
labels/NAME.png          ids with DAVIS's palette
probabilities/NAME.png   8-bit grey
contact_sheet.jpg        frames from the beginning to the end, and the most doubtful ones
coco.json, cvat.xml      for annotation tools
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image

from osvos_tf import files
from osvos_tf.formats import annotation_writer
from osvos_tf.media import cutout, visualize
from osvos_tf.media.frames import Frames
from osvos_tf.media.images import write_png
from osvos_tf.media.mask_pictures import davis_palette
from osvos_tf.media.masks import write_mask, write_probability
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
Output = Callable[[Place], contextlib.AbstractContextManager[Write]]


@contextlib.contextmanager
def _pictures(
    place: Place, name: str, write: Callable[[pathlib.Path, "SegmentedFrame"], None]
) -> Iterator[Write]:
    folder = files.ensure_writable(place.folder / name)
    yield lambda frame: write(folder / f"{frame.name}.png", frame)


def _masks(place: Place) -> contextlib.AbstractContextManager[Write]:
    return _pictures(
        place, MASKS, lambda path, frame: write_mask(path, (frame.mask > 0).astype(np.uint8))
    )


def _probabilities(place: Place) -> contextlib.AbstractContextManager[Write]:
    def write(path: pathlib.Path, frame: "SegmentedFrame") -> None:
        write_probability(path, np.max(np.stack(list(frame.probability.values())), axis=0))

    return _pictures(place, "probabilities", write)


def _alpha(place: Place) -> contextlib.AbstractContextManager[Write]:
    def write(path: pathlib.Path, frame: "SegmentedFrame") -> None:
        alpha = cutout.soft_alpha(frame.image, frame.mask)
        write_png(path, np.rint(alpha * _DEEP).astype(np.uint16))

    return _pictures(place, "alpha", write)


def _cut_out(frame: "SegmentedFrame") -> np.ndarray:
    """Returns the objects on nothing, uint8 RGBA [height, width, 4]."""
    return cutout.foreground(frame.image, cutout.soft_alpha(frame.image, frame.mask))


def _foreground(place: Place) -> contextlib.AbstractContextManager[Write]:
    def write(path: pathlib.Path, frame: "SegmentedFrame") -> None:
        write_png(path, cv2.cvtColor(_cut_out(frame), cv2.COLOR_RGBA2BGRA))

    return _pictures(place, "foreground", write)


def _labels(place: Place) -> contextlib.AbstractContextManager[Write]:
    def write(path: pathlib.Path, frame: "SegmentedFrame") -> None:
        image = Image.fromarray(frame.mask).convert("L")
        labels = Image.frombytes("P", image.size, image.tobytes())
        labels.putpalette(davis_palette())
        with files.atomic_path(path) as temporary:
            labels.save(temporary, "PNG")

    return _pictures(place, "labels", write)


@contextlib.contextmanager
def _overlay(place: Place) -> Iterator[Write]:
    frames = place.frames
    path = place.folder / "overlay.mp4"
    with write_video(path, frames.size, frames.fps, sound=frames.sound) as video:
        yield lambda frame: video.write(
            visualize.overlay(frame.image, frame.mask > 0), frames.time(frame.name)
        )


@contextlib.contextmanager
def _cutout_video(place: Place, format: Format) -> Iterator[Write]:
    frames = place.frames
    path = place.folder / f"foreground{format.suffix}"
    with write_video(path, frames.size, frames.fps, format=format) as video:
        yield lambda frame: video.write(
            _cut_out(frame),
            frames.time(frame.name),
        )


@contextlib.contextmanager
def _contact_sheet(place: Place) -> Iterator[Write]:
    spread, doubtful = _Spread(_COLUMNS * _ROWS), _Least(_COLUMNS * _ROWS)

    def write(frame: "SegmentedFrame") -> None:
        confidence = min(frame.confidence.values())
        if not (spread.wants() | doubtful.wants(confidence)):
            spread.skip()
            doubtful.skip()
            return
        picture = visualize.overlay(frame.image, frame.mask > 0)
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
    with files.atomic_path(place.folder / "contact_sheet.jpg") as temporary:
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
        return len(self._kept) < self._count or value < max(self._kept.values(), key=_value)[0]

    def skip(self) -> None:
        self._number += 1

    def add(self, value: float, picture: np.ndarray) -> None:
        if self.wants(value):
            self._kept[self._number // _NEIGHBOURS] = value, picture
            if len(self._kept) > self._count:
                del self._kept[max(self._kept, key=lambda group: self._kept[group][0])]
        self._number += 1

    def pictures(self) -> list[np.ndarray]:
        """In order of the stream."""
        return [picture for _, (_, picture) in sorted(self._kept.items(), key=lambda kept: kept[0])]


def _value(kept: tuple[float, np.ndarray]) -> float:
    return kept[0]


@contextlib.contextmanager
def _tool_file(place: Place, name: str, encode: Callable[..., str]) -> Iterator[Write]:
    frames: list[str] = []
    areas: list[annotation_writer.Area] = []

    def write(frame: "SegmentedFrame") -> None:
        frames.append(frame.name)
        areas.extend(annotation_writer.areas_of(frame.name, frame.mask))

    yield write
    with files.atomic_path(place.folder / name) as temporary:
        temporary.write_text(
            encode(frames, place.frames.size, areas, place.names), encoding="utf-8"
        )


# Kind -> how it is made. A folder has a picture for each frame.
FOLDERS: dict[str, Output] = {
    MASKS: _masks,
    "probabilities": _probabilities,
    "alpha": _alpha,
    "foreground": _foreground,
    "labels": _labels,
}
FILES: dict[str, tuple[str, Output]] = {
    "overlay": ("overlay.mp4", _overlay),
    "prores": ("foreground.mov", lambda place: _cutout_video(place, PRORES_4444)),
    "webm": ("foreground.webm", lambda place: _cutout_video(place, VP9_ALPHA)),
    "contact_sheet": ("contact_sheet.jpg", _contact_sheet),
    "coco": ("coco.json", lambda place: _tool_file(place, "coco.json", annotation_writer.coco)),
    "cvat": ("cvat.xml", lambda place: _tool_file(place, "cvat.xml", annotation_writer.cvat)),
}
KINDS = (*FOLDERS, *FILES)


@contextlib.contextmanager
def opened(kinds: tuple[str, ...], place: Place) -> Iterator[Write]:
    """Yields a function that writes a frame to all kinds; files are whole once it is left."""
    makers = [FOLDERS[kind] if kind in FOLDERS else FILES[kind][1] for kind in kinds]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(maker(place)) for maker in makers]

        def write(frame: "SegmentedFrame") -> None:
            for one in writers:
                one(frame)

        yield write
