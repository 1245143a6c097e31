"""Times an update of the training loop against the least time that its arithmetic takes.

    python -m benchmarks.training_step            # about three minutes on two quiet cores
    python -m benchmarks.training_step --widths=0.5 --batches=2 --size=240,427

An update is what `loop.train` does for the one-shot stage on one batch: forward pass, gradients
and Adam's change of the weights; `sides` takes the loss of the side outputs too. Bound and turns
are those of `benchmarks.forward`.
"""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import cost, forward, timing
from osvos_tf.network import model
from osvos_tf.network.precision import with_precision
from osvos_tf.training import loop, recipes

for module in (forward, timing):
    flags.adopt_module_key_flags(module)
flags.set_default(forward.BATCHES, ["1"])


def main(argv):
    """Prints one row a measurement."""
    del argv
    size = tuple(map(int, forward.SIZE.value))
    rows = []
    widths = map(float, forward.WIDTHS.value)
    for width, precision in itertools.product(widths, forward.PRECISIONS.value):
        network = model.build_foreground(width_multiplier=width, start="scratch", seed=0)
        network = with_precision(network, precision)
        for batch, sides in itertools.product(map(int, forward.BATCHES.value), (False, True)):
            rows.append(measure(network, size, width, precision, batch, sides))
            timing.show(rows[-1])
    timing.write(rows)


def measure(network, size, width, precision, batch, sides):
    """Returns the row of one case."""
    stage = dataclasses.replace(recipes.ONE_SHOT_SCRATCH, batch_size=batch, side_weight=0.5 * sides)
    probe = timing.matrix_probe(precision)
    settings = {"batch_size": batch, "width_multiplier": width, "sides": sides}
    flops = cost.training_flops(*size, **settings)
    return timing.bounded_row(
        f"update, width {width:g}, {precision}, batch {batch}{', sides' * sides}",
        *update_turns(network, stage, size, probe),
        flops / probe.amount,
        flops=flops,
        size=size,
        precision=precision,
        **settings,
    )


def update_turns(network, stage, size, probe):
    """Trains on an invented batch, in `--rounds` turns with a probe.

    Args:
        network: changed in place.
        stage: a `recipes.Stage`.
        size: (height, width) of the views.
        probe: a `timing.Probe`.

    Returns:
        (updates, probes): a `timing.Spent` a turn, of both, after one that does not count.
    """
    image, mask = timing.frame(size).astype(np.float32), timing.disk(size)[..., None]
    views = tf.data.Dataset.from_tensors((image, mask)).repeat().batch(stage.batch_size).prefetch(2)
    updates, probes = [], []
    watch = timing.Stopwatch()

    def on_update(update, loss):
        updates.append(watch.read())
        probes.append(timing.spent(probe.run))
        watch.restart()

    stage = dataclasses.replace(stage, first_update=0, updates=timing.ROUNDS.value + 1)
    loop.train(network, views, stage, on_update=on_update)
    return updates[1:], probes[1:]


if __name__ == "__main__":
    app.run(main)
