"""What `train_parent` and `train_contour` share: their flags, and flags to a trained network.

Either leaves its model, `checkpoints/`, TensorBoard `summaries/` and `flags.json` in the work
folder. A run that was stopped resumes from its last checkpoint when the same command is given
again. What is in the folder and was not made by that command is never replaced, and while one run
writes to it, no other one does.
"""

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from absl import flags

from osvos_tf import runtime
from osvos_tf.commands import cli, progress_bar
from osvos_tf.errors import InputError
from osvos_tf.files import (
    ensure_writable,
    remove_leftovers,
    write_json,
)
from osvos_tf.network.parents import PARENTS
from osvos_tf.training import recipes

if TYPE_CHECKING:
    from osvos_tf.data import tfrecord
from osvos_tf.commands import training_folder
from osvos_tf.commands.training_flags import Task, check

# In the environment: how often in a row this process was restarted without making an update.
_RESTARTS = "OSVOS_RESTARTS"
_MOST_RESTARTS = 5


def train(
    args: flags.FlagValues,
    task: Task,
    make_records: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Flags -> dataset, network, recipe -> `loop.train` -> the model's file.

    Args:
        args: parsed flags.
        task: which of the two commands this is.
        make_records: writes the records to the folder it is given, before a run's first update;
            None where `--records` names them.

    Raises:
        InputError: flags that do not go together, or do not fit the work folder's run.
    """
    check(args)
    workdir = ensure_writable(args.workdir)
    stages = task.recipes[args.recipe]
    if args.updates is not None:
        stages = recipes.with_updates(stages, args.updates)
    if args.height is not None:
        stages = tuple(dataclasses.replace(stage, height=args.height) for stage in stages)
    with contextlib.ExitStack() as stack:
        if "TF_CONFIG" not in os.environ:  # else it takes TensorFlow to know which worker writes
            stack.enter_context(training_folder.lock(workdir))
        training_folder.check_place(workdir, args, task)
        precision = training_folder.earlier_precision(workdir, args, task)
        if (workdir / task.file).exists():
            updates = training_folder.updates(workdir)
            if updates is None:
                print(
                    f"{workdir / task.file} is there already; its checkpoints are gone. To train "
                    "again, name another --workdir."
                )
                return
            if updates < stages[-1].last_update:
                raise InputError(
                    f"The run in {workdir} is at update {updates} of {stages[-1].last_update}, so "
                    f"it did not make the {task.file} there. Move that to another place."
                )
        _train(args, task, stages, precision, make_records)


def _train(
    args: flags.FlagValues,
    task: Task,
    stages: tuple[recipes.Stage, ...],
    precision: str | None,
    make_records: Callable[[pathlib.Path], None] | None,
) -> None:
    """Trains in a work folder that has proved good; `precision` is that of an earlier run."""
    runtime.import_tensorflow()
    from osvos_tf.data import input_pipeline
    from osvos_tf.network import model
    from osvos_tf.network.files import save_model
    from osvos_tf.network.precision import choose_precision, with_precision
    from osvos_tf.training import distribution

    workdir = pathlib.Path(args.workdir)
    addresses, _ = distribution.cluster()
    if args.strategy in ("auto", "multi_worker") and addresses:
        print(f"Waiting for all workers: {', '.join(addresses)}.", flush=True)
    strategy = distribution.make_strategy(args.strategy)
    worker, workers = distribution.worker(strategy)
    _check_share(stages, strategy)
    records = workdir / training_folder.RECORDS if make_records else args.records
    with contextlib.ExitStack() as stack:
        if worker == 0 and "TF_CONFIG" in os.environ:
            stack.enter_context(training_folder.lock(workdir))
        if workers > 1:
            stack.enter_context(_rejoining())
        settings = training_folder.settings(args, task)
        if worker == 0:
            remove_leftovers(workdir)
            if make_records and precision is None:
                # The folder is ours from now on.
                write_json(workdir / training_folder.SETTINGS, {**settings, "precision": None})
                make_records(workdir / training_folder.RECORDS)
        distribution.sum_over_workers(strategy, 0)  # the others wait for the records
        # What "auto" chose once holds for the whole run.
        precision = precision or choose_precision(args.precision)
        network = _initial(args, task, model)
        with strategy.scope():
            network = with_precision(network, precision)
        examples = input_pipeline.read_examples(
            records, on_lost=_report_lost if args.skip_corrupt else None
        )
        if worker == 0:
            write_json(workdir / training_folder.SETTINGS, {**settings, "precision": precision})
        with _decoding(records):
            _train_stages(args, task, stages, examples, network, strategy)
        if worker == 0:
            network = with_precision(network, "float32")
            save_model(network, workdir / task.file, storage=args.storage)
            print(f"Wrote {workdir / task.file}")
        distribution.sum_over_workers(strategy, 0)  # the others end when the model is there


def _train_stages(
    args: flags.FlagValues,
    task: Task,
    stages: Sequence[recipes.Stage],
    examples: Any,
    network: Any,
    strategy: Any,
) -> None:
    """Trains the network through all stages, in place."""
    from osvos_tf.data import input_pipeline
    from osvos_tf.training import distribution, loop

    for stage in stages:
        batch_size, _ = stage.share(strategy.num_replicas_in_sync)
        dataset = input_pipeline.parent_dataset(
            examples,
            stage.augmentation,
            batch_size=batch_size,
            height=stage.height,
            width=stage.height if task.square else None,
            seed=args.seed + stage.first_update,  # every stage has its own views
            part=distribution.worker(strategy),
        )
        with (
            progress_bar.Progress(
                f"Training {stage.name}", stage.last_update, "update", first=stage.first_update
            ) as progress,
            cli.finishing() as stop,
        ):
            history = loop.train(
                network,
                dataset,
                stage,
                args.workdir,
                strategy=strategy,
                on_update=_show(progress, stage),
                stop=stop,
                checkpoint_seconds=args.checkpoint_seconds,
            )
            if history.damaged:
                print(
                    f"Checkpoint {', '.join(history.damaged)} is damaged and was removed; training "
                    f"went on from the one before, at update {history.resumed_from}."
                )
        if stage.first_update < history.resumed_from < stage.last_update:
            print(f"Stage {stage.name} went on from update {history.resumed_from}.")
    network.get_layer("preprocess").working_height = stage.height if task.keeps_height else None


def _check_share(stages: Sequence[recipes.Stage], strategy: Any) -> None:
    """Says how an update is shared.

    Raises:
        InputError: its images cannot be shared equally.
    """
    replicas = strategy.num_replicas_in_sync
    for stage in stages if replicas > 1 else ():
        try:
            batch_size, accumulation = stage.share(replicas)
        except ValueError as error:
            raise InputError(f"{error} Use a number of devices that divides them.") from error
        print(
            f"Stage {stage.name}: {replicas} replicas share the {stage.images} views of an update, "
            f"{accumulation} x {batch_size} each; the learning rate stays {stage.rate:g}."
        )


@contextlib.contextmanager
def _rejoining() -> Iterator[None]:
    """Restarts this process once another worker is gone, to resume from the last checkpoint."""
    from osvos_tf.training import distribution

    try:
        yield
    except distribution.LOST_WORKER as error:
        restarts = int(os.environ.get(_RESTARTS, 0)) + 1
        if restarts > _MOST_RESTARTS:
            raise InputError(
                f"Another worker was lost {restarts} times in a row without an update: "
                f"{error.message}. Once all run, the same commands resume from the last checkpoint."
            ) from error
        print(
            "Another worker is gone. Waiting for it; training then resumes from the last "
            "checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os.environ[_RESTARTS] = str(restarts)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _initial(args: flags.FlagValues, task: Task, model: ModuleType) -> Any:
    """Returns the network with its first weights."""
    from osvos_tf.network.files import load_model
    from osvos_tf.network.weights import readers
    from osvos_tf.network.weights.loading import load_imagenet, load_vgg16

    path = str(PARENTS.get(args.weights, args.weights))
    is_file = path not in ("imagenet", "random")
    if is_file and readers.recognise(path) == "keras":
        return load_model(path)
    scratch = args.recipe == "scratch" and args.weights == "random"
    network = getattr(model, task.network)(
        width_multiplier=args.width_multiplier,
        start="scratch" if scratch else "imagenet",
        seed=args.seed,
    )
    if is_file:
        load_vgg16(network, path)
    elif args.weights == "imagenet":
        load_imagenet(network)
    return network


def _report_lost(lost: "Sequence[tfrecord.Lost]") -> None:
    print(f"Left out {sum(entry.count for entry in lost)} damaged frames: "
          f"{'; '.join(map(str, lost))}.")  # fmt: skip


@contextlib.contextmanager
def _decoding(records: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the failure of a picture inside a record into a message; its header was sound."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if "Decode" not in error.message:
            raise
        raise InputError(
            f"The records in {records} hold a picture that cannot be decoded. Convert again."
        ) from error


def _show(progress: progress_bar.Progress, stage: recipes.Stage) -> Callable[[int, float], None]:
    def on_update(update: int, loss: float) -> None:
        os.environ.pop(_RESTARTS, None)
        progress.advance(note=f"loss {loss:.4g}, rate {stage.rate_at(update - 1):.2g}", to=update)

    return on_update
