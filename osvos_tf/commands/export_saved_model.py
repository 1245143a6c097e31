r"""Exports a network as a SavedModel that TensorFlow Serving runs.

    python -m pipelines.export_saved_model --model=results/dog/specialist.keras \
        --out=saved_models/dog

leaves the next version in `saved_models/dog/`, warm-up requests in it, and beside the model's
folder `models.config` (every model there), `batching.config` and `compose.yaml`. Serve it with
`docker compose up` in `saved_models/`, or with `osvos-serve` where there is no Docker. About 15
seconds, most of them for starting TensorFlow.
"""

import os
from typing import Any

from absl import flags

from osvos_tf import runtime
from osvos_tf.commands import cli, shared_flags
from osvos_tf.errors import InputError
from osvos_tf.network import DEFAULT_THRESHOLD, model_store

FLAGS = flags.FlagValues()
shared_flags.define_path(
    "model",
    None,
    "The network, a .keras file, or a specialist's folder. Ids of several objects come from there.",
    required=True,
    flag_values=FLAGS,
)
shared_flags.define_path(
    "out",
    None,
    "The model's folder, saved_models/NAME; clients ask for NAME.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "version", None, "The version's number; unset: the next free one.", flag_values=FLAGS
)
shared_flags.define_path(
    "contour",
    None,
    "A contour network, a .keras file: adds the output 'contours'.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "threshold",
    DEFAULT_THRESHOLD,
    "Probability above which a pixel is the object.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
GROUPS = (
    ("What you need", ("model", "out")),
    ("What is exported", ("version", "threshold", "contour")),
)


def main(args: flags.FlagValues) -> None:
    """Flags -> networks -> a version of the model."""
    runtime.import_tensorflow()
    from osvos_tf.network import saved_model

    model_store.check_folder(args.out, args.version)
    network, ids = _load_specialist(args.model)
    contour = None if args.contour is None else _load(args.contour, "contour")
    path = saved_model.export_saved_model(
        network,
        args.out,
        contour=contour,
        threshold=args.threshold,
        ids=ids,
        version=args.version,
    )
    megabytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    print(
        f"{path} ({megabytes:.0f} MB). Serve it: `docker compose up` in {path.parent.parent}, or\n"
        f"osvos-serve --model={path.parent.name}:{path.parent}"
    )


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__, GROUPS)


def _load_specialist(path: str) -> tuple[Any, tuple[int, ...] | None]:
    """Returns the foreground network, and its objects' ids where a specialist's folder says them.

    Args:
        path: a `.keras` file, which may lie in a specialist's folder, or that folder.
    """
    from osvos_tf.network.model import objects_of
    from osvos_tf.segmentation import specialist

    folder = path if os.path.isdir(path) else os.path.dirname(path)
    file = os.path.join(path, specialist.NETWORK) if os.path.isdir(path) else path
    network = _load(file, "foreground")
    is_known = os.path.basename(file) == specialist.NETWORK and os.path.isfile(
        os.path.join(folder, specialist.RECORD)
    )
    if objects_of(network) == 1 or not is_known:
        return network, None
    return network, tuple(specialist.load(folder or ".").objects)


def _load(path: str, kind: str) -> Any:
    """Loads a network and makes sure that it is not the other kind."""
    from osvos_tf.network.files import load_model

    network = load_model(path)
    if network.name in {"foreground", "contour"} - {kind}:
        raise InputError(
            f"Wanted a {kind} network, but {path} is a {network.name} network. "
            "--model takes the foreground network, --contour the contour network."
        )
    return network


if __name__ == "__main__":
    run()
