"""One-shot training: a parent network becomes the specialist of one object (paper, section 3)."""

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from osvos_tf.data import input_pipeline
from osvos_tf.network import model
from osvos_tf.training import loop, losses, recipes

_CHECK_EVERY = 25  # updates between two looks at the held-out views
_PATIENCE = 2  # looks in a row without an improvement; weights jump while the rate is high
_HELD_OUT = 4  # views
_IMPROVEMENT = 0.02  # part by which the held-out loss has to fall from look to look


def learn(
    network: keras.Model,
    frames: np.ndarray,
    masks: np.ndarray,
    stage: recipes.Stage,
    *,
    budget: float | None = None,
    seed: int = 0,
    stop: Callable[[], bool] | None = None,
    on_update: Callable[[int, float], None] | None = None,
) -> loop.History:
    """Trains a network on the annotated frames of one sequence, in place.

    Args:
        network: a network of `model.build_foreground`, a parent as a rule.
        frames: uint8 RGB [count, height, width, 3].
        masks: uint8 [count, height, width], 0 background, 1 object, 255 void.
        stage: a `recipes.Stage`. Without a `height` the views have the network's `working_height`.
        budget: seconds after which training ends, whatever its updates; None for no such limit.
        seed: of order and augmentation.
        stop: asked after each update; training ends there once it says True.
        on_update: called with (updates done, loss) after each update.

    Returns:
        A `loop.History`.

    Raises:
        FloatingPointError: the loss is not finite, see `loop.train`.
    """
    if not stage.updates:
        return loop.History(updates=0, seconds=0.0, losses=())

    height = stage.height or model.working_height(network)
    if height is None and stage.batch_size > 1:
        height = np.shape(frames)[1]  # a batch needs views of one size

    def views(seed: int) -> tf.data.Dataset:
        return input_pipeline.one_shot_dataset(
            frames, masks, stage.augmentation, batch_size=stage.batch_size, height=height, seed=seed
        )

    trained, dataset = network, views(seed)
    if stage.views is not None:
        dataset = dataset.take(max(1, stage.views // stage.batch_size))
        if stage.frozen:
            stem, trained = model.split(network, stage.frozen)
            dataset = dataset.map(lambda image, label: ({**stem(image), "like": label}, label))
        dataset = dataset.cache().repeat()
    is_learned = None
    if stage.until_learned:
        is_learned = _Plateau(network, views(seed + 1).take(-(-_HELD_OUT // stage.batch_size)))
    return loop.train(
        trained,
        dataset,
        stage,
        budget=budget,
        is_learned=is_learned,
        stop=stop,
        on_update=on_update,
    )


class _Plateau:
    """Whether the loss on held-out views has stopped falling; for `loop.train`."""

    def __init__(self, network: keras.Model, batches: tf.data.Dataset) -> None:
        self._network, self._batches = network, list(batches)
        self._best, self._without = math.inf, 0

    def __call__(self, updates: int) -> bool:
        if updates % _CHECK_EVERY:
            return False
        loss = float(np.mean([self._loss(*batch) for batch in self._batches]))
        improved = loss <= self._best * (1 - _IMPROVEMENT)
        self._without = 0 if improved else self._without + 1
        self._best = min(self._best, loss)
        return self._without >= _PATIENCE

    def _loss(self, images: tf.Tensor, labels: tf.Tensor) -> float:
        fused = self._network.predict_on_batch(images)["fused"]
        loss = losses.class_balanced_cross_entropy(fused, labels, normalise="balanced")
        return float(np.mean(loss))
