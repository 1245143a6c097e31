"""Training on several devices and machines: the same weights, and workers that die on the way."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvos_tf.commands import training_command
from osvos_tf.errors import InputError
from osvos_tf.network.files import load_model
from osvos_tf.training import distribution, loop, recipes
from support.commands import SECONDS, in_background, wait_for
from support.world import REPOSITORY

CLUSTER = {"worker": ["a:1", "b:1", "c:1"]}


@pytest.fixture
def clustered(monkeypatch):
    """Sets TF_CONFIG to a value, or to a text that is none."""
    return lambda config: monkeypatch.setenv(
        "TF_CONFIG", config if isinstance(config, str) else json.dumps(config)
    )


def test_without_a_list_of_workers_there_is_one(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribution.cluster() == ([], 0)
    strategy = distribution.make_strategy("auto")
    assert distribution.worker(strategy) == (0, 1)
    assert distribution.sum_over_workers(strategy, 3) == 3
    with pytest.raises(InputError, match=r"TF_CONFIG.*for example"):
        distribution.make_strategy("multi_worker")
    with pytest.raises(ValueError, match=r"one of .*mirrored"):
        distribution.make_strategy("tpu")


def test_workers_are_counted_from_the_chief(clustered):
    clustered({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}})
    assert distribution.cluster() == (["a:1", "b:1", "c:1"], 2)
    both = {"worker": ["a:1", "b:1"], "chief": ["c:1"]}
    clustered({"cluster": both, "task": {"type": "worker", "index": 1}})
    assert distribution.cluster() == (["c:1", "a:1", "b:1"], 2)
    clustered({"cluster": both, "task": {"type": "chief", "index": 0}})
    assert distribution.cluster() == (["c:1", "a:1", "b:1"], 0)


@pytest.mark.parametrize(
    "config",
    [
        "workers",
        [],
        {"cluster": CLUSTER},
        {"cluster": CLUSTER, "task": {"type": "worker", "index": 3}},
        {"cluster": CLUSTER, "task": {"type": "worker", "index": "first"}},
        {"cluster": CLUSTER, "task": {"type": "ps", "index": 0}},
        {"cluster": {**CLUSTER, "ps": ["d:1"]}, "task": {"type": "worker", "index": 0}},
    ],
    ids=str,
)
def test_a_list_of_workers_that_cannot_be_followed_is_explained(config, clustered):
    clustered(config)
    with pytest.raises(InputError, match=r"TF_CONFIG cannot be followed: .* Wanted .* Got"):
        distribution.make_strategy("auto")


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_replicas_share_all_images_or_say_that_they_cannot(batch_size, accumulation, replicas):
    stage = recipes.Stage("test", 1, "adam", 1e-3, batch_size=batch_size, accumulation=accumulation)
    try:
        own = stage.share(replicas)
    except ValueError as error:
        assert stage.images % replicas or accumulation % replicas
        assert f"{replicas} replicas cannot share" in str(error)
    else:
        assert np.prod(own) * replicas == stage.images
        assert own[0] <= batch_size and own[1] <= accumulation


def test_views_that_cannot_be_shared_equally_are_explained(capsys):
    with pytest.raises(InputError, match=r"3 replicas cannot share equally\. Use a number of dev"):
        training_command._check_share(
            recipes.PARENT_SCRATCH, types.SimpleNamespace(num_replicas_in_sync=3)
        )
    training_command._check_share(
        recipes.PARENT_PAPER, types.SimpleNamespace(num_replicas_in_sync=5)
    )
    assert "5 replicas share the 10 views of an update, 2 x 1 each" in capsys.readouterr().out


def test_workers_that_see_different_checkpoints_are_stopped(monkeypatch):
    monkeypatch.setattr(distribution, "worker", lambda strategy: (0, 2))
    others = {"done": 70, "spread": 20}  # of the other worker, in the order of the questions
    answers = iter(others.values())
    monkeypatch.setattr(distribution, "sum_over_workers", lambda strategy, own: own + next(answers))
    with pytest.raises(InputError, match=r"here 30, on average 50.*work folder that all of them"):
        loop._check_agreement(None, 30, "run")


_MIRRORED = """
import sys
import numpy as np
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from osvos_tf.data import input_pipeline
from osvos_tf.network import model
from osvos_tf.training import distribution, loop
from osvos_tf.data.augmentation import Augmentation
from osvos_tf.training.recipes import Stage
stage = Stage("test", 3, "momentum", 0.01, batch_size=2, accumulation=2, normalise="balanced",
              side_weight=0.5, weight_decay=0.01, augmentation=Augmentation(flip=True))
weights, losses = [], []
for name in ("one", "mirrored"):
    strategy = distribution.make_strategy(name)
    with strategy.scope():
        network = model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=1)
    dataset = input_pipeline.parent_dataset(
        sys.argv[1], stage.augmentation, height=32,
        batch_size=stage.share(strategy.num_replicas_in_sync)[0])
    history = loop.train(network, dataset, stage, sys.argv[2] + name, strategy=strategy)
    losses.append([loss for _, loss in history.losses])
    weights.append(network.get_weights())
assert strategy.num_replicas_in_sync == 2
np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
for found, expected in zip(weights[1], weights[0], strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
"""


@pytest.mark.slow
def test_devices_of_one_machine_make_the_updates_of_one(fake_records, tmp_path):
    """In a process of its own, because two CPU devices must be asked for at the start."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [sys.executable, "-c", _MIRRORED, str(fake_records), f"{tmp_path}/"],
        check=True,
        timeout=SECONDS,
        env=environment,
    )


def free_ports(count):
    """Ports of the loopback that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture(scope="module")
def start(fake_records):
    """Starts `train_parent` in the background, as one of two workers where `index` is given."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]

    def start_one(workdir, index=None, **flags):
        environment = dict(os.environ)
        if index is not None:
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(config)
        flags = {
            "records": fake_records, "workdir": workdir, "recipe": "imagenet", "weights": "random",
            "width_multiplier": 1 / 32, "height": 32, "precision": "float32", "updates": 16,
            **flags,
        }  # fmt: skip
        flags = [f"--{name}={value}" for name, value in flags.items()]
        return start("train_parent", flags, env=environment)

    with in_background(REPOSITORY) as start:
        yield start_one


@pytest.fixture(scope="module")
def expected(start, tmp_path_factory):
    """The weights that one process makes."""
    workdir = tmp_path_factory.mktemp("one")
    finish(start(workdir))
    return load_model(workdir / "parent.keras").get_weights()


def finish(process):
    """Waits for a process's good end; returns what it said."""
    said, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return said + errors


@pytest.mark.slow
def test_two_workers_make_the_updates_of_one_although_each_dies_once(start, expected, tmp_path):
    """One is killed, then the other is told to stop; both start again with the same command."""
    workdir = tmp_path
    workers = [start(workdir, index, checkpoint_seconds=0) for index in (0, 1)]

    def another_checkpoint(before):
        return set(workdir.glob("checkpoints/ckpt-*.index")) - before

    for victim, number, status in (1, signal.SIGKILL, -signal.SIGKILL), (0, signal.SIGTERM, 143):
        wait_for(functools.partial(another_checkpoint, another_checkpoint(set())), *workers)
        workers[victim].send_signal(number)
        last_words = "".join(workers[victim].communicate(timeout=SECONDS))
        assert workers[victim].returncode == status, last_words
        assert not (workdir / "parent.keras").exists()
        workers[victim] = start(workdir, victim, checkpoint_seconds=0)
    said = [finish(worker) for worker in workers]

    gone = "Another worker is gone"  # said by the second victim before its end, then by the first
    assert gone in last_words and [gone in text for text in said] == [False, True]
    for text in said:
        assert "2 replicas share the 4 views of an update, 1 x 2 each" in text
        assert "went on from update" in text
    assert ["Wrote" in text for text in said] == [True, False]
    found = load_model(workdir / "parent.keras").get_weights()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
