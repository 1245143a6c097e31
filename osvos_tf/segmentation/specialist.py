"""The main job: learn objects from a mask or a few, then find them in every frame of a video.

    video = osvos_tf.open_video("dog.mp4")
    dog = osvos_tf.learn(video, {0: "dog_first_frame.png"})
    for frame in dog.segment(video):
        frame.mask  # uint8 [height, width]

A `Specialist` is a value: nothing changes one, `correct` gives another. On the disk it is a folder:

    dog/specialist.keras             the network that knows the objects
    dog/specialist.json              options, objects, names of the annotated frames, losses
    dog/annotations/00000.mask.png   an annotated frame's mask, 0 background, ids, 255 void
    dog/annotations/00000.frame.png  and its pixels
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import keras
import numpy as np
from PIL import Image

from osvos_tf import files, results, runtime
from osvos_tf.errors import InputError
from osvos_tf.media.frames import Frames, open_video
from osvos_tf.media.images import describe_size, read_image
from osvos_tf.media.masks import VOID, ids_in
from osvos_tf.network import DEFAULT_THRESHOLD, model
from osvos_tf.network.files import save_model
from osvos_tf.progress import OnProgress
from osvos_tf.segmentation import annotations as annotated
from osvos_tf.segmentation import learning
from osvos_tf.segmentation.annotations import Annotation, Masks
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions, with_changes
from osvos_tf.segmentation.segmenter import SegmentedFrame, Segmenter, load_contour

NETWORK = "specialist.keras"
RECORD = "specialist.json"
ANNOTATIONS = "annotations"

Source = str | os.PathLike[str] | np.ndarray | Frames

# Of the first training's updates, those that a correction takes: it begins with what is known.
_CORRECTION = 1 / 3


@dataclasses.dataclass(frozen=True, eq=False)
class Specialist:
    """A network that knows one object, or several; of `learn` or `load`.

    Attributes:
        network: the foreground network, float32. It is not to be trained: a copy is.
        annotations: the frames that it has learned from.
        options: how it has learned.
        objects: id -> name.
        losses: (update, loss) pairs of its last training.
        seconds: of its last training.
    """

    network: keras.Model
    annotations: tuple[Annotation, ...] = ()
    options: LearnOptions = dataclasses.field(default_factory=LearnOptions)
    objects: Mapping[int, str] = dataclasses.field(default_factory=lambda: {1: "object 1"})
    losses: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0

    def segment(
        self,
        video: Source,
        *,
        options: SegmentOptions | None = None,
        on_progress: OnProgress | None = None,
        **changes: Any,
    ) -> Iterator[SegmentedFrame]:
        """Finds the objects in every frame, one after another: memory does not grow with the video.

        Args:
            video: what `osvos_tf.open_video` takes. It need not be the one learned from.
            options: how; None: the defaults.
            on_progress: called with a `Progress` after each frame.
            changes: options by their names, such as `snap="none"`.

        Returns:
            An iterator of `SegmentedFrame`. Mistakes in the arguments are raised by this call.

        Raises:
            InputError: the video cannot be read, or the options do not fit.
        """
        frames = _open(video)
        segmenter = Segmenter(self, frames.size, with_changes(SegmentOptions, options, changes))
        return segmenter.run(frames, on_progress)

    def correct(
        self,
        video: Source,
        masks: Mapping[int | str, Masks],
        *,
        on_progress: OnProgress | None = None,
        **changes: Any,
    ) -> "Specialist":
        """Learns further, from masks of more frames together with those that it knows.

        Args:
            video: where the frames are.
            masks: as for `learn`; they replace what was given for the same frames.
            on_progress: as for `learn`.
            changes: options by their names. All others are this specialist's own, but for
                `updates`, or `budget` where that ends training: a third of its own.

        Returns:
            A new specialist; this one stays as it is.

        Raises:
            InputError: as for `learn`; the frames are of another size than those it knows; or a
                mask shows other objects.
        """
        options = with_changes(LearnOptions, self.options, changes)
        if not {"updates", "budget"} & set(changes):
            options = _for_correction(options)
        given = annotated.read_annotations(
            _open(video, masks),
            masks,
            options.object,
            options.mask_threshold,
            tuple(self.objects),
        )
        kept = [
            known for known in self.annotations if not any(known.shows(*new[:2]) for new in given)
        ]
        if kept and kept[0].frame.shape != given[0].frame.shape:
            raise InputError(
                f"The frames known so far are {describe_size(kept[0].frame.shape)}, "
                f"these are {describe_size(given[0].frame.shape)}. Correct frames of "
                "one size."
            )
        annotations = (*kept, *given)
        learned = learning.train(
            self.network, annotations, tuple(self.objects), options, on_progress
        )
        return dataclasses.replace(
            self,
            network=learned.network,
            annotations=annotations,
            losses=learned.losses,
            seconds=learned.seconds,
        )

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the specialist to a folder, whole or not at all.

        Args:
            folder: for `osvos_tf.load`.
            overwrite: replace finished results that lie there.

        Raises:
            InputError: the folder holds something else, or cannot be written.
        """
        work = {"command": "save", "specialist": self._digest()}
        with results.draft(folder, work, overwrite=overwrite) as draft:
            self.write(draft.folder)
            draft.publish({"versions": runtime.versions(runtime.import_tensorflow())})

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        contour: str | os.PathLike[str] | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        version: int | None = None,
    ) -> pathlib.Path:
        """Writes the next version of a model that TensorFlow Serving runs.

        Args:
            folder: `saved_models/NAME`; NAME is what clients ask for.
            contour: a contour network, a `.keras` file, which adds the output `contours`.
            threshold: a pixel is the object where its probability is above this.
            version: its number; None takes the next free one.

        Returns:
            The version's folder.

        Raises:
            InputError: see `saved_model.export_saved_model`.
        """
        from osvos_tf.network import saved_model  # its messages are of the extra "serving"

        return saved_model.export_saved_model(
            self.network,
            folder,
            ids=tuple(self.objects),
            contour=None if contour is None else load_contour(contour),
            threshold=threshold,
            version=version,
        )

    def write(self, folder: pathlib.Path) -> None:
        """Writes the specialist's files into a folder that is being made, the network last."""
        place = files.ensure_writable(folder / ANNOTATIONS)
        for number, known in enumerate(self.annotations):
            for kind, pixels in (("mask", known.mask), ("frame", known.frame[..., ::-1])):
                with files.atomic_path(place / f"{number:05d}.{kind}.png") as temporary:
                    temporary.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        record = {
            "options": dataclasses.asdict(self.options),
            "objects": {str(number): name for number, name in self.objects.items()},
            "annotations": [known.name for known in self.annotations],
            "losses": self.losses,
            "seconds": self.seconds,
        }
        files.write_json(folder / RECORD, record)
        save_model(self.network, folder / NETWORK)

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for array in self.network.get_weights():
            digest.update(array.tobytes())
        for known in self.annotations:
            digest.update(known.mask.tobytes())
        return digest.hexdigest()


def learn(
    video: Source,
    masks: Mapping[int | str, Masks],
    *,
    options: LearnOptions | None = None,
    on_progress: OnProgress | None = None,
    **changes: Any,
) -> Specialist:
    """Learns an object, or several, from masks in one frame, or in a few.

        dog = osvos_tf.learn("dog.mp4", {0: "dog_first_frame.png"}, budget=30)
        both = osvos_tf.learn("dog.mp4", {0: ["dog.png", "cat.png"]})

    Args:
        video: what `osvos_tf.open_video` takes.
        masks: frame -> mask. A frame is its position (int) or its name (str); a mask is what
            `masks.read_labels` takes, of the frame's size. Several objects are a label map with
            their ids, or a list of masks: objects 1, 2 and so on, of which later ones lie in front.
        options: how; None: the defaults.
        on_progress: called with a `Progress` after each update. What it raises ends the training.
        changes: options by their names, such as `updates=300`.

    Returns:
        A `Specialist`.

    Raises:
        InputError: the video, a mask or the parent network cannot be read, a mask does not fit its
            frame or shows nothing to learn, it is not clear which object it shows, or the options
            do not fit.
        FloatingPointError: the loss is not finite, see `loop.train`.
    """
    chosen = with_changes(LearnOptions, options, changes)
    given = annotated.read_annotations(
        _open(video, masks), masks, chosen.object, chosen.mask_threshold
    )
    return learn_from(given, chosen, on_progress)


def learn_from(
    annotations: tuple[Annotation, ...],
    options: LearnOptions,
    on_progress: OnProgress | None = None,
) -> Specialist:
    """Learns objects from annotated frames that were read, see `learn`."""
    ids = sorted(set().union(*(ids_in(known.mask) for known in annotations)))
    parent = learning.parent(options, annotations[0].frame.shape[0], len(ids))
    learned = learning.train(parent, annotations, ids, options, on_progress)
    names = {number: f"object {number}" for number in ids}
    return Specialist(learned.network, annotations, options, names, learned.losses, learned.seconds)


def load(path: str | os.PathLike[str]) -> Specialist:
    """Loads a specialist.

    Args:
        path: a folder that `Specialist.save` or `segment` has left, or a `.keras` file.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = pathlib.Path(os.path.expanduser(path))
    if not path.is_dir():
        network = learning.load_foreground(path)
        ids = range(1, model.objects_of(network) + 1)
        return Specialist(network, objects={number: f"object {number}" for number in ids})
    if not (path / NETWORK).is_file():
        raise InputError(
            f"No {NETWORK} in '{path}'. Wanted a folder written by segment or Specialist.save, "
            "or a .keras file."
        )
    try:
        record: Any = files.read_json(path / RECORD)
        names = {int(number): str(name) for number, name in record["objects"].items()}
        network = learning.load_foreground(path / NETWORK)
        if len(names) != model.objects_of(network) or not all(0 < n < VOID for n in names):
            raise ValueError(
                f"wanted {model.objects_of(network)} objects, 1 to {VOID - 1}, got {sorted(names)}"
            )
        annotations = tuple(
            Annotation(
                str(name),
                read_image(path / ANNOTATIONS / f"{number:05d}.frame.png"),
                _labels(path / ANNOTATIONS / f"{number:05d}.mask.png", tuple(names)),
            )
            for number, name in enumerate(record["annotations"])
        )
        return Specialist(
            network,
            annotations,
            LearnOptions(**record["options"]),
            names,
            tuple((int(update), float(loss)) for update, loss in record["losses"]),
            float(record["seconds"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The specialist in '{path}' is damaged: {error}. Learn the object again, or load its "
            f"{NETWORK} alone."
        ) from error


def _open(source: Source, masks: Mapping[int | str, Masks] | None = None) -> Frames:
    """Opens a video; masks that lie among its frames are none of them."""
    frames = open_video(source)
    if isinstance(masks, Mapping):
        given = [
            mask
            for value in masks.values()
            for mask in (value if isinstance(value, (list, tuple)) else (value,))
        ]
        frames = frames.without(mask for mask in given if isinstance(mask, (str, os.PathLike)))
    frames.check()
    return frames


def _for_correction(options: LearnOptions) -> LearnOptions:
    """Returns how a specialist that has learned by these options learns further."""
    if options.updates is None and options.budget is not None:
        return dataclasses.replace(options, budget=_CORRECTION * options.budget)
    updates = max(1, round(_CORRECTION * options.stage().updates))
    return dataclasses.replace(options, updates=updates, budget=None)


def _labels(path: pathlib.Path, ids: tuple[int, ...]) -> np.ndarray:
    """Returns a stored label map; ValueError if it shows other objects."""
    with Image.open(path) as image:
        labels = np.array(image)
    if len(ids) == 1:  # up to version 0.1 the only object was 1, whatever its id
        return np.where((labels > 0) & (labels < VOID), ids[0], labels).astype(np.uint8)
    if strangers := set(ids_in(labels)) - set(ids):
        raise ValueError(f"{path.name} shows objects {sorted(strangers)}, wanted {list(ids)}")
    return labels
