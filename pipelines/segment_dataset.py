"""Segments a whole split, or a list of videos and masks, each sequence as `segment` does it.

    python -m pipelines.segment_dataset --davis=DAVIS --split=val --out=results --workers=2
    python -m pipelines.segment_dataset --list=videos.txt --parent=parent.keras --out=results

leaves `OUT/<sequence>/` as `segment` leaves it, which is where `evaluate --results=OUT` looks, and
a line of JSON a sequence in `OUT/results.jsonl`. A sequence's folder is whole or not there: a
run that was stopped goes on where it was when the same command is given again. What is whole,
made with the same flags and the same networks and masks, is left as it is.

A sequence that fails is tried once more at the end, then reported, while the others go on; the
exit status is then 3. Several machines share the work by `--shard=0/3`, `1/3` and `2/3` over one
output folder, or by `--ray`.

A list has a sequence a line, its frames and then its masks, quoted as in a shell:

    dog.mp4 dog_first_frame.png
    cat:day1/frames day1/cat.png 00042:"day1/cat corrected.png"
"""

import concurrent.futures
import contextlib
import os
import re
import sys
import time

import tqdm
from absl import flags

from osvos_tf import davis, dispatch, files, worklist
from osvos_tf.errors import InputError
from pipelines import cli, engines, segment, sequence_worker

_PER_SEQUENCE = ("frames", "mask", "out")  # flags of `segment` that each sequence has its own of
# TensorFlow keeps some memory of every sequence, though nothing of it is in use: 13 MB on frames of
# 48x80. So a worker makes room for a fresh one, which takes ten seconds to start.
_SEQUENCES_PER_WORKER = 50

FLAGS = flags.FlagValues()
for _name in segment.FLAGS:
    if _name not in _PER_SEQUENCE:
        FLAGS[_name] = segment.FLAGS[_name]
_SHARED = tuple(FLAGS)

flags.DEFINE_string("davis", None, "DAVIS root.", flag_values=FLAGS)
flags.DEFINE_string(
    "split", None, "Name of a list in the DAVIS tree's ImageSets.", flag_values=FLAGS
)
flags.DEFINE_string("resolution", "480p", "Folder below JPEGImages.", flag_values=FLAGS)
flags.DEFINE_string(
    "list",
    None,
    "Text file with FRAMES MASK on each line, instead of a split. Relative paths start at --davis, "
    "without that where the list lies.",
    flag_values=FLAGS,
)
flags.DEFINE_list("sequences", [], "Sequences to segment, by comma; unset: all.", flag_values=FLAGS)
flags.DEFINE_string(
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


def main(args):
    """Flags -> work list, less what is whole -> workers -> results, lines and a table."""
    cli.require_positive(args, "timeout")
    index, count = _shard(args.shard)
    items = worklist.shard(_items(args), index, count)
    _require_networks(args)
    out = files.ensure_writable(args.out)
    log = worklist.results_path(out, index, count)
    arguments = _arguments(args)

    wanted, whole = _check_all(items, arguments, out)
    rows = _keep(whole, out, log)  # sequence -> its line of the table
    started = time.monotonic()
    with contextlib.closing(_run(args, wanted, arguments, out)) as outcomes:
        for outcome in outcomes:
            result = _result(outcome)
            worklist.append_result(log, result)
            rows[outcome.job.name] = result
            _stop_if_all_fail(rows)
    _print_table([rows[item.name] for item in items], time.monotonic() - started)
    failed = [row for row in rows.values() if row["status"] == "failed"]
    if failed:
        named = "; ".join(f"{row['sequence']} ({row['error'].splitlines()[0]})" for row in failed)
        raise cli.Unfinished(
            f"{len(failed)} of {len(items)} sequences failed: {named}. The others are whole; the "
            f"same command tries these again. More about them is in {log}."
        )


def run():
    """The console command."""
    cli.run(main, FLAGS, __doc__)


def _shard(text):
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise InputError(f"Wanted --shard=i/n with 0 <= i < n, such as 0/3. Got {text!r}.")
    return int(match[1]), int(match[2])


def _items(args):
    """Returns the work list of all shards."""
    if (args.split is None) == (args.list is None):
        raise InputError("Wanted sequences: either --davis=DIR --split=NAME or --list=FILE.")
    if args.list is not None:
        return _select(worklist.read_list(args.list, args.davis), args.sequences, args.list)
    if args.davis is None:
        raise InputError("--split wants --davis=DIR, the DAVIS root, as well.")
    return worklist.from_davis(
        davis.read_split(
            args.davis, args.split, resolution=args.resolution, sequences=args.sequences
        )
    )


def _select(items, names, source):
    unknown = sorted(set(names) - {item.name for item in items})
    if unknown:
        raise InputError(f"{source} has no sequence {', '.join(map(repr, unknown))}.")
    return tuple(item for item in items if not names or item.name in names)


def _require_networks(args):
    """Raises InputError where a model file is missing: that would fail each sequence alike."""
    for name in _SHARED:
        value = args[name].value
        if isinstance(value, str) and value.endswith(".keras") and not os.path.isfile(value):
            raise InputError(f"--{name}: no model file {value}.")


def _arguments(args):
    """Returns the flags that all sequences share, as arguments of `segment`."""
    texts = []
    for name in _SHARED:
        if args[name].value is not None:
            text = args[name].serialize()
            texts += text.split("\n") if isinstance(args[name], flags.MultiFlag) else [text]
    return texts


def _check_all(items, arguments, out):
    """Returns the items that are to be done, and those whose results are whole."""

    def find_fault(item):
        folder = out / item.name
        if not folder.exists():
            return ""
        args = sequence_worker.parse(item, arguments, folder)
        return worklist.find_fault(item, folder, sequence_worker.describe_inputs(args))

    wanted, whole = [], []
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    faults = threads.map(find_fault, items)
    try:
        with cli.Progress("Looking at what is there", len(items), "sequence") as progress:
            for item, fault in progress.over(zip(items, faults, strict=True)):
                (whole if fault is None else wanted).append(item)
                if fault:
                    _say(f"{item.name} is done again: {fault}")
    finally:
        threads.shutdown(cancel_futures=True)
    return wanted, whole


def _keep(items, out, log):
    """Returns the results of sequences that are whole; lines that were lost are added again."""
    noted = worklist.read_results(log)
    rows = {}
    for item in items:
        result = {"sequence": item.name, "status": "done"}
        result.update(sequence_worker.summary(out / item.name))
        if noted.get(item.name, {}).get("status") != "done":
            worklist.append_result(log, result)
        rows[item.name] = {**result, "status": "whole"}
    return rows


def _run(args, items, arguments, out):
    """Yields a `dispatch.Outcome` for each item."""
    if args.gpus and args.ray is None:
        raise InputError("--gpus goes with --ray. Without: CUDA_VISIBLE_DEVICES and --shard.")
    if not items:
        return
    worklist.remove_partial(out, items)
    job = {"arguments": arguments, "out": str(out)}
    if args.ray is None:
        engine = engines.Processes(args.workers or 1, args.cpus, job, args.timeout)
    else:
        engine = engines.RayActors(
            args.ray, args.workers, args.cpus or 1, args.gpus, job, args.timeout
        )

    def on_retry(item, reply):
        _say(f"{item.name} is tried again: {reply['error']}")

    slots = min(engine.slots, len(items))
    outcomes = dispatch.run(
        items,
        engine.start,
        slots,
        jobs_per_worker=_SEQUENCES_PER_WORKER,
        on_retry=on_retry,
    )
    try:
        with (
            contextlib.closing(outcomes),
            cli.Progress("Segmenting", len(items), "sequence") as progress,
        ):
            for outcome in outcomes:
                yield outcome
                failed = outcome.reply.get("error")
                if failed:
                    _say(f"{outcome.job.name} failed: {failed}")
                progress.advance(note=f"{outcome.job.name} {'failed' if failed else 'done'}")
    finally:
        engine.close()
        worklist.remove_partial(out, items)


def _result(outcome):
    """Returns what is noted of a sequence, for a line of JSON."""
    return {
        "sequence": outcome.job.name,
        "status": "failed" if outcome.reply.get("error") else "done",
        "attempts": outcome.attempts,
        "seconds": round(outcome.seconds, 1),
        **outcome.reply,
    }


def _stop_if_all_fail(rows):
    """Raises InputError if the first two sequences failed alike: the flags are to blame."""
    errors = {row.get("error") for row in rows.values()}
    if len(rows) == 2 and len(errors) == 1 and all(row.get("mistake") for row in rows.values()):
        raise InputError(f"{errors.pop()} (Both of the first two sequences failed with this.)")


def _print_table(rows, seconds):
    columns = ("status", "frames", "updates", "seconds", "attempts")
    width = max([len(row["sequence"]) for row in rows] + [len("sequence")])
    print(f"{'sequence':<{width}}", *(f"{name:>8}" for name in columns))
    for row in rows:
        print(f"{row['sequence']:<{width}}", *(f"{row.get(name, ''):>8}" for name in columns))
    done, whole, failed = (
        sum(row["status"] == status for row in rows) for status in ("done", "whole", "failed")
    )
    print(f"{done} done in {seconds:.0f} s, {whole} whole before, {failed} failed.")


def _say(message):
    tqdm.tqdm.write(message, file=sys.stderr)


if __name__ == "__main__":
    run()
