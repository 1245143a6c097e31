"""The whole journey on an invented world: paint, convert, train, segment, score. Four minutes.

    python -m pipelines.demo --out=demo

leaves a DAVIS tree (`world/`), `records/`, the parent network (`parent/`), masks and overlay
videos without and with one-shot training (`results/parent/`, `results/one-shot/`), the scores of
both (`evaluation/`) and a picture to look at first: `contact_sheet.png`.
"""

import time

import cv2
from absl import flags

from osvos_tf import davis, files, painter, video, visualize
from pipelines import cli, davis_to_tfrecord, evaluate, segment, train_parent

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", "demo", "Folder for everything.", flag_values=FLAGS)
cli.define_common(FLAGS, precision=False)

_TRAIN, _VAL, _FRAMES, _SIZE = 24, 4, 16, (96, 160)
_PARENT_UPDATES = 200  # from the compact parent, which knows photographs, to a painted world
_METHODS = {"parent": ["--updates=0"], "one-shot": ["--updates=150"]}  # method -> flags of segment
_SHEET_ZOOM = 2


def main(args):
    """Runs every stage as its own command would be run."""
    start = time.monotonic()
    out = files.ensure_writable(args.out)
    world = out / "world"
    painter.paint_davis(world, train=_TRAIN, val=_VAL, frames=_FRAMES, size=_SIZE, seed=args.seed)
    _run(davis_to_tfrecord, davis=world, split="train", out=out / "records")
    _run(
        train_parent,
        records=out / "records",
        workdir=out / "parent",
        weights="compact",
        recipe="scratch",
        height=_SIZE[0],
        updates=_PARENT_UPDATES,
        seed=args.seed,
    )
    sequences = davis.read_split(world, "val")
    for method, extra in _METHODS.items():
        for sequence in sequences:
            _run(
                segment,
                *extra,
                frames=sequence.frames[0].image.parent,
                mask=sequence.frames[0].mask,
                parent=out / "parent" / "parent.keras",
                out=out / "results" / method / sequence.name,
                seed=args.seed,
            )
    results = [f"--results={method}:{out / 'results' / method}" for method in _METHODS]
    _run(evaluate, *results, davis=world, split="val", out=out / "evaluation")
    sheet = out / "contact_sheet.png"
    _write_sheet(sheet, sequences, out / "results")
    print(
        f"Done in {time.monotonic() - start:.0f} s. The objects above were never seen in training: "
        "'parent' knows what objects are, 'one-shot' has learned this one from its first mask.\n"
        f"Look at {sheet} and at {out / 'results' / 'one-shot'}/*/overlay.mp4"
    )


def run():
    """The console command."""
    cli.run(main, FLAGS, __doc__)


def _run(pipeline, *arguments, **values):
    """Runs another command's `main`, on flags as a user would write them."""
    arguments = [*arguments, *(f"--{name}={value}" for name, value in values.items())]
    pipeline.main(cli.parse(pipeline.FLAGS, arguments))


def _write_sheet(path, sequences, results):
    """Rows: sequences. Columns: the mask that was given, then a late frame by each method."""
    rows = []
    for sequence in sequences:
        given, late = sequence.frames[0], sequence.frames[len(sequence.frames) * 3 // 4]
        pictures = [_overlay(given.image, given.mask)]
        for method in _METHODS:
            mask = results / method / sequence.name / "masks" / f"{late.name}.png"
            pictures.append(_overlay(late.image, mask))
        rows.append(pictures)
    sheet = visualize.contact_sheet(
        rows,
        row_labels=[sequence.name for sequence in sequences],
        column_labels=["the one mask", *_METHODS],
    )
    with files.atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), sheet[..., ::-1])


def _overlay(image, mask):
    frame = cv2.imread(str(image))[..., ::-1]
    mask = video.read_mask(mask)
    size = (frame.shape[1] * _SHEET_ZOOM, frame.shape[0] * _SHEET_ZOOM)
    frame = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
    return visualize.overlay(frame, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))


if __name__ == "__main__":
    run()
