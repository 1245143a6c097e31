"""A folder of images as a sequence of frames."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.media.images import IMAGE_SUFFIXES, describe_size, read_header, read_image
from osvos_tf.media.sequence import Frames, no_such_frame
from osvos_tf.media.videos import DEFAULT_FPS


class FolderFrames(Frames):
    """The images of one folder."""

    def __init__(self, path: Path, without: frozenset[str] = frozenset()):
        self.path = path
        self.fps = DEFAULT_FPS
        self._files = _image_files(path, without)
        self.length = len(self._files)
        self.size = read_header(next(iter(self._files.values()))).size

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for name in self._files:
            yield name, self.read(name)

    def read(self, name: str) -> np.ndarray:
        if name not in self._files:
            raise no_such_frame(self, name)
        frame = read_image(self._files[name])
        self._require_size(name, frame.shape[:2])
        return frame

    def without(self, paths: Iterable[str | os.PathLike[str]]) -> "FolderFrames":
        places = frozenset(os.path.realpath(path) for path in paths)
        lie_here = places & {os.path.realpath(file) for file in self._files.values()}
        return FolderFrames(self.path, lie_here) if lie_here else self

    def check(self) -> None:
        for name, file in self._files.items():
            header = read_header(file)
            self._require_size(name, header.size)
            if header.has_pages:
                raise InputError(
                    f"Wanted one picture a file in '{self.path}', but '{file.name}' holds "
                    "several. Name that file itself as the frames, or save its pages one by one."
                )

    def _require_size(self, name: str, size: tuple[int, int]) -> None:
        if size != self.size:
            first = next(iter(self._files.values()))
            raise InputError(
                f"Wanted frames of one size in '{self.path}', but '{self._files[name].name}' is "
                f"{describe_size(size)} and the first, '{first.name}', is "
                f"{describe_size(self.size)}. Resize or remove the odd one."
            )


def _image_files(folder: Path, without: frozenset[str]) -> dict[str, Path]:
    """Returns the folder's images by name (stem), in natural order; at least one."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
        and not (without and os.path.realpath(file) in without)
    ]
    if not files:
        raise InputError(
            f"Wanted a folder of frames, but '{folder}' holds no image "
            f"({', '.join(IMAGE_SUFFIXES)}). Name the folder that the images lie in directly."
        )
    by_name: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: _natural_key(file.name)):
        if file.stem in by_name:
            raise InputError(
                f"Wanted one image a frame, but '{folder}' holds both '{by_name[file.stem].name}' "
                f"and '{file.name}': their masks would share a name. Move the one that is no frame."
            )
        by_name[file.stem] = file
    return by_name


def _natural_key(name: str) -> tuple:
    """Returns a sorting key that puts 'frame9' before 'frame10'."""
    parts = re.split(r"([0-9]+)", name.lower())  # text and digits take turns, text comes first
    return [int(part) if part.isdecimal() else part for part in parts], name
