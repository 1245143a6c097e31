r"""Converts a split of a DAVIS tree to TFRecord shards, which is what training reads.

    python -m pipelines.davis_to_tfrecord --davis=DAVIS --split=train --out=records/train

leaves `train-00000-of-00008.tfrecord` and so on in the output folder, `manifest.json` and
`run.json` (versions, flags); the folder appears when all of it is there. Images keep the JPEG bytes
that they have, unless --height asks for smaller ones. Complete
records that are there already are made again only with --overwrite.
"""

import os
from typing import Any

from absl import flags

from osvos_tf import results, runtime
from osvos_tf.commands import cli, progress_bar, shared_flags
from osvos_tf.data import davis
from osvos_tf.errors import InputError

FLAGS = flags.FlagValues()
shared_flags.define_path(
    "davis",
    None,
    "DAVIS root: the folder that holds JPEGImages, Annotations and ImageSets.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "split",
    None,
    "Name of a list in ImageSets, such as train; 2017/train names its folder too.",
    required=True,
    flag_values=FLAGS,
)
shared_flags.define_path(
    "out", None, "Folder for the shards and the manifest.", required=True, flag_values=FLAGS
)
flags.DEFINE_string(
    "resolution", "480p", "Folder below JPEGImages and Annotations.", flag_values=FLAGS
)
flags.DEFINE_list(
    "sequences", None, "Sequences to convert, by comma; unset: all of the split.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "shards",
    None,
    "Number of files to deal the frames out to; unset: 8, or one a frame where there are fewer.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "height",
    None,
    "Height in pixels to resize frames and masks to; unset: as they are.",
    flag_values=FLAGS,
)

shared_flags.define_overwrite(FLAGS)
GROUPS = (
    ("What you need", ("davis", "split", "out", "overwrite")),
    ("Which frames", ("sequences", "resolution")),
    ("How they are kept", ("height", "shards")),
)
_SHARDS = 8  # about 20 MB each for DAVIS's training split


def main(args: flags.FlagValues) -> None:
    """Flags -> sequences -> `tfrecord_writer.write_records`."""
    shared_flags.require_positive(args, "shards", "height")
    sequences = davis.read_split(
        args.davis, args.split, resolution=args.resolution, sequences=args.sequences or ()
    )
    frames = sum(len(sequence.frames) for sequence in sequences)
    shards = min(_SHARDS, frames) if args.shards is None else args.shards
    work = {
        "command": "davis_to_tfrecord",
        "davis": os.path.realpath(args.davis),
        "split": args.split,
        "resolution": args.resolution,
        "sequences": [[sequence.name, len(sequence.frames)] for sequence in sequences],
        "shards": shards,
        "height": args.height,
    }
    results.require_place(args.out, work, overwrite=args.overwrite, inputs=[args.davis])
    tf = runtime.import_tensorflow()
    from osvos_tf.data.tfrecord_writer import write_records

    if not args.overwrite and _is_whole(args.out, work):
        print(f"{args.out} holds these records already, whole. --overwrite converts again.")
        return
    with (
        results.draft(args.out, work, overwrite=args.overwrite) as draft,
        progress_bar.Progress("Converting", total=frames) as progress,
    ):
        draft.worth_keeping = False  # nor is what a killed run has left
        manifest = write_records(
            sequences,
            draft.folder,
            args.split.replace("/", "-"),
            shards=shards,
            height=args.height,
            progress=progress.over,
        )
        draft.publish(
            {
                "versions": runtime.versions(tf),
                "flags": {name: args[name].value for name in sorted(args)},
            }
        )
    size = sum(shard["bytes"] for shard in manifest["shards"])
    print(
        f"Wrote {frames} frames of {len(sequences)} sequences in {len(manifest['shards'])} shards, "
        f"{size / 1e6:.1f} MB, to {args.out}"
    )


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__, GROUPS)


def _is_whole(out: str, work: dict[str, Any]) -> bool:
    """Returns whether a folder holds the records of this work, each shard of the right size."""
    from osvos_tf.data import tfrecord

    try:
        return results.is_finished(out, work) and bool(tfrecord.read_manifest(out))
    except InputError:
        return False


if __name__ == "__main__":
    run()
