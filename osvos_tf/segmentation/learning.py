"""From a parent network and annotated frames to the network of a specialist."""

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np

from osvos_tf.errors import InputError
from osvos_tf.network import DEFAULT_THRESHOLD, model
from osvos_tf.network.files import load_model
from osvos_tf.network.parents import PARENTS
from osvos_tf.network.precision import with_precision
from osvos_tf.progress import OnProgress, Progress
from osvos_tf.segmentation import inference, objects
from osvos_tf.segmentation.annotations import Annotation
from osvos_tf.segmentation.options import LearnOptions
from osvos_tf.training import one_shot

# A network without a parent is half as wide as VGG16: with one mask there is little to learn from.
_RANDOM_WIDTH = 0.5
_RANDOM_HEIGHT = 240


class Learned(NamedTuple):
    """What a training gives: the network, float32, (update, loss) pairs, and its seconds."""

    network: keras.Model
    losses: tuple[tuple[int, float], ...]
    seconds: float


def load_foreground(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a foreground network from a `.keras` file; InputError if it is none."""
    network = load_model(path)
    if network.name == "contour":
        raise InputError(f"'{path}' holds a contour network. Wanted a foreground network.")
    return network


def parent(options: LearnOptions, frame_height: int, count: int) -> keras.Model:
    """Returns the network that training starts from, for a number of objects."""
    if options.parent in PARENTS:
        network = load_model(PARENTS[options.parent])
    elif options.parent != "random":
        network = load_foreground(os.path.expanduser(options.parent))
    else:
        network = model.build_foreground(
            width_multiplier=_RANDOM_WIDTH, start="scratch", seed=options.seed
        )
        network.get_layer("preprocess").working_height = min(_RANDOM_HEIGHT, frame_height)
    known = model.objects_of(network)
    if known == count:
        return network
    if known > 1:
        raise InputError(
            f"'{options.parent}' tells {known} objects apart, and the masks show {count}. Wanted a "
            "parent of one object, or as many as it knows."
        )
    return model.with_objects(network, count)


def train(
    network: keras.Model,
    annotations: tuple[Annotation, ...],
    ids: Sequence[int],
    options: LearnOptions,
    on_progress: OnProgress | None,
) -> Learned:
    """Trains a copy of a network on annotated frames.

    Args:
        network: see `parent`, or that of a specialist.
        annotations: the frames.
        ids: of the objects, in order of the network's channels.
        options: how.
        on_progress: see `specialist.learn`.
    """
    stage = options.stage()
    network = with_precision(network, options.precision)
    if options.height is not None:
        network.get_layer("preprocess").working_height = options.height
    started = time.monotonic()
    total = None if options.updates is None and options.budget is not None else stage.updates
    look = _look(network, ids)

    def on_update(update: int, loss: float) -> None:
        if on_progress is not None:
            seconds = time.monotonic() - started
            on_progress(Progress("learn", update, total, seconds, loss, look))

    history = one_shot.learn(
        network,
        np.stack([known.frame for known in annotations]),
        np.stack([objects.ranks(known.mask, ids) for known in annotations]),
        stage,
        budget=options.budget,
        seed=options.seed,
        on_update=on_update,
    )
    seconds = round(time.monotonic() - started, 3)
    return Learned(with_precision(network, "float32"), history.losses, seconds)


def _look(network: keras.Model, ids: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `Progress.look` of a network in training; frames are looked at as a whole."""

    @functools.cache
    def predictor(height: int) -> inference.Predict:
        return model.any_size(model.build_predictor(network, frame_height=height))

    def look(frame: np.ndarray) -> np.ndarray:
        (probabilities,) = predictor(frame.shape[0])(frame[None])
        return objects.merge(np.asarray(probabilities), DEFAULT_THRESHOLD, ids)

    return look
