"""Scores results against a DAVIS split: J, F and T as the benchmark computes them.

    python -m pipelines.evaluate --davis=DAVIS --results=one-shot:results --out=evaluation

reads `RESULTS/<sequence>/<frame>.png` (or `RESULTS/<sequence>/masks/<frame>.png`, as `segment
--out=RESULTS/<sequence>` leaves them) and writes `global.csv`, `per_sequence.csv` and
`per_frame.csv`. Repeat `--results=name:DIR` to compare methods.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib

import numpy as np
from absl import flags

from osvos_tf import davis, files, metrics, report, video
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
flags.DEFINE_string("out", None, "Folder for the tables.", required=True, flag_values=FLAGS)
flags.DEFINE_string("split", "val", "Name of a list in ImageSets.", flag_values=FLAGS)
flags.DEFINE_string("resolution", "480p", "Folder below Annotations.", flag_values=FLAGS)
flags.DEFINE_list(
    "sequences", [], "Sequences to score, by comma; unset: all of the split.", flag_values=FLAGS
)


def main(args):
    """Flags -> sequences and methods -> scores, in parallel -> tables."""
    methods = _methods(args.results)
    sequences = davis.read_split(
        args.davis, args.split, resolution=args.resolution, sequences=args.sequences
    )
    out = files.ensure_writable(args.out)
    tasks = [
        (method, sequence, _result_paths(folder, sequence))
        for method, folder in methods.items()
        for sequence in sequences
    ]
    results = {method: [] for method in methods}
    for (method, _, _), result in zip(tasks, _score_all(tasks), strict=True):
        results[method].append(result)
    report.write_csv(out, results)
    print(report.format_table(results))
    print(f"Wrote global.csv, per_sequence.csv and per_frame.csv to {out}")


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


def _result_paths(folder, sequence):
    """Returns the result mask of every scored frame; DAVIS leaves out the first and the last."""
    place = folder / sequence.name
    if (place / "masks").is_dir():
        place = place / "masks"
    if not place.is_dir():
        found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        raise InputError(
            f"No results for sequence {sequence.name!r} in {folder}: wanted "
            f"{folder / sequence.name}/<frame>.png. Folders there: {', '.join(found) or 'none'}. "
            "Name the sequences to score with --sequences."
        )
    if len(sequence.frames) < 3:
        raise InputError(
            f"Sequence {sequence.name!r} has {len(sequence.frames)} frames. DAVIS does not score "
            "the first and the last, so at least 3 are needed."
        )
    paths = [place / f"{frame.name}.png" for frame in sequence.frames[1:-1]]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} masks are missing in {place}: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )
    return paths


def _score_all(tasks):
    """Yields a `SequenceResult` for each task, in order, computed on all cores."""
    workers = min(len(tasks), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with (
        cli.Progress("Scoring", len(tasks), "sequence") as progress,
        concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool,
    ):
        yield from progress.over(pool.map(_score, tasks))


def _score(task):
    """Scores one sequence of one method; runs in a process of its own."""
    _, sequence, paths = task
    truth = np.stack([video.read_mask(frame.mask) for frame in sequence.frames])
    void = truth == video.VOID
    truth = truth == 1
    masks = np.zeros_like(truth)
    for index, path in enumerate(paths, start=1):
        mask = video.read_mask(path)
        if mask.shape != truth.shape[1:]:
            height, width = truth.shape[1:]
            raise InputError(
                f"Mask {path} is {mask.shape[1]}x{mask.shape[0]}, the annotation is "
                f"{width}x{height} (width x height). Results must have the frames' own size."
            )
        masks[index] = mask == 1
    scores = metrics.sequence_scores(masks, truth, void if void.any() else None)
    names = tuple(frame.name for frame in sequence.frames[1:-1])
    return report.SequenceResult(sequence.name, names, scores)


if __name__ == "__main__":
    run()
