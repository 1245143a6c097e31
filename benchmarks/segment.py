"""Times the second half of `segment`, frames to masks, against bare calls of the predictor.

    python -m benchmarks.segment --davis=../shared/data/DAVIS --specialists=results \
        --out=runs/segment

Each sequence's specialist (`SPECIALISTS/<sequence>`, as `segment` leaves it) runs over all frames:
as bare calls on frames that lie ready in memory, and as `segment` does it, which reads, predicts,
snaps, and writes masks and overlay; of whole frames and following the object. The bound of a row is
the bare calls.
"""

import pathlib
from typing import Any

import numpy as np
from absl import app, flags

import osvos_tf
from benchmarks import timing
from osvos_tf import files
from osvos_tf.data import davis
from osvos_tf.media import visualize
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import write_mask
from osvos_tf.media.video_writer import write_video
from osvos_tf.network import model
from osvos_tf.network.precision import with_precision
from osvos_tf.parallel import parallel_map
from osvos_tf.segmentation import inference
from osvos_tf.segmentation.segmenter import SegmentedFrame, Segmenter

_DAVIS = flags.DEFINE_string("davis", None, "DAVIS root.", required=True)
_SPECIALISTS = flags.DEFINE_string("specialists", None, "Folder of results.", required=True)
_SPLIT = flags.DEFINE_string("split", "val", "Name of a list in ImageSets.")
_SEQUENCES = flags.DEFINE_list("sequences", [], "Sequences, by comma; unset: all of the split.")
_OUT = flags.DEFINE_string("out", None, "Folder for what segment writes.", required=True)
flags.adopt_module_key_flags(timing)

VARIANTS = {
    f"{'follow' if follow else 'whole frames'}, snap={snap}": {
        "follow": follow,
        "snap": snap,
        "adapt": False,
    }
    for snap in ("none", "bilateral")
    for follow in (False, True)
}
"""Name of a row -> options of segmentation."""
_BATCH = 4


def main(argv: list[str]) -> None:
    """Prints a row a variant, means over the sequences."""
    del argv
    sequences = davis.read_split(_DAVIS.value, _SPLIT.value, sequences=_SEQUENCES.value)
    bare = {sequence.name: bare_seconds(sequence) for sequence in sequences}
    rows = [timing.row("bare calls", float(np.mean(list(bare.values()))), sequences=len(bare))]
    timing.show(rows[0])
    for name, options in VARIANTS.items():
        runs = [measure(sequence, options) for sequence in sequences]
        seconds, j = (float(np.mean(values)) for values in zip(*runs, strict=True))
        rows.append(timing.row(name, seconds, rows[0]["seconds"], J=j, note=f"J {j:.4f}"))
        timing.show(rows[-1])
    timing.write(rows)


def bare_seconds(sequence: davis.Sequence) -> float:
    """Returns seconds a frame of the predictor alone, in batches on frames in memory."""
    network = with_precision(_load(sequence).network, "auto")
    predictor = model.build_predictor(network)
    frames = [frame for _, frame in open_frames(sequence.frames[0].image.parent)]
    batches = [np.stack(batch) for batch in inference.batched(frames, _BATCH)]

    def run() -> None:
        for batch in batches:
            predictor.predict_on_batch(batch)

    run()  # the first calls build the graph
    return timing.best_seconds(run, timing.ROUNDS.value) / len(frames)


def measure(sequence: davis.Sequence, changes: dict[str, Any]) -> tuple[float, float]:
    """Returns seconds a frame of the second half of `segment`, and J of its masks."""
    out = pathlib.Path(_OUT.value) / sequence.name
    masks = files.ensure_writable(out / "masks")
    frames = open_frames(sequence.frames[0].image.parent)
    options = osvos_tf.SegmentOptions(**changes)
    segmenter = Segmenter(_load(sequence), frames.size, options)

    def run() -> None:
        with write_video(out / "overlay.mp4", frames.size, frames.fps) as overlay:

            def write(frame: SegmentedFrame) -> None:
                mask = (frame.mask > 0).astype(np.uint8)
                write_mask(masks / f"{frame.name}.png", mask)
                overlay.write(visualize.overlay(frame.image, mask))

            for _ in parallel_map(write, segmenter.run(frames)):
                pass

    run()
    seconds = timing.best_seconds(run, timing.ROUNDS.value) / len(sequence.frames)
    return seconds, timing.mean_j(sequence, masks)


def _load(sequence: davis.Sequence) -> osvos_tf.Specialist:
    return osvos_tf.load(pathlib.Path(_SPECIALISTS.value) / sequence.name)


if __name__ == "__main__":
    app.run(main)
