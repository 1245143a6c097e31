"""What `evaluate` leaves: scores by method and sequence, as tables and CSV files."""

import csv
import dataclasses
import io
import math

import numpy as np

from osvos_tf import metrics
from osvos_tf.files import atomic_path

MEASURES = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "T")


@dataclasses.dataclass(frozen=True)
class SequenceResult:
    """The scores of one method on one sequence.

    Attributes:
        sequence: its name.
        frames: names of the scored frames; DAVIS leaves out the first and the last.
        scores: J and F of these frames, and the sequence's T.
    """

    sequence: str
    frames: tuple[str, ...]
    scores: metrics.SequenceScores

    def measures(self):
        """Returns the seven values of `MEASURES`, as fractions."""
        return (
            *metrics.statistics(self.scores.J),
            *metrics.statistics(self.scores.F),
            self.scores.T,
        )


def summarise(results):
    """Returns a method's seven values: the plain means over its sequences.

    T is averaged over the benchmark's stable sequences where there are any among them, else over
    all, and leaves out sequences without a value.

    Args:
        results: sequence of `SequenceResult`.
    """
    rows = np.array([result.measures() for result in results], dtype=np.float64)
    stable = set().union(*metrics.STABLE_SEQUENCES.values())
    chosen = [result.sequence in stable for result in results]
    instabilities = rows[chosen if any(chosen) else slice(None), -1]
    known = instabilities[~np.isnan(instabilities)]
    return (*rows[:, :-1].mean(axis=0).tolist(), float(known.mean()) if known.size else math.nan)


def write_csv(out, results):
    """Writes `global.csv`, `per_sequence.csv` and `per_frame.csv`; values are fractions.

    Args:
        out: an existing folder.
        results: dict of method name -> list of `SequenceResult`.
    """
    tables = {
        "global.csv": (
            ("method", *MEASURES),
            [(method, *summarise(rows)) for method, rows in results.items()],
        ),
        "per_sequence.csv": (
            ("method", "sequence", *MEASURES),
            [(m, row.sequence, *row.measures()) for m, rows in results.items() for row in rows],
        ),
        "per_frame.csv": (
            ("method", "sequence", "frame", "J", "F"),
            [
                (method, row.sequence, *values)
                for method, rows in results.items()
                for row in rows
                for values in zip(row.frames, row.scores.J, row.scores.F, strict=True)
            ],
        ),
    }
    for name, (header, rows) in tables.items():
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)
        with atomic_path(out / name) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


def format_table(results):
    """Returns a table for the terminal: a line for each method and sequence, then the means."""
    width = max((len(row.sequence) for rows in results.values() for row in rows), default=0)
    width = max(width, len("mean")) + 2
    lines = []
    for method, rows in results.items():
        lines.append(f"{method}")
        lines.append("  " + " " * width + "".join(f"{name:>10}" for name in MEASURES))
        for name, values in (
            *((row.sequence, row.measures()) for row in rows),
            ("mean", summarise(rows)),
        ):
            lines.append(f"  {name:<{width}}" + "".join(f"{value:10.3f}" for value in values))
        lines.append("")
    return "\n".join(lines)


def _cell(value):
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value
