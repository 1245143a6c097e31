"""One-shot training: views made once, frozen blocks, and the end when the object is learned."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from osvos_tf.network import model
from osvos_tf.training import one_shot, recipes
from support.trainings import one_convolution

STAGE = dataclasses.replace(
    recipes.ONE_SHOT_SCRATCH, updates=6, cooldown=2, rate=2e-3, until_learned=False
)


def network():
    return model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=1)


def annotated(count=1):
    """A bright square on noise."""
    frames = np.random.default_rng(0).integers(0, 90, (count, 40, 56, 3), dtype=np.uint8)
    masks = np.zeros((count, 40, 56), np.uint8)
    masks[:, 8:26, 14:36] = 1
    frames[masks == 1] += 120
    return frames, masks


def frozen_part(net, blocks):
    names = tuple(f"block{n}_" for n in range(1, blocks + 1))
    frozen = [layer for layer in net.layers if layer.name.startswith(names)]
    return {layer.name: layer.get_weights()[0] for layer in frozen if layer.weights}


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_a_split_network_is_the_network(blocks):
    net = network()
    images, _ = annotated(2)
    stem, rest = model.split(net, blocks)
    features = stem(images)
    assert len(features) == max(1, blocks - 1)
    expected = net(images)
    found = rest({**features, "like": tf.zeros((2, 40, 56, 1))})
    for name in model.OUTPUTS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_frozen_blocks_stay_and_the_others_learn_as_without_them(blocks):
    """Training on remembered features is training with the early blocks' rates at zero."""
    views = dataclasses.replace(STAGE, views=4, batch_size=2, frozen=blocks)
    net, before = network(), frozen_part(network(), blocks)
    history = one_shot.learn(net, *annotated(), views)
    assert history.updates == 6
    for name, value in frozen_part(net, blocks).items():
        np.testing.assert_array_equal(value, before[name])

    by_hand = network()
    for layer in by_hand.layers:
        layer.trainable = not layer.name.startswith(
            tuple(f"block{n}_" for n in range(1, blocks + 1))
        )
    expected = one_shot.learn(by_hand, *annotated(), dataclasses.replace(views, frozen=0))
    assert [loss for _, loss in history.losses] == pytest.approx(
        [loss for _, loss in expected.losses], rel=1e-4
    )
    assert history.losses[-1][1] != history.losses[0][1]


def test_views_made_once_come_again():
    still = dataclasses.replace(STAGE, updates=6, rate=0.0, views=4, batch_size=2, height=40)
    losses = [loss for _, loss in one_shot.learn(one_convolution(), *annotated(), still).losses]
    assert losses[:2] == losses[2:4] == losses[4:]
    assert losses[0] != losses[1]
    endless = dataclasses.replace(still, views=None)
    losses = [loss for _, loss in one_shot.learn(one_convolution(), *annotated(), endless).losses]
    assert len(set(losses)) == 6


def test_it_stops_when_the_object_is_learned(monkeypatch):
    monkeypatch.setattr(one_shot, "_CHECK_EVERY", 3)
    still = dataclasses.replace(STAGE, updates=50, rate=0.0, height=40)  # learns nothing more
    history = one_shot.learn(
        one_convolution(), *annotated(), dataclasses.replace(still, until_learned=True)
    )
    assert history.updates == 3 + 3 + 3 + still.cooldown
    still = dataclasses.replace(still, updates=12)
    history = one_shot.learn(one_convolution(), *annotated(), still)
    assert history.updates == 12


def test_it_goes_on_while_the_held_out_views_get_better(monkeypatch):
    monkeypatch.setattr(one_shot, "_CHECK_EVERY", 10)
    learning = dataclasses.replace(STAGE, updates=40, until_learned=True)
    net = network()
    history = one_shot.learn(net, *annotated(), learning)
    assert history.updates >= 30
    images, masks = annotated()
    found = model.build_predictor(net)(images)[..., 0].numpy() > 0.5
    assert (found & (masks == 1)).sum() > 0.8 * (found | (masks == 1)).sum()


def test_views_have_the_working_height():
    """A network that looks at frames at half their height is trained on views of that height."""
    net = network()
    net.get_layer("preprocess").working_height = 20
    sizes = []
    call = type(net.get_layer("preprocess")).call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(net.get_layer("preprocess")),
            "call",
            lambda self, images: sizes.append(tuple(images.shape[1:3])) or call(self, images),
        )
        one_shot.learn(net, *annotated(), dataclasses.replace(STAGE, updates=1))
    assert set(sizes) == {(20, 28)}


def test_no_updates_change_nothing():
    net = network()
    history = one_shot.learn(net, *annotated(), dataclasses.replace(STAGE, updates=0))
    assert history.updates == 0
    for found, expected in zip(net.get_weights(), network().get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
