r"""Segments one object through a video: learns it from one mask, then finds it in every frame.

    python -m pipelines.segment --frames=dog.mp4 --mask=dog_first_frame.png \
        --parent=parent.keras --out=results/dog

leaves in the output folder `masks/` (one PNG a frame), `overlay.mp4`, `specialist.keras` (the
network that knows this object) and, written last, `run.json` (versions, flags, times, losses).
"""

import dataclasses
import pathlib
import time

import numpy as np
from absl import flags

from osvos_tf import files, inference, recipes, video, visualize
from osvos_tf.errors import InputError
from pipelines import cli

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "frames", None, "Folder of images or a video file.", required=True, flag_values=FLAGS
)
flags.DEFINE_multi_string(
    "mask",
    None,
    "PNG that annotates the first frame; NAME:PNG annotates the frame called NAME. Repeatable.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "object", None, "Object id to take from a palette mask; unset: all.", flag_values=FLAGS
)
flags.DEFINE_string(
    "parent",
    "compact",
    "The parent network: a .keras file, 'compact' for the small one that comes with the package, "
    "or 'random' to learn from this mask alone.",
    flag_values=FLAGS,
)
flags.DEFINE_string("out", None, "Folder for the results.", required=True, flag_values=FLAGS)
flags.DEFINE_enum(
    "recipe",
    "scratch",
    sorted(recipes.ONE_SHOTS),
    "scratch: Adam and a mean loss, for parents of the scratch recipe, such as compact. plain: the "
    "same without what saves time. paper: the authors' 500 updates of SGD, for parents so trained.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "updates", None, "Weight changes; 0 uses the parent as it is. Unset: the recipe's own.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
    "budget",
    None,
    "Seconds to train for at most; without --updates their number has no limit then.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "until_learned",
    None,
    "Stop training once the loss on held-out views of the annotated frames falls no more. Unset: "
    "as the recipe says.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "heads",
    "fused",
    ["fused", "all"],
    "Outputs that are trained: the fused one, or the four side outputs as well.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "height",
    None,
    "Height in pixels at which the network looks at frames; unset: as the parent was trained.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "crop",
    None,
    "Part of the frame's height and width that training views cover, around the object; 1 is the "
    "whole frame. Unset: the recipe's own.",
    lower_bound=0.1,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "views",
    None,
    "Augmented views of the annotated frames that are made once and used again; 0 makes new ones "
    "all the time. Unset: the recipe's own.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "frozen",
    None,
    "Blocks of the trunk (0 to 4) that stay as the parent has them; what they compute is kept for "
    "all --views, about 4 MB a view of 240x427 and unit of width. Unset: the recipe's own.",
    lower_bound=0,
    upper_bound=4,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "follow",
    True,
    "Look for the object around where it was in the frame before; in the whole frame where it is "
    "lost or touches the border of that window.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "threshold",
    inference.DEFAULT_THRESHOLD,
    "Probability above which a pixel is the object.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "snap",
    "bilateral",
    ["none", "contour", "bilateral"],
    "Moves the mask's boundary to where the frame has one: bilateral to edges of brightness and "
    "colour, contour to the boundaries that the --contour network finds.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "contour", None, "The contour network, a .keras file, for --snap=contour.", flag_values=FLAGS
)
flags.DEFINE_float(
    "contour_threshold",
    0.1,
    "Weakest contour that parts two superpixels. The default suits networks of train_contour's "
    "scratch recipe; 0.29 is the authors', for theirs.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "probabilities", False, "Also write probabilities/ (8-bit PNGs).", flag_values=FLAGS
)
cli.define_common(FLAGS)

# A network without a parent is half as wide as VGG16: with one mask there is little to learn from.
_RANDOM_WIDTH = 0.5
_RANDOM_HEIGHT = 240
# Updates when seconds are what is limited.
_UNLIMITED = 1_000_000


def main(args):
    """Flags -> frames, annotations, network -> training -> masks."""
    stage = _stage(args)
    frames = video.open_frames(args.frames)
    frames.check()
    annotated = _annotations(args, frames)
    out = files.ensure_writable(args.out)

    tf = cli.import_tensorflow()
    from osvos_tf import model

    network = model.with_precision(_parent(args, frames, model), args.precision)
    if args.height is not None:
        network.get_layer("preprocess").working_height = args.height
    contour = _contour(args, model)
    cli.clear_results(
        out, "masks", "probabilities"
    )  # not before all that the user gave has proved good
    started = time.monotonic()
    history = _train(args, network, stage, annotated)
    trained = time.monotonic()
    model.save_model(model.with_precision(network, "float32"), out / "specialist.keras")
    height = frames.size[0]
    if contour is None:
        predictor = model.build_predictor(network, frame_height=height)
    else:
        predictor = model.build_two_stream(network, contour, frame_height=height)
    count = _segment(args, frames, model.any_size(predictor), annotated, out)
    finished = time.monotonic()

    record = {
        "versions": cli.versions(tf),
        "flags": {name: args[name].value for name in sorted(args)},
        "frames": count,
        "size": list(frames.size),
        "updates": history.updates,
        "losses": [[update, round(loss, 6)] for update, loss in history.losses],
        "seconds": {
            "training": round(trained - started, 3),
            "inference": round(finished - trained, 3),
        },
    }
    cli.write_record(out, record)
    print(
        f"{count} masks in {out / 'masks'}: {history.updates} updates in "
        f"{history.seconds:.0f} s, then {count / (finished - trained):.1f} frames a second."
    )


def run():
    """The console command."""
    cli.run(main, FLAGS, __doc__)


def _stage(args):
    """Returns the one-shot stage that the flags ask for, once they have proved to fit."""
    cli.require_positive(args, "budget", "height")
    if (args.snap == "contour") != (args.contour is not None):
        raise InputError(
            "--snap=contour and --contour=FILE go together: the file is the contour network, made "
            f"by train_contour. Got --snap={args.snap} and --contour={args.contour}."
        )
    if args.updates is not None and args.updates < 0:
        raise InputError(f"--updates must be 0 or more. Received: {args.updates}.")
    if args.updates == 0 and args.parent == "random":
        raise InputError("--parent=random with --updates=0 has learned nothing. Train it.")
    stage = recipes.ONE_SHOTS[args.recipe]
    if args.updates is not None:
        (stage,) = recipes.with_updates((stage,), args.updates)
    elif args.budget is not None:
        stage = dataclasses.replace(stage, updates=_UNLIMITED)
    changes = {"side_weight": 1.0} if args.heads == "all" else {}
    if args.views is not None:
        changes["views"] = args.views or None
    if args.frozen is not None:
        changes["frozen"] = args.frozen
    if args.until_learned is not None:
        changes["until_learned"] = args.until_learned
    if args.crop is not None:
        changes["augmentation"] = dataclasses.replace(stage.augmentation, crop=args.crop)
    if changes.get("frozen", stage.frozen) and changes.get("views", stage.views) is None:
        raise InputError(
            "--frozen needs --views: what frozen blocks compute is kept for each view."
        )
    return dataclasses.replace(stage, **changes)


def _annotations(args, frames):
    """Returns (frame, mask) by frame name, uint8 [height, width, 3] and [height, width]."""
    annotated = {}
    for value in args.mask:
        name, _, path = value.rpartition(":")
        # A plain path may hold a colon itself; a frame's name is what tells the two forms apart.
        if not name or pathlib.Path(value).is_file():
            name, path = frames.first()[0], value
        if name in annotated:
            raise InputError(f"Two --mask flags annotate frame {name!r}. Give each frame one.")
        image = frames.read(name)
        mask = video.read_mask(path, object_id=args.object)
        _check_mask(mask, path, image, name)
        annotated[name] = image, mask
    return annotated


def _check_mask(mask, path, image, name):
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"Mask {path} is {mask.shape[1]}x{mask.shape[0]}, frame {name!r} is "
            f"{image.shape[1]}x{image.shape[0]} (width x height). Draw it at the frame's size."
        )
    for value, what in ((1, "object"), (0, "background")):
        if not (mask == value).any():
            raise InputError(
                f"Mask {path} has no {what} pixel, so there is nothing to learn. Wanted 255 on "
                "the object and 0 elsewhere."
            )


def _parent(args, frames, model):
    if args.parent == "compact":
        return model.load_model(files.COMPACT_PARENT)
    if args.parent != "random":
        return model.load_model(args.parent)
    network = model.build_foreground(
        width_multiplier=_RANDOM_WIDTH, start="scratch", seed=args.seed
    )
    network.get_layer("preprocess").working_height = min(_RANDOM_HEIGHT, frames.size[0])
    return network


def _contour(args, model):
    """Returns the contour network, None where masks are not snapped to contours."""
    if args.contour is None:
        return None
    network = model.load_model(args.contour)
    if network.name != "contour":
        raise InputError(
            f"--contour={args.contour} holds a {network.name} network. Wanted one of train_contour."
        )
    return model.with_precision(network, args.precision)


def _train(args, network, stage, annotated):
    from osvos_tf import one_shot

    images, masks = map(np.stack, zip(*annotated.values(), strict=True))
    with (
        cli.Progress("Learning the object", stage.updates, "update") as progress,
        cli.finishing() as stop,
    ):
        return one_shot.learn(
            network,
            images,
            masks,
            stage,
            budget=args.budget,
            seed=args.seed,
            stop=stop,
            on_update=lambda update, loss: progress.advance(note=f"loss {loss:.4g}"),
        )


def _segment(args, frames, predict, annotated, out):
    """Writes masks and overlay of all frames; returns their number."""
    masks = files.ensure_writable(out / "masks")
    probabilities = files.ensure_writable(out / "probabilities") if args.probabilities else None
    with (
        video.VideoWriter(out / "overlay.mp4", frames.size, frames.fps) as overlay,
        cli.Progress("Segmenting", frames.length, "frame") as progress,
    ):

        def finish(result):
            name, frame, window, predicted = result
            probability, mask = (
                window.fill(part, frame.shape[:2])
                for part in _decide(args, window.cut(frame), predicted)
            )
            video.write_mask(masks / f"{name}.png", mask)
            if probabilities is not None:
                video.write_probability(probabilities / f"{name}.png", probability)
            overlay.write(visualize.overlay(frame, mask))

        predictions = _predictions(args, frames, predict, annotated)
        return sum(1 for _ in progress.over(inference.map_beside(finish, predictions)))


def _predictions(args, frames, predict, annotated):
    """Yields (name, frame, window, prediction in the window) of all frames."""

    def is_object(predicted):
        probability = predicted["probabilities"] if isinstance(predicted, dict) else predicted
        return probability > args.threshold

    images = inference.read_ahead(frames)
    if args.follow:
        _, mask = annotated.get(frames.first()[0], (None, None))
        yield from inference.follow_object(images, predict, is_object, mask=mask)
    else:
        for name, frame, predicted in inference.predict_frames(images, predict):
            yield name, frame, inference.Window(0, 0, *frame.shape[:2]), predicted


def _decide(args, frame, predicted):
    """Returns a frame's probability and mask, snapped as the flags say."""
    if args.snap == "none":
        return predicted, inference.to_mask(predicted, args.threshold)
    from osvos_tf import snapping  # half a second, which --help should not wait for

    if args.snap == "contour":
        mask = inference.to_mask(predicted["probabilities"], args.threshold)
        labels = snapping.superpixels(snapping.ucm(predicted["contours"]), args.contour_threshold)
        return predicted["probabilities"], snapping.majority_vote(mask, labels)
    predicted = snapping.bilateral(predicted, frame)
    return predicted, inference.to_mask(predicted, args.threshold)


if __name__ == "__main__":
    run()
