"""Online adaptation: what a frame teaches, when it does, and that nothing else changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import osvos_tf
from osvos_tf.evaluation import metrics
from osvos_tf.segmentation import adaptation
from osvos_tf.training import recipes

SIZE = (40, 56)
QUICK = {"updates": 2, "precision": "float32"}


def disc(row, column, radius, size=SIZE):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


@settings(deadline=None, max_examples=50)
@given(
    row=st.integers(-5, 45), column=st.integers(-5, 60), radius=st.integers(0, 25),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_what_a_frame_teaches(row, column, radius, seed):
    """By the distance of every pixel from every other, in float64."""
    mask = disc(row, column, radius)
    probability = mask * np.random.default_rng(seed).uniform(0.9, 1, SIZE).astype(np.float32)
    found = adaptation.labels_of(probability[..., None], mask[..., None])
    inside, outside = (np.argwhere(mask == side) for side in (True, False))

    def distances(to):
        grid = np.stack(np.indices(SIZE), axis=-1)[..., None, :]
        return np.sqrt(((grid - to) ** 2).sum(-1)).min(-1) if len(to) else np.full(SIZE, np.inf)

    sure = mask & (distances(outside) > 0.02 * SIZE[0]) & (probability > 0.97)
    if not sure.any():
        assert found is None
        return
    np.testing.assert_array_equal(found == 1, sure)
    np.testing.assert_array_equal(found == 0, distances(inside) > 0.25 * SIZE[0])
    assert set(np.unique(found)) <= {0, 1, 255} and found.dtype == np.uint8


def test_it_goes_on_as_it_has_learned():
    stage = recipes.ONE_SHOT_IMAGENET
    adapting = recipes.adapting(stage)
    assert adapting.rate_at(0) == adapting.rate_at(10**6) == pytest.approx(stage.rate / 5)
    assert adapting.augmentation == stage.augmentation and adapting.optimizer == stage.optimizer
    assert recipes.adapting(recipes.ONE_SHOTS["paper"]).images == 2


@pytest.fixture(scope="module")
def video():
    """A bright disc that moves over noise, 13 frames."""
    noise = np.random.default_rng(0).integers(0, 90, (13, *SIZE, 3), dtype=np.uint8)
    masks = np.stack([disc(20, 15 + 2 * number, 9) for number in range(13)])
    return noise + masks[..., None] * np.uint8(120), masks


@pytest.fixture(scope="module")
def specialist(parent, video):
    frames, masks = video
    given = {0: masks[0].astype(np.uint8), 9: masks[9].astype(np.uint8)}
    return osvos_tf.learn(frames, given, parent=parent, **QUICK)


@pytest.fixture
def lessons(monkeypatch):
    """Frames that were learned from, and what they taught."""
    found = []
    labels_of = adaptation.labels_of

    taught = disc(20, 28, 9)[..., None]

    def sure(probability, mask):
        found.append(np.asarray(probability)[..., 0])
        return labels_of(np.float32(taught), taught)

    monkeypatch.setattr(adaptation, "labels_of", sure)
    return found


def segment(specialist, video, **options):
    options = {"precision": "float32", "snap": "none", "smooth": False, **options}
    found = specialist.segment(video[0], **options)
    return np.stack([frame.probability[1] for frame in found])


@pytest.mark.parametrize("follow", [True, False])
def test_every_fifth_frame_teaches_those_behind_it(specialist, video, lessons, follow):
    """Frames 4 and 9 would, counted from 0, but 9 is annotated; up to 4 nothing changes."""
    without = segment(specialist, video, follow=follow, adapt=False)
    assert not lessons
    adapted = segment(specialist, video, follow=follow)
    np.testing.assert_allclose(adapted[:5], without[:5], atol=1e-5)
    assert np.abs(adapted[5:9] - without[5:9]).max() > 1e-4
    assert len(lessons) == 1
    np.testing.assert_allclose(lessons[0], without[4], atol=1e-5)


def test_it_is_repeatable_and_leaves_the_specialist_as_it_was(specialist, video, lessons):
    before = specialist.network.get_weights()
    first, second = (segment(specialist, video) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for ours, theirs in zip(specialist.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_frame_of_which_nothing_is_sure_teaches_nothing(specialist, video, monkeypatch):
    monkeypatch.setattr(adaptation, "labels_of", lambda *_: None)
    adapted = segment(specialist, video)
    np.testing.assert_allclose(adapted, segment(specialist, video, adapt=False), atol=1e-5)


def test_what_is_not_sharp_teaches_nothing():
    mask = disc(20, 28, 9)
    sharp, dim = mask * np.float32(0.99), np.where(mask, np.float32(0.99), np.float32(0.5))
    assert adaptation.labels_of(sharp[..., None], mask[..., None]) is not None
    assert adaptation.labels_of(dim[..., None], mask[..., None]) is None


def test_of_two_objects_one_may_teach():
    """The pixels of the other are no background of the first, nor the object."""
    first, second = disc(20, 12, 8), disc(20, 44, 8)
    probabilities = np.stack((first * 0.99, np.where(second, 0.99, 0.6)), -1).astype(np.float32)
    found = adaptation.labels_of(probabilities, np.stack((first, second), -1))
    assert set(np.unique(found)) == {0, 1, 255}
    assert (found[second] == 255).all() and not (found[first] == 0).any()
    probabilities[..., 1] = second * 0.99
    found = adaptation.labels_of(probabilities, np.stack((first, second), -1))
    assert (found[20, 12], found[20, 44], found[0, 0]) == (1, 2, 0)


def test_a_bare_network_has_nothing_to_hold_on_to(specialist, video, lessons, tmp_path):
    specialist.save(tmp_path / "known")
    bare = osvos_tf.load(tmp_path / "known" / "specialist.keras")
    segment(bare, video)
    assert not lessons


def test_one_frame_after_another_learns_too(specialist, video, lessons):
    from osvos_tf.segmentation.options import SegmentOptions
    from osvos_tf.segmentation.segmenter import Segmenter

    frames, masks = video
    stepper = Segmenter(specialist, SIZE, SegmentOptions(precision="float32", snap="none"))
    for number, frame in enumerate(frames):
        given = masks[number].astype(np.uint8) if number in (0, 6) else None
        stepper.step(frame, given, name=f"{number:05d}")
    assert len(lessons) == 2


@pytest.mark.slow
def test_an_object_that_changes_is_found_longer(parent):
    """A disc that moves over noise and turns from red to blue."""
    random, count = np.random.default_rng(0), 31
    frames = random.integers(0, 90, (count, *SIZE, 3), dtype=np.uint8)
    masks = np.stack([disc(20, 14 + number, 9) for number in range(count)])
    for frame, mask, share in zip(frames, masks, np.linspace(0, 1, count), strict=True):
        colour = (1 - share) * np.array([200, 40, 40]) + share * np.array([40, 40, 200])
        frame[mask] = 0.3 * frame[mask] + 0.7 * colour
    learned = osvos_tf.learn(
        frames, {0: masks[0].astype(np.uint8)}, parent=parent, updates=200, precision="float32"
    )
    at_the_end = {}
    for adapt in (False, True):
        found = [frame.mask for frame in learned.segment(frames, adapt=adapt, smooth=False)]
        at_the_end[adapt] = metrics.region_similarity(np.stack(found), masks)[-1]
    assert at_the_end[False] < 0.5 < 0.8 < at_the_end[True]
