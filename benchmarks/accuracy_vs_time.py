"""Measures what one-shot training gives for its time: mean J against seconds a sequence.

    python -m benchmarks.accuracy_vs_time --davis=../shared/data/DAVIS --out=runs/curve \
        --json=curve.json --svg=docs/accuracy_vs_time.svg

Does the job of `segment` in many variants (`VARIANTS`) on every sequence, and scores the masks as
the benchmark does: first and last frame left out, mean over frames, then over sequences. Seconds
are those of `run.json`, training and all frames. `plain` is the paper's way: 500 float32 updates of
whole frames, all outputs trained. Results in `--out` are kept and not made again, so that a long
measurement can be broken off; give another folder, or remove it, to measure again.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import timing
from osvos_tf import LearnOptions, SegmentOptions
from osvos_tf.data import davis
from osvos_tf.jobs import video_job

_DAVIS = flags.DEFINE_string("davis", None, "DAVIS root.", required=True)
_PARENT = flags.DEFINE_string("parent", "compact", "The parent network.")
_SPLIT = flags.DEFINE_string("split", "val", "Name of a list in ImageSets.")
_SEQUENCES = flags.DEFINE_list("sequences", [], "Sequences, by comma; unset: all of the split.")
_VARIANTS = flags.DEFINE_list("variants", [], "Variants, by comma; unset: all.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results of segment.", required=True)
_SVG = flags.DEFINE_string("svg", None, "File to draw the curve to.")
flags.adopt_module_key_flags(timing)

_PLAIN = {"recipe": "plain", "height": 480}
_WHOLE = {"follow": False}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "parent only": ({"updates": 0}, {}),
    **{f"{n} updates": ({"updates": n, "until_learned": False}, {}) for n in (25, 50, 100, 200)},
    "default": ({}, {}),
    "default float32": ({"precision": "float32"}, {"precision": "float32"}),
    "default whole frames": ({}, _WHOLE),
    "plain bfloat16": (
        {**_PLAIN, "precision": "bfloat16"},
        {**_WHOLE, "precision": "bfloat16"},
    ),
    "plain": ({**_PLAIN, "precision": "float32"}, {**_WHOLE, "precision": "float32"}),
}
"""Name of a variant -> options of learning, options of segmentation."""
_CURVE = re.compile(r"parent only|\d+ updates|default")  # names of what lies on the line


def main(argv: list[str]) -> None:
    """Prints a row a variant."""
    del argv
    sequences = davis.read_split(_DAVIS.value, _SPLIT.value, sequences=_SEQUENCES.value)
    rows = []
    print(f"{'variant':24}{'J':>8}{'seconds':>9}{'training':>10}{'updates':>9}{'frames/s':>10}")
    for name in _VARIANTS.value or VARIANTS:
        runs = [measure(name, sequence) for sequence in sequences]
        means = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        learn, segment = VARIANTS[name]
        options = {"learn": learn, "segment": segment}
        rows.append({"what": name, **means, "sequences": len(runs), "options": options})
        print(
            f"{name:24}{means['J']:8.4f}{means['seconds']:9.1f}{means['training_seconds']:10.1f}"
            f"{means['updates']:9.0f}{means['frames_per_second']:10.1f}",
            flush=True,
        )
    timing.write(rows)
    if _SVG.value:
        pathlib.Path(_SVG.value).write_text(draw(rows))


def measure(name: str, sequence: davis.Sequence) -> dict[str, float]:
    """Segments a sequence unless that is done; returns J and seconds."""
    out = pathlib.Path(_OUT.value) / name.replace(" ", "_") / sequence.name
    learn, segment = VARIANTS[name]
    job = video_job.VideoJob(
        frames=str(sequence.frames[0].image.parent),
        masks=(str(sequence.frames[0].mask),),
        out=str(out),
        learn=LearnOptions(parent=_PARENT.value, **learn),
        segment=SegmentOptions(**segment),
    )
    record = video_job.run(job)
    training, inference = record["seconds"]["training"], record["seconds"]["inference"]
    return {
        "J": timing.mean_j(sequence, out / "masks"),
        "seconds": training + inference,
        "training_seconds": training,
        "updates": record["updates"],
        "frames_per_second": record["frames"] / inference,
    }


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """Returns an SVG picture of J over seconds, the latter on a logarithmic axis."""
    width, height, left, bottom = 720, 420, 60, 50
    seconds = np.array([row["seconds"] for row in rows])
    low, high = np.floor(np.log10(seconds.min())), np.ceil(np.log10(seconds.max()))
    floor = np.floor(10 * min(row["J"] for row in rows)) / 10
    ceiling = np.ceil(10 * max(row["J"] for row in rows)) / 10

    def place(row: dict[str, Any]) -> tuple[float, float]:
        x = left + (np.log10(row["seconds"]) - low) / (high - low) * (width - left - 20)
        y = height - bottom - (row["J"] - floor) / (ceiling - floor) * (height - bottom - 20)
        return x, y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for value in np.arange(floor, ceiling + 0.01, 0.05):
        _, y = place({"seconds": 10**low, "J": value})
        parts.append(f'<path d="M{left} {y:.1f}H{width - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for power in np.arange(low, high + 1):
        for step in (1, 2, 5) if power < high else (1,):
            x, _ = place({"seconds": step * 10**power, "J": floor})
            parts.append(f'<path d="M{x:.1f} 20V{height - bottom}" stroke="#eee"/>')
            label = f"{step * 10**power:g}"
            parts.append(
                f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{label}</text>'
            )
    parts.append(f'<text x="{left}" y="14">mean J</text>')
    parts.append(
        f'<text x="{width - 20}" y="{height - 10}" text-anchor="end">seconds a sequence</text>'
    )
    line = sorted(place(row) for row in rows if _CURVE.fullmatch(row["what"]))
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
    parts.append(f'<path d="M{path}" fill="none" stroke="#0072b2" stroke-width="2"/>')
    for row in rows:
        x, y = place(row)
        colour = "#0072b2" if _CURVE.fullmatch(row["what"]) else "#d55e00"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 7:.1f}" y="{y - 6:.1f}">{row["what"]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    app.run(main)
