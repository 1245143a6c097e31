"""Times the predictor against the least time that its arithmetic takes at the machine's rate.

    python -m benchmarks.forward                  # about a minute on two quiet cores
    python -m benchmarks.forward --widths=0.5 --precisions=bfloat16 --batches=1,2,4,8

The bound is the network's count of operations (`benchmarks.cost`) at the rate of a large matrix
product of the same precision, measured in turns with it.
"""

import itertools

from absl import app, flags

from benchmarks import cost, timing
from osvos_tf.network import model
from osvos_tf.network.precision import PRECISIONS, with_precision

WIDTHS = flags.DEFINE_list("widths", ["1.0", "0.5"], "Width multipliers of the network.")
PRECISIONS = flags.DEFINE_list("precisions", list(PRECISIONS), "Compute types.")
BATCHES = flags.DEFINE_list("batches", ["1", "4"], "Frames of a call, or views of an update.")
SIZE = flags.DEFINE_list("size", [*map(str, timing.FRAME_SIZE)], "Height and width of a frame.")
flags.adopt_module_key_flags(timing)


def main(argv):
    """Prints one row a measurement."""
    del argv
    size = tuple(map(int, SIZE.value))
    rows = []
    for width, precision in itertools.product(map(float, WIDTHS.value), PRECISIONS.value):
        network = model.build_foreground(width_multiplier=width, start="scratch", seed=0)
        predictor = model.build_predictor(with_precision(network, precision))
        for batch in map(int, BATCHES.value):
            rows.append(measure(predictor, size, width, precision, batch))
            timing.show(rows[-1])
    timing.write(rows)


def measure(predictor, size, width, precision, batch):
    """Returns the row of one case."""
    frames = timing.frame(size)[None].repeat(batch, axis=0)
    probe = timing.matrix_probe(precision)
    settings = {"batch_size": batch, "width_multiplier": width}
    flops = cost.forward_flops(*size, **settings)
    return timing.bounded_row(
        f"forward, width {width:g}, {precision}, batch {batch}",
        *timing.turns(lambda: predictor.predict_on_batch(frames), probe),
        flops / probe.amount,
        flops=flops,
        size=size,
        precision=precision,
        **settings,
    )


if __name__ == "__main__":
    app.run(main)
