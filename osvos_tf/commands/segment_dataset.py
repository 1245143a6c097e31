"""Segments a whole split, or a list of videos and masks, each sequence as `segment` does it.

    python -m pipelines.segment_dataset --davis=DAVIS --split=val --out=results --workers=2
    python -m pipelines.segment_dataset --list=videos.txt --parent=parent.keras --out=results

leaves `OUT/<sequence>/` as `segment` leaves it, which is where `evaluate --results=OUT` looks, and
a line of JSON a sequence in `OUT/results.jsonl`. A sequence's folder is whole or not there: a
run that was stopped resumes when the same command is given again. What is whole,
made with the same flags and the same networks and masks, is left as it is.

Folders that this command did not make, and results of other flags or inputs (without --overwrite)
are named and left alone, before any work.

A sequence that fails is tried once more at the end, then reported, while the others continue; the
exit status is then 3. Several machines share the work by `--shard=0/3`, `1/3` and `2/3` over one
output folder, or by `--ray`.

A list has a sequence a line, its frames and then its masks, quoted as in a shell:

    dog.mp4 dog_first_frame.png
    cat:day1/frames day1/cat.png 00042:"day1/cat corrected.png"
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import tqdm
from absl import flags

from osvos_tf import files, results
from osvos_tf.commands import cli, progress_bar, segment, shared_flags
from osvos_tf.data import youtube_vos
from osvos_tf.errors import InputError
from osvos_tf.jobs import dispatch, engines, worker, worklist
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions

_PER_SEQUENCE = (
    "frames",
    "mask",
    "out",
    "specialist",
    "from",
)  # flags of `segment` that each sequence has its own of
# TensorFlow keeps some memory of every sequence, though nothing of it is in use: 13 MB on frames of
# 48x80. So a worker makes room for a fresh one, which takes ten seconds to start.
_SEQUENCES_PER_WORKER = 50

FLAGS = flags.FlagValues()
for _name in segment.FLAGS:
    if _name not in _PER_SEQUENCE:
        FLAGS[_name] = segment.FLAGS[_name]
_SHARED = tuple(FLAGS)

shared_flags.define_path("davis", None, "Root of a DAVIS or YouTube-VOS tree.", flag_values=FLAGS)
flags.DEFINE_string(
    "split",
    None,
    "Name of a list in the DAVIS tree's ImageSets; of YouTube-VOS, a folder such as valid.",
    flag_values=FLAGS,
)
flags.DEFINE_string("resolution", "480p", "Folder below JPEGImages.", flag_values=FLAGS)
shared_flags.define_path(
    "list",
    None,
    "Text file with FRAMES MASK on each line, instead of a split. Relative paths start at --davis, "
    "without that where the list lies.",
    flag_values=FLAGS,
)
flags.DEFINE_list("sequences", [], "Sequences to segment, by comma; unset: all.", flag_values=FLAGS)
shared_flags.define_path(
    "out", None, "Folder for the sequences' folders.", required=True, flag_values=FLAGS
)
flags.DEFINE_string(
    "shard", "0/1", "i/n: this run's part, 0 <= i < n, of work in n parts.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "workers",
    None,
    "Sequences at a time. Unset: one, with all cores; with --ray as many as the cluster has room "
    "for.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "cpus",
    None,
    "Cores for each sequence. Unset: the machine's, shared out among --workers; with --ray 1.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "gpus", 0.0, "With --ray: GPUs for each sequence, also 0.5.", lower_bound=0.0, flag_values=FLAGS
)
flags.DEFINE_string(
    "ray",
    None,
    "Runs on a Ray cluster: auto (the one that this machine belongs to), local (one for this run) "
    "or an address. All its nodes must see the same files under the same paths.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "timeout",
    None,
    "Seconds after which a sequence counts as hanging and its worker is replaced; unset: never.",
    flag_values=FLAGS,
)


GROUPS = (
    ("What you need", ("davis", "split", "list", "out", "workers", "overwrite")),
    ("Which sequences", ("sequences", "resolution", "shard")),
    ("Where and how long", ("cpus", "ray", "gpus", "timeout")),
    *(
        (heading, [name for name in names if name in FLAGS and name != "overwrite"])
        for heading, names in (("Learning", ("budget", "parent")), *segment.GROUPS[1:])
    ),
)


def main(args: flags.FlagValues) -> None:
    """Flags -> jobs, less what is whole -> workers -> results, lines and a table."""
    shared_flags.require_positive(args, "timeout")
    index, count = _shard(args.shard)
    items = worklist.shard(_items(args), index, count)
    _require_networks(args)
    jobs = _make_jobs(args, items)
    wanted, whole = _check_all(jobs)
    out = files.ensure_writable(args.out)
    log = worklist.results_path(out, index, count)
    rows = _keep(whole, log)  # sequence -> its line of the table
    started = time.monotonic()
    with contextlib.closing(_run(args, wanted)) as outcomes:
        for outcome in outcomes:
            result = _result(outcome)
            worklist.append_result(log, result)
            rows[_sequence(outcome.job)] = result
            _stop_if_all_fail(rows)
    _print_table([rows[item.name] for item in items], time.monotonic() - started)
    failed = [row for row in rows.values() if row["status"] == "failed"]
    if failed:
        named = "; ".join(f"{row['sequence']} ({row['error'].splitlines()[0]})" for row in failed)
        named = cli.name_flags(named, args)
        raise cli.Unfinished(
            f"{len(failed)} of {len(items)} sequences failed: {named}. The others are whole; the "
            f"same command tries these again. More about them is in {log}."
        )
    damage = [f"{row['sequence']}: {row['damage']}" for row in rows.values() if row.get("damage")]
    if damage:
        raise cli.Unfinished("\n".join(damage))


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__ or "", GROUPS)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise InputError(f"Wanted --shard=i/n with 0 <= i < n, such as 0/3. Got {text!r}.")
    return int(match[1]), int(match[2])


def _items(args: flags.FlagValues) -> tuple[worklist.Item, ...]:
    """Returns the work list of all shards."""
    if (args.split is None) == (args.list is None):
        raise InputError("Wanted sequences: either --davis=DIR --split=NAME or --list=FILE.")
    if args.list is not None:
        return _select(worklist.read_list(args.list, args.davis), args.sequences, args.list)
    if args.davis is None:
        raise InputError("--split wants --davis=DIR, the DAVIS root, as well.")
    return worklist.from_davis(
        youtube_vos.read_tree(
            args.davis, args.split, resolution=args.resolution, sequences=args.sequences
        )
    )


def _select(
    items: tuple[worklist.Item, ...], names: Sequence[str], source: str
) -> tuple[worklist.Item, ...]:
    unknown = sorted(set(names) - {item.name for item in items})
    if unknown:
        raise InputError(f"{source} has no sequence {', '.join(map(repr, unknown))}.")
    return tuple(item for item in items if not names or item.name in names)


def _require_networks(args: flags.FlagValues) -> None:
    """Raises InputError where a model file is missing: every sequence would fail for it."""
    for name in _SHARED:
        value = args[name].value
        if isinstance(value, str) and value.endswith(".keras") and not os.path.isfile(value):
            raise InputError(f"--{name}: no model file {value}.")


def _make_jobs(args: flags.FlagValues, items: Sequence[worklist.Item]) -> list[VideoJob]:
    """Returns a job for each sequence.

    Raises:
        InputError: the flags do not fit together.
    """
    shared = VideoJob(
        frames="",
        masks=(),
        out="",
        learn=shared_flags.read_options(LearnOptions, args),
        segment=shared_flags.read_options(SegmentOptions, args),
        save=segment.read_kinds(args),
        overwrite=args.overwrite,
    )
    out = os.path.abspath(args.out)
    return [
        dataclasses.replace(
            shared, frames=item.frames, masks=item.masks, out=os.path.join(out, item.name)
        )
        for item in items
    ]


def _sequence(job: VideoJob) -> str:
    """Returns the name of a job's sequence."""
    return pathlib.Path(job.out).name


def _check_all(jobs: Sequence[VideoJob]) -> tuple[list[VideoJob], list[VideoJob]]:
    """Returns the jobs that are to be done, and those whose results are whole.

    Raises:
        InputError: results would replace what is not ours, or of other work without --overwrite.
    """

    def check(job: VideoJob) -> tuple[str | None, str]:
        if job.addable():
            return "", ""
        fault = job.find_fault()
        try:
            work = job.with_kinds_there().work()
            results.require_place(job.out, work, overwrite=job.overwrite)
        except InputError as error:
            return fault, str(error)
        return fault, ""

    wanted: list[VideoJob] = []
    whole: list[VideoJob] = []
    refused: list[str] = []
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    checked = threads.map(check, jobs)
    try:
        with progress_bar.Progress("Looking at what is there", len(jobs), "sequence") as progress:
            for job, (fault, refusal) in progress.over(zip(jobs, checked, strict=True)):
                (whole if fault is None else wanted).append(job)
                if refusal:
                    refused.append(refusal)
                elif fault:
                    _say(f"{_sequence(job)} is done again: {fault}")
    finally:
        threads.shutdown(cancel_futures=True)
    if refused:
        more = f" And so it is with {len(refused) - 1} more." if refused[1:] else ""
        raise InputError(refused[0] + more)
    return wanted, whole


def _keep(jobs: Sequence[VideoJob], log: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the results of sequences that are whole; lines that were lost are added again."""
    noted = worklist.read_results(log)
    rows = {}
    for job in jobs:
        name = _sequence(job)
        result = {"sequence": name, "status": "done"}
        result.update(worker.summary(results.read_record(job.out) or {}))
        if noted.get(name, {}).get("status") != "done":
            worklist.append_result(log, result)
        rows[name] = {**result, "status": "whole"}
    return rows


def _run(args: flags.FlagValues, jobs: list[VideoJob]) -> Generator[dispatch.Outcome, None, None]:
    """Yields a `dispatch.Outcome` for each job."""
    if args.gpus and args.ray is None:
        raise InputError("--gpus goes with --ray. Without: CUDA_VISIBLE_DEVICES and --shard.")
    if not jobs:
        return
    engine: engines.Processes | engines.RayActors
    if args.ray is None:
        engine = engines.Processes(args.workers or 1, args.cpus, args.timeout)
    else:
        engine = engines.RayActors(args.ray, args.workers, args.cpus or 1, args.gpus, args.timeout)

    def on_retry(job: VideoJob, reply: Mapping[str, Any]) -> None:
        error = cli.name_flags(reply["error"], args)
        _say(f"{_sequence(job)} is tried again: {error}")

    outcomes = dispatch.run(
        jobs,
        engine.start,
        min(engine.slots, len(jobs)),
        jobs_per_worker=_SEQUENCES_PER_WORKER,
        on_retry=on_retry,
    )
    try:
        with (
            contextlib.closing(outcomes),
            progress_bar.Progress("Segmenting", len(jobs), "sequence") as progress,
        ):
            for outcome in outcomes:
                yield outcome
                failed = outcome.reply.get("error")
                name = _sequence(outcome.job)
                if failed:
                    _say(f"{name} failed: {cli.name_flags(failed, args)}")
                progress.advance(note=f"{name} {'failed' if failed else 'done'}")
    finally:
        engine.close()


def _result(outcome: dispatch.Outcome) -> dict[str, Any]:
    """Returns what `results.jsonl` says of a sequence."""
    return {
        "sequence": _sequence(outcome.job),
        "status": "failed" if outcome.reply.get("error") else "done",
        "attempts": outcome.attempts,
        "seconds": round(outcome.seconds, 1),
        **outcome.reply,
    }


def _stop_if_all_fail(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError if the first two sequences fail in the same way, by their flags."""
    errors = {row.get("error") for row in rows.values()}
    if len(rows) == 2 and len(errors) == 1 and all(row.get("mistake") for row in rows.values()):
        raise InputError(f"{errors.pop()} (Both of the first two sequences failed with this.)")


def _print_table(rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
    columns = ("status", "frames", "updates", "seconds", "attempts")
    width = max([len(row["sequence"]) for row in rows] + [len("sequence")])
    print(f"{'sequence':<{width}}", *(f"{name:>8}" for name in columns))
    for row in rows:
        print(f"{row['sequence']:<{width}}", *(f"{row.get(name, ''):>8}" for name in columns))
    done, whole, failed = (
        sum(row["status"] == status for row in rows) for status in ("done", "whole", "failed")
    )
    print(f"{done} done in {seconds:.0f} s, {whole} whole before, {failed} failed.")
    for row in rows:
        for remark in row.get("remarks", ()):
            print(f"{row['sequence']}: {remark}")


def _say(message: str) -> None:
    tqdm.tqdm.write(message, file=sys.stderr)


if __name__ == "__main__":
    run()
