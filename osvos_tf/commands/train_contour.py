r"""Trains the contour network: where one thing ends and another begins, in any picture.

    python -m pipelines.train_contour --bsds=BSDS500 --workdir=runs/contour \
        --recipe=scratch --weights=random --width_multiplier=0.5

leaves `contour.keras`, `records/`, `checkpoints/` and TensorBoard `summaries/` in the work folder.
A run that was stopped resumes from its last checkpoint when the same command is given again.
`segment --snap=contour --contour=contour.keras` uses it.
"""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from osvos_tf.commands import cli, progress_bar, shared_flags, training_command, training_flags
from osvos_tf.data import bsds, davis, label_maps
from osvos_tf.errors import InputError
from osvos_tf.training import recipes

if TYPE_CHECKING:
    import numpy as np

TASK = training_flags.Task(
    network="build_contour",
    file="contour.keras",
    recipes=recipes.CONTOURS,
    square=True,
    keeps_height=False,
    source=("bsds", "split", "label_maps", "images"),
)
FLAGS = flags.FlagValues()
shared_flags.define_path(
    "bsds", None, "BSDS500: the folder that holds images and groundTruth.", flag_values=FLAGS
)
flags.DEFINE_string("split", "train", "Split of BSDS500 to learn from.", flag_values=FLAGS)
shared_flags.define_path(
    "label_maps",
    None,
    "Instead: a folder of images and label maps (PNG, or .mat as PASCAL-Context has them), in "
    "images/ and labels/ or side by side. Contours are where two labels meet.",
    flag_values=FLAGS,
)
shared_flags.define_path(
    "images", None, "Folder of the images, where --label_maps holds maps only.", flag_values=FLAGS
)
training_flags.define_flags(FLAGS, TASK)

_SHARDS = 4


def main(args: flags.FlagValues) -> None:
    """Flags -> annotated images -> `training_command.train`."""
    sequence, read_contours = _source(args)

    def make_records(folder: pathlib.Path) -> None:
        from osvos_tf.data.tfrecord_writer import write_records

        count = len(sequence.frames)
        with progress_bar.Progress("Converting", total=count, unit="image") as progress:
            write_records(
                [sequence],
                folder,
                "contours",
                shards=min(_SHARDS, count),
                progress=progress.over,
                read_mask=read_contours,
            )

    training_command.train(args, TASK, make_records)


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__, training_flags.groups(*TASK.source))


def _source(
    args: flags.FlagValues,
) -> "tuple[davis.Sequence, Callable[[str], np.ndarray]]":
    """Returns the annotated images and the function that reads an annotation as contours."""
    if (args.bsds is None) == (args.label_maps is None):
        raise InputError("Give one of --bsds and --label_maps: what shall the network learn from?")
    if args.bsds is not None:
        return bsds.read_split(args.bsds, args.split), bsds.read_contours
    return label_maps.read_folder(args.label_maps, args.images), label_maps.read_contours


if __name__ == "__main__":
    run()
