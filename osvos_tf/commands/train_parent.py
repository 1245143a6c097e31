r"""Trains the parent network: what an object is, before any video is known.

    python -m pipelines.train_parent --records=records/train --workdir=runs/parent \
        --recipe=scratch --weights=random --width_multiplier=0.5

leaves `parent.keras`, `checkpoints/` and TensorBoard `summaries/` in the work folder. A run that
was stopped resumes from its last checkpoint when the same command is given again.
"""

from absl import flags

from osvos_tf.commands import cli, shared_flags, training_command, training_flags
from osvos_tf.training import recipes

TASK = training_flags.Task(network="build_foreground", file="parent.keras", recipes=recipes.PARENTS)
FLAGS = flags.FlagValues()
shared_flags.define_path(
    "records", None, "Folder made by davis_to_tfrecord.", required=True, flag_values=FLAGS
)
training_flags.define_flags(FLAGS, TASK)


def main(args: flags.FlagValues) -> None:
    """Flags -> `offline.train`."""
    training_command.train(args, TASK)


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__, training_flags.groups("records"))


if __name__ == "__main__":
    run()
