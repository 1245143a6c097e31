"""The loop against updates computed by hand, and runs that are broken off and taken up again."""

import dataclasses
import random
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

from osvos_tf.data import input_pipeline
from osvos_tf.errors import InputError
from osvos_tf.network import model
from osvos_tf.training import loop, losses, recipes
from osvos_tf.training.ending import Clock
from osvos_tf.training.recipes import Stage
from support.trainings import (
    SIZE,
    first_batches,
    gradients_of,
    names_and_kinds,
    network,
    one_convolution,
    values_of,
    views,
)

STAGE = Stage(
    name="test",
    updates=3,
    optimizer="momentum",
    rate=0.01,
    normalise="balanced",
    side_weight=0.5,
)


def assert_same_weights(found, expected, message=""):
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=message)


def assert_close_weights(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side_weight", [0.5, 0.0])
def test_updates_equal_hand_computed_ones(side_weight):
    """Momentum with layer-wise rates and decay; the rate drops in between, as Caffe does it."""
    stage = dataclasses.replace(
        STAGE,
        updates=3,
        drops=(2,),
        side_weight=side_weight,
        weight_decay=0.1,
        rate_factors=(("score_", 0.1), ("fused", 0.01), ("block1", 3.0)),
        bias_factor=2.0,
    )
    trained = network()
    snapshots = []
    history = loop.train(
        trained, views(), stage, on_update=lambda *_: snapshots.append(values_of(trained))
    )

    by_hand = network()
    velocities = [np.zeros(v.shape) for v in by_hand.trainable_variables]
    for update, batch in enumerate(first_batches(views(), 3)):
        loss, gradients = gradients_of(by_hand, batch, stage)
        assert history.losses[update] == (update + 1, pytest.approx(loss, rel=1e-4))
        rate = 0.01 * (0.1 if update == 2 else 1)
        for i, (layer, kind) in enumerate(names_and_kinds(by_hand)):
            factor = {"score": 0.1, "fused": 0.01, "block1": 3.0}.get(layer.split("_")[0], 1)
            value = by_hand.trainable_variables[i].numpy().astype(np.float64)
            gradient = gradients[i]
            if kind == "bias":
                factor *= 2
            else:
                gradient = gradient + 0.1 * value
            velocities[i] = 0.9 * velocities[i] - rate * factor * gradient
            by_hand.trainable_variables[i].assign(value + velocities[i])
        assert_close_weights(snapshots[update], values_of(by_hand))
    moved = [np.abs(a - b).max() for a, b in zip(snapshots[0], values_of(network()), strict=True)]
    if side_weight:
        assert min(moved) > 0


def test_accumulated_batches_equal_one_large_batch():
    one_by_one = dataclasses.replace(STAGE, updates=2, accumulation=3)
    together = dataclasses.replace(STAGE, updates=2, batch_size=3)
    first, second = network(), network()
    history = loop.train(first, views(), one_by_one)
    expected = loop.train(second, views(3), together)
    for (_, a), (_, b) in zip(history.losses, expected.losses, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert_close_weights(first.get_weights(), second.get_weights())


def recipe(optimizer):
    """Two stages that differ in all that a stage may change, six updates in all."""
    first = dataclasses.replace(STAGE, optimizer=optimizer, name="first", drops=(1,))
    second = dataclasses.replace(
        STAGE, optimizer=optimizer, name="second", first_update=3, accumulation=2, side_weight=0.0
    )
    return first, second


def run(stages, workdir, crash_after=None):
    """A process's life: returns the network, or None where it crashed, and the histories."""

    def on_update(update, loss):
        if update == crash_after:
            raise ConnectionAbortedError

    net, dataset, histories = network(), views(), []
    try:
        for stage in stages:
            histories.append(
                loop.train(net, dataset, stage, workdir, on_update=on_update, checkpoint_seconds=0)
            )
    except ConnectionAbortedError:
        return None, histories
    return net, histories


@pytest.mark.parametrize(("optimizer", "stages", "crashes"), [("momentum", 2, 2), ("adam", 1, 1)])
def test_a_resumed_run_equals_an_undisturbed_one(optimizer, stages, crashes, tmp_path):
    stages = recipe(optimizer)[:stages]
    updates = stages[-1].last_update
    expected, histories = run(stages, tmp_path / "undisturbed")
    losses_by_update = dict(sum((history.losses for history in histories), ()))
    assert sorted(losses_by_update) == list(range(1, updates + 1))

    points = sorted(random.sample(range(1, updates + 1), crashes))
    for point in points:
        assert run(stages, tmp_path / "disturbed", crash_after=point)[0] is None
    found, histories = run(stages, tmp_path / "disturbed")
    assert_same_weights(found, expected, f"broken off after the updates {points}")
    # The checkpoint of the update that crashed was not written yet.
    done = points[-1] - 1
    for stage, history in zip(stages, histories, strict=True):
        assert history.resumed_from == max(stage.first_update, done)
        assert history.updates == max(0, stage.last_update - history.resumed_from)
        for update, loss in history.losses:
            assert losses_by_update[update] == loss


def test_a_stage_may_have_other_views_than_the_one_before(tmp_path):
    """The first stage's checkpoint holds batches of its own, made and not yet used."""
    first, second = recipe("momentum")
    second = dataclasses.replace(second, batch_size=2)
    loop.train(one_convolution(), views(), first, tmp_path, on_update=lambda *_: time.sleep(0.2))
    history = loop.train(one_convolution(), views(2, size=(17, 26)), second, tmp_path)
    assert [update for update, _ in history.losses] == [4, 5, 6]


def test_a_finished_stage_only_restores(tmp_path):
    stage = dataclasses.replace(STAGE, updates=1)
    trained = one_convolution()
    loop.train(trained, views(), stage, tmp_path)
    fresh = one_convolution()
    history = loop.train(fresh, views(), stage, tmp_path)
    assert (history.updates, history.losses, history.resumed_from) == (0, (), 1)
    assert_same_weights(fresh, trained)


def checkpoints(workdir):
    state = tf.train.get_checkpoint_state(str(workdir / "checkpoints"))
    return [path.rsplit("-", 1)[-1] for path in state.all_model_checkpoint_paths]


def test_checkpoints_are_as_rare_as_asked(tmp_path):
    loop.train(one_convolution(), views(), STAGE, tmp_path / "often", checkpoint_seconds=0)
    assert checkpoints(tmp_path / "often") == ["2", "3"]  # the last two are kept
    loop.train(one_convolution(), views(), STAGE, tmp_path / "rarely", checkpoint_seconds=3600)
    assert checkpoints(tmp_path / "rarely") == ["3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with its last two checkpoints, and its network."""
    workdir = tmp_path_factory.mktemp("finished")
    trained = one_convolution()
    loop.train(trained, views(), STAGE, workdir, checkpoint_seconds=0)
    return workdir, trained


DATA, INDEX = "ckpt-3.data-00000-of-00001", "ckpt-3.index"


@pytest.mark.parametrize(
    ("file", "damage", "resumed_from"),
    [
        (DATA, lambda content: content[: len(content) // 2], 2),
        (DATA, lambda content: b"", 2),
        (DATA, lambda content: None, 2),
        (DATA, lambda content: flip(content, len(content) // 2), 2),
        (INDEX, lambda content: content[: len(content) // 2], 2),
        (INDEX, lambda content: b"", 2),
        (INDEX, lambda content: flip(content, 20), 2),
        (INDEX, lambda content: flip(content, len(content) - 1), 2),
        # TensorFlow's list of checkpoints is not needed; a killed run may not have got so far.
        ("checkpoint", lambda content: b"", 3),
        ("checkpoint", lambda content: b"\xff no list", 3),
        ("checkpoint", lambda content: content.replace(b"ckpt-3", b"ckpt-2"), 3),
    ],
)
def test_a_damaged_checkpoint_is_passed_by(finished, tmp_path, file, damage, resumed_from):
    workdir, trained = finished
    folder = shutil.copytree(workdir, tmp_path / "run") / "checkpoints"
    (folder / "ckpt-4_temp").mkdir()
    content = damage((folder / file).read_bytes())
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    found = one_convolution()
    history = loop.train(found, views(), STAGE, tmp_path / "run")
    assert history.resumed_from == resumed_from
    assert history.damaged == (("ckpt-3",) if resumed_from == 2 else ())
    assert_same_weights(found, trained)
    assert checkpoints(tmp_path / "run") == ["2", "3"]
    names = {"checkpoint", *(f"ckpt-{n}{end}" for n in (2, 3) for end in (DATA[6:], INDEX[6:]))}
    assert {path.name for path in folder.iterdir()} == names


def test_no_checkpoint_that_can_be_read(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run") / "checkpoints"
    for path in folder.glob("*.index"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"No checkpoint in .* ckpt-3, ckpt-2, the last"):
        loop.train(one_convolution(), views(), STAGE, tmp_path / "run")
    assert (folder / DATA).exists()  # nothing is thrown away


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_stop_ends_training_with_a_checkpoint(tmp_path):
    calls = iter([False, True])
    history = loop.train(
        one_convolution(),
        views(),
        STAGE,
        tmp_path,
        stop=lambda: next(calls),
        checkpoint_seconds=3600,
    )
    assert history.updates == 2 and checkpoints(tmp_path) == ["2"]
    assert loop.train(one_convolution(), views(), STAGE, tmp_path).resumed_from == 2


def test_without_a_workdir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = loop.train(one_convolution(), views(), dataclasses.replace(STAGE, updates=1))
    assert history.updates == 1
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops(tmp_path):
    diverging = network()
    snapshots = []
    with pytest.raises(FloatingPointError, match=r"stage 'test', update 2 of 3"):
        loop.train(
            diverging,
            views(),
            dataclasses.replace(STAGE, rate=1e30),
            tmp_path,
            on_update=lambda *_: snapshots.append(values_of(diverging)),
            checkpoint_seconds=0,
        )
    assert len(snapshots) == 1
    for found, expected in zip(values_of(diverging), snapshots[0], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert checkpoints(tmp_path) == ["1"]


def spoil_gradients(monkeypatch, passes):
    """Makes the gradients of these backward passes, counted from 1, NaN; the loss stays sound."""
    count = tf.Variable(0)
    sound = losses.deep_supervision

    @tf.custom_gradient
    def spoil(loss):
        def gradient(upstream):
            bad = tf.reduce_any(count.assign_add(1) == tf.constant(passes))
            return tf.where(bad, float("nan"), upstream)

        return tf.identity(loss), gradient

    def spoiled(*arguments, **options):
        loss, parts = sound(*arguments, **options)
        return spoil(loss), parts

    monkeypatch.setattr(losses, "deep_supervision", spoiled)
    return count


def test_a_gradient_that_is_not_finite_is_computed_again(monkeypatch):
    stage = dataclasses.replace(STAGE, updates=2, accumulation=2)
    expected, found = network(), network()
    loop.train(expected, views(), stage)
    count = spoil_gradients(monkeypatch, [2, 3, 5])
    loop.train(found, views(), stage)
    assert int(count) == 4 + 3
    assert_same_weights(found, expected)


def test_a_gradient_that_never_is_finite_stops(monkeypatch):
    spoil_gradients(monkeypatch, list(range(1, 100)))
    trained = network()
    with pytest.raises(FloatingPointError, match=r"gradient that is not finite .* update 1 of 3"):
        loop.train(trained, views(), STAGE)
    assert_same_weights(trained, network())


def test_budget_ends_training(tmp_path):
    endless = dataclasses.replace(STAGE, updates=10**6)
    untouched = one_convolution()
    history = loop.train(untouched, views(), endless, budget=0)
    assert (history.updates, history.losses) == (0, ())
    assert_same_weights(untouched, one_convolution())

    # The first update alone, which traces the graph, takes longer than this.
    trained = one_convolution()
    history = loop.train(trained, views(), endless, tmp_path, budget=1e-3)
    assert history.updates == 1
    assert history.seconds >= 1e-3
    assert checkpoints(tmp_path) == ["1"]
    resumed = one_convolution()
    loop.train(resumed, views(), endless, tmp_path, budget=0)
    assert_same_weights(resumed, trained)


def rates_of(net, stage, **options):
    """Trains and returns the rate of every update."""
    rates = []
    make = loop._make_optimizer

    def on_update(update, loss):
        rates.append(float(optimizers[0].learning_rate))

    optimizers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop, "_make_optimizer", lambda s: optimizers.append(make(s)) or optimizers[0]
        )
        loop.train(net, views(), stage, on_update=on_update, **options)
    return rates


def test_what_is_learned_is_trained_to_the_end_of_the_cooldown():
    stage = dataclasses.replace(STAGE, updates=50, cooldown=3)
    asked = []
    rates = rates_of(one_convolution(), stage, is_learned=lambda n: asked.append(n) or n == 4)
    assert asked == [1, 2, 3, 4]
    assert rates == pytest.approx([stage.rate_at(update, end=7) for update in range(7)])


def test_learned_late_changes_nothing():
    stage = dataclasses.replace(STAGE, updates=5, cooldown=3)
    rates = rates_of(one_convolution(), stage, is_learned=lambda n: n == 4)
    assert rates == pytest.approx([stage.rate_at(update) for update in range(5)])


def test_the_clock_plans_what_a_budget_affords(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    clock = Clock(budget=30.0)
    for seconds in (10.0, 2.0):  # the first update builds the graph and tells nothing
        assert clock.affordable() > 10**9
        now[0] += seconds
        clock.tick()
    assert clock.affordable() == 9  # 18 seconds at 2 an update
    now[0] += 4.0
    clock.tick()
    assert clock.affordable() == 5  # 14 seconds at 3
    now[0] += 14.0
    assert clock.affordable() == 0
    assert Clock(budget=None).affordable() > 10**9


def events(workdir):
    """{tag: [step, ...]} of the TensorBoard files."""
    found = {}
    for path in sorted((workdir / "summaries").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def test_summaries_are_written(tmp_path):
    stage = dataclasses.replace(STAGE, updates=4)
    loop.train(network(), views(), stage, tmp_path, summary_every=2)
    tags = ["loss/total", *(f"loss/{name}" for name in model.OUTPUTS), "learning_rate"]
    assert events(tmp_path) == {tag: [2, 4] for tag in [*tags, "frame", "mask", "fused"]}


def test_training_learns_a_square():
    frame = np.random.default_rng(0).integers(0, 90, (1, *SIZE, 3), dtype=np.uint8)
    mask = np.zeros((1, *SIZE), np.uint8)
    mask[:, 8:22, 12:30] = 1
    frame[mask == 1] += 120
    dataset = input_pipeline.one_shot_dataset(frame, mask, recipes.Augmentation(flip=True))
    stage = dataclasses.replace(STAGE, updates=40, optimizer="adam", rate=3e-3)
    net = network()
    history = loop.train(net, dataset, stage)
    assert [update for update, _ in history.losses] == list(range(1, 41))
    assert history.losses[-1][1] < 0.3 * history.losses[0][1]
    found = model.build_predictor(net)(frame)[..., 0].numpy() > 0.5
    assert (found & (mask == 1)).sum() > 0.8 * (found | (mask == 1)).sum()
