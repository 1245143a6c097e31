"""What was not saved with finished results, made of their masks: nothing is looked for again."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from osvos_tf import results
from osvos_tf.errors import InputError
from osvos_tf.jobs import identity, outputs
from osvos_tf.media.frames import Frames
from osvos_tf.progress import OnProgress, Progress

SAVE = "save"  # a record's entry of kinds, in its work and its flags
NOT_OF_MASKS = {"probabilities"}


def kinds_there(out: str, work: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns which kinds finished results hold; None where there are none, or of other work.

    Args:
        out: the results.
        work: what decides over them; its `SAVE` does not count here.
    """
    record = results.read_record(out)
    if record is None or {**record[results.WORK], SAVE: None} != {**work, SAVE: None}:
        return None
    kinds = record[results.WORK].get(SAVE)
    is_ours = isinstance(kinds, list) and all(kind in outputs.KINDS for kind in kinds)
    return tuple(kinds) if is_ours else None


def add(
    out: pathlib.Path,
    frames: Frames,
    kinds: Sequence[str],
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Adds files to finished results, which stay as they were until these are complete.

    Args:
        out: the results.
        frames: the video that they are of.
        kinds: what to make, of `outputs.KINDS`.
        on_progress: called with a `Progress`, `what` is "save", after each frame.

    Returns:
        The new record.

    Raises:
        InputError: there are no results, they are of another video, or a kind needs more than the
            masks.
    """
    record = results.read_record(out)
    if record is None:
        raise InputError(f"'{out}' holds no finished results. Segment the video first.")
    before = record[results.WORK]
    if identity.of_frames(record["flags"]["frames"]) != before["frames"]:
        raise InputError(f"The frames of '{out}' have changed. Segment them again.")
    if NOT_OF_MASKS & set(kinds):
        raise InputError(
            f"'{out}' holds finished results without probabilities, which are written while the "
            "objects are looked for. Name another folder, or replace these with `overwrite`."
        )
    saved = [kind for kind in outputs.KINDS if kind in {*before[SAVE], *kinds}]
    with results.draft(out, {**before, SAVE: saved}, overwrite=True) as draft:
        results.link_own(out, draft.folder, without=results.RECORD)
        new = tuple(kind for kind in kinds if kind not in before[SAVE])
        _write(draft.folder, frames, record, new, on_progress)
        draft.publish({**record, "flags": {**record["flags"], SAVE: saved}})
    return results.read_record(out) or {}


def _write(
    folder: pathlib.Path,
    frames: Frames,
    record: Mapping[str, Any],
    kinds: tuple[str, ...],
    on_progress: OnProgress | None,
) -> None:
    from osvos_tf.segmentation.segmenter import SegmentedFrame

    found, names = record["found"], {int(id_): name for id_, name in record["objects"].items()}
    started, done = time.monotonic(), 0
    with outputs.opened(kinds, outputs.Place(folder, frames, names)) as write:
        for name, image in frames:
            if name not in found:
                continue
            mask = outputs.read_mask(folder / outputs.MASKS / f"{name}.png", names)
            sure = dict.fromkeys(names, found[name]["confidence"])
            write(SegmentedFrame(name, image, mask, {}, sure))
            done += 1
            if on_progress is not None:
                on_progress(Progress("save", done, len(found), time.monotonic() - started))
