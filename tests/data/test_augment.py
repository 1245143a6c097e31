"""Augmentation: image and mask move together, masks keep their values, a seed says it all."""

import functools

import cv2
import numpy as np
import pytest
import tensorflow as tf

from osvos_tf.data import augment
from osvos_tf.data.augmentation import Augmentation

HEIGHT, WIDTH = 48, 80
BRIGHT = 200.0
SEEDS = [(7, n) for n in range(24)]

ALL_STEPS = {
    "flip": augment.random_flip,
    "scale": functools.partial(augment.random_scale, scales=(0.5, 0.8, 1.0)),
    "view": functools.partial(
        augment.random_view, size=(40, 60), zoom=(0.7, 1.5), shift=0.1, rotation=30
    ),
    "crop": functools.partial(
        augment.random_view, size=(HEIGHT, WIDTH), zoom=(0.8, 1.3), rotation=20, crop=0.5
    ),
    "gain": lambda image, mask, seed: (augment.random_gain(image, seed, 0.2), mask),
    "light": lambda image, mask, seed: (augment.random_light(image, seed, 1.5), mask),
    "paper": functools.partial(
        augment.augment, augmentation=Augmentation(flip=True, scales=(0.5, 0.8, 1.0))
    ),
    "everything": functools.partial(
        augment.augment,
        augmentation=Augmentation(
            flip=True,
            scales=(0.5, 1.0),
            zoom=(0.7, 1.5),
            shift=0.1,
            rotation=30,
            gain=0.2,
            light=1.5,
        ),
        size=(40, 60),
    ),
}


@pytest.fixture(params=ALL_STEPS)
def step(request):
    return ALL_STEPS[request.param]


def pair(top=14, left=20, height=20, width=36, void=False):
    """Returns an image that is the mask made visible, so that both can be compared again."""
    mask = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    mask[top : top + height, left : left + width] = 1
    image = np.repeat(mask * np.float32(BRIGHT), 3, axis=2)
    if void:
        mask[: HEIGHT // 4] = 255
    return tf.constant(image), tf.constant(mask)


def run(step, seed, image_and_mask):
    image, mask = step(*map(tf.constant, image_and_mask), tf.constant(seed))
    return image.numpy(), mask.numpy()


def box(mask):
    """Returns (top, left, bottom, right) of the object, the last two exclusive."""
    rows, columns = np.nonzero(mask[..., 0] == 1)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def centre(mask):
    return np.argwhere(mask[..., 0] == 1).mean(axis=0)


def area(mask):
    return np.sum(mask == 1)


def angle(mask):
    """Returns the angle in degrees between the object's long side and the rows."""
    moments = cv2.moments((mask[..., 0] == 1).astype(np.uint8), binaryImage=True)
    return np.degrees(np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]) / 2)


# --- what holds for every step --------------------------------------------------------------------


def test_same_directly_and_inside_a_map(step):
    image_and_mask = pair(void=True)
    seeds = tf.constant(SEEDS[:6])
    dataset = tf.data.Dataset.from_tensor_slices(seeds).map(lambda s: step(*image_and_mask, s))
    for seed, (image, mask) in zip(seeds, dataset.as_numpy_iterator(), strict=True):
        expected_image, expected_mask = run(step, seed, image_and_mask)
        np.testing.assert_allclose(image, expected_image, atol=1e-3)
        np.testing.assert_array_equal(mask, expected_mask)


def test_mask_keeps_its_values_and_the_image_its_range(step):
    for seed in SEEDS:
        image, mask = run(step, seed, pair(void=True))
        assert mask.dtype == np.uint8 and mask.shape == (*image.shape[:2], 1)
        assert set(np.unique(mask)) <= {0, 1, 255}
        assert image.dtype == np.float32 and image.shape[2] == 3
        assert image.min() >= 0 and image.max() <= 255


def test_image_and_mask_move_together(step):
    """Past the edge, where interpolation mixes, each pixel shows what its mask says."""
    square = np.ones((3, 3), np.uint8)
    for seed in SEEDS:
        image, mask = run(step, seed, pair())
        inside = cv2.erode((mask == 1).astype(np.uint8), square) > 0
        outside = cv2.erode((mask == 0).astype(np.uint8), square) > 0
        assert inside.any() and outside.any()
        assert image[inside].min() > 0.45 * BRIGHT and image[outside].max() < 0.45 * BRIGHT


@pytest.mark.parametrize("name", ["flip", "scale", "near view"])
def test_image_and_mask_do_not_drift_apart(name):
    """On average their centres differ by a small part of a pixel."""
    near = functools.partial(
        augment.random_view, size=(HEIGHT, WIDTH), zoom=(0.9, 1.1), shift=0.05, rotation=20
    )
    drifts = []
    for number, seed in enumerate(SEEDS):
        start = pair(top=14 + number % 4, left=26 + number % 5, height=15, width=21)
        image, mask = run({**ALL_STEPS, "near view": near}[name], seed, start)
        weights = image[..., 0] / image[..., 0].sum()
        rows, columns = np.indices(weights.shape)
        drifts.append(centre(mask) - (np.sum(rows * weights), np.sum(columns * weights)))
    np.testing.assert_allclose(np.mean(drifts, axis=0), 0, atol=0.1)
    np.testing.assert_allclose(drifts, 0, atol=0.5)


def test_the_seed_says_it_all(step):
    first, again = (run(step, SEEDS[0], pair()) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    different = {run(step, seed, pair())[0].tobytes() for seed in SEEDS}
    assert len(different) > 1


def test_source_is_not_changed(step):
    image, mask = pair()
    run(step, SEEDS[0], (image, mask))
    for now, before in zip((image, mask), pair(), strict=True):
        np.testing.assert_array_equal(now, before)


# --- each step ------------------------------------------------------------------------------------


def test_flip_swaps_left_and_right_half_of_the_time():
    image, mask = (pixels.numpy() for pixels in pair(left=2))
    flips = 0
    for seed in [(1, n) for n in range(100)]:
        flipped_image, flipped_mask = run(augment.random_flip, seed, (image, mask))
        if np.array_equal(flipped_mask, mask):
            np.testing.assert_array_equal(flipped_image, image)
        else:
            flips += 1
            np.testing.assert_array_equal(flipped_mask, mask[:, ::-1])
            np.testing.assert_array_equal(flipped_image, image[:, ::-1])
    assert 30 <= flips <= 70


def test_scales_give_the_sizes_and_are_equally_likely():
    scales = (0.5, 0.8, 1.0)
    sizes = [
        run(functools.partial(augment.random_scale, scales=scales), (2, n), pair())[1].shape[:2]
        for n in range(90)
    ]
    expected = [(24, 40), (38, 64), (48, 80)]  # 48 * 0.8 = 38.4
    assert set(sizes) == set(expected)
    assert all(15 <= sizes.count(size) <= 45 for size in expected)


def test_scale_one_is_the_identity():
    image, mask = pair(void=True)
    same_image, same_mask = augment.random_scale(image, mask, (0, 0), (1.0,))
    np.testing.assert_allclose(same_image, image, atol=1e-3)
    np.testing.assert_array_equal(same_mask, mask)


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), None])
def test_no_augmentation_is_the_identity(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    mask = rng.choice(np.array([0, 1, 255], np.uint8), (HEIGHT, WIDTH, 1))
    same_image, same_mask = augment.augment(image, mask, (0, 0), Augmentation(), size)
    assert same_image.dtype == tf.float32
    np.testing.assert_allclose(same_image, image, atol=1e-3)
    np.testing.assert_array_equal(same_mask, mask)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((24, 40), (7, 10, 17, 28)),  # half
        ((96, 160), (28, 40, 68, 112)),  # double
        ((48, 40), (14, 0, 34, 36)),  # the middle half of the columns
        ((48, 120), (9, 30, 39, 84)),  # half as large again, and rows are cut off
    ],
)
def test_the_frame_covers_the_view(size, expected):
    _, mask = augment.random_view(*pair(), (0, 0), size=size)
    assert mask.shape == (*size, 1)
    assert box(mask.numpy()) == expected
    assert not (mask.numpy() == 255).any()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_zoom_is_a_factor_on_lengths(factor):
    image, mask = pair(top=18, left=32, height=12, width=16)  # its centre is the frame's
    image, mask = augment.random_view(
        image, mask, (0, 0), size=(HEIGHT, WIDTH), zoom=(factor, factor)
    )
    top, left, bottom, right = box(mask.numpy())
    assert (bottom - top, right - left) == (12 * factor, 16 * factor)
    np.testing.assert_allclose(centre(mask.numpy()), ((HEIGHT - 1) / 2, (WIDTH - 1) / 2))
    # A frame that is shown at half its size leaves three quarters of the view to the void.
    assert np.mean(mask == 255) == (0.75 if factor == 0.5 else 0.0)
    if factor == 0.5:
        assert np.all(mask[12:36, 20:60] != 255)


def test_zoom_is_drawn_from_all_of_its_range():
    step = functools.partial(augment.random_view, size=(HEIGHT, WIDTH), zoom=(0.5, 2.0))
    factors = [
        np.sqrt(area(run(step, (3, n), pair(height=8, width=8, left=36))[1]) / 64)
        for n in range(60)
    ]
    assert 0.4 <= min(factors) < 0.65 and 1.6 < max(factors) <= 2.1
    assert 0.85 < np.median(factors) < 1.18  # as often smaller as larger


def test_rotation_keeps_area_and_centre():
    step = functools.partial(augment.random_view, size=(HEIGHT, WIDTH), rotation=20)
    start = pair(top=20, left=20, height=8, width=40)
    angles = []
    for seed in [(4, n) for n in range(40)]:
        _, mask = run(step, seed, start)
        assert area(mask) == pytest.approx(area(start[1].numpy()), rel=0.03)
        np.testing.assert_allclose(centre(mask), ((HEIGHT - 1) / 2, (WIDTH - 1) / 2), atol=0.3)
        angles.append(angle(mask))
    assert -20.5 <= min(angles) < -15 and 15 < max(angles) <= 20.5


def test_shift_is_a_fraction_of_the_frame():
    step = functools.partial(augment.random_view, size=(HEIGHT, WIDTH), shift=0.25)
    moves = np.array([centre(run(step, (5, n), pair())[1]) - (23.5, 37.5) for n in range(60)])
    assert np.all(np.abs(moves) <= (12.6, 20.6))
    assert np.all(moves.max(axis=0) > (8, 14)) and np.all(moves.min(axis=0) < (-8, -14))


def test_out_of_the_frame_the_mask_is_void_and_the_image_mirrored():
    step = functools.partial(augment.random_view, size=(HEIGHT, WIDTH), zoom=(0.5, 0.5))
    ramp = np.broadcast_to(np.arange(WIDTH, dtype=np.float32)[:, None], (HEIGHT, WIDTH, 3))
    image, mask = run(step, (0, 0), (ramp, pair()[1]))
    assert np.all(mask[:, :20] == 255) and np.all(mask[:, 60:] == 255)
    row = image[HEIGHT // 2, :, 0]
    np.testing.assert_allclose(row[:20], row[20:40][::-1], atol=1.0)
    np.testing.assert_allclose(row[60:], row[40:60][::-1], atol=1.0)


def test_a_crop_has_the_frames_scale_and_shows_the_object():
    look = functools.partial(augment.random_view, size=(HEIGHT, WIDTH), crop=0.5)
    small = pair(top=30, left=60, height=6, width=10)
    tops = set()
    for seed in SEEDS:
        image, mask = run(look, seed, small)
        assert image.shape == (HEIGHT // 2, WIDTH // 2, 3)
        assert (mask == 1).any()
        if not (mask == 255).any():
            assert 15 <= area(mask) <= 60  # never larger than the object itself
        tops.add(box(mask)[0])
    assert len(tops) > 3


def test_a_crop_of_an_empty_mask_is_of_anywhere():
    image, mask = pair(height=0)
    _, cropped = run(
        functools.partial(augment.random_view, size=(48, 80), crop=0.5), (1, 2), (image, mask)
    )
    assert cropped.shape == (24, 40, 1)


def test_paste_lays_one_object_over_another():
    image, mask = (array.numpy() for array in pair(top=0, left=0, height=20, width=30, void=True))
    other, other_mask = (array.numpy() for array in pair(top=10, left=20))
    other = other / 2 + 10  # another colour, and another background
    pasted, labels = augment.paste(*map(tf.constant, (image, mask, other, other_mask)))
    expected = np.where(other_mask == 1, 1, mask)
    np.testing.assert_array_equal(labels, expected)
    inside, outside = (np.zeros_like(mask) for _ in range(2))
    inside[11:29, 21:55] = 1
    outside[9:31, 19:57] = 1
    np.testing.assert_allclose(pasted.numpy()[inside[..., 0] == 1], BRIGHT / 2 + 10)
    np.testing.assert_array_equal(pasted.numpy()[outside[..., 0] == 0], image[outside[..., 0] == 0])


def test_gain_dims_and_tints_within_its_bounds():
    image = tf.fill([4, 4, 3], 100.0)
    colours = np.array([augment.random_gain(image, (6, n), 0.2)[0, 0] for n in range(60)])
    assert colours.min() >= 100 * 0.8**2 - 1e-3 and colours.max() <= 100 * 1.2**2 + 1e-3
    assert colours.std(axis=0).min() > 5  # every channel varies,
    assert np.ptp(colours, axis=1).max() > 5  # and not all as one
    assert np.max(augment.random_gain(tf.fill([2, 2, 3], 255.0), (6, 0), 0.2)) <= 255.0
    np.testing.assert_allclose(augment.random_gain(image, (6, 0), 0.0), image)


def test_light_changes_one_side_of_a_line():
    image = tf.fill([HEIGHT, WIDTH, 3], 100.0)
    factors = np.array([augment.random_light(image, (6, n), 2.0) for n in range(60)]) / 100
    assert np.ptp(factors, axis=-1).max() == 0  # light has no colour
    factors = factors[..., 0].reshape(60, -1)
    assert factors.min() >= 0.5 - 1e-6 and factors.max() <= 2 + 1e-6
    strongest = np.max(np.abs(np.log2(factors)), axis=1)
    assert strongest.min() < 0.2 and strongest.max() > 0.8
    clear = np.log2(factors[strongest > 0.5])
    part = np.abs(clear) / strongest[strongest > 0.5, None]
    as_before, lit = np.mean(part < 0.1, axis=1), np.mean(part > 0.9, axis=1)
    assert np.median(as_before) > 0.1 and np.median(lit) > 0.1
    assert np.median(as_before + lit) > 0.8  # the border between the two is narrow
    assert np.max(augment.random_light(tf.fill([9, 9, 3], 255.0), (6, 0), 2.0)) <= 255.0
    np.testing.assert_allclose(augment.random_light(image, (6, 0), 1.0), image, rtol=1e-6)


def test_what_a_view_draws_is_independent():
    step = functools.partial(
        augment.random_view, size=(HEIGHT, WIDTH), zoom=(0.8, 1.2), shift=0.1, rotation=20
    )
    start = pair(top=20, left=24, height=8, width=32)
    draws = []
    for seed in [(9, n) for n in range(80)]:
        _, mask = run(step, seed, start)
        draws.append((area(mask), angle(mask), *centre(mask)))
    correlations = np.corrcoef(np.transpose(draws))
    assert np.all(np.abs(correlations - np.eye(4)) < 0.5)


def test_steps_draw_independently():
    """Whether a view is flipped says nothing about how it is zoomed."""
    step = functools.partial(augment.augment, augmentation=Augmentation(flip=True, zoom=(0.8, 1.2)))
    start = pair(left=4)
    views = [run(step, (8, n), start)[1] for n in range(60)]
    for flipped in (False, True):
        areas = [area(mask) for mask in views if (centre(mask)[1] > WIDTH / 2) == flipped]
        assert len(areas) > 15 and min(areas) < 0.8 * 20 * 36 and max(areas) > 1.2 * 20 * 36
