"""The whole journey on an invented world: paint, convert, train, segment, score.

    python -m pipelines.demo --out=demo

leaves a DAVIS tree (`world/`), `records/`, the parent network (`parent/`), masks and overlay
videos without and with one-shot training (`results/parent/`, `results/one-shot/`), the scores of
both (`evaluation/`), `run.json` and a picture to look at first: `contact_sheet.png`. The folder
appears when all of it is there; a run that was stopped resumes when the same command is given
again.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import cv2
import numpy as np
from absl import flags

from osvos_tf import files, results, runtime
from osvos_tf.commands import cli, davis_to_tfrecord, evaluate, segment, shared_flags, train_parent
from osvos_tf.data import davis, painted_world
from osvos_tf.media import visualize
from osvos_tf.media.images import read_image
from osvos_tf.media.masks import read_mask

FLAGS = flags.FlagValues()
shared_flags.define_path("out", "demo", "Folder for everything.", flag_values=FLAGS)
shared_flags.define_common(FLAGS, precision=False)
shared_flags.define_overwrite(FLAGS)
GROUPS = (("What you may change", ("out", "seed", "overwrite")),)

_TRAIN, _VAL, _FRAMES, _SIZE = 24, 4, 16, (96, 160)
_PARENT_UPDATES = 200  # from the compact parent, which knows photographs, to a painted world
_METHODS = {"parent": ["--updates=0"], "one-shot": ["--updates=150"]}  # method -> flags of segment
_SHEET = "contact_sheet.png"
_SHEET_ZOOM = 2


def main(args: flags.FlagValues) -> None:
    """Runs every stage as its own command would be run."""
    start = time.monotonic()
    work = {
        "command": "demo",
        "seed": args.seed,
        "world": [_TRAIN, _VAL, _FRAMES, *_SIZE],
        "updates": _PARENT_UPDATES,
        "methods": _METHODS,
    }
    if results.is_finished(args.out, work) and not results.find_missing(args.out):
        print(f"{args.out} holds the demonstration already, whole. Look at {args.out}/{_SHEET}.")
        return
    with results.draft(args.out, work, overwrite=args.overwrite) as draft:
        draft.worth_keeping = True
        if draft.resumed:
            print("Going on from what a run that was stopped has left.")

        def run_stage(pipeline: ModuleType, *arguments: str, **values: object) -> None:
            said = _run(pipeline, *arguments, **values)
            print(said.replace(str(draft.folder), args.out), end="", flush=True)

        _make_all(draft.folder, args.seed, run_stage)
        _remove_hidden(draft.folder)
        _rename_in_records(draft.folder, os.path.realpath(args.out))
        seconds = time.monotonic() - start
        draft.publish(
            {
                "versions": runtime.versions(runtime.import_tensorflow()),
                "flags": {name: args[name].value for name in sorted(args)},
                "seconds": round(seconds, 3),
            }
        )
    overlays = os.path.join(args.out, "results", "one-shot", "*", "overlay.mp4")
    print(
        f"Done in {seconds:.0f} s. The objects above were never seen in training: "
        "'parent' knows what objects are, 'one-shot' has learned this one from its first mask.\n"
        f"Look at {os.path.join(args.out, _SHEET)} and at {overlays}"
    )


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__ or "", GROUPS)


def _make_all(out: pathlib.Path, seed: int, run_stage: Callable[..., None]) -> None:
    """Makes what an earlier run has not made: anything under its final name is complete."""
    world, records, parent = out / "world", out / "records", out / "parent" / "parent.keras"
    if not (world / "ImageSets" / painted_world.RESOLUTION / "val.txt").exists():  # its last file
        painted_world.paint_davis(
            world, train=_TRAIN, val=_VAL, frames=_FRAMES, size=_SIZE, seed=seed
        )
    if not records.exists():
        run_stage(davis_to_tfrecord, davis=world, split="train", out=records)
    if not parent.exists():
        run_stage(
            train_parent,
            records=records,
            workdir=parent.parent,
            weights="compact",
            recipe="scratch",
            height=_SIZE[0],
            updates=_PARENT_UPDATES,
            seed=seed,
        )
    sequences = davis.read_split(world, "val")
    for method, extra in _METHODS.items():
        for sequence in sequences:
            place = out / "results" / method / sequence.name
            if not place.exists():
                run_stage(
                    segment,
                    *extra,
                    frames=sequence.frames[0].image.parent,
                    mask=sequence.frames[0].mask,
                    parent=parent,
                    out=place,
                    seed=seed,
                )
    folders = [f"--results={method}:{out / 'results' / method}" for method in _METHODS]
    # Always: its table is what there is to see.
    run_stage(evaluate, *folders, "--overwrite", davis=world, split="val", out=out / "evaluation")
    _write_sheet(out / _SHEET, sequences, out / "results")


def _run(pipeline: ModuleType, *arguments: str, **values: object) -> str:
    """Runs another command's `main`, on flags as a user would write them; returns its words."""
    arguments = (*arguments, *(f"--{name}={value}" for name, value in values.items()))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        pipeline.main(cli.parse(pipeline.FLAGS, arguments))
    return said.getvalue()


def _remove_hidden(folder: pathlib.Path) -> None:
    """Removes leftovers of killed stages."""
    for path in [path for path in folder.rglob(".*") if path.exists()]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _rename_in_records(folder: pathlib.Path, name: str) -> None:
    """Gives the folder its final name in the stages' records, which hold paths."""
    before, after = (json.dumps(str(path))[1:-1] for path in (folder, name))
    for path in folder.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        if before in text:
            with files.atomic_path(path) as temporary:
                temporary.write_text(text.replace(before, after), encoding="utf-8")


def _write_sheet(
    path: pathlib.Path, sequences: Sequence[davis.Sequence], made: pathlib.Path
) -> None:
    """Rows: sequences. Columns: the mask that was given, then a late frame by each method."""
    rows = []
    for sequence in sequences:
        given, late = sequence.frames[0], sequence.frames[len(sequence.frames) * 3 // 4]
        pictures = [_overlay(given.image, given.mask)]
        for method in _METHODS:
            mask = made / method / sequence.name / "masks" / f"{late.name}.png"
            pictures.append(_overlay(late.image, mask))
        rows.append(pictures)
    sheet = visualize.contact_sheet(
        rows,
        row_labels=[sequence.name for sequence in sequences],
        column_labels=["the one mask", *_METHODS],
    )
    with files.atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), sheet[..., ::-1])


def _overlay(image: pathlib.Path, mask: pathlib.Path | None) -> np.ndarray:
    assert mask is not None  # every painted frame has one
    frame = read_image(image)
    size = (frame.shape[1] * _SHEET_ZOOM, frame.shape[0] * _SHEET_ZOOM)
    frame = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
    labels = cv2.resize(read_mask(mask), size, interpolation=cv2.INTER_NEAREST)
    return visualize.overlay(frame, labels)


if __name__ == "__main__":
    run()
