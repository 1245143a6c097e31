"""Measures what this machine can do at best: the rates that bound the other benchmarks.

    python -m benchmarks.machine                  # ten seconds
    python -m benchmarks.machine --json=rows.json

A network's bound is the rate of large square matrix products, in float32 and in bfloat16; what
moves pixels is bounded by the rate of a large copy, whose bytes are counted once read and once
written.
"""

import os

from absl import app, flags

from benchmarks import timing
from osvos_tf.network.precision import PRECISIONS

flags.adopt_module_key_flags(timing)

_SIZES = (1024, 2048, 4096)  # rows and columns


def main(argv):
    """Prints one row a measurement."""
    del argv
    rows = []
    for precision in PRECISIONS:
        for size in _SIZES:
            what = f"product of {size} x {size}, {precision}"
            probe = timing.matrix_probe(precision, size)
            rows.append(_row(what, probe, "GFLOP/s", precision=precision, size=size))
    cores = os.cpu_count()
    for threads in sorted({1, cores}):
        what = f"copy of {timing.COPIED >> 20} MiB by {threads} thread{'s' * (threads > 1)}"
        rows.append(_row(what, timing.copy_probe(threads), "GB/s", threads=threads))
    timing.write(rows)


def _row(what, probe, unit, **settings):
    probe.run()
    spent = [timing.spent(probe.run) for _ in range(timing.ROUNDS.value)]
    seconds = sorted(each.seconds for each in spent)
    rate, median = probe.amount / seconds[0], probe.amount / seconds[len(seconds) // 2]
    cpu_rate = probe.amount / min(each.cpu_seconds for each in spent)
    return timing.show(
        timing.row(
            what,
            seconds[0],
            rate=rate,
            median_rate=median,
            rate_a_core=cpu_rate,
            cores=os.cpu_count(),
            note=f"{rate / 1e9:.0f} {unit} (median {median / 1e9:.0f}; "
            f"{cpu_rate / 1e9:.0f} a core by processor time)",
            **settings,
        )
    )


if __name__ == "__main__":
    app.run(main)
