"""One video from its frames and masks to a folder of results, as `segment` and workers make it.

OUT/masks/00000.png       one PNG a frame, 0 and 255, or ids of several objects
OUT/overlay.mp4           and what else `outputs` makes
OUT/specialist.keras, specialist.json, annotations/   see `specialist`
OUT/rounds/001/          results before each correction that was made in place
OUT/run.json              the record
"""

import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from osvos_tf import results, runtime
from osvos_tf.errors import InputError
from osvos_tf.jobs import additions, given_masks, identity, outputs, remarks
from osvos_tf.jobs.outputs import MASKS
from osvos_tf.media.frames import Frames, open_frames
from osvos_tf.network.parents import PARENTS
from osvos_tf.parallel import parallel_map
from osvos_tf.places import link
from osvos_tf.progress import OnProgress
from osvos_tf.segmentation import annotations
from osvos_tf.segmentation.annotations import Annotation
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions

if TYPE_CHECKING:
    from osvos_tf.segmentation.segmenter import SegmentedFrame
    from osvos_tf.segmentation.specialist import Specialist

ROUNDS = "rounds"  # folder of results before corrections

# Entries of a record that others read, and their types.
_RECORD = {
    "frames": int, "size": list, "updates": int, "seconds": dict, "found": dict, "remarks": list,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VideoJob:
    """What is to be made.

    Attributes:
        frames: folder of images, or a video file.
        masks: annotations, each a PNG's path for the first frame or `NAME:PNG` for another. Several
            of one frame are a mask an object.
        out: the folder of results.
        learn: how the object is learned.
        segment: how it is found.
        specialist: what knows the object already: a folder of results, or a `.keras` file. Without
            masks it is used as it is; with masks it learns further.
        save: what is made beside the masks, of `outputs.KINDS`.
        overwrite: replace finished results of other work.
        keep: the same, and keep what was there as a round; corrections in place always do.
    """

    frames: str
    masks: tuple[str, ...]
    out: str
    learn: LearnOptions = dataclasses.field(default_factory=LearnOptions)
    segment: SegmentOptions = dataclasses.field(default_factory=SegmentOptions)
    specialist: str | None = None
    save: tuple[str, ...] = ("overlay",)
    overwrite: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        """Raises InputError where something is to be made that cannot be."""
        for kind in self.save:
            if kind not in outputs.KINDS:
                raise InputError(
                    f"Wanted `save` to name what to make of {', '.join(outputs.KINDS)}. "
                    f"Got {kind!r}."
                )

    @property
    def is_correction(self) -> bool:
        """Whether it goes on from the results in `out`, which are kept in `ROUNDS`."""
        if self.specialist is None or not os.path.isdir(self.specialist):
            return False
        places = [os.path.realpath(path) for path in (self.specialist, self.out)]
        rounds = os.path.join(places[1], ROUNDS)
        return places[0] == places[1] or os.path.dirname(places[0]) == rounds

    @property
    def keeps_rounds(self) -> bool:
        """Whether it keeps the results that it replaces."""
        return self.keep or self.is_correction

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is made: the masks and what `save` names, each once."""
        return tuple(kind for kind in outputs.KINDS if kind == MASKS or kind in self.save)

    def as_json(self) -> dict[str, Any]:
        """Returns the job as JSON has it; `from_json` reads that."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "VideoJob":
        """Returns the job that `as_json` gave; InputError where its options do not fit."""
        learn, segment = LearnOptions(**value["learn"]), SegmentOptions(**value["segment"])
        lists = {name: tuple(value[name]) for name in ("masks", "save")}
        return cls(**{**value, **lists, "learn": learn, "segment": segment})

    def work(self) -> dict[str, Any]:
        """Returns everything that decides the results, for `results.draft`.

        Networks and masks count by their content; frames, which are many, by their path, their
        names, the sizes of their files, and the content of the first.
        """
        learn = dataclasses.asdict(self.learn)
        parent = self.learn.parent
        learn["object"] = self.learn.object and list(self.learn.object)  # as JSON has it
        learn["parent"] = identity.of_file(PARENTS.get(parent, pathlib.Path(parent)))
        segment = dataclasses.asdict(self.segment)
        segment["contour"] = self.segment.contour and identity.of_file(self.segment.contour)
        masks = [given_masks.split(mask) for mask in self.masks]
        return {
            "command": "segment",
            "frames": identity.of_frames(self.frames),
            "mask": [f"{name or ''}:{identity.of_file(path)}" for name, path in masks],
            "specialist": self.specialist and identity.of_specialist(self.specialist),
            "learn": learn,
            "segment": segment,
            additions.SAVE: list(self.kinds),
        }

    def with_kinds_there(self) -> "VideoJob":
        """Returns the job with all that its results in `out` hold: more may have been made."""
        there = additions.kinds_there(self.out, self.work())
        return self if there is None else dataclasses.replace(self, save=(*self.save, *there))

    def addable(self) -> tuple[str, ...]:
        """Returns what whole results in `out` lack, if it can be made of their masks."""
        there = additions.kinds_there(self.out, self.work())
        lacking = tuple(kind for kind in self.kinds if there is not None and kind not in there)
        if there is None or not lacking or set(lacking) & additions.NOT_OF_MASKS:
            return ()
        # All pictures are read for that, so it comes last.
        return () if dataclasses.replace(self, save=there).find_fault() is not None else lacking

    def find_fault(self) -> str | None:
        """Returns why `out` does not hold this job's complete results; None if it does.

        An empty text: it holds nothing.
        """
        if not os.path.isdir(self.out) or not os.listdir(self.out):
            return ""
        record = results.read_record(self.out)
        if record is None:
            return f"no {results.RECORD} that can be read"
        work = self.with_kinds_there().work()
        if record[results.WORK] != work:
            return f"made with {results.describe_difference(record, work)}"
        is_ours = all(isinstance(record.get(name), kind) for name, kind in _RECORD.items())
        if not is_ours or len(record["size"]) != 2:
            return f"a damaged {results.RECORD}"
        try:
            outputs.check(pathlib.Path(self.out), self.kinds, record["found"], record["size"])
        except InputError as error:
            return str(error)
        return None


def run(
    job: VideoJob,
    *,
    on_progress: OnProgress | None = None,
    on_resume: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Does a job: `out` stays as it was until the results are complete, and then holds them.

    Complete results stay as they are. What a killed run has learned is used.

    Args:
        job: what to make.
        on_progress: see `specialist.learn`.
        on_resume: called with a sentence if training is not needed.

    Returns:
        The record.

    Raises:
        InputError: a mistake in what the job names, see also `results.draft`.
        FloatingPointError: see `loop.train`.
    """
    frames = open_frames(job.frames).without(given_masks.split(mask)[1] for mask in job.masks)
    frames.check()
    given = _annotations(job, frames)
    job = job.with_kinds_there()
    if kinds := job.addable():
        if on_resume is not None:
            on_resume(f"The masks are there already; {', '.join(kinds)} is made of them.")
        return additions.add(pathlib.Path(job.out), frames, kinds, on_progress)
    work = job.work()
    _check_place(job, work, frames)
    if job.find_fault() is None:
        return results.read_record(job.out) or {}

    tf = runtime.import_tensorflow()
    from osvos_tf.segmentation.segmenter import load_contour
    from osvos_tf.segmentation.specialist import NETWORK

    if job.segment.contour is not None:  # tell a wrong one before the object is learned
        load_contour(job.segment.contour)
    with results.draft(job.out, work, overwrite=job.overwrite or job.keeps_rounds) as draft:
        specialist = _known(job, work, draft, given)
        if specialist is None:
            specialist = _learn(job, frames, given, on_progress)
        elif on_resume is not None:
            on_resume("The object has been learned before; that specialist is used.")
        if not (draft.folder / NETWORK).exists():
            specialist.write(draft.folder)
        draft.worth_keeping = True
        started = time.monotonic()
        found = _write_frames(job, frames, specialist, draft.folder, on_progress)
        record = _record(job, frames, specialist, found, time.monotonic() - started)
        if job.keeps_rounds and results.read_record(job.out) is not None:
            _keep_rounds(pathlib.Path(job.out), draft.folder)
        draft.publish({"versions": runtime.versions(tf), **record})
    return results.read_record(job.out) or {}


def _learn(
    job: VideoJob,
    frames: Frames,
    given: tuple[Annotation, ...],
    on_progress: OnProgress | None,
) -> "Specialist":
    """Returns the specialist of a job: newly learned, as it was, or taught further."""
    from osvos_tf.segmentation import specialist

    if job.specialist is None:
        return specialist.learn_from(given, job.learn, on_progress)
    known = specialist.load(job.specialist)
    if all(any(_are_same((new,), (old,)) for old in known.annotations) for new in given):
        return known
    changes = {"updates": job.learn.updates, "budget": job.learn.budget}
    return known.correct(
        frames,
        {annotation.name: annotation.mask for annotation in given},
        on_progress=on_progress,
        **{name: value for name, value in changes.items() if value is not None},
    )


def _record(
    job: VideoJob, frames: Frames, specialist: "Specialist", found: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Returns what `run.json` says of finished results."""
    return {
        "flags": _as_flags(job),
        **_describe(specialist),
        "frames": len(found),
        "size": list(frames.size),
        "seconds": {"training": specialist.seconds, "inference": round(seconds, 3)},
        "found": found,
        "remarks": [
            *remarks.lost(found, specialist.annotations),
            *remarks.unlike(found, len(specialist.annotations)),
        ],
        "doubtful": remarks.doubtful(found),
        "damage": frames.damage(),
    }


def _describe(specialist: "Specialist") -> dict[str, Any]:
    """Returns what the record says of the specialist."""
    return {
        "objects": {str(number): name for number, name in specialist.objects.items()},
        "updates": len(specialist.losses),
        "losses": [[update, round(loss, 6)] for update, loss in specialist.losses],
    }


def _annotations(job: VideoJob, frames: Frames) -> tuple[Annotation, ...]:
    """Reads the masks; InputError where there should be one."""
    if not job.masks:
        if job.specialist is None:
            raise InputError(
                "Wanted a `mask` to learn the object from, or a `specialist` that knows it already."
            )
        return ()
    masks: dict[int | str, annotations.Masks] = {
        name: tuple(paths) if len(paths) > 1 else paths[0]
        for name, paths in given_masks.by_frame(job.masks, frames).items()
    }
    known = identity.objects_of(job.specialist)
    return annotations.read_annotations(
        frames, masks, job.learn.object, job.learn.mask_threshold, known
    )


def _check_place(job: VideoJob, work: Mapping[str, Any], frames: Frames) -> None:
    """Raises InputError where results cannot be made in `out`.

    A mask that was corrected where an earlier run wrote it may stay there: it comes back byte for
    byte.
    """
    networks = [path for path in (job.learn.parent, job.segment.contour) if path]
    if job.specialist and not job.is_correction:  # else it is read before it is replaced
        networks.append(job.specialist)
    inputs = [job.frames, *(path for path in networks if os.path.exists(path))]
    inputs += given_masks.outside(job.masks, frames, os.path.join(job.out, MASKS))
    overwrite = job.overwrite or job.keeps_rounds
    results.require_place(job.out, work, overwrite=overwrite, inputs=inputs)


def _known(
    job: VideoJob, work: Mapping[str, Any], draft: results.Draft, given: tuple[Annotation, ...]
) -> "Specialist | None":
    """Returns what an earlier run of exactly this work has learned, or None."""
    from osvos_tf.segmentation import specialist

    folders = [draft.folder] if draft.resumed else []
    if additions.kinds_there(job.out, work) is not None:
        folders.append(pathlib.Path(job.out))
    for folder in folders:
        if (folder / specialist.NETWORK).is_file():
            try:
                known = specialist.load(folder)
                if job.specialist or _are_same(known.annotations, given):
                    return known
            except InputError:
                pass
            if folder == draft.folder:  # it is damaged: learned again, and written again
                (folder / specialist.NETWORK).unlink()
    return None


def _are_same(some: tuple[Annotation, ...], others: tuple[Annotation, ...]) -> bool:
    return len(some) == len(others) and all(
        a.shows(b.name, b.frame) and np.array_equal(a.mask, b.mask)
        for a, b in zip(some, others, strict=True)
    )


def _write_frames(
    job: VideoJob,
    frames: Frames,
    specialist: "Specialist",
    folder: pathlib.Path,
    on_progress: OnProgress | None,
) -> dict[str, dict[str, Any]]:
    """Writes what is wanted of all frames; returns what the record says of each."""
    for kind in outputs.FOLDERS:
        shutil.rmtree(folder / kind, ignore_errors=True)  # of a killed run
    kept = given_masks.in_place(job.masks, os.path.join(job.out, MASKS))
    place = outputs.Place(folder, frames, specialist.objects)
    with outputs.opened(job.kinds, place) as write:

        def write_all(frame: "SegmentedFrame") -> tuple[str, dict[str, Any]]:
            write(frame)
            if frame.name in kept:
                shutil.copyfile(kept[frame.name], folder / MASKS / f"{frame.name}.png")
            return frame.name, remarks.of_frame(frame.mask, frame.confidence, frame.fit)

        segmented = specialist.segment(frames, options=job.segment, on_progress=on_progress)
        return dict(parallel_map(write_all, segmented, ahead=1))


def _keep_rounds(out: pathlib.Path, folder: pathlib.Path) -> None:
    """Keeps the results in `out` as one more round of those that are made in `folder`."""
    shutil.rmtree(folder / ROUNDS, ignore_errors=True)  # of a killed run
    earlier = sorted((out / ROUNDS).iterdir()) if (out / ROUNDS).is_dir() else []
    for number, place in enumerate(earlier, start=1):
        link(place, folder / ROUNDS / f"{number:03d}")
    results.link_own(out, folder / ROUNDS / f"{len(earlier) + 1:03d}", without=ROUNDS)


def _as_flags(job: VideoJob) -> dict[str, Any]:
    """Returns the job as the flags of `segment`."""
    return {
        "frames": job.frames,
        "mask": list(job.masks),
        "specialist": job.specialist,
        "out": job.out,
        **dataclasses.asdict(job.learn),
        **dataclasses.asdict(job.segment),
        "save": list(job.save),
    }
