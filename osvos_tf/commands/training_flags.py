"""The flags of both training commands."""

import dataclasses
from typing import TYPE_CHECKING

from absl import flags

from osvos_tf.commands import help, shared_flags
from osvos_tf.errors import InputError
from osvos_tf.training import recipes

if TYPE_CHECKING:
    pass


@dataclasses.dataclass(frozen=True)
class Task:
    """What sets one command apart from the other."""

    network: str  # name of the function of `model` that builds it
    file: str  # what it leaves in the work folder
    recipes: dict[str, tuple[recipes.Stage, ...]]
    square: bool = False  # views as wide as high: the images stand and lie
    keeps_height: bool = True  # the network looks at frames at the height of its training views
    source: tuple[str, ...] = ()  # flags that name the data, where records are made here


def define_flags(flag_values: flags.FlagValues, task: Task) -> None:
    """Defines the flags that both commands have."""
    shared_flags.define_path(
        "workdir",
        None,
        "Folder for the model and checkpoints.",
        required=True,
        flag_values=flag_values,
    )
    shared_flags.define_path(
        "weights",
        "imagenet",
        "Where training starts: imagenet, random, full or compact (parents that come with the "
        "package), or a file: a .keras model of this package, or VGG16 as Keras (HDF5), TF-Slim "
        "(checkpoint), torchvision, Caffe or the authors (vgg_caffe.mat) have it.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "recipe",
        "paper",
        sorted(task.recipes),
        "paper: the authors' 50,000 updates from ImageNet weights. imagenet: from the same "
        "weights, in an hour on two cores. scratch: from random weights.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "updates", None, "Weight changes in all; unset: the recipe's own.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "height",
        None,
        "Height in pixels at which the network sees images in training; unset: the images' own "
        "(paper), or what the recipe says (imagenet, scratch)."
        + (" The model keeps it, and segment follows it." if task.keeps_height else ""),
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "width_multiplier", 1.0, "Factor on the channels of VGG16's trunk.", flag_values=flag_values
    )
    _define_running(flag_values)
    shared_flags.define_common(flag_values)


def _define_running(flag_values: flags.FlagValues) -> None:
    """Defines what does not decide over the network: what is kept, and on which devices."""
    flags.DEFINE_enum(
        "storage",
        "float32",
        ["float32", "float16", "packed"],
        "Type of the weights in the model's file; float16 halves it, packed makes it a quarter.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "checkpoint_seconds",
        60.0,
        "Least time between two checkpoints: what a killed run can lose at most. 0 keeps every "
        "update.",
        lower_bound=0.0,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "strategy",
        "auto",
        ["auto", "one", "mirrored", "multi_worker"],
        "Devices that share each update's views, which stay as many: one; mirrored, all GPUs of "
        "this machine; multi_worker, all machines that the environment variable TF_CONFIG lists, "
        "each with this same command and a --workdir that they share. auto: what there is.",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "skip_corrupt",
        False,
        "Leave damaged records out, and say which, instead of refusing the folder.",
        flag_values=flag_values,
    )


def groups(*source: str) -> help.Groups:
    """Returns the order of the flags in `--help`, after those that name the data."""
    return (
        ("What you need", (*source, "workdir", "recipe", "weights", "width_multiplier")),
        ("Training", ("updates", "height", "precision", "seed")),
        ("What is kept", ("checkpoint_seconds", "storage")),
        ("Damaged data, many devices", ("skip_corrupt", "strategy")),
    )


def check(args: flags.FlagValues) -> None:
    """Raises InputError where flags do not fit together."""
    shared_flags.require_positive(args, "updates", "height", "width_multiplier")
    if args.weights == "imagenet" and args.width_multiplier != 1.0:
        raise InputError(
            f"--weights=imagenet fits --width_multiplier=1 only, not {args.width_multiplier}. "
            "Train a narrower network with --weights=random --recipe=scratch."
        )
    if args.weights not in ("imagenet", "random") and args["width_multiplier"].present:
        raise InputError("--weights=FILE brings its own width: leave out --width_multiplier.")
