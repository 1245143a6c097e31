"""The only training loop: every stage of every recipe runs through `train`."""

import dataclasses
import itertools
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import keras
import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path
from osvos_tf.network.precision import with_precision
from osvos_tf.training import distribution, losses
from osvos_tf.training.recipes import Stage

_MOMENTUM = 0.9
# Times that a batch is tried whose loss is finite and whose gradient is not, before it is computed
# in float32. Seen with bfloat16 on AMX once in some 300 updates; most often a second try is sound.
# The likely cause: a oneDNN kernel that reads past the end of a buffer whose length is no multiple
# of 32 and multiplies what it finds by zero, harmless unless that is a NaN, as
# uxlfoundation/oneDNN#5717 describes it for the matrix product.
_ATTEMPTS = 2


_Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]  # images and labels
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

    The stages of a recipe share one work folder and one update count: a stage that the
    checkpoint has passed only restores the weights and returns.

    Args:
        model: a network of `model.build_foreground` or `build_contour`; changed in place. Built
            under the strategy's scope.
        dataset: `tf.data.Dataset` of (image, label) batches of `stage.batch_size`, see
            `input_pipeline`; endless. Its iterator is checkpointed with the weights. With a
            strategy of several replicas: this worker's part of the views, in batches of
            `stage.share(replicas)`.
        stage: a `recipes.Stage`.
        workdir: folder for `checkpoints/` and TensorBoard `summaries/`; None keeps neither.
        strategy: of `distribution.make_strategy`; None: the one in whose scope this is called, one
            device as a rule. All workers call this with the same arguments; the first one writes
            to the work folder, from which all of them restore.
        budget: seconds after which training ends early, the stage's cool-down included; None
            trains all updates. With several workers, leave this and `is_learned` alone.
        is_learned: called with the updates done after each update; once it gives True, training
            ends early, after the stage's cool-down. None trains all updates.
        on_update: called with (updates done, loss) after each update.
        stop: asked after each update; training ends there, its checkpoint saved, once it says True.
        checkpoint_seconds: least time between two checkpoints; the last update is always saved.
        summary_every: updates between two TensorBoard entries.

    Returns:
        A `History`.

    Raises:
        FloatingPointError: the loss is not finite; the message names the update, and the weights
            are those of the update before.
        InputError: no checkpoint of the work folder can be read, or none can be written; the
            workers do not find the same one.
        tf.errors.AbortedError: another worker was told to stop, and so all did; the checkpoint is
            saved. Errors of `distribution.LOST_WORKER` say that one is gone.
    """
    strategy = strategy or tf.distribute.get_strategy()
    is_writer = distribution.worker(strategy)[0] == 0
    with strategy.scope():
        optimizer = _make_optimizer(stage)
        optimizer.build(model.trainable_variables)
    batches = iter(dataset)
    done = tf.Variable(stage.first_update, dtype=tf.int64, trainable=False)
    manager, damaged = _restore(
        workdir, stage, is_writer, model=model, optimizer=optimizer, done=done, batches=batches
    )
    _check_agreement(strategy, int(done), workdir)
    first = safe = int(done)  # `safe`: updates that a checkpoint holds
    summaries = _summaries(workdir) if is_writer else None
    loop = _Loop(model, optimizer, stage, batches, summaries, strategy)
    start = saved = time.monotonic()
    clock = _Clock(budget)
    end, asked, stopped = stage.last_update, False, False
    history: list[tuple[int, float]] = []
    for update in itertools.count(first):
        last = min(end, update + clock.affordable())
        if update >= last:
            break
        loss = loop.update(update, last, summary=(update + 1) % summary_every == 0)
        clock.tick()
        done.assign(update + 1)
        history.append((update + 1, loss))
        if on_update is not None:
            on_update(update + 1, loss)
        if is_learned is not None and is_learned(update + 1):
            end, is_learned = min(end, update + 1 + stage.cooldown), None
        if manager is not None and time.monotonic() - saved >= checkpoint_seconds:
            _save(manager, done)
            saved, safe = time.monotonic(), update + 1
        asked = stop is not None and bool(stop())
        stopped = stop is not None and distribution.total(strategy, asked) > 0
        if stopped:
            break
    if manager is not None and safe < int(done):
        _save(manager, done)
    if stopped and not asked:
        raise tf.errors.AbortedError(None, None, "Another worker was told to stop.")
    return History(len(history), time.monotonic() - start, tuple(history), first, damaged)


class _Clock:
    """How many more updates fit into a budget of seconds, from what those made so far took."""

    def __init__(self, budget: float | None):
        self._budget = budget
        self._start = time.monotonic()
        # Seconds after which the first and the latest update were done.
        self._ticks: list[float] = []
        self._made = 0

    def tick(self) -> None:
        """Counts an update."""
        self._made += 1
        self._ticks = [*self._ticks[:1], time.monotonic() - self._start]

    def affordable(self) -> int:
        """Returns a number of updates; a very large one without a budget or before any is known."""
        if self._budget is None:
            return sys.maxsize
        left = self._budget - (time.monotonic() - self._start)
        if left <= 0:
            return 0
        if self._made < 2:  # the first builds the graph
            return sys.maxsize
        first, latest = self._ticks
        return math.ceil(left * (self._made - 1) / (latest - first))


class _Loop:
    """One update at a time: forward and backward passes, averaged, then one weight change."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        stage: Stage,
        batches: _Batches,
        summaries: tf.summary.SummaryWriter | None,
        strategy: tf.distribute.Strategy,
    ):
        self.model = model
        self.optimizer = optimizer
        self.stage = stage
        self.batches = batches
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
        self.apply = tf.function(self._apply)

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

        @tf.function(reduce_retracing=True)
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
    mean = distribution.total(strategy, done) / workers
    spread = distribution.total(strategy, abs(done - mean))
    if spread:
        raise InputError(
            f"The workers do not start at one update: here {done}, on average {mean:g}. Wanted a "
            f"work folder that all of them share: is {workdir} on each machine's own disk?"
        )


def _restore(
    workdir: str | os.PathLike[str] | None,
    stage: Stage,
    is_writer: bool,
    *,
    batches: _Batches,
    **state: Any,
) -> tuple[tf.train.CheckpointManager | None, tuple[str, ...]]:
    """Restores the state from the work folder's last checkpoint that can be read.

    Where that is the last of an earlier stage, `batches` start anew: the iterator saved with it
    holds finished batches of that stage's views, whose number and size may be others.

    Returns:
        `(manager, damaged)`: the checkpoint manager, None where none is to write, and the names of
        younger checkpoints that could not be read, which the writer removes.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    if workdir is None:
        return None, ()
    folder = pathlib.Path(workdir) / "checkpoints"
    checkpoint = tf.train.Checkpoint(**state, batches=batches)
    damaged: list[str] = []
    for path in _checkpoints(folder):
        try:
            if path.name == f"ckpt-{stage.first_update}":
                status = tf.train.Checkpoint(**state).restore(str(path))
                status.assert_existing_objects_matched().expect_partial()
            else:
                checkpoint.restore(str(path)).assert_consumed()
            break
        except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
            damaged.append(path.name)
            reason = str(error).strip().partition("\n")[0]
    else:
        if damaged:
            raise InputError(
                f"No checkpoint in {folder} can be read: {', '.join(damaged)}, the last because "
                f"of: {reason}. Name another work folder, or remove this one to start anew."
            )
    if not is_writer:
        return None, tuple(damaged)
    _tidy(folder, damaged)
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2), tuple(damaged)


def _checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths of a folder's checkpoints as TensorFlow names them, the youngest first.

    Looked for on the disk: a run that was killed may have written one and not yet listed it.
    """
    found = folder.glob("ckpt-*.index")
    numbered = {int(path.stem[5:]): path.with_suffix("") for path in found}
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def _tidy(folder: pathlib.Path, damaged: list[str]) -> None:
    """Removes damaged checkpoints and what a killed run left, and lists those that there are."""
    for name in damaged:
        for path in folder.glob(f"{name}.*"):
            path.unlink()
    for path in folder.glob("ckpt-*_temp"):
        shutil.rmtree(path)
    left = _checkpoints(folder)[::-1]
    if not left:
        (folder / "checkpoint").unlink(missing_ok=True)  # a list of none may be unreadable, too
    else:
        # With their times: the checkpoint manager forgets what is listed without.
        listed = tf.compat.v1.train.generate_checkpoint_state_proto(
            str(folder),
            str(left[-1]),
            all_model_checkpoint_paths=[str(path) for path in left],
            all_model_checkpoint_timestamps=[
                path.with_suffix(".index").stat().st_mtime for path in left
            ],
        )
        with atomic_path(folder / "checkpoint") as temporary:
            temporary.write_text(str(listed), encoding="utf-8")


def _save(manager: tf.train.CheckpointManager, done: tf.Variable) -> None:
    try:
        manager.save(checkpoint_number=done)
    except tf.errors.OpError as error:
        raise InputError(
            f"No checkpoint can be written to {manager.directory}: {error.message}. Make room; the "
            "same command then goes on from the last one."
        ) from error


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


def _summaries(workdir: str | os.PathLike[str] | None) -> tf.summary.SummaryWriter | None:
    if workdir is None:
        return None
    return tf.summary.create_file_writer(str(pathlib.Path(workdir) / "summaries"))
