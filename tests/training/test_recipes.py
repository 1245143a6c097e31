"""The paper's numbers, pinned, and the arithmetic on them."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvos_tf.training import recipes
from osvos_tf.training.recipes import (
    ONE_SHOT_PAPER,
    ONE_SHOT_SCRATCH,
    PARENT_PAPER,
    PARENT_SCRATCH,
    Stage,
)


def stage(**options):
    return Stage(**{"name": "test", "updates": 10, "optimizer": "momentum", "rate": 1.0, **options})


def test_parent_of_the_paper():
    """Caffe's three solvers: 50,000 updates of ten images, sides weighing 1, 0.5 and 0."""
    numbers = [(s.first_update, s.updates, s.side_weight, s.drops) for s in PARENT_PAPER]
    assert numbers == [
        (0, 15_000, 1.0, (10_000,)),
        (15_000, 15_000, 0.5, (10_000,)),
        (30_000, 20_000, 0.0, (10_000,)),
    ]
    assert [s.name for s in PARENT_PAPER] == ["parent1", "parent2", "parent3"]
    assert PARENT_PAPER[-1].last_update == 50_000
    for phase in PARENT_PAPER:
        assert (phase.batch_size, phase.accumulation) == (1, 10)


def test_one_shot_of_the_paper():
    assert ONE_SHOT_PAPER.updates == ONE_SHOT_PAPER.last_update == 500
    assert (ONE_SHOT_PAPER.batch_size, ONE_SHOT_PAPER.accumulation) == (1, 1)
    assert ONE_SHOT_PAPER.side_weight == 0
    assert {ONE_SHOT_PAPER.rate_at(update) for update in range(500)} == {1e-8}


@pytest.mark.parametrize("phase", [*PARENT_PAPER, ONE_SHOT_PAPER], ids=lambda s: s.name)
def test_optimiser_of_the_paper(phase):
    assert (phase.optimizer, phase.rate, phase.weight_decay) == ("momentum", 1e-8, 0.0002)
    assert phase.normalise == "sum"
    assert phase.warmup == 0
    assert phase.cooldown == 0
    assert phase.augmentation == recipes.Augmentation(flip=True, scales=(0.5, 0.8, 1.0))
    factors = {
        "block1_conv1": (1, 2),
        "block5_conv3": (1, 2),
        "prep_side2": (1, 2),
        "score_side2": (0.1, 0.2),
        "score_side5": (0.1, 0.2),
        "fused": (0.01, 0.02),
    }
    for layer, expected in factors.items():
        assert (phase.rate_factor(layer, "kernel"), phase.rate_factor(layer, "bias")) == expected


@pytest.mark.parametrize("phase", PARENT_PAPER, ids=lambda s: s.name)
def test_rate_is_caffes_staircase(phase):
    """Policy "step": rate * 0.1^floor(iteration / 10,000), the iterations of a phase from 0."""
    for iteration in (0, 1, 9_998, 9_999, 10_000, 10_001, phase.updates - 1):
        expected = 1e-8 * 0.1 ** (iteration // 10_000)
        assert phase.rate_at(phase.first_update + iteration) == pytest.approx(expected, rel=1e-12)


def test_rate_over_all_of_the_parent():
    def rate_at(update):
        (phase,) = [s for s in PARENT_PAPER if s.first_update <= update < s.last_update]
        return phase.rate_at(update)

    changes = [u for u in range(1, 50_000) if rate_at(u) != rate_at(u - 1)]
    assert changes == [10_000, 15_000, 25_000, 30_000, 40_000]


def test_warmup_rises_to_the_rate():
    rates = [stage(warmup=4).rate_at(update) for update in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_cooldown_falls_along_half_a_cosine():
    cooled = stage(cooldown=8, warmup=2, first_update=100)
    rates = [cooled.rate_at(100 + update) for update in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.5)
    assert all(before > after > 0 for before, after in itertools.pairwise(rates[2:]))
    assert rates[-1] < 0.05


def test_cooldown_comes_before_an_earlier_end():
    cooled = stage(cooldown=4)
    assert [cooled.rate_at(update, end=6) for update in range(6)] == pytest.approx(
        [cooled.rate_at(update + 4) for update in range(6)]
    )


def test_several_drops():
    rates = [stage(drops=(2, 5)).rate_at(update) for update in range(7)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_first_fitting_prefix_counts():
    factors = stage(rate_factors=(("block1_conv1", 5.0), ("block1", 3.0)), bias_factor=2.0)
    assert factors.rate_factor("block1_conv1", "kernel") == 5
    assert factors.rate_factor("block1_conv2", "kernel") == 3
    assert factors.rate_factor("block1_conv2", "bias") == 6
    assert factors.rate_factor("block2_conv1", "bias") == 2


def test_shorter_parent_keeps_its_proportions():
    short = recipes.with_updates(PARENT_PAPER, 500)
    assert [(s.first_update, s.updates, s.drops) for s in short] == [
        (0, 150, (100,)),
        (150, 150, (100,)),
        (300, 200, (100,)),
    ]
    for before, after in zip(PARENT_PAPER, short, strict=True):
        same = {"first_update": 0, "updates": 1, "drops": ()}
        assert dataclasses.replace(before, **same) == dataclasses.replace(after, **same)


@pytest.mark.parametrize("stages", [PARENT_PAPER, PARENT_SCRATCH, (ONE_SHOT_PAPER,)])
def test_a_recipes_own_updates_change_nothing(stages):
    assert recipes.with_updates(stages, stages[-1].last_update) == stages


@given(updates=st.integers(0, 200_000), stages=st.sampled_from([PARENT_PAPER, PARENT_SCRATCH]))
def test_with_updates_leaves_no_gap(updates, stages):
    scaled = recipes.with_updates(stages, updates)
    total, position = stages[-1].last_update, 0
    for before, after in zip(stages, scaled, strict=True):
        assert after.first_update == position
        assert abs(after.updates - before.updates * updates / total) <= 1
        assert all(0 <= drop <= after.updates for drop in after.drops)
        assert 0 <= after.warmup <= min(before.warmup, after.updates)
        assert 0 <= after.cooldown <= after.updates
        position = after.last_update
    assert position == updates


def test_warmup_shrinks_with_the_stage_but_does_not_grow():
    total = PARENT_SCRATCH[-1].last_update
    shares = (total // 10, total, 2 * total)
    warmups = [recipes.with_updates(PARENT_SCRATCH, n)[0].warmup for n in shares]
    assert warmups == [20, 200, 200]


def test_a_cooldown_keeps_its_share():
    for share in (0.5, 1, 3):
        (scaled,) = recipes.with_updates((stage(cooldown=4),), round(10 * share))
        assert scaled.cooldown == 4 * share


@pytest.mark.parametrize("stages", [PARENT_SCRATCH, recipes.CONTOUR_SCRATCH])
def test_batches_have_views_of_one_height(stages):
    assert all(one.height for one in stages)


def test_scratch_recipes_can_run_in_batches():
    for scratch in (*PARENT_SCRATCH, ONE_SHOT_SCRATCH):
        assert scratch.optimizer == "adam"
        assert scratch.normalise == "balanced"
        assert not scratch.augmentation.scales  # a batch needs one size
        assert scratch.rate_factor("fused", "bias") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, r"optimizer must be 'momentum' or 'adam'. Received: sgd"),
        ({"optimizer": "adam", "bias_factor": 2.0}, "Adam divides out"),
        ({"optimizer": "adam", "rate_factors": (("fused", 0.1),)}, "Adam divides out"),
        ({"updates": -1}, "must count"),
        ({"batch_size": 0}, "must count"),
        ({"accumulation": 0}, "must count"),
        ({"frozen": 2}, "give their number"),
    ],
)
def test_impossible_stages_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stage(**options)


def test_stages_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ONE_SHOT_PAPER.rate = 1.0


def test_every_recipe_has_a_parent_and_a_one_shot():
    assert set(recipes.PARENTS) == {"imagenet", "paper", "scratch"} <= set(recipes.ONE_SHOTS)


def test_contours_train_as_parents_do_in_the_paper():
    """No solver of the contour network was released; its prototxt has the parent's factors."""
    assert set(recipes.CONTOURS) == set(recipes.PARENTS)
    for contour, parent in zip(recipes.CONTOUR_PAPER, recipes.PARENT_PAPER, strict=True):
        assert contour.name == parent.name.replace("parent", "contour")
        assert dataclasses.replace(contour, name=parent.name) == parent
