"""The only training loop: every stage of every recipe runs through `train`."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import keras
import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.network.precision import with_precision
from osvos_tf.training import distribution, losses
from osvos_tf.training.checkpoints import Batches, Checkpoints
from osvos_tf.training.ending import End
from osvos_tf.training.recipes import Stage

_MOMENTUM = 0.9
# Times that a batch is tried whose loss is finite and whose gradient is not, before it is computed
# in float32. Seen with bfloat16 on AMX once in some 300 updates; most often a second try is sound.
# The likely cause: a oneDNN kernel that reads past the end of a buffer whose length is no multiple
# of 32 and multiplies what it finds by zero, harmless unless that is a NaN, as
# uxlfoundation/oneDNN#5717 describes it for the matrix product.
_ATTEMPTS = 2


# Loss, losses by output, fused logits, whether loss and gradients are finite.
_Accumulated = tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor, tf.Tensor]
_Accumulate = Callable[[tf.Tensor, tf.Tensor], _Accumulated]


@dataclasses.dataclass(frozen=True)
class History:
    """What a call of `train` did.

    Attributes:
        updates: weight changes made by this call (a resumed stage counts from where it resumed).
        seconds: wall-clock time of the loop.
        losses: (update, loss) pairs; the loss is the stage's total, a mean over the update.
        resumed_from: updates that a checkpoint brought along, 0 for a fresh start.
        damaged: names of the checkpoints that could not be read, so that an older one was taken.
    """

    updates: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    resumed_from: int = 0
    damaged: tuple[str, ...] = ()


def train(
    model: keras.Model,
    dataset: tf.data.Dataset,
    stage: Stage,
    workdir: str | os.PathLike[str] | None = None,
    *,
    strategy: tf.distribute.Strategy | None = None,
    budget: float | None = None,
    is_learned: Callable[[int], bool] | None = None,
    on_update: Callable[[int, float], object] | None = None,
    stop: Callable[[], bool] | None = None,
    checkpoint_seconds: float = 60.0,
    summary_every: int = 25,
) -> History:
    """Trains a network through one stage, from its last checkpoint if there is one.

    The stages of a recipe share one work folder and one count of updates: a stage that the
    checkpoint has passed only restores the weights and returns.

    Args:
        model: a network of `model.build_foreground` or `build_contour`, built under the strategy's
            scope; changed in place.
        dataset: endless `tf.data.Dataset` of (image, label) batches of `stage.batch_size`, see
            `input_pipeline`. With several replicas: this process's share, see `Stage.share`.
        stage: a `recipes.Stage`.
        workdir: folder for `checkpoints/` and TensorBoard `summaries/`; None keeps neither.
        strategy: of `distribution.make_strategy`; None: the current one. All processes of a cluster
            make the same call; the first of them writes to the work folder, all restore from it.
        budget: seconds after which training ends early, cool-down included; for one process only.
        is_learned: called with the updates done; once True, only the cool-down is left to do.
        on_update: called with (updates done, loss) after each update.
        stop: asked after each update; once True, training saves a checkpoint and ends.
        checkpoint_seconds: least time between two checkpoints; the last update is always saved.
        summary_every: updates between two TensorBoard entries.

    Raises:
        FloatingPointError: the loss is not finite. The weights are those of the update before.
        InputError: no checkpoint can be read, or none written, or processes found different ones.
        tf.errors.AbortedError: another process was told to stop, so all did, after a checkpoint.
            Errors of `distribution.LOST_WORKER` say that a process is gone.
    """
    strategy = strategy or tf.distribute.get_strategy()
    state = _start(model, dataset, stage, strategy)
    checkpoints = Checkpoints(workdir, stage, state, strategy, checkpoint_seconds)
    _check_agreement(strategy, int(state["done"]), workdir)
    loop = _Loop(**state, stage=stage, strategy=strategy, summaries=_summaries(workdir, strategy))
    end = End(stage, budget, is_learned, stop, strategy)
    first, began, history = int(state["done"]), time.monotonic(), list[tuple[int, float]]()
    while (done := first + len(history)) < (last := end.after(done)):
        loss = loop.update(done, last, summary=(done + 1) % summary_every == 0)
        history.append((done + 1, loss))
        end.tick()
        if on_update is not None:
            on_update(done + 1, loss)
        checkpoints.save_if_due()
        end.ask(done + 1)
    checkpoints.save()
    end.require_own_wish()
    seconds = time.monotonic() - began
    return History(len(history), seconds, tuple(history), first, checkpoints.damaged)


def make_update(
    model: keras.Model, batches: Iterator[tuple[tf.Tensor, tf.Tensor]], stage: Stage
) -> Callable[[int], float]:
    """Returns a function that makes one update: for training in between of other work.

    Args:
        model: see `train`.
        batches: of (image, label), see `train`; as many as there will be updates.
        stage: see `train`; `stage.accumulation` batches make an update.

    Returns:
        A function of the update's number, from 0, that returns its loss. It raises
        FloatingPointError as `train` does.
    """
    strategy = tf.distribute.get_strategy()
    state = _start(model, batches, stage, strategy)
    loop = _Loop(**state, stage=stage, strategy=strategy, summaries=None)
    return lambda number: loop.update(number, stage.last_update, summary=False)


def _start(
    model: keras.Model, dataset: Iterable[Any], stage: Stage, strategy: tf.distribute.Strategy
) -> dict[str, Any]:
    """Returns what a checkpoint holds, as it is before the stage's first update."""
    with strategy.scope():
        optimizer = _make_optimizer(stage)
        optimizer.build(model.trainable_variables)
    done = tf.Variable(stage.first_update, dtype=tf.int64, trainable=False)
    return {"model": model, "optimizer": optimizer, "done": done, "batches": iter(dataset)}


class _Loop:
    """One update at a time: forward and backward passes, averaged, then one weight change."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        done: tf.Variable,
        batches: Batches,
        stage: Stage,
        strategy: tf.distribute.Strategy,
        summaries: tf.summary.SummaryWriter | None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.done = done
        self.batches = batches
        self.stage = stage
        self.summaries = summaries
        self.strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        _, self.accumulation = stage.share(self.replicas)
        self.variables = model.trainable_variables
        self.factors, self.decays = zip(*_rates(model, stage), strict=True)
        with strategy.scope():
            self.sums = [self._replica_sum(variable) for variable in self.variables]
        self.accumulate = self._accumulation(model)
        # The same network in float32 and its accumulation, built when needed.
        self.exact: tuple[keras.Model, _Accumulate] | None = None
        self.apply = tf.function(self._apply, autograph=False)

    def update(self, number: int, end: int, summary: bool) -> float:
        """Makes update `number` of `end` (counted from 0); returns its loss, a Python float."""
        self.optimizer.learning_rate = self.stage.rate_at(number, end)
        total = 0.0
        for _ in range(self.accumulation):
            images, labels = self._next_batch()
            loss, parts, fused = self._add_gradients(number, images, labels)
            total += loss / self.accumulation
        self.apply()
        if summary and self.summaries is not None:
            pictures = map(self._first, (images, labels, fused))
            self._summarise(self.summaries, number + 1, total, parts, *pictures)
        self.done.assign(number + 1)
        return total

    def _next_batch(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns images and labels, a batch for each replica of this worker."""
        if len(self._local(self.sums[0])) == 1:
            return next(self.batches)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: next(self.batches)
        )

    def _local(self, values: Any) -> tuple[Any, ...]:
        """Returns what each replica of this worker has."""
        return self.strategy.experimental_local_results(values)

    def _first(self, values: Any) -> Any:
        return self._local(values)[0]

    def _mean(self, values: Any) -> Any:
        """Returns the means over all replicas; called by each of them."""
        if self.replicas == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce("MEAN", values)

    def _add_gradients(
        self, number: int, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[float, dict[str, tf.Tensor], tf.Tensor]:
        """Adds one batch's gradients to the sums; returns loss, losses by output, fused logits."""
        for _ in range(_ATTEMPTS):
            loss, parts, fused, finite = self.accumulate(images, labels)
            if finite or not math.isfinite(loss):
                break
        else:
            loss, parts, fused, finite = self._accumulate_exactly(images, labels)
        if finite:
            return float(loss), parts, fused
        stage = self.stage
        raise FloatingPointError(
            f"Loss {float(loss)} with a gradient that is not finite in stage {stage.name!r}, "
            f"update {number + 1} of {stage.last_update}. The usual causes are a learning rate "
            f"that is too high (here {stage.rate_at(number):g}) and images or masks that are not "
            "numbers. The last checkpoint is from before."
        )

    def _accumulation(self, network: keras.Model) -> _Accumulate:
        """Returns the function that adds a batch's gradients of `network` to the sums."""
        variables = network.trainable_variables

        def add(images: tf.Tensor, labels: tf.Tensor) -> _Accumulated:
            with tf.GradientTape() as tape:
                outputs = network(images, training=True)
                loss, parts = losses.deep_supervision(
                    outputs,
                    labels,
                    side_weight=self.stage.side_weight,
                    normalise=self.stage.normalise,
                )
            # The sides' scores have no part in a loss without sides. (`UnconnectedGradients.ZERO`
            # would say the same, but fails on Keras 3's variables.)
            gradients = [
                tf.zeros(variable.shape) if gradient is None else gradient
                for gradient, variable in zip(
                    tape.gradient(loss, variables), variables, strict=True
                )
            ]
            finite = tf.math.is_finite(loss) & tf.math.is_finite(tf.linalg.global_norm(gradients))
            loss, parts, sound = self._mean([loss, parts, tf.cast(finite, tf.float32)])
            finite = sound == 1  # everywhere, so that all replicas add or none does
            for total, gradient in zip(self.sums, gradients, strict=True):
                total.assign_add(tf.where(finite, gradient, tf.zeros_like(gradient)))
            return loss, parts, outputs["fused"], finite

        @tf.function(reduce_retracing=True, autograph=False)
        def accumulate(images: tf.Tensor, labels: tf.Tensor) -> _Accumulated:
            loss, parts, fused, finite = self.strategy.run(add, (images, labels))
            agreed = tf.nest.map_structure(self._first, (loss, parts, finite))
            return *agreed[:2], fused, agreed[2]

        return accumulate

    def _accumulate_exactly(self, images: tf.Tensor, labels: tf.Tensor) -> _Accumulated:
        if self.exact is None:
            with self.strategy.scope():
                network = with_precision(self.model, "float32")
            self.exact = network, self._accumulation(network)
        network, accumulate = self.exact
        network.set_weights(self.model.get_weights())
        return accumulate(images, labels)

    def _apply(self) -> None:
        self.strategy.run(self._apply_on_replica)

    def _apply_on_replica(self) -> None:
        # With momentum SGD, scaling a gradient, its decay term included, scales the rate. The
        # optimizer sums over the replicas.
        gradients = [
            factor
            * (total / self.accumulation + decay * tf.convert_to_tensor(variable))
            / self.replicas
            for total, variable, factor, decay in zip(
                self.sums, self.variables, self.factors, self.decays, strict=True
            )
        ]
        self.optimizer.apply_gradients(zip(gradients, self.variables, strict=True))
        for total in self.sums:
            total.assign(tf.zeros_like(total))

    @staticmethod
    def _replica_sum(variable: tf.Variable) -> tf.Variable:
        """Returns zeros of the variable's shape, of which each replica has its own."""
        return tf.Variable(
            tf.zeros(variable.shape),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    def _summarise(
        self,
        summaries: tf.summary.SummaryWriter,
        step: int,
        total: float,
        parts: dict[str, tf.Tensor],
        images: tf.Tensor,
        labels: tf.Tensor,
        fused: tf.Tensor,
    ) -> None:
        with summaries.as_default(step=step):
            tf.summary.scalar("loss/total", total)
            for name, value in parts.items():
                tf.summary.scalar(f"loss/{name}", value)
            tf.summary.scalar("learning_rate", self.stage.rate_at(step - 1))
            tf.summary.image("frame", tf.cast(images[:1], tf.float32) / 255)
            tf.summary.image("mask", tf.cast(labels[:1] == 1, tf.float32))
            tf.summary.image("fused", tf.sigmoid(fused[:1]))
        summaries.flush()


def _check_agreement(
    strategy: tf.distribute.Strategy, done: int, workdir: str | os.PathLike[str] | None
) -> None:
    """Raises InputError unless all workers are at the same update."""
    _, workers = distribution.worker(strategy)
    mean = distribution.sum_over_workers(strategy, done) / workers
    spread = distribution.sum_over_workers(strategy, abs(done - mean))
    if spread:
        raise InputError(
            f"The workers do not start at the same update: here {done}, on average {mean:g}. "
            f"Wanted a work folder that all of them share: is {workdir} on each machine's own disk?"
        )


def _make_optimizer(stage: Stage) -> keras.optimizers.Optimizer:
    floatx = keras.backend.floatx()
    keras.backend.set_floatx("float32")  # the rate's type, which the user's keras.json may change
    try:
        if stage.optimizer == "adam":
            return keras.optimizers.Adam(stage.rate)
        return keras.optimizers.SGD(stage.rate, momentum=_MOMENTUM)
    finally:
        keras.backend.set_floatx(floatx)


def _rates(model: keras.Model, stage: Stage) -> list[tuple[float, float]]:
    """Returns (rate factor, weight decay) for each trainable variable."""
    kinds = {}
    for layer in model.layers:
        for variable in layer.trainable_variables:
            # Keras 2 names variables "block1_conv1/kernel:0", Keras 3 "kernel".
            kind = variable.name.rsplit("/", 1)[-1].split(":")[0]
            kinds[id(variable)] = (layer.name, kind)
    found = [kinds[id(variable)] for variable in model.trainable_variables]
    return [
        (stage.rate_factor(layer, kind), stage.weight_decay if kind == "kernel" else 0.0)
        for layer, kind in found
    ]


def _summaries(
    workdir: str | os.PathLike[str] | None, strategy: tf.distribute.Strategy
) -> tf.summary.SummaryWriter | None:
    if workdir is None or distribution.worker(strategy)[0] > 0:
        return None
    return tf.summary.create_file_writer(str(pathlib.Path(workdir) / "summaries"))
