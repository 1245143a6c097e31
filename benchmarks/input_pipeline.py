"""Times conversion and views of records: do they keep the network waiting?

    python -m benchmarks.input_pipeline           # about four minutes on two quiet cores
    python -m benchmarks.input_pipeline --sequences=bear,dog-agility --json=rows.json

Takes DAVIS where it lies beside the project (`OSVOS_DATA` names the data folder, else
`../shared/data`), and paints a small one of the same frame size otherwise.

Conversion is compared with copying the same files: reading every JPEG and PNG, and writing the
bytes to one file a shard. A view is compared with decoding its frame without augmenting it, and
with the time that an update spends on it: an input pipeline should be 20 times as quick.
"""

import collections
import dataclasses
import functools
import itertools
import pathlib
import statistics
import tempfile

import tensorflow as tf
from absl import app, flags

from benchmarks import cost, timing, training_step
from osvos_tf import files
from osvos_tf.data import davis, input_pipeline, painted_world, tfrecord
from osvos_tf.data.tfrecord_writer import write_records
from osvos_tf.network import model
from osvos_tf.network.precision import choose_precision, with_precision
from osvos_tf.training import recipes

_SEQUENCES = flags.DEFINE_list("sequences", [], "Sequences of train, by comma; unset: all.")
_VIEWS = flags.DEFINE_integer("views", 128, "Views of a measurement.", lower_bound=8)
flags.adopt_module_key_flags(timing)
flags.set_default(timing.ROUNDS, 3)

_WIDTHS = {"paper": 1.0, "scratch": 0.5}  # of the networks that the recipes are meant for
_SHARDS = 8  # as davis_to_tfrecord's
_READY = 8  # elements that a dataset may hold finished, at most
_TARGET = 20  # views in the time that an update spends on one


def main(argv):
    """Prints one row a measurement."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sequences, source = _sequences(folder)
        rows = conversion_rows(sequences, folder)
        for recipe, width in _WIDTHS.items():
            for stage in _distinct(recipes.PARENTS[recipe]):
                rows += view_rows(folder / "records", stage, recipe, width)
    rows = [{**row, "data": source} for row in rows]
    timing.write(rows)


def conversion_rows(sequences, folder):
    """Converts the sequences to `folder`/records in turns with copying their files."""
    paths = [path for s in sequences for f in s.frames for path in (f.image, f.mask)]
    copy = timing.Probe(lambda: copy_files(paths, folder), len(paths))

    def convert():
        write_records(sequences, folder / "records", "train", shards=_SHARDS)

    conversions, copies = timing.turns(convert, copy)
    frames = len(paths) // 2
    row = timing.bounded_row("conversion to records", conversions, copies, 1, frames=frames)
    row["note"] = f"{frames} frames; bound: copying them, {row['bound_seconds']:.2f} s"
    return [timing.show(row)]


def copy_files(paths, folder):
    """Reads all files and writes their bytes to as many files as there are shards."""
    size = -(-len(paths) // _SHARDS)
    for number in range(_SHARDS):
        with files.atomic_path(folder / f"copy{number}") as temporary, open(temporary, "wb") as out:
            for path in paths[number * size : (number + 1) * size]:
                out.write(path.read_bytes())


def view_rows(records, stage, recipe, width):
    """Times a stage's views, in turns with decoding alone, and what an update spends on one."""
    dataset = input_pipeline.parent_dataset(
        records, stage.augmentation, batch_size=stage.batch_size, height=stage.height
    )
    views = iter(dataset)
    size = tuple(next(views)[0].shape[1:3]) if stage.height else None
    decoded = iter(
        tfrecord.read_records(records)
        .repeat()
        .map(functools.partial(tfrecord.parse, size=size), tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    batches = _VIEWS.value // stage.batch_size
    turns = range(timing.ROUNDS.value)
    spent = zip(
        *((_draw(views, batches), _draw(decoded, _VIEWS.value)) for _ in turns), strict=True
    )
    step = _seconds_of_a_view(stage, size, width)
    row = timing.bounded_row(
        f"{_VIEWS.value} views of {stage.name}, {recipe} recipe",
        *spent,
        1,
        views=_VIEWS.value,
        height=stage.height,
        width_multiplier=width,
        update_seconds_a_view=step,
    )
    seconds = row["median_seconds"] / _VIEWS.value
    row["times_as_quick_as_the_update"] = step / seconds
    row["note"] = (
        f"{1 / seconds:.0f} views a second, {step / seconds:.1f} times what an update takes "
        f"(wanted: {_TARGET}); bound: decoding"
    )
    return [timing.show(row)]


def _seconds_of_a_view(stage, size, width):
    """Returns the seconds that an update spends on a view of average size."""
    precision = choose_precision("auto")
    network = model.build_foreground(width_multiplier=width, start="scratch", seed=0)
    stage = dataclasses.replace(stage, accumulation=1)
    full = size or timing.FRAME_SIZE
    network, probe = with_precision(network, precision), timing.matrix_probe(precision)
    updates, _ = training_step.update_turns(network, stage, full, probe)
    seconds = statistics.median(each.seconds for each in updates) / stage.batch_size
    scales = stage.augmentation.scales or (1.0,)
    sizes = [[round(side * scale) for side in full] for scale in scales]
    mean = statistics.mean(cost.training_flops(*each) for each in sizes)
    return seconds * mean / cost.training_flops(*full)


def _draw(iterator, count):
    """Draws so many elements; returns what that took, once those that lay ready are used up."""
    for _ in itertools.islice(iterator, _READY):
        pass
    return timing.spent(lambda: collections.deque(itertools.islice(iterator, count), maxlen=0))


def _distinct(stages):
    """Leaves out the stages whose views are those of an earlier one."""
    found = {}
    for stage in stages:
        found.setdefault((stage.height, stage.batch_size, stage.augmentation), stage)
    return found.values()


def _sequences(folder):
    """Returns sequences to convert, and what they are."""
    root, source = timing.data_folder() / "DAVIS", "DAVIS-2016 train"
    if not root.is_dir():
        root, source = folder / "world", "painted"
        painted_world.paint_davis(root, train=4, val=0, frames=16, size=timing.FRAME_SIZE)
    return davis.read_split(root, "train", sequences=_SEQUENCES.value), source


if __name__ == "__main__":
    app.run(main)
