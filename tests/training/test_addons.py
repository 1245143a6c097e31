"""Our layer-wise rates and our affine augmentation against those of tensorflow-addons."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from osvos_tf.data import augment
from osvos_tf.training import loop, recipes
from support.trainings import (
    first_batches,
    gradients_of,
    names_and_kinds,
    network,
    values_of,
    views,
)

tfa = pytest.importorskip(
    "tensorflow_addons",
    reason="tensorflow-addons does not import here (it needs TensorFlow 2.15): make test-addons",
)

FACTORS = {"block": 1.0, "prep_": 1.0, "score_": 0.1, "fused": 0.01}  # the authors', on kernels


def factor_of(layer, kind):
    (factor,) = (factor for prefix, factor in FACTORS.items() if layer.startswith(prefix))
    return 2 * factor if kind == "bias" else factor


def test_layer_wise_rates_are_those_of_multi_optimizer():
    """One SGD optimiser for each factor, the weights dealt out among them; the rate drops."""
    stage = dataclasses.replace(
        recipes.PARENT_PAPER[1],
        first_update=0,
        updates=5,
        rate=0.05,
        drops=(3,),
        accumulation=2,
        normalise="balanced",
    )
    trained, snapshots = network(), []
    loop.train(trained, views(), stage, on_update=lambda *_: snapshots.append(values_of(trained)))

    other = network()
    kinds = names_and_kinds(other)
    dealt = {}
    for variable, kind in zip(other.trainable_variables, kinds, strict=True):
        dealt.setdefault(factor_of(*kind), []).append(variable.name)
    assert sorted(dealt) == [0.01, 0.02, 0.1, 0.2, 1.0, 2.0]
    optimizers = {factor: keras.optimizers.SGD(momentum=0.9) for factor in dealt}
    multi = tfa.optimizers.MultiOptimizer(
        optimizer_specs=[
            {"optimizer": optimizer, "weights": dealt[factor]}
            for factor, optimizer in optimizers.items()
        ]
    )
    batches = first_batches(views(), 10)
    before = values_of(other)
    for update, found in enumerate(snapshots):
        for factor, optimizer in optimizers.items():
            optimizer.learning_rate = factor * (0.005 if update >= 3 else 0.05)
        passes = [gradients_of(other, batches[2 * update + i], stage)[1] for i in range(2)]
        gradients = [
            (first + second) / 2 + (0.0002 * value if kind == "kernel" else 0)
            for first, second, value, (_, kind) in zip(
                *passes, values_of(other), kinds, strict=True
            )
        ]
        gradients = [tf.constant(gradient, tf.float32) for gradient in gradients]
        multi.apply_gradients(zip(gradients, other.trainable_variables, strict=True))
        expected = values_of(other)
        for ours, theirs, start, kind in zip(found, expected, before, kinds, strict=True):
            moved = np.abs(theirs - start).max()
            assert moved > 0
            assert np.abs(ours - theirs).max() <= 1e-3 * moved, (update, kind)
        before = expected


# Draws in -1 .. 1: zoom, angle, shift down, shift right.
@pytest.mark.parametrize("draws", [(0, 0, 0, 0), (0, 0.7, 0, 0), (0.3, -0.9, 0.8, -0.45)])
@pytest.mark.parametrize("size", [(49, 81), (31, 57), (64, 40)])
def test_a_view_is_a_transform_of_addons(draws, size, monkeypatch):
    random = np.random.default_rng(2)
    height, width = 49, 81  # odd, so that no pixel lies just between two others
    image = random.uniform(0, 255, (height, width, 3)).astype(np.float32)
    mask = (random.uniform(size=(height, width, 1)) < 0.4).astype(np.uint8)
    zoom, shift, rotation = (0.8, 2.0), 0.25, 30.0
    monkeypatch.setattr(
        tf.random, "stateless_uniform", lambda *_, **__: tf.constant(draws, tf.float32)
    )
    found_image, found_mask = augment.random_view(
        image, mask, (0, 0), size=size, zoom=zoom, shift=shift, rotation=rotation
    )

    # From the view to the frame: enlarged about the centre, turned, moved.
    factor = zoom[0] ** ((1 - draws[0]) / 2) * zoom[1] ** ((1 + draws[0]) / 2)
    step = min(height / size[0], width / size[1]) / factor
    top, left = (height - 1 - step * (size[0] - 1)) / 2, (width - 1 - step * (size[1] - 1)) / 2
    enlarged = tf.constant([step, 0, left, 0, step, top, 0, 0], tf.float32)
    angle = np.radians(rotation * draws[1])
    turned = tfa.image.transform_ops.angles_to_projective_transforms(angle, height, width)
    moved = tfa.image.translate_ops.translations_to_projective_transforms(
        [-shift * draws[3] * width, -shift * draws[2] * height]
    )
    transform = tfa.image.compose_transforms([moved, turned, enlarged])

    expected = tfa.image.transform(image, transform, "bilinear", "reflect", size)
    np.testing.assert_allclose(found_image, expected, atol=0.05)
    expected = tfa.image.transform(mask, transform, "nearest", "constant", size, fill_value=255)
    assert found_mask.dtype == expected.dtype
    np.testing.assert_array_equal(found_mask, expected)
