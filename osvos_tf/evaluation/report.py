"""Scores by method and sequence: their means, the tables, the CSV files and the worst frames.

The HTML page that shows them is `report_page`.
"""

import contextlib
import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from osvos_tf.evaluation import metrics
from osvos_tf.files import atomic_path

MEASURES = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "T")


@dataclasses.dataclass(frozen=True)
class SequenceResult:
    """The scores of one method on one sequence, or on one object of it.

    Attributes:
        sequence: its name.
        frames: names of the scored frames.
        scores: J and F of these frames, and the sequence's T.
        expected: names of all frames that DAVIS scores: all but the first and the last.
        object: the object's id, where several are scored one by one as DAVIS-2017 does.
    """

    sequence: str
    frames: tuple[str, ...]
    scores: metrics.SequenceScores
    expected: tuple[str, ...]
    object: int | None = None

    @property
    def name(self) -> str:
        """What a table calls it."""
        return self.sequence if self.object is None else f"{self.sequence}, object {self.object}"

    @property
    def remark(self) -> str:
        """What a table must say about a partial result; empty where all frames are scored."""
        frames, expected = len(self.frames), len(self.expected)
        return "" if frames == expected else f"partial: {frames} of {expected} frames"

    def measures(self) -> tuple[float, ...]:
        """Returns the seven values of `MEASURES`, as fractions."""
        return (
            *metrics.statistics(self.scores.J),
            *metrics.statistics(self.scores.F),
            self.scores.T,
        )


Results = Mapping[str, Sequence[SequenceResult]]  # by method


def summarise(results: Sequence[SequenceResult]) -> tuple[float, ...]:
    """Returns a method's seven values: the plain means over its sequences, or their objects.

    T is averaged over the benchmark's stable sequences where there are any among them, else over
    all, and leaves out sequences without a value.

    Args:
        results: sequence of `SequenceResult`.
    """
    rows = np.array([result.measures() for result in results], dtype=np.float64)
    counting = sequences_in_T(results)
    instabilities = rows[[result.sequence in counting for result in results], -1]
    known = instabilities[~np.isnan(instabilities)]
    return (*rows[:, :-1].mean(axis=0).tolist(), float(known.mean()) if known.size else math.nan)


def sequences_in_T(results: Iterable[SequenceResult]) -> set[str]:
    """Returns the names of the sequences that count towards a method's T."""
    names = {result.sequence for result in results}
    return names & set().union(*metrics.STABLE_SEQUENCES.values()) or names


def left_out(results: Iterable[SequenceResult], sequences: Iterable[str]) -> list[str]:
    """Returns which of the `sequences` a method has no result for, in their order."""
    scored = {result.sequence for result in results}
    return [name for name in sequences if name not in scored]


def names_of(results: Results, sequences: Iterable[str]) -> list[str]:
    """Returns what tables call the results of all methods, in order of the sequences."""
    rows = [row for method in results.values() for row in method]
    found = {name: [row for row in rows if row.sequence == name] for name in sequences}
    return [
        label
        for name, same in found.items()
        for label in dict.fromkeys(
            row.name for row in sorted(same, key=lambda row: row.object or 0)
        )
        or [name]
    ]


def worst_frames(
    results: Results, count: int = 8, per_sequence: int = 2
) -> list[tuple[str, SequenceResult, int]]:
    """Chooses the frames that are worth a look: the lowest J over all methods.

    Of one sequence there are at most `per_sequence`, and of one method in it they are at least an
    eighth of the sequence apart: neighbours look alike. Perfect frames (J = 1) are never chosen.

    Args:
        results: dict of method name -> list of `SequenceResult`.
        count: how many frames at most.
        per_sequence: how many of one sequence at most.

    Returns:
        A list of (method, `SequenceResult`, index into its `frames`), the worst first.
    """
    ranked = sorted(
        (
            (method, result, index)
            for method, rows in results.items()
            for result in rows
            for index in np.flatnonzero(result.scores.J < 1).tolist()
        ),
        key=lambda choice: (choice[1].scores.J[choice[2]], choice[1].scores.F[choice[2]]),
    )
    chosen: list[tuple[str, SequenceResult, int]] = []
    for method, result, index in ranked:
        place = result.expected.index(result.frames[index])
        same = [other for other in chosen if other[1].sequence == result.sequence]
        near = any(
            other == method
            and abs(row.expected.index(row.frames[i]) - place) < len(row.expected) / 8
            for other, row, i in same
        )
        if len(same) < per_sequence and not near:
            chosen.append((method, result, index))
        if len(chosen) == count:
            break
    return chosen


def csv_tables(results: Results) -> dict[str, str]:
    """Returns file name -> text of `global.csv`, `per_sequence.csv` and `per_frame.csv`.

    Values are fractions; a cell is empty where there is no value, as for T of a partial result. A
    column for the object is there if objects are scored one by one.

    Args:
        results: dict of method name -> list of `SequenceResult`.
    """
    by_object = any(row.object is not None for rows in results.values() for row in rows)
    behind = ("object",) if by_object else ()

    def place(row: SequenceResult) -> tuple[object, ...]:
        return row.sequence, *([row.object] if by_object else [])

    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[object]]]] = {
        "global.csv": (
            ("method", *MEASURES),
            [(method, *summarise(rows)) for method, rows in results.items()],
        ),
        "per_sequence.csv": (
            ("method", "sequence", *behind, *MEASURES),
            [(m, *place(row), *row.measures()) for m, rows in results.items() for row in rows],
        ),
        "per_frame.csv": (
            ("method", "sequence", *behind, "frame", "J", "F"),
            [
                (method, *place(row), *values)
                for method, rows in results.items()
                for row in rows
                for values in zip(row.frames, row.scores.J, row.scores.F, strict=True)
            ],
        ),
    }
    return {name: _csv(header, rows) for name, (header, rows) in tables.items()}


def write(out: pathlib.Path, texts: dict[str, str]) -> None:
    """Writes text files together: none of them changes before all are on the disk.

    Args:
        out: an existing folder.
        texts: dict of file name -> text. The last one takes its place last.
    """
    with contextlib.ExitStack() as stack:
        for name in reversed(texts):  # the stack is left in the opposite order
            temporary = stack.enter_context(atomic_path(out / name))
            temporary.write_text(texts[name], encoding="utf-8", newline="\n")


def format_table(results: Results, sequences: Iterable[str] = ()) -> str:
    """Returns a table for the terminal: a line for each method and sequence, then the means.

    Args:
        results: dict of method name -> list of `SequenceResult`.
        sequences: names of all sequences that were asked for; those without a result are listed.
    """
    width = max((len(row.name) for rows in results.values() for row in rows), default=0)
    width = max(width, len("mean")) + 2
    lines = []
    for method, rows in results.items():
        lines.append(f"{method}")
        lines.append("  " + " " * width + "".join(f"{name:>10}" for name in MEASURES))
        for name, values, remark in (
            *((row.name, row.measures(), row.remark) for row in rows),
            ("mean", summarise(rows), ""),
        ):
            cells = "".join(f"{'-' if math.isnan(v) else format(v, '.3f'):>10}" for v in values)
            lines.append(f"  {name:<{width}}{cells}  {remark}".rstrip())
        if absent := left_out(rows, sequences):
            lines.append(f"  left out, no results: {', '.join(absent)}")
        lines.append("")
    return "\n".join(lines)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value
