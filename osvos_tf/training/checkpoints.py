"""Checkpoints of a run: written now and then, restored when the same command runs again."""

import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path
from osvos_tf.training import distribution
from osvos_tf.training.recipes import Stage

Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]  # images and labels


class Checkpoints:
    """The checkpoints of a work folder; constructing it restores the last one that can be read.

    Where that is the last of an earlier stage, `batches` start again: the iterator saved with it
    holds finished batches of that stage's views, whose number and size may differ.

    Args:
        workdir: the work folder; None keeps nothing.
        stage: a `recipes.Stage`.
        state: what a checkpoint holds by name; `done`, a variable, counts updates.
        strategy: of several processes only the first one writes.
        seconds: least time between two checkpoints.

    Attributes:
        damaged: names of younger checkpoints that could not be read. The writer removes them.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str] | None,
        stage: Stage,
        state: Mapping[str, Any],
        strategy: tf.distribute.Strategy,
        seconds: float,
    ) -> None:
        self._done, self._seconds, self._saved = state["done"], seconds, time.monotonic()
        self._manager: tf.train.CheckpointManager | None = None
        self.damaged: tuple[str, ...] = ()
        if workdir is not None:
            folder = pathlib.Path(workdir) / "checkpoints"
            checkpoint = tf.train.Checkpoint(**state)
            self.damaged = _restore(folder, stage, checkpoint, state)
            if distribution.worker(strategy)[0] == 0:
                _tidy(folder, self.damaged)
                self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
        self._safe = int(self._done)  # updates that a checkpoint holds

    def save_if_due(self) -> None:
        """Saves if the last checkpoint is old enough."""
        if self._manager is not None and time.monotonic() - self._saved >= self._seconds:
            self.save()

    def save(self) -> None:
        """Saves what is not saved yet.

        Raises:
            InputError: it cannot be written.
        """
        if self._manager is None or self._safe == int(self._done):
            return
        try:
            self._manager.save(checkpoint_number=self._done)
        except tf.errors.OpError as error:
            raise InputError(
                f"No checkpoint can be written to {self._manager.directory}: {error.message}. Make "
                "room; the same command then resumes from the last one."
            ) from error
        self._saved, self._safe = time.monotonic(), int(self._done)


def _restore(
    folder: pathlib.Path, stage: Stage, checkpoint: tf.train.Checkpoint, state: Mapping[str, Any]
) -> tuple[str, ...]:
    """Restores the last checkpoint that can be read; returns the names of those that cannot."""
    damaged: list[str] = []
    for path in _checkpoints(folder):
        try:
            if path.name == f"ckpt-{stage.first_update}":
                without = {name: part for name, part in state.items() if name != "batches"}
                status = tf.train.Checkpoint(**without).restore(str(path))
                status.assert_existing_objects_matched().expect_partial()
            else:
                checkpoint.restore(str(path)).assert_consumed()
            return tuple(damaged)
        except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
            damaged.append(path.name)
            reason = str(error).strip().partition("\n")[0]
    if damaged:
        raise InputError(
            f"No checkpoint in {folder} can be read: {', '.join(damaged)}, the last because of: "
            f"{reason}. Name another work folder, or remove this one to start again."
        )
    return ()


def _checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths of a folder's checkpoints as TensorFlow names them, the youngest first.

    It looks on the disk: a killed run may have written one without listing it.
    """
    found = ((re.fullmatch(r"ckpt-([0-9]+)", path.stem), path) for path in folder.glob("*.index"))
    numbered = {int(name[1]): path.with_suffix("") for name, path in found if name}
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def _tidy(folder: pathlib.Path, damaged: tuple[str, ...]) -> None:
    """Removes damaged checkpoints and leftovers of a killed run, and lists the rest."""
    for name in damaged:
        for path in folder.glob(f"{name}.*"):
            path.unlink()
    for path in folder.glob("ckpt-*_temp"):
        shutil.rmtree(path)
    left = _checkpoints(folder)[::-1]
    if not left:
        (folder / "checkpoint").unlink(missing_ok=True)  # a list of none may be unreadable, too
    else:
        # With their times: the checkpoint manager forgets what is listed without.
        listed = tf.compat.v1.train.generate_checkpoint_state_proto(
            str(folder),
            str(left[-1]),
            all_model_checkpoint_paths=[str(path) for path in left],
            all_model_checkpoint_timestamps=[
                path.with_suffix(".index").stat().st_mtime for path in left
            ],
        )
        with atomic_path(folder / "checkpoint") as temporary:
            temporary.write_text(str(listed), encoding="utf-8")
