"""Times the second half of `segment`, frames to masks, against bare calls of the predictor.

    python -m benchmarks.segment --davis=../shared/data/DAVIS --specialists=results \
        --out=runs/segment

Each sequence's specialist (`SPECIALISTS/<sequence>/specialist.keras`, as `segment` leaves it) runs
over all frames: as bare calls on frames that lie ready in memory, and as `segment` does it, which
reads, predicts, snaps, and writes masks and overlay; of whole frames and following the object. The
bound of a row is the bare calls.
"""

import pathlib

import numpy as np
from absl import app, flags

from benchmarks import timing
from osvos_tf import davis, inference, model, video
from pipelines import cli, segment

_DAVIS = flags.DEFINE_string("davis", None, "DAVIS root.", required=True)
_SPECIALISTS = flags.DEFINE_string("specialists", None, "Folder of results.", required=True)
_SPLIT = flags.DEFINE_string("split", "val", "Name of a list in ImageSets.")
_SEQUENCES = flags.DEFINE_list("sequences", [], "Sequences, by comma; unset: all of the split.")
_OUT = flags.DEFINE_string("out", None, "Folder for what segment writes.", required=True)
flags.adopt_module_key_flags(timing)

VARIANTS = {
    f"{'follow' if follow else 'whole frames'}, snap={snap}": [
        f"--follow={follow}",
        f"--snap={snap}",
    ]
    for snap in ("none", "bilateral")
    for follow in (False, True)
}
"""Name of a row -> flags of `segment`."""
_BATCH = 4


def main(argv):
    """Prints a row a variant, means over the sequences."""
    del argv
    sequences = davis.read_split(_DAVIS.value, _SPLIT.value, sequences=_SEQUENCES.value)
    bare = {sequence.name: bare_seconds(sequence) for sequence in sequences}
    rows = [timing.row("bare calls", float(np.mean(list(bare.values()))), sequences=len(bare))]
    timing.show(rows[0])
    for name, arguments in VARIANTS.items():
        runs = [measure(sequence, arguments) for sequence in sequences]
        seconds, j = (float(np.mean(values)) for values in zip(*runs, strict=True))
        rows.append(timing.row(name, seconds, rows[0]["seconds"], J=j, note=f"J {j:.4f}"))
        timing.show(rows[-1])
    timing.write(rows)


def bare_seconds(sequence):
    """Returns seconds a frame of the predictor alone, in batches on frames in memory."""
    predictor = model.build_predictor(_network(sequence))
    frames = [frame for _, frame in video.open_frames(sequence.frames[0].image.parent)]
    batches = [np.stack(batch) for batch in inference.batched(frames, _BATCH)]

    def run():
        for batch in batches:
            predictor.predict_on_batch(batch)

    run()  # the first calls build the graph
    return timing.best_seconds(run, timing.ROUNDS.value) / len(frames)


def measure(sequence, arguments):
    """Returns seconds a frame of the second half of `segment`, and J of its masks."""
    out = pathlib.Path(_OUT.value) / sequence.name
    first = sequence.frames[0]
    arguments = [f"--frames={first.image.parent}", f"--mask={first.mask}", *arguments]
    args = cli.parse(segment.FLAGS, [*arguments, f"--out={out}"])
    frames = video.open_frames(args.frames)
    predictor = model.build_predictor(_network(sequence), frame_height=frames.size[0])
    predict = model.any_size(predictor)
    annotated = {first.name: (frames.read(first.name), video.read_mask(first.mask))}

    def run():
        segment._segment(args, frames, predict, annotated, out)

    run()
    seconds = timing.best_seconds(run, timing.ROUNDS.value) / len(sequence.frames)
    return seconds, timing.mean_j(sequence, out / "masks")


def _network(sequence):
    path = pathlib.Path(_SPECIALISTS.value) / sequence.name / "specialist.keras"
    return model.with_precision(model.load_model(path), "auto")


if __name__ == "__main__":
    app.run(main)
