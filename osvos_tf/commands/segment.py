r"""Segments objects through a video: learns them from one mask, then finds them in every frame.

    python -m pipelines.segment --frames=dog.mp4 --mask=dog_first_frame.png --out=results/dog

leaves in the output folder `masks/` (one PNG a frame), `overlay.mp4`, the specialist (the network
that knows them: `specialist.keras`, `specialist.json`, `annotations/`) and `run.json`
(versions, flags, times, losses, what was found in each frame). The folder appears when all of it is
there. Until then an earlier result stands; a run that was killed resumes from what it has learned.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from osvos_tf import results
from osvos_tf.commands import cli, progress_bar, shared_flags
from osvos_tf.jobs import video_job
from osvos_tf.progress import OnProgress, Progress
from osvos_tf.segmentation import options
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions
from osvos_tf.training import recipes

FLAGS = flags.FlagValues()
shared_flags.define_path(
    "frames", None, "Folder of images or a video file.", required=True, flag_values=FLAGS
)
shared_flags.define_paths(
    "mask",
    None,
    "Picture (PNG), or file of labelme, COCO, CVAT or Label Studio, that annotates the first "
    "frame; NAME:FILE annotates the frame called NAME. Repeatable: more frames, or more objects of "
    "one frame, which are 1, 2 and so on; later ones lie in front. A label map (a PNG with a "
    "palette) has all objects in one.",
    flag_values=FLAGS,
)
shared_flags.define_path(
    "specialist",
    None,
    "What knows the object already: a folder of earlier results, or a .keras file. Without --mask "
    "it is used as it is, also on another video; with --mask it learns further.",
    flag_values=FLAGS,
)
shared_flags.define_path(
    "from", None, "The same as --specialist, for corrections.", flag_values=FLAGS
)
flags.DEFINE_multi_integer(
    "object",
    None,
    "Id of an object to take from masks that are label maps; unset: all. Repeatable.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "mask_threshold",
    None,
    "For masks with shades, or saved as JPEG: the object is where their alpha, or else their "
    "brightness, is above this part of its range, such as 0.5.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
shared_flags.define_path(
    "parent",
    LearnOptions.parent,
    "The parent network: a .keras file; 'full' or 'compact', which come with the package; or "
    "'random' to learn from this mask alone.",
    flag_values=FLAGS,
)
shared_flags.define_path("out", None, "Folder for the results.", required=True, flag_values=FLAGS)
flags.DEFINE_enum(
    "recipe",
    LearnOptions.recipe,
    sorted(recipes.ONE_SHOTS),
    "imagenet: 100 updates by Adam, for parents of the imagenet recipe, such as full. scratch: "
    "150 at a higher rate, for those of the scratch recipe, such as compact. plain: scratch "
    "without what saves time. paper: the authors' 500 updates of SGD, for parents so trained. "
    "Unset: imagenet or scratch, as suits the parent.",
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
    LearnOptions.heads,
    options.HEADS,
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
    SegmentOptions.follow,
    "Look for the object around where it was in the frame before; in the whole frame where it is "
    "lost or touches the border of that window.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "adapt",
    SegmentOptions.adapt,
    "Let the video's later frames teach the network too: what it is sure of in every fifth. An "
    "object that turns or comes nearer is then found longer. It doubles the time or less.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "smooth",
    SegmentOptions.smooth,
    "Average each frame with those before and after it, along the motion: masks flicker less and "
    "bridge what is missed in single frames. It takes 0.01 s a frame.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "threshold",
    SegmentOptions.threshold,
    "Probability above which a pixel is the object.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "snap",
    SegmentOptions.snap,
    options.SNAPS,
    "Moves the mask's boundary to where the frame has one: bilateral to edges of brightness and "
    "colour, contour to the boundaries that the --contour network finds.",
    flag_values=FLAGS,
)
shared_flags.define_path(
    "contour", None, "The contour network, a .keras file, for --snap=contour.", flag_values=FLAGS
)
flags.DEFINE_float(
    "contour_threshold",
    SegmentOptions.contour_threshold,
    "Weakest contour that parts two superpixels. The default suits networks of train_contour's "
    "scratch recipe; 0.29 is the authors', for theirs.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "save",
    list(video_job.VideoJob.save),
    "What to make beside masks/, by comma. overlay: overlay.mp4, the object tinted. "
    "alpha: 16-bit PNGs, how much of each pixel is the object. foreground: the object on nothing, "
    "RGBA PNGs (straight); prores: the same as foreground.mov, ProRes 4444; webm: as "
    "foreground.webm, VP9. labels: PNGs with DAVIS's palette. probabilities: 8-bit PNGs. "
    "contact_sheet: frames in order and the doubtful ones. coco, cvat: coco.json and cvat.xml, for "
    "annotation tools.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "probabilities", False, "The same as probabilities in --save.", flag_values=FLAGS
)
shared_flags.define_overwrite(FLAGS)
shared_flags.define_common(FLAGS)
GROUPS = (
    ("What you need", ("frames", "mask", "out", "specialist", "budget", "parent", "overwrite")),
    ("Masks that are not plain", ("object", "mask_threshold")),
    ("What is written", ("save", "probabilities")),
    (
        "Learning",
        (
            "recipe",
            "updates",
            "until_learned",
            "heads",
            "height",
            "crop",
            "views",
            "frozen",
            "seed",
        ),
    ),
    ("Finding", ("follow", "adapt", "smooth", "threshold", "snap", "contour", "contour_threshold")),
    ("Computing", ("precision",)),
)

_FRAMEWISE = {"segment": "Segmenting", "save": "Writing"}


def main(args: flags.FlagValues) -> None:
    """Flags -> a job -> a folder of results -> words."""
    job = make_job(args)
    if job.find_fault() is None:
        print(f"{args.out} holds these results already, whole.")
        _tell_damage(results.read_record(args.out) or {})
        return
    with _watch(args.budget if args.updates is None else None) as on_progress:
        record = video_job.run(job, on_progress=on_progress, on_resume=print)
    seconds = record["seconds"]
    print(
        f"{record['frames']} masks in {args.out}/masks: {record['updates']} updates in "
        f"{seconds['training']:.0f} s, then {record['frames'] / seconds['inference']:.1f} frames a "
        "second."
    )
    for remark in record["remarks"]:
        print(remark)
    if record["doubtful"]:
        sure = record["found"]
        named = ", ".join(f"{name} ({sure[name]['confidence']:.0%})" for name in record["doubtful"])
        print(
            f"It is least sure in {named}. If a mask is wrong there, correct it and give it as "
            "well."
        )
    _tell_damage(record)


def _tell_damage(record: Mapping[str, Any]) -> None:
    """Raises Unfinished if the video could not be decoded as a whole."""
    if record.get("damage"):
        raise cli.Unfinished(record["damage"])


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__ or "", GROUPS)


def make_job(args: flags.FlagValues) -> video_job.VideoJob:
    """Returns what the flags ask for.

    Raises:
        InputError: they do not fit together.
    """
    return video_job.VideoJob(
        frames=args.frames,
        masks=tuple(args.mask or ()),
        specialist=args.specialist or args["from"].value,
        out=args.out,
        learn=shared_flags.read_options(LearnOptions, args),
        segment=shared_flags.read_options(SegmentOptions, args),
        save=read_kinds(args),
        overwrite=args.overwrite,
    )


def read_kinds(args: flags.FlagValues) -> tuple[str, ...]:
    """Returns what --save and --probabilities ask for."""
    return (*args.save, *(["probabilities"] if args.probabilities else []))


@contextlib.contextmanager
def _watch(budget: float | None) -> Iterator[OnProgress]:
    """Yields a callback that shows how far learning and then segmenting have come.

    Args:
        budget: seconds of training, if they end it.
    """
    with contextlib.ExitStack() as bars:
        shown: dict[str, progress_bar.Progress] = {}

        def show(progress: Progress) -> None:
            bar = shown.get(progress.what)
            if bar is None:
                bars.close()  # the bar before is complete
                if progress.what in _FRAMEWISE:
                    bar = progress_bar.Progress(_FRAMEWISE[progress.what], progress.total, "frame")
                elif budget is None:
                    bar = progress_bar.Progress("Learning the object", progress.total, "update")
                else:
                    bar = progress_bar.Progress("Learning the object", budget, "second")
                shown[progress.what] = bars.enter_context(bar)
            note = "" if progress.loss is None else f"loss {progress.loss:.4g}"
            done: float = progress.done
            if progress.what == "learn" and budget is not None:
                done = min(progress.seconds, budget)  # the last update may end after it
            bar.advance(note, to=done)

        yield show


if __name__ == "__main__":
    run()
