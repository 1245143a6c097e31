"""Scores results against a DAVIS split: J, F and T as the benchmark computes them.

    python -m pipelines.evaluate --davis=DAVIS --results=one-shot:results --out=evaluation

reads `RESULTS/<sequence>/<frame>.png` (or `RESULTS/<sequence>/masks/<frame>.png`, as `segment
--out=RESULTS/<sequence>` leaves them), prints a table and leaves `global.csv`,
`per_sequence.csv`, `per_frame.csv`, `report.html` and `run.json` (version, flags, seconds). Repeat
`--results=name:DIR` to compare methods. Where annotations and results have the ids of several
objects, each object is scored, as in DAVIS-2017. The same command again scores the masks as they
are then. The 20 sequences of DAVIS-2016 val take about two minutes a method on two cores.
"""

import datetime
import hashlib
import os
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

import osvos_tf
from osvos_tf import results
from osvos_tf.commands import cli, progress_bar, shared_flags
from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.evaluation import report, report_page
from osvos_tf.jobs.scoring import Task, annotation, is_object, read_result, score_all
from osvos_tf.media.frames import open_frames
from osvos_tf.media.images import describe_size
from osvos_tf.media.masks import VOID, object_ids, read_labels

FLAGS = flags.FlagValues()
shared_flags.define_path("davis", None, "DAVIS root.", required=True, flag_values=FLAGS)
shared_flags.define_paths(
    "results",
    None,
    "Results folder, or NAME:FOLDER to name the method. Repeatable.",
    required=True,
    flag_values=FLAGS,
)
shared_flags.define_path(
    "out", None, "Folder for the tables and the report.", required=True, flag_values=FLAGS
)
flags.DEFINE_string("split", "val", "Name of a list in ImageSets.", flag_values=FLAGS)
flags.DEFINE_string("resolution", "480p", "Folder below Annotations.", flag_values=FLAGS)
flags.DEFINE_list(
    "sequences", [], "Sequences to score, by comma; unset: all of the split.", flag_values=FLAGS
)
flags.DEFINE_bool(
    "allow_missing",
    False,
    "Score what is there and leave out frames and sequences without a mask; the tables say so.",
    flag_values=FLAGS,
)
shared_flags.define_overwrite(FLAGS)
GROUPS = (
    ("What you need", ("davis", "results", "out", "split", "sequences", "overwrite")),
    ("What is scored", ("resolution", "allow_missing")),
)

_CHECKSUMS = "checksums"  # in the record: of the tables and the report, as they were written


def main(args: flags.FlagValues) -> None:
    """Flags -> sequences and methods -> scores, in parallel -> tables and the report."""
    methods = _methods(args.results)
    sequences = davis.read_split(
        args.davis, args.split, resolution=args.resolution, sequences=args.sequences
    )
    _require_scorable(sequences)
    tasks = {
        (task.method, task.sequence.name): task
        for method, folder in methods.items()
        for task in _find_tasks(method, folder, sequences, args.allow_missing)
    }
    work = _work(args, methods)
    inputs = [args.davis, *methods.values(), *_folders(tasks.values())]
    results.require_place(args.out, work, overwrite=args.overwrite, inputs=inputs)
    if not args.overwrite:
        _require_unchanged(args.out)
    with results.draft(args.out, work, overwrite=args.overwrite) as draft:
        draft.worth_keeping = False  # nor is what a killed run has left
        started = time.monotonic()
        scores = _score(methods, tasks)
        texts = {**report.csv_tables(scores), "report.html": _page(args, scores, sequences, tasks)}
        report.write(draft.folder, texts)
        draft.publish(
            {
                "versions": {"osvos_tf": osvos_tf.__version__},
                "flags": {name: args[name].value for name in sorted(args)},
                "seconds": round(time.monotonic() - started, 3),
                _CHECKSUMS: {name: _checksum(text.encode()) for name, text in texts.items()},
            }
        )
    names = [sequence.name for sequence in sequences]
    print(report.format_table(scores, names))
    _print_merged(sequences, scores)
    if not args.sequences:
        _print_strangers(methods, {*names, pathlib.Path(args.out).name}, args.split)
    print(f"Wrote {', '.join(list(texts)[:-1])} and report.html to {args.out}")


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__ or "", GROUPS)


def _methods(values: Sequence[str]) -> dict[str, pathlib.Path]:
    """Returns method name -> folder, in the order of the flags."""
    methods: dict[str, pathlib.Path] = {}
    for value in values:
        name, _, folder = value.rpartition(":")
        if not name or pathlib.Path(value).is_dir():
            name, folder = pathlib.Path(value).resolve().name, value
        if not pathlib.Path(folder).is_dir():
            raise InputError(f"No results folder {folder}. Wanted --results=DIR or NAME:DIR.")
        if name in methods:
            raise InputError(f"Two --results are called {name!r}. Name them: --results=NAME:DIR.")
        methods[name] = pathlib.Path(folder)
    return methods


def _work(args: flags.FlagValues, methods: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    """Returns what is scored, for `results.draft`; masks count by their folders alone."""
    return {
        "command": "evaluate",
        "davis": os.path.realpath(args.davis),
        "results": [[method, os.path.realpath(folder)] for method, folder in methods.items()],
        "split": args.split,
        "resolution": args.resolution,
        "sequences": list(args.sequences),
        "allow_missing": args.allow_missing,
    }


def _folders(tasks: Collection[Task]) -> set[pathlib.Path]:
    """Returns the folders of the frames, annotations and masks that are read."""
    files = {path for task in tasks for path in task.paths if path}
    for task in tasks:
        files |= {task.sequence.frames[0].image, annotation(task.sequence.frames[0])}
    return {path.parent for path in files}


def _require_unchanged(out: str) -> None:
    """Raises InputError where somebody has changed a finished table or report."""
    known = (results.read_record(out) or {}).get(_CHECKSUMS, {})
    for name, checksum in known.items():
        path = pathlib.Path(out, name)
        if path.is_file() and _checksum(path.read_bytes()) != checksum:
            raise InputError(
                f"{path} was changed after it had been written. Name another folder to keep it, or "
                "replace it with --overwrite."
            )


def _checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _require_scorable(sequences: Sequence[davis.Sequence]) -> None:
    for sequence in sequences:
        if len(sequence.frames) < 3:
            raise InputError(
                f"Sequence {sequence.name!r} has {len(sequence.frames)} frames. DAVIS does not "
                "score the first and the last, so at least 3 are needed."
            )


def _find_tasks(
    method: str,
    folder: pathlib.Path,
    sequences: Sequence[davis.Sequence],
    allow_missing: bool,
) -> list[Task]:
    """Returns a `Task` for each sequence that there are masks for.

    Raises:
        InputError: there are no masks, or some are missing and that is not allowed.
    """
    tasks = []
    for sequence in sequences:
        place = _place(folder, sequence.name)
        names = [f"{frame.name}.png" for frame in sequence.frames[1:-1]]
        paths: tuple[pathlib.Path | None, ...] = (None,) * len(names)
        if place is not None:
            there = {file.name.lower(): file for file in place.iterdir()}  # also .PNG
            paths = tuple(there.get(name.lower()) for name in names)
            if not allow_missing:
                _require_all(place, names, paths)
        tasks.append(Task(method, sequence, paths))
    scored = [task for task in tasks if any(task.paths)]
    if not scored:
        raise InputError(
            f"No mask to score in {folder}: wanted {folder}/<sequence>/<frame>.png for "
            f"{_some([sequence.name for sequence in sequences])}. Found there: {_listing(folder)}. "
            "Name the folder that holds a folder for each sequence."
        )
    if len(scored) < len(tasks) and not allow_missing:
        absent = [task.sequence.name for task in tasks if not any(task.paths)]
        raise InputError(
            f"No results for sequence {_some([repr(name) for name in absent])} in {folder}: wanted "
            f"{folder / absent[0]}/<frame>.png. Found there: {_listing(folder)}. Name the "
            "sequences to score with --sequences, or score what is there with --allow_missing."
        )
    return scored


def _print_merged(sequences: Sequence[davis.Sequence], scores: report.Results) -> None:
    """Says where annotations hold several objects, and results have none of their ids."""
    for sequence in sequences:
        ids = object_ids(annotation(sequence.frames[0]))
        for method, rows in scores.items():
            merged = any(row.sequence == sequence.name and row.object is None for row in rows)
            if len(ids) > 1 and merged:
                print(
                    f"{method}, {sequence.name}: the annotations hold objects "
                    f"{', '.join(map(str, ids))}, the results no ids: scored as one object."
                )


def _print_strangers(
    methods: Mapping[str, pathlib.Path], names: Collection[str], split: str
) -> None:
    """Lists folders that look like results of sequences that the split does not have."""
    for method, folder in methods.items():
        found = {name for name in _visible(folder) if (folder / name).is_dir()}
        if strangers := sorted(found - set(names)):
            print(f"{method}: not in {split}, so not scored: {_some(strangers)}")


def _place(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the folder that a sequence's masks lie in, or None."""
    for place in (folder / name / "masks", folder / name):
        if place.is_dir():
            return place
    return None


def _require_all(
    place: pathlib.Path, names: Sequence[str], paths: Sequence[pathlib.Path | None]
) -> None:
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} masks are missing in {place}: {_some(missing)}. "
            f"Found there: {_listing(place)}. Complete them, or leave these frames out of the "
            "scores with --allow_missing."
        )


def _listing(folder: pathlib.Path) -> str:
    return _some(_visible(folder)) or "nothing"


def _visible(folder: pathlib.Path) -> list[str]:
    """Returns what a file manager would show; unfinished results are hidden."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def _some(names: Sequence[str], most: int = 5) -> str:
    """Lists the first few names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _score(
    methods: Collection[str], tasks: Mapping[tuple[str, str], Task]
) -> dict[str, list[report.SequenceResult]]:
    """Returns the results of every method, in order of the sequences."""
    scores: dict[str, list[report.SequenceResult]] = {method: [] for method in methods}
    with progress_bar.Progress("Scoring", len(tasks), "sequence") as progress:
        scored: dict[tuple[str, str], tuple[report.SequenceResult, ...]] = {}
        for key, result in score_all(tasks, cli.finishing("")):
            scored[key] = result
            progress.advance(note=": ".join(key))
    for key in tasks:
        scores[key[0]].extend(scored[key])
    return scores


def _page(
    args: flags.FlagValues,
    scores: report.Results,
    sequences: Sequence[davis.Sequence],
    tasks: Mapping[tuple[str, str], Task],
) -> str:
    """Returns `report.html`."""
    worst = report.worst_frames(scores)
    return report_page.render(
        scores,
        [sequence.name for sequence in sequences],
        [_example(tasks[method, row.sequence], row, index) for method, row, index in worst],
        split=args.split,
        resolution=args.resolution,
        date=datetime.date.today(),
        version=osvos_tf.__version__,
    )


def _example(task: Task, result: report.SequenceResult, index: int) -> report_page.Example:
    """Reads again what the scores of one frame came from."""
    position = result.expected.index(result.frames[index])
    frame, path = task.sequence.frames[position + 1], task.paths[position]
    assert path is not None  # it was scored
    image = open_frames(frame.image.parent).read(frame.name)
    truth, _ = read_labels(annotation(frame))
    if image.shape[:2] != truth.shape:
        raise InputError(
            f"Frame {frame.image} is {describe_size(image.shape)}, its annotation "
            f"{describe_size(truth.shape)}. Is the DAVIS tree complete?"
        )
    labels, _ = read_result(path, truth.shape)
    inside = is_object(truth, result.object).astype(np.uint8)
    return report_page.Example(
        method=task.method,
        sequence=result.name,
        frame=frame.name,
        J=float(result.scores.J[index]),
        F=float(result.scores.F[index]),
        image=image,
        mask=is_object(labels, result.object),
        truth=np.where(truth == VOID, VOID, inside),
    )


if __name__ == "__main__":
    run()
