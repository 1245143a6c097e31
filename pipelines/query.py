r"""Segments a folder of frames or a video through a server.

    python -m pipelines.query --server=localhost:8500 --model=dog \
        --frames=dog.mp4 --out=results/dog

leaves in the output folder `masks/` (one PNG a frame, 0 and 255) and, written last, `run.json`
(flags, frames, seconds). The masks are those of `segment`, snapped as there; the server is
TensorFlow Serving or `osvos-serve`, by gRPC (`host:8500`) or by REST (`http://host:8501`). Snapping
wants probabilities, which REST carries as text: with a REST server, --snap=none is many times
faster, because then frames and masks travel as PNG.
"""

import collections
import time

import numpy as np
from absl import flags

import osvos_tf
from osvos_tf import files, inference, serving, video
from osvos_tf.errors import InputError
from pipelines import cli

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "server",
    None,
    "host:port of a gRPC server, http://host:port of a REST server, or saved_models/ here.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model", None, "The model's name on the server.", required=True, flag_values=FLAGS
)
flags.DEFINE_string(
    "frames", None, "Folder of images or a video file.", required=True, flag_values=FLAGS
)
flags.DEFINE_string("out", None, "Folder for the masks.", required=True, flag_values=FLAGS)
flags.DEFINE_enum(
    "snap",
    "bilateral",
    ["none", "bilateral"],
    "bilateral moves the masks' boundaries to edges of brightness and colour, here; none takes the "
    "server's masks as they come, by the threshold of the export.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "threshold",
    inference.DEFAULT_THRESHOLD,
    "Probability above which a pixel is the object, for --snap=bilateral.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_integer("batch_size", 4, "Frames in one request.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "in_flight", 4, "Requests under way at a time.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_float(
    "deadline",
    60.0,
    "Seconds that one request may take; a server that is unavailable is tried again till then.",
    flag_values=FLAGS,
)


def main(args):
    """Flags -> frames and server -> masks."""
    cli.require_positive(args, "deadline")
    frames = video.open_frames(args.frames)
    frames.check()
    if not args.server.startswith("http"):
        cli.import_tensorflow()
    try:
        output = "masks" if args.snap == "none" else "probabilities"
        with serving.connect(
            args.server, args.model, output=output, deadline=args.deadline
        ) as predict:
            out = files.ensure_writable(args.out)
            cli.clear_results(out, "masks")  # not before all that the user gave has proved good
            started = time.monotonic()
            count = _query(args, frames, predict, files.ensure_writable(out / "masks"))
    except serving.ServingError as error:
        raise InputError(str(error)) from error
    seconds = time.monotonic() - started
    record = {
        "versions": {"osvos_tf": osvos_tf.__version__},
        "flags": {name: args[name].value for name in sorted(args)},
        "frames": count,
        "size": list(frames.size),
        "seconds": {"inference": round(seconds, 3)},
    }
    cli.write_record(out, record)
    print(f"{count} masks in {out / 'masks'}: {count / seconds:.1f} frames a second.")


def run():
    """The console command."""
    cli.run(main, FLAGS, __doc__)


def _query(args, frames, predict, folder):
    """Writes the masks of all frames; returns their number."""
    under_way = collections.deque()  # batches of (name, frame)
    count = 0

    def batches():
        for batch in inference.batched(frames, args.batch_size):
            under_way.append(batch)
            yield np.stack([frame for _, frame in batch])

    with cli.Progress("Segmenting", frames.length, "frame") as progress:
        for predicted in serving.stream(predict, batches(), in_flight=args.in_flight):
            pairs = zip(under_way.popleft(), predicted[..., 0], strict=True)
            for (name, frame), result in progress.over(pairs):
                video.write_mask(folder / f"{name}.png", _decide(args, frame, result))
                count += 1
    return count


def _decide(args, frame, result):
    """Returns the mask for what the server answered."""
    if args.snap == "none":
        return result
    from osvos_tf import snapping  # half a second, which --help should not wait for

    return inference.to_mask(snapping.bilateral(result, frame), args.threshold)


if __name__ == "__main__":
    run()
