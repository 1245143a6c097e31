"""Scores results against a DAVIS split: J, F and T as the benchmark computes them.

    python -m pipelines.evaluate --davis=DAVIS --results=one-shot:results --out=evaluation

reads `RESULTS/<sequence>/<frame>.png` (or `RESULTS/<sequence>/masks/<frame>.png`, as `segment
--out=RESULTS/<sequence>` leaves them), prints a table and writes `global.csv`,
`per_sequence.csv`, `per_frame.csv` and `report.html`. Repeat `--results=name:DIR` to compare
methods. The 20 sequences of DAVIS-2016 val take about two minutes a method on two cores.
"""

import concurrent.futures
import datetime
import multiprocessing
import os
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from absl import flags

import osvos_tf
from osvos_tf import davis, files, metrics, report, report_page, video
from osvos_tf.errors import InputError
from pipelines import cli

FLAGS = flags.FlagValues()
flags.DEFINE_string("davis", None, "DAVIS root.", required=True, flag_values=FLAGS)
flags.DEFINE_multi_string(
    "results",
    None,
    "Results folder, or NAME:FOLDER to name the method. Repeatable.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_string(
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


class _Task(NamedTuple):
    """One sequence of one method.

    Attributes:
        method: its name.
        sequence: a `davis.Sequence`.
        paths: the result mask of each scored frame; None where there is none.
    """

    method: str
    sequence: davis.Sequence
    paths: tuple[pathlib.Path | None, ...]


def main(args):
    """Flags -> sequences and methods -> scores, in parallel -> tables and the report."""
    methods = _methods(args.results)
    sequences = davis.read_split(
        args.davis, args.split, resolution=args.resolution, sequences=args.sequences
    )
    _require_scorable(sequences)
    names = [sequence.name for sequence in sequences]
    out = files.ensure_writable(args.out)
    tasks = {
        (task.method, task.sequence.name): task
        for method, folder in methods.items()
        for task in _find_tasks(method, folder, sequences, args.allow_missing)
    }
    results = {method: [] for method in methods}
    for task, result in zip(tasks.values(), _score_all(list(tasks.values())), strict=True):
        results[task.method].append(result)
    worst = report.worst_frames(results)
    page = report_page.render(
        results,
        names,
        [_example(tasks[method, row.sequence], row, index) for method, row, index in worst],
        split=args.split,
        resolution=args.resolution,
        date=datetime.date.today(),
        version=osvos_tf.__version__,
    )
    texts = {**report.csv_tables(results), "report.html": page}
    report.write(out, texts)
    print(report.format_table(results, names))
    if not args.sequences:
        _print_strangers(methods, names, args.split)
    print(f"Wrote {', '.join(list(texts)[:-1])} and report.html to {out}")


def run():
    """The console command."""
    cli.run(main, FLAGS, __doc__)


def _methods(values):
    """Returns method name -> folder, in the order of the flags."""
    methods = {}
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


def _require_scorable(sequences):
    for sequence in sequences:
        if len(sequence.frames) < 3:
            raise InputError(
                f"Sequence {sequence.name!r} has {len(sequence.frames)} frames. DAVIS does not "
                "score the first and the last, so at least 3 are needed."
            )


def _find_tasks(method, folder, sequences, allow_missing):
    """Returns a `_Task` for each sequence that there are masks for.

    Raises:
        InputError: there are none at all, or some are missing and that is not allowed.
    """
    tasks = []
    for sequence in sequences:
        place = _place(folder, sequence.name)
        if place is None:
            paths = (None,) * (len(sequence.frames) - 2)
        else:
            names = [f"{frame.name}.png" for frame in sequence.frames[1:-1]]
            paths = tuple(place / name if (place / name).is_file() else None for name in names)
            if not allow_missing:
                _require_all(place, names, paths)
        tasks.append(_Task(method, sequence, paths))
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


def _print_strangers(methods, names, split):
    """Says which folders look like results and are not, as the split has no such sequence."""
    for method, folder in methods.items():
        found = {entry.name for entry in folder.iterdir() if entry.is_dir()}
        if strangers := sorted(found - set(names)):
            print(f"{method}: not in {split}, so not scored: {_some(strangers)}")


def _place(folder, name):
    """Returns the folder that a sequence's masks lie in, None if there is none."""
    for place in (folder / name / "masks", folder / name):
        if place.is_dir():
            return place
    return None


def _require_all(place, names, paths):
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} masks are missing in {place}: {_some(missing)}. "
            f"Found there: {_listing(place)}. Complete them, or leave these frames out of the "
            "scores with --allow_missing."
        )


def _listing(folder):
    return _some(sorted(entry.name for entry in folder.iterdir())) or "nothing"


def _some(names, most=5):
    """Lists the first few names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _score_all(tasks):
    """Returns a `SequenceResult` for each task, in order, computed on all cores."""
    # The longest go first, so that none is left running alone at the end.
    order = sorted(range(len(tasks)), key=lambda i: len(tasks[i].sequence.frames), reverse=True)
    workers = min(len(tasks), os.cpu_count() or 1)
    results = [None] * len(tasks)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=cv2.setNumThreads,  # the processes share the cores, not OpenCV's threads
        initargs=(1,),
    )
    try:
        with cli.Progress("Scoring", len(tasks), "sequence") as progress:
            futures = {pool.submit(_score, tasks[i]): i for i in order}
            for future in concurrent.futures.as_completed(futures):
                i = futures[future]
                results[i] = future.result()
                progress.advance(note=f"{tasks[i].method}: {tasks[i].sequence.name}")
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _score(task):
    """Scores one sequence of one method; runs in a process of its own."""
    frames = task.sequence.frames
    truth = np.stack([video.read_mask(frame.mask) for frame in frames])
    void = truth == video.VOID
    truth = truth == 1
    masks = np.zeros_like(truth)
    scored = [index for index, path in enumerate(task.paths, start=1) if path]
    for index in scored:
        masks[index] = _read_result(task.paths[index - 1], truth.shape[1:])
    void = void if void.any() else None
    if len(scored) == len(task.paths):
        scores = metrics.sequence_scores(masks, truth, void)
    else:  # T compares neighbours, so a sequence with gaps has none
        arrays = masks[scored], truth[scored], None if void is None else void[scored]
        scores = metrics.SequenceScores(
            metrics.region_similarity(*arrays), metrics.boundary_accuracy(*arrays), np.nan
        )
    return report.SequenceResult(
        task.sequence.name,
        tuple(frames[index].name for index in scored),
        scores,
        expected=tuple(frame.name for frame in frames[1:-1]),
    )


def _read_result(path, size):
    """Reads a result mask, bool [height, width]."""
    mask = video.read_mask(path)
    if mask.shape != size:
        raise InputError(
            f"Mask {path} is {mask.shape[1]}x{mask.shape[0]}, the annotation is "
            f"{size[1]}x{size[0]} (width x height). Results must have the frames' own size."
        )
    return mask == 1


def _example(task, result, index):
    """Reads again what the scores of one frame came from."""
    position = result.expected.index(result.frames[index])
    frame = task.sequence.frames[position + 1]
    image = video.open_frames(frame.image.parent).read(frame.name)
    truth = video.read_mask(frame.mask)
    if image.shape[:2] != truth.shape:
        raise InputError(
            f"Frame {frame.image} is {image.shape[1]}x{image.shape[0]}, its annotation "
            f"{truth.shape[1]}x{truth.shape[0]} (width x height). Is the DAVIS tree complete?"
        )
    return report_page.Example(
        method=task.method,
        sequence=result.sequence,
        frame=frame.name,
        J=float(result.scores.J[index]),
        F=float(result.scores.F[index]),
        image=image,
        mask=_read_result(task.paths[position], truth.shape),
        truth=truth,
    )


if __name__ == "__main__":
    run()
