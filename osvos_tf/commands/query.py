r"""Segments a folder of frames or a video through a server.

    python -m pipelines.query --server=localhost:8500 --model=dog \
        --frames=dog.mp4 --out=results/dog

leaves in the output folder `masks/` (one PNG a frame, 0 and 255) and `run.json` (flags, frames,
seconds); the folder appears when all of it is there. The same command again asks the server only if
masks are missing, or with --overwrite. The masks are those of `segment`, snapped as there; the
server is TensorFlow Serving or `osvos-serve`, by gRPC (`host:8500`) or by REST
(`http://host:8501`). Snapping needs probabilities, which REST carries as text: with a REST server,
--snap=none is many times faster, because frames and masks then travel as PNG.
"""

import collections
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags

import osvos_tf
from osvos_tf import files, results, runtime
from osvos_tf.commands import cli, progress_bar, shared_flags
from osvos_tf.errors import InputError
from osvos_tf.media.frames import Frames, open_frames
from osvos_tf.media.masks import check_png, read_labels, write_labels, write_mask
from osvos_tf.network import DEFAULT_THRESHOLD
from osvos_tf.parallel import parallel_map
from osvos_tf.segmentation import colours, inference
from osvos_tf.serving import client
from osvos_tf.serving.client_base import ServingError

FLAGS = flags.FlagValues()
shared_flags.define_path(
    "server",
    None,
    "host:port of a gRPC server, http://host:port of a REST server, or saved_models/ here.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model", None, "The model's name on the server.", required=True, flag_values=FLAGS
)
shared_flags.define_path(
    "frames", None, "Folder of images or a video file.", required=True, flag_values=FLAGS
)
shared_flags.define_path("out", None, "Folder for the masks.", required=True, flag_values=FLAGS)
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
    DEFAULT_THRESHOLD,
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
shared_flags.define_overwrite(FLAGS)
GROUPS = (
    ("What you need", ("server", "model", "frames", "out", "snap", "overwrite")),
    ("What is object", ("threshold",)),
    ("Requests", ("batch_size", "in_flight", "deadline")),
)

_MASKS = "masks"


def main(args: flags.FlagValues) -> None:
    """Flags -> frames and server -> masks."""
    shared_flags.require_positive(args, "deadline")
    frames = open_frames(args.frames)
    frames.check()
    work = _work(args)
    inputs = [args.frames, *([args.server] if os.path.exists(args.server) else [])]
    results.require_place(args.out, work, overwrite=args.overwrite, inputs=inputs)
    if not args.overwrite and _is_whole(args.out, work, frames):
        print(f"{args.out} holds these masks already, whole. --overwrite asks the server again.")
        return
    if not args.server.startswith("http"):
        runtime.import_tensorflow()
    output = "masks" if args.snap == "none" else "probabilities"
    try:
        with (
            client.connect(
                args.server, args.model, output=output, deadline=args.deadline
            ) as predict,
            results.draft(args.out, work, overwrite=args.overwrite) as draft,
        ):
            draft.worth_keeping = False  # nor is what a killed run has left
            started = time.monotonic()
            folder = files.ensure_writable(draft.folder / _MASKS)
            for path in folder.iterdir():
                path.unlink()
            names = _query(args, frames, predict, folder)
            seconds = time.monotonic() - started
            draft.publish(
                {
                    "versions": {"osvos_tf": osvos_tf.__version__},
                    "flags": {name: args[name].value for name in sorted(args)},
                    "frames": len(names),
                    "names": names,
                    "size": list(frames.size),
                    "seconds": {"inference": round(seconds, 3)},
                }
            )
    except ServingError as error:
        raise InputError(str(error)) from error
    print(
        f"{len(names)} masks in {os.path.join(args.out, _MASKS)}: "
        f"{len(names) / seconds:.1f} frames a second."
    )
    if damage := frames.damage():
        raise cli.Unfinished(damage)


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__ or "", GROUPS)


def _work(args: flags.FlagValues) -> dict[str, Any]:
    """Returns what decides the masks, for `results.draft`."""
    is_local = os.path.exists(args.server)
    return {
        "command": "query",
        "server": os.path.realpath(args.server) if is_local else args.server,
        "model": args.model,
        "frames": os.path.realpath(args.frames),
        "snap": args.snap,
        "threshold": None if args.snap == "none" else args.threshold,
    }


def _is_whole(out: str, work: dict[str, Any], frames: Frames) -> bool:
    """Returns whether a folder holds the masks of this work, all of them intact."""
    record = results.read_record(out)
    if record is None or not results.is_finished(out, work):
        return False
    if os.path.isdir(work["frames"]) and record["names"] != frames.names:
        return False
    try:
        for name in record["names"]:
            check_png(pathlib.Path(out, _MASKS, f"{name}.png"), record["size"])
    except InputError:
        return False
    return True


def _query(
    args: flags.FlagValues,
    frames: Frames,
    predict: Callable[[np.ndarray], np.ndarray],
    folder: pathlib.Path,
) -> list[str]:
    """Writes the masks of all frames; returns the frames' names."""
    under_way: collections.deque[list[tuple[str, np.ndarray]]] = collections.deque()
    names = []
    has_ids = False  # whether there are several objects

    def batches() -> Iterator[np.ndarray]:
        for batch in inference.batched(frames, args.batch_size):
            under_way.append(batch)
            yield np.stack([frame for _, frame in batch])

    with progress_bar.Progress("Segmenting", frames.length, "frame") as progress:
        for predicted in parallel_map(
            predict, batches(), workers=args.in_flight, ahead=args.in_flight, wait=False
        ):
            for (name, frame), result in progress.over(
                zip(under_way.popleft(), predicted, strict=True)
            ):
                mask = _decide(args, frame, result)
                has_ids |= bool(mask.max() > 1)
                write = write_labels if has_ids else write_mask
                write(folder / f"{name}.png", mask)
                names.append(name)
    if has_ids:  # so have the frames before the first that shows it
        for name in names:
            labels, _ = read_labels(folder / f"{name}.png")
            write_labels(folder / f"{name}.png", labels)
    return names


def _decide(args: flags.FlagValues, frame: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Returns the mask for what the server answered, [height, width, channels]."""
    if result.shape[-1] > 1:
        raise InputError(
            f"This model knows {result.shape[-1]} objects, and only its masks say their ids: query "
            "it with --snap=none."
        )
    result = result[..., 0]
    if args.snap == "none":
        return result
    return inference.to_mask(colours.snap_to_colours(result, frame), args.threshold)


if __name__ == "__main__":
    run()
