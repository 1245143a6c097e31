"""The work folder of a training: whose it is, how far it has come, and with which flags."""

import contextlib
import os
import pathlib
from typing import Any

from absl import flags

from osvos_tf import places
from osvos_tf.commands.training_flags import Task
from osvos_tf.errors import InputError
from osvos_tf.files import (
    read_json,
)

CHECKPOINTS, SUMMARIES, RECORDS = "checkpoints", "summaries", "records"
SETTINGS = "flags.json"  # beside the checkpoints
_MODELS = ("parent.keras", "contour.keras")  # what either command leaves


def settings(args: flags.FlagValues, task: Task) -> dict[str, Any]:
    """Returns the flags that decide over the network, which a resumed run must have, too."""
    names = (*task.source, "weights", "recipe", "updates", "height", "width_multiplier", "seed")
    return {name: args[name].value for name in names}


def lock(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Holds the work folder for this process."""
    return places.lock(workdir / ".lock", workdir)


def updates(workdir: pathlib.Path) -> int | None:
    """Returns the updates of a run up to its last checkpoint, None where there is none."""
    names = [path.stem for path in (workdir / CHECKPOINTS).glob("ckpt-*.index")]
    return max((int(name[5:]) for name in names if name[5:].isdecimal()), default=None)


def check_place(workdir: pathlib.Path, args: flags.FlagValues, task: Task) -> None:
    """Looks at the work folder before anything is written.

    Raises:
        InputError: a run here would write over what the flags name, or over what no run made.
    """
    ours = [task.file, SETTINGS, CHECKPOINTS, SUMMARIES, *([RECORDS] if task.source else [])]
    for name in {"weights", "records", "bsds", "label_maps", "images"} & set(args):
        given = args[name].value
        for place in (workdir / entry for entry in ours):
            if given and pathlib.Path(os.path.realpath(given)).is_relative_to(
                os.path.realpath(place)
            ):
                raise InputError(
                    f"--{name}={given} lies where this run would write ({place}). Name another "
                    "--workdir."
                )
    others = sorted(name for name in {*ours, *_MODELS} if _holds_something(workdir / name))
    if others and SETTINGS not in others:
        raise InputError(
            f"{workdir} holds {', '.join(others)} and no {SETTINGS}, so this command did not make "
            "that. Name another --workdir."
        )


def _holds_something(path: pathlib.Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else os.path.lexists(path)


def earlier_precision(workdir: pathlib.Path, args: flags.FlagValues, task: Task) -> str | None:
    """Returns the precision of the run that the folder holds, None for a fresh start.

    Raises:
        InputError: that run had other flags; it can only resume with the same ones.
    """
    path = workdir / SETTINGS
    if not path.exists():
        return None
    try:
        before: dict[str, Any] = {**read_json(path)}  # type: ignore[dict-item]  # TypeError is told
        precision = before["precision"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is damaged or not ours ({error!r}), so no run can resume in {workdir}. "
            "Name another --workdir."
        ) from error
    if updates(workdir) is None and not any((workdir / name).exists() for name in _MODELS):
        return None
    now = settings(args, task)
    if args.precision != "auto":
        now["precision"] = args.precision
    changed = [f"--{n}={before.get(n)} (now {now[n]})" for n in now if now[n] != before.get(n)]
    if changed:
        raise InputError(
            f"{workdir} holds a run with other flags: {', '.join(changed)}. Give the same flags to "
            "resume it, or another --workdir to start again."
        )
    return precision
