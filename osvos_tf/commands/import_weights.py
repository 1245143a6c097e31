r"""Imports a network that the authors of OSVOS released: parent, specialist or contour network.

    python -m pipelines.import_weights --source=OSVOS_parent/OSVOS_parent.ckpt-50000 \
        --out=parent.keras

reads the files of their TensorFlow version (a checkpoint by its prefix, or the dict of arrays in
an .npy file), PyTorch version (.pth) or Caffe version (.caffemodel), without any of the three.
Use the result with `segment --recipe=paper`. About ten seconds, most of them for starting
TensorFlow. Another file of that name is replaced only with --overwrite.
"""

import filecmp
import os
import pathlib
import tempfile
from typing import Any

from absl import flags

from osvos_tf import files, places, runtime
from osvos_tf.commands import cli, shared_flags
from osvos_tf.errors import InputError

FLAGS = flags.FlagValues()
shared_flags.define_path(
    "source",
    None,
    "The released file; a TensorFlow checkpoint by its prefix.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "format",
    "auto",
    ["auto", "tf", "pytorch", "caffe"],
    "Which of the authors' versions wrote it; auto: its content tells.",
    flag_values=FLAGS,
)
shared_flags.define_path("out", None, "The model, a .keras file.", required=True, flag_values=FLAGS)
flags.DEFINE_boolean(
    "overwrite", False, "Replace another network, or whatever else --out is.", flag_values=FLAGS
)
GROUPS = (("What you need", ("source", "out", "overwrite")),)


def main(args: flags.FlagValues) -> None:
    """Flags -> `weights.import_network` -> the model's file."""
    out = pathlib.Path(args.out)
    if out.suffix != ".keras" or out.is_dir():
        raise InputError(f"Wanted a .keras file for the model, got --out={args.out}.")

    if os.path.realpath(out) == os.path.realpath(args.source):
        raise InputError(f"--out={args.out} is --source itself. Name another file.")
    files.ensure_writable(out.parent)
    with places.lock(out.with_name(f".{out.name}.lock"), out):
        runtime.import_tensorflow()
        from osvos_tf.network.files import save_model
        from osvos_tf.network.weights.loading import import_network

        network = import_network(args.source, args.format)
        what = f"a {network.name} network, crop {network.get_layer('fused').crop!r}"
        if out.exists() and not args.overwrite:
            if not _is_same(out, network):
                raise InputError(
                    f"{out} exists and is not this network ({what}). Name another file, or replace "
                    "it with --overwrite."
                )
            print(f"{out} holds this network already: {what}.")
            return
        save_model(network, out)
    print(f"Wrote {out}: {what}.")


def _is_same(path: pathlib.Path, network: Any) -> bool:
    """Returns whether a file is what would be written: a network always has the same bytes."""
    from osvos_tf.network.files import save_model

    with tempfile.TemporaryDirectory() as folder:
        written = pathlib.Path(folder, path.name)
        save_model(network, written)
        return filecmp.cmp(path, written, shallow=False)


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__, GROUPS)


if __name__ == "__main__":
    run()
