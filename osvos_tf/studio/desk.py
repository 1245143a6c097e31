"""What the studio works on: a video, the masks drawn for it, and its folder of results.

    results/dog/             the results, as `segment` leaves them
    results/.dog.studio/     beside it, what is not a result yet: session.json, and
                             masks/00042.png, a label map of each frame that was drawn, and
                             looks/00042.png, of one as it is found while the object is learned

All of it lies on the disk at any time: a server that is killed loses nothing.
"""

import contextlib
import os
import pathlib
import re
import shutil
import threading
from typing import Any

import numpy as np

from osvos_tf import files, results
from osvos_tf.errors import InputError
from osvos_tf.jobs import additions
from osvos_tf.jobs.outputs import MASKS, read_mask
from osvos_tf.jobs.video_job import ROUNDS, VideoJob
from osvos_tf.media.frames import Frames, open_frames
from osvos_tf.media.images import describe_size
from osvos_tf.media.masks import ids_in, write_labels
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions

_SESSION = "session.json"
_MOST_OBJECTS = 20
_MOST_NAME = 80  # characters of an object's name


class Desk:
    """A video with its drawn masks and results; safe to be used by several threads.

    Args:
        path: of the video, or of a folder of frames.
        out: the folder of results; None: `results/NAME` in the current folder.
        learn: how objects are learned.
        segment: how they are found.
        save: see `VideoJob`.

    Raises:
        InputError: the video cannot be read.
    """

    def __init__(
        self,
        path: str,
        out: str | None,
        learn: LearnOptions,
        segment: SegmentOptions,
        save: tuple[str, ...],
    ) -> None:
        self.path = path
        self.frames: Frames = open_frames(path)
        self.frames.check()
        self.names = list(self.frames.names)
        place = pathlib.Path(path).resolve()
        name = place.stem if place.is_file() else place.name
        self.out = pathlib.Path(out or f"results/{name}").expanduser().resolve()
        self.place = self.out.with_name(f".{self.out.name}.studio")
        self.looks = self.place / "looks"
        self._learn, self._segment, self._save = learn, segment, save
        self._record: tuple[Any, dict[str, Any] | None] = (None, None)
        self._reading = threading.Lock()  # a decoder does one thing at a time
        self.objects: dict[int, str] = {1: "object 1"}
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
            known: Any = files.read_json(self.place / _SESSION)
            self.objects = {int(id_): str(name) for id_, name in known["objects"].items()}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return self.frames.size

    def image(self, number: int) -> np.ndarray:
        """Returns a frame, uint8 RGB [height, width, 3]; IndexError if there is none."""
        name = self.names[number]
        with self._reading:
            return self.frames.read(name)

    # --- masks ------------------------------------------------------------------------------------

    def drawn(self) -> list[int]:
        """Returns the numbers of the frames that were drawn."""
        numbers = {name: number for number, name in enumerate(self.names)}
        paths = (self.place / MASKS).glob("*.png")
        return sorted(numbers[path.stem] for path in paths if path.stem in numbers)

    def news(self) -> list[int]:
        """Returns which of the drawn frames the results have not been learned from."""
        record = self.record()
        return [n for n in self.drawn() if record is None or not self._is_learned(n, record)]

    def _is_learned(self, number: int, record: dict[str, Any]) -> bool:
        """Whether the results give a drawn mask back, as they do with those that were given."""
        name = self.names[number]
        if "fit" not in record.get("found", {}).get(name, {}):
            return False
        drawn, _ = self.mask(number)
        with contextlib.suppress(InputError, OSError):
            given = read_mask(self.out / MASKS / f"{name}.png", self._known())
            return drawn is not None and np.array_equal(drawn, given)
        return False

    def mask(self, number: int, running: bool = False) -> tuple[np.ndarray | None, str]:
        """Returns a frame's label map, uint8 [height, width], and where it comes from.

        What was drawn goes first, then what the results hold; while they are made, what is there of
        the new ones. Sources: "look" (as it is found while the object is learned), "drawn",
        "found", or "none" with None.
        """
        name = f"{self.names[number]}.png"
        draft = self.out.with_name(f".{self.out.name}.unfinished")
        for folder, source in (
            *([(self.looks, "look")] if running else []),
            (self.place / MASKS, "drawn"),
            *([(draft / MASKS, "found")] if running else []),
            (self.out / MASKS, "found"),
        ):
            path = folder / name
            with contextlib.suppress(InputError, OSError):
                if path.is_file():
                    labels = read_mask(path, self._known())
                    if labels.shape == self.size:
                        return labels, source
        return None, "none"

    def draw(self, number: int, labels: np.ndarray) -> None:
        """Keeps a drawn label map, uint8 [height, width]; one without objects is taken back.

        Raises:
            InputError: it has another size, or objects that there are not.
        """
        if labels.shape != self.size:
            raise InputError(
                f"This mask is {describe_size(labels.shape)}, the frame "
                f"{describe_size(self.size)}. Draw it at the frame's size."
            )
        strangers = set(ids_in(labels)) - set(self.objects)
        if strangers:
            raise InputError(f"There is no object {min(strangers)}. Add it first.")
        path = self.place / MASKS / f"{self.names[number]}.png"
        if labels.any():
            write_labels(files.ensure_writable(path.parent) / path.name, labels)
            self._keep()
        else:
            path.unlink(missing_ok=True)

    def _known(self) -> set[int]:
        """Returns the ids of the objects that the results show."""
        return {int(id_) for id_ in (self.record() or {}).get("objects", {})}

    # --- objects ----------------------------------------------------------------------------------

    def name_object(self, id_: int | None, name: str) -> int:
        """Adds an object (None), or renames one; returns its id.

        Raises:
            InputError: there is no such object, there are too many, or the name will not do.
        """
        name = re.sub(r"\s+", " ", name).strip()
        if len(name) > _MOST_NAME or not name.isprintable():
            raise InputError(f"Wanted a name of up to {_MOST_NAME} characters. Got {name[:99]!r}.")
        if id_ is None:
            id_ = max(self.objects, default=0) + 1
            if len(self.objects) >= _MOST_OBJECTS:
                raise InputError(f"There are {_MOST_OBJECTS} objects, which is the most.")
        elif id_ not in self.objects:
            raise InputError(f"There is no object {id_}.")
        self.objects = {**self.objects, id_: name or f"object {id_}"}
        self._keep()
        return id_

    def _keep(self) -> None:
        files.write_json(
            files.ensure_writable(self.place) / _SESSION,
            {"frames": self.path, "objects": {str(i): name for i, name in self.objects.items()}},
        )

    # --- results ----------------------------------------------------------------------------------

    def record(self) -> dict[str, Any] | None:
        """Returns the record of finished results, None where there are none."""
        try:
            status = os.stat(self.out / results.RECORD)
        except OSError:
            return None
        version = status.st_ino, status.st_mtime_ns, status.st_size
        if self._record[0] != version:  # each mask asks for it
            self._record = version, results.read_record(self.out)
        return self._record[1]

    def rounds(self) -> list[str]:
        """Returns the names of the rounds that were kept."""
        folder = self.out / ROUNDS
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def job(self) -> VideoJob:
        """Returns what is to be learned and found now.

        It goes on from the results that are there, unless objects have been added since.

        Raises:
            InputError: nothing was drawn.
        """
        drawn = self.drawn()
        if not drawn:
            raise InputError("Nothing is drawn yet. Mark the object in one frame first.")
        masks = [f"{self.names[n]}:{self.place / MASKS / self.names[n]}.png" for n in drawn]
        shown = {id_ for n in drawn for id_ in self._ids(n)}
        goes_on = self.record() is not None and shown <= self._known()
        return VideoJob(
            frames=self.path,
            masks=tuple(masks),
            out=str(self.out),
            learn=self._learn,
            segment=self._segment,
            specialist=str(self.out) if goes_on else None,
            save=self._kinds(),
            keep=True,
        )

    def back(self, round_: str) -> VideoJob:
        """Returns the job that goes back to the results of a round.

        The masks that were drawn since stay drawn. InputError if there is no such round.
        """
        if round_ not in self.rounds():
            raise InputError(f"There is no round {round_!r}, but {', '.join(self.rounds())}.")
        return VideoJob(
            frames=self.path,
            masks=(),
            out=str(self.out),
            learn=self._learn,
            segment=self._segment,
            specialist=str(self.out / ROUNDS / round_),
            save=self._kinds(),
        )

    def _kinds(self) -> tuple[str, ...]:
        """Returns what is made beside the masks: what the command names, and what was asked for."""
        there = self.record() or {results.WORK: {}}
        return (*self._save, *there[results.WORK].get(additions.SAVE, ()))

    def forget_drawn(self) -> None:
        """Takes all drawn masks back; the results have those that they were learned from."""
        shutil.rmtree(self.place / MASKS, ignore_errors=True)

    def forget_looks(self) -> None:
        """Removes what was seen while an object was learned."""
        shutil.rmtree(self.looks, ignore_errors=True)

    def _ids(self, number: int) -> set[int]:
        labels, _ = self.mask(number)
        return set() if labels is None else set(ids_in(labels))
