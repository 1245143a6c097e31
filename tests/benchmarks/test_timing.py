"""What the benchmarks share: bounds and turns."""

import pytest
from absl import flags
from absl.testing import flagsaver

from benchmarks import startup, timing
from benchmarks.timing import Spent


@pytest.fixture
def rounds():
    """Flags are parsed, `--rounds` is 3."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    with flagsaver.flagsaver(rounds=3):
        yield 3


def test_a_bounded_row_compares_best_with_best_and_turn_with_turn():
    works = [Spent(6.0, 10.0), Spent(4.0, 8.0), Spent(20.0, 9.0)]
    probes = [Spent(2.0, 3.0), Spent(1.0, 2.0), Spent(4.0, 2.5)]
    row = timing.bounded_row("work", works, probes, 2, batch_size=7)
    assert (row["what"], row["batch_size"], row["rounds"]) == ("work", 7, 3)
    assert (row["seconds"], row["bound_seconds"], row["fraction_of_bound"]) == (4.0, 2.0, 0.5)
    assert row["median_seconds"] == 6.0
    assert row["median_fraction"] == 0.5  # of 2/3, 1/2 and 2/5
    assert (row["cpu_seconds"], row["cpu_fraction"]) == (8.0, 0.5)


def test_turns_alternate_after_one_call_that_does_not_count(rounds):
    calls = []
    works, probes = timing.turns(
        lambda: calls.append("work"), timing.Probe(lambda: calls.append("probe"), 1)
    )
    assert calls == ["work", "probe"] * (rounds + 1)
    assert len(works) == len(probes) == rounds


def test_a_probe_copies_and_counts_what_it_moves():
    probe = timing.copy_probe(threads=2)
    probe.run()
    assert probe.amount == 2 * timing.COPIED


def test_start_up_times_every_installed_command():
    assert {"osvos_tf.commands.segment", "osvos_tf.commands.demo"} <= set(startup.commands())
