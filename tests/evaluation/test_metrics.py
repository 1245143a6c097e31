"""J, F and T: what they mean, that the fast ways are exact, and the published values."""

import itertools
import json
import math
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osvos_tf.evaluation import metrics
from osvos_tf.evaluation.polygons import closed_curves, main_polygon, simplified, turning_area
from osvos_tf.evaluation.temporal import (
    cheapest_path,
    cheapest_path_by_queue,
    contour_samples,
    distances,
    histogram_costs,
    pair_instability,
    shape_contexts,
    temporal_instability,
)

# Invented masks


def rectangles(*boxes, size=(120, 160)):
    """Paints boxes (top, bottom, left, right), ends included."""
    mask = np.zeros(size, bool)
    for top, bottom, left, right in boxes:
        mask[top : bottom + 1, left : right + 1] = True
    return mask


ROWS, COLUMNS = np.mgrid[:120, :160]
RECTANGLE = rectangles((30, 89, 40, 109))
SHAPES = {
    "disc": (ROWS - 60) ** 2 + (COLUMNS - 70) ** 2 <= 1600,
    "ellipse": 25 * (ROWS - 58) ** 2 + 9 * (COLUMNS - 76) ** 2 <= 32400,
    "L": rectangles((20, 99, 30, 59), (75, 99, 30, 119)),
    "rect": RECTANGLE,
    "rect_hole": RECTANGLE & ~rectangles((45, 59, 55, 74)),
    "touch": rectangles((20, 49, 20, 59), (50, 89, 60, 119)),
    "two": rectangles((10, 39, 10, 39), (60, 89, 60, 89)),
    "pixel": rectangles((5, 5, 5, 5)),
    "empty": rectangles(),
}


@st.composite
def mask_pairs(draw):
    """Two masks of one size: overlaid boxes that often touch the border, sometimes noise."""
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 150)))
    span = st.tuples(st.integers(-5, size[0] + 5), st.integers(0, 45))
    across = st.tuples(st.integers(-5, size[1] + 5), st.integers(0, 155))
    noise = np.random.default_rng(draw(st.integers(0, 99))).random((2, *size))
    masks = noise < draw(st.sampled_from([0, 0, 0.02, 0.5, 1]))
    for mask in masks:
        for (top, height), (left, width) in draw(st.lists(st.tuples(span, across), max_size=4)):
            mask[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] ^= True
    return masks


# J


def test_half_overlapping_squares_have_a_third_in_common():
    left, right = rectangles((10, 29, 10, 29)), rectangles((10, 29, 20, 39))
    assert metrics.region_similarity(left, right) == 1 / 3


@pytest.mark.parametrize(
    ("mask", "truth", "expected"),
    [("empty", "empty", 1), ("empty", "disc", 0), ("disc", "empty", 0), ("disc", "disc", 1)],
)
def test_empty_and_equal_masks(mask, truth, expected):
    assert metrics.region_similarity(SHAPES[mask], SHAPES[truth]) == expected
    assert metrics.boundary_accuracy(SHAPES[mask], SHAPES[truth]) == expected


def test_void_pixels_count_neither_as_hit_nor_as_miss():
    truth, wrong = rectangles((10, 29, 10, 29)), rectangles((60, 79, 10, 29))
    assert metrics.region_similarity(truth | wrong, truth) == 1 / 2
    assert metrics.region_similarity(truth | wrong, truth, void=wrong) == 1
    assert metrics.boundary_accuracy(truth | wrong, truth, void=wrong) == 1
    assert metrics.region_similarity(truth, wrong, void=truth | wrong) == 1
    assert metrics.boundary_accuracy(truth, wrong, void=truth | wrong) == 1


@given(mask_pairs())
def test_region_similarity_is_intersection_over_union(masks):
    mask, truth = masks
    union = (mask | truth).sum()
    expected = (mask & truth).sum() / union if union else 1.0
    assert metrics.region_similarity(mask, truth) == expected


# F


def boundary_by_definition(mask):
    boundary = np.zeros_like(mask)
    boundary[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    boundary[:-1] |= mask[:-1] != mask[1:]
    boundary[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return boundary


def boundary_accuracy_by_definition(mask, truth):
    """Measures the distances between all boundary pixels of the whole frames."""
    points = [np.argwhere(boundary_by_definition(side)) for side in (mask, truth)]
    if not all(map(len, points)):
        return float(len(points[0]) == len(points[1]))
    squares = ((points[0][:, None] - points[1][None]) ** 2).sum(axis=-1)
    near = squares <= math.ceil(metrics.BOUNDARY_TOLERANCE * math.hypot(*mask.shape)) ** 2
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=300, deadline=None)
@given(mask_pairs(), st.sampled_from([0.008, 0.03, 0.1, 0.7]))
def test_boundary_accuracy_equals_its_definition_bit_by_bit(masks, tolerance):
    with mock.patch.object(metrics, "BOUNDARY_TOLERANCE", tolerance):
        assert metrics.boundary_accuracy(*masks) == boundary_accuracy_by_definition(*masks)


@settings(max_examples=50, deadline=None)
@given(mask_pairs(), st.integers(0, 99))
def test_void_in_boundary_accuracy_empties_both_masks(masks, seed):
    void = np.random.default_rng(seed).random(masks[0].shape) < 0.3
    expected = boundary_accuracy_by_definition(*(masks & ~void))
    assert metrics.boundary_accuracy(*masks, void=void) == expected


def test_boundary_tolerance_is_eight_pixels_at_480p():
    bar = rectangles((0, 479, 100, 399), size=(480, 854))
    assert metrics.boundary_accuracy(np.roll(bar, 8, axis=1), bar) == 1
    assert metrics.boundary_accuracy(np.roll(bar, 9, axis=1), bar) == 0
    half = rectangles((0, 479, 0, 399), size=(480, 854))  # one edge: none along the border
    assert metrics.boundary_accuracy(bar, half) == 2 * 0.5 / 1.5


def test_boundary_tolerance_of_more_than_a_word_of_pixels():
    bar = rectangles((1000, 1999, 1000, 2999), size=(4320, 7680))
    assert metrics.boundary_accuracy(np.roll(bar, 71, axis=1), bar) == 1
    assert metrics.boundary_accuracy(np.roll(bar, 72, axis=1), bar) < 1


def test_a_mask_that_fills_the_frame_has_no_boundary():
    full = np.ones((120, 160), bool)
    assert metrics.boundary_accuracy(full, full) == 1
    assert metrics.boundary_accuracy(full, SHAPES["empty"]) == 1
    assert metrics.boundary_accuracy(full, SHAPES["disc"]) == 0


# Both


@pytest.mark.parametrize("measure", [metrics.region_similarity, metrics.boundary_accuracy])
def test_stacks_are_scored_frame_by_frame_however_many(measure):
    masks = np.stack([np.roll(SHAPES["disc"], i % 70, axis=1) for i in range(300)])
    truth = np.broadcast_to(SHAPES["ellipse"], masks.shape)
    scores = measure(masks, truth, void=np.zeros_like(masks))
    assert scores.shape == (300,)
    assert scores.dtype == np.float64
    assert isinstance(measure(masks[0], truth[0]), float)
    for i in (0, 1, 255, 256, 299):
        assert scores[i] == measure(masks[i], truth[i])


@pytest.mark.parametrize("measure", [metrics.region_similarity, metrics.boundary_accuracy])
def test_all_ways_to_write_a_mask_are_understood(measure):
    mask, truth = SHAPES["disc"], SHAPES["ellipse"]
    expected = measure(mask, truth)
    for dtype in (np.uint8, np.int64, np.float32):
        assert measure(mask.astype(dtype), truth) == expected
    assert measure(mask * np.uint8(255), truth.tolist()) == expected
    assert measure(np.asfortranarray(mask), truth) == expected
    if measure is metrics.region_similarity:
        assert measure(mask[::-1, ::-1], truth[::-1, ::-1]) == expected


@pytest.mark.parametrize("measure", [metrics.region_similarity, metrics.boundary_accuracy])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask * np.uint8(2), r"mask: wanted .* 0 and 1 .*, got values 0, 2\."),
        (lambda mask: mask * 0.5, r"mask: wanted .* got values 0.0, 0.5\."),
        (lambda mask: mask * 255.0, r"mask: wanted .* got values 0.0, 255.0\."),
        (lambda mask: np.where(mask, np.nan, 0), "mask: wanted .* got values 0.0, nan"),
        (lambda mask: ROWS, r"got values 0, 1, 2, 3, 4, 5, 6, 7, \.\.\."),
        (lambda mask: mask.astype(str), "mask: wanted bool or numbers, got dtype"),
        (lambda mask: mask[0], r"mask: wanted \[height, width\] or .* got shape \(160,\)"),
        (lambda mask: mask[:0], r"got shape \(0, 160\)"),
        (lambda mask: mask[:-1], r"wanted the mask's shape \(119, 160\), got \(120, 160\)"),
    ],
)
def test_what_is_not_a_mask_is_refused(measure, change, message):
    with pytest.raises(ValueError, match=message):
        measure(change(SHAPES["disc"]), SHAPES["disc"])


def test_void_of_another_size_is_refused():
    with pytest.raises(ValueError, match="void: wanted the mask's shape"):
        metrics.region_similarity(SHAPES["disc"], SHAPES["disc"], void=SHAPES["disc"][1:])


# T: polygons, contours and values published for these shapes' construction


def polygons(mask):
    """Returns all polygons in the order of the list, where the main one is the first longest."""
    return [simplified(curve, mask) for curve in closed_curves(mask)]


@pytest.mark.parametrize(
    ("shape", "entries", "start", "samples"),
    [
        ("disc", [16], [(20, 70), (26, 92), (36, 103), (52, 110), (69, 109), (82, 105)], 90),
        ("ellipse", [17], [(22, 76), (29, 110), (35, 123), (44, 132), (52, 136), (70, 134)], 112),
        ("L", [7], [(20, 30), (20, 60), (75, 60), (75, 120), (100, 120), (100, 30), (20, 30)], 116),
        ("rect", [5], [(30, 40), (30, 110), (90, 110), (90, 40), (30, 40)], 89),
        ("rect_hole", [5, 5], [(45, 55), (60, 55), (60, 75), (45, 75), (45, 55)], 25),
        ("touch", [5, 5], [(50, 60), (50, 20), (20, 20), (20, 60), (50, 60)], 49),
        ("two", [5, 5], [(60, 60), (60, 90), (90, 90), (90, 60), (60, 60)], 41),
    ],
)
def test_polygons_and_samples(shape, entries, start, samples):
    found = polygons(SHAPES[shape])
    assert [len(polygon) for polygon in found] == entries
    assert found[0][: len(start)].tolist() == [list(vertex) for vertex in start]
    assert main_polygon(SHAPES[shape]).tolist() == found[0].tolist()
    assert len(contour_samples(SHAPES[shape])) == samples


def test_the_polygon_with_most_vertices_wins_wherever_it_is_in_the_list():
    assert len(main_polygon(SHAPES["L"] | rectangles((2, 9, 2, 150)))) == 7
    assert len(main_polygon(SHAPES["L"] | rectangles((108, 118, 2, 150)))) == 7


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("disc", "disc", 0),
        ("disc", "ellipse", 0.15886178757940556),
        ("ellipse", "disc", 0.15886178757940556),
        ("disc", "L", 0.40619495968193786),
        ("L", "rect", 0.30041455675190754),
        ("rect", "rect_hole", 0.7124035968364884),
        ("rect", "touch", 0.020369360014831448),
        ("touch", "L", 0.3012190924185219),
        ("two", "rect", 0.031383910788970175),
    ],
)
def test_pair_instability(first, second, expected):
    (value,) = pair_instability([SHAPES[first], SHAPES[second]])
    assert value == pytest.approx(expected, abs=1e-15)


def test_a_shift_does_not_count_as_instability():
    shifted = np.roll(SHAPES["L"], (7, 11), axis=(0, 1))
    assert pair_instability([SHAPES["L"], shifted]).tolist() == [0]


def test_temporal_instability_is_five_times_the_mean_and_passes_over_empty_masks():
    disc, ellipse, empty, pixel = (SHAPES[s] for s in ("disc", "ellipse", "empty", "pixel"))
    assert np.isnan(pair_instability([disc, empty, pixel, disc])).all()
    assert math.isnan(temporal_instability([disc, empty]))
    values = pair_instability([disc, ellipse, empty, disc, disc])
    assert np.isnan(values).tolist() == [False, True, True, False]
    expected = 5 * (values[0] + values[3]) / 2
    assert temporal_instability([disc, ellipse, empty, disc, disc]) == expected


def test_temporal_instability_wants_two_masks():
    for masks in (SHAPES["disc"], [SHAPES["disc"]]):
        with pytest.raises(ValueError, match=r"masks: wanted \[frames >= 2, height, width\], got"):
            temporal_instability(masks)


@settings(max_examples=50, deadline=None)
@given(mask_pairs())
def test_curves_use_each_crack_once_and_enclose_the_object(masks):
    mask = masks[0]
    stride = mask.shape[1] + 1
    cracks, visited, area = 0, set(), 0
    for curve in closed_curves(mask):
        assert curve[0] == curve[-1]
        assert len(set(curve[1:])) == len(curve) - 1  # no curve meets itself
        visited |= {tuple(sorted(pair)) for pair in itertools.pairwise(curve)}
        cracks += len(curve) - 1
        is_hole = not mask[divmod(min(curve), stride)]
        enclosed = abs(turning_area(np.stack(np.divmod(curve, stride), axis=1))) / 2
        area += -enclosed if is_hole else enclosed
    padded = np.pad(mask, 1)
    expected = (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    assert cracks == len(visited) == expected
    assert area == mask.sum()


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32), st.sampled_from([2, 4, 1e9]))
def test_the_path_is_the_queue_s_even_where_many_paths_are_equally_short(rows, columns, seed, top):
    costs = np.random.default_rng(seed).integers(0, top, (rows, columns)).astype(float)
    path = cheapest_path(costs)
    assert path.tolist() == cheapest_path_by_queue(costs).tolist()
    length = sum(costs[tuple(node)] for node in path[:-1])
    assert length == distances(costs)[-1, -1]


# Statistics and whole sequences


def test_statistics_of_a_few_values():
    mean, recall, decay = metrics.statistics([0.9, 0.8, 0.6, 0.5, 0.5, 0.3, 0.1])
    assert mean == pytest.approx(3.7 / 7)
    assert recall == 3 / 7  # 0.5 itself is not above 0.5
    assert decay == pytest.approx((0.9 + 0.8 + 0.6) / 3 - (0.3 + 0.1) / 2)  # halves round up
    assert metrics.statistics([0.7]) == (0.7, 1, 0)
    assert metrics.statistics([0.2, 0.6]).decay == pytest.approx(-0.4)


@pytest.mark.parametrize(("count", "edges"), [(38, (1, 10, 20, 29, 38)), (48, (1, 13, 25, 36, 48))])
def test_decay_compares_the_first_and_last_quarter_with_both_ends(count, edges):
    values = np.random.default_rng(0).random(count)
    expected = values[: edges[1]].mean() - values[edges[3] - 1 :].mean()
    assert metrics.statistics(values).decay == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("count", [255, 256, 257, 400, 1000])
def test_decay_of_long_sequences(count):
    assert metrics.statistics(np.linspace(1, 0, count)).decay == pytest.approx(0.75, abs=0.002)


@pytest.mark.parametrize("values", [[], [[0.5]], 0.5])
def test_statistics_wants_a_list_of_values(values):
    with pytest.raises(ValueError, match="wanted one number a frame, got shape"):
        metrics.statistics(values)


def test_sequence_scores_leave_out_both_ends_and_start_t_from_the_annotation():
    disc, ellipse, letter = (SHAPES[shape] for shape in ("disc", "ellipse", "L"))
    truth = np.stack([disc, disc, ellipse, letter])
    masks = np.stack([letter, ellipse, ellipse, disc])
    scores = metrics.sequence_scores(masks, truth)
    assert scores.J.tolist() == [metrics.region_similarity(ellipse, disc), 1]
    assert scores.F.tolist() == [metrics.boundary_accuracy(ellipse, disc), 1]
    expected = temporal_instability([disc, ellipse, ellipse])
    assert expected == scores.T
    assert metrics.sequence_scores(masks, truth, void=masks ^ truth).J.tolist() == [1, 1]


def test_sequence_scores_want_sequences_of_one_size():
    masks = np.stack([SHAPES["disc"]] * 4)
    with pytest.raises(ValueError, match="truth: wanted the mask's shape"):
        metrics.sequence_scores(masks, masks[1:])
    with pytest.raises(ValueError, match="void: wanted the mask's shape"):
        metrics.sequence_scores(masks, masks, void=masks[1:])
    with pytest.raises(ValueError, match=r"wanted \[frames >= 3, height, width\], got"):
        metrics.sequence_scores(masks[:2], masks[:2])


def test_the_stable_sequences_are_17_of_train_and_10_of_val():
    train, val = (metrics.STABLE_SEQUENCES[split] for split in ("train", "val"))
    assert (len(set(train)), len(set(val))) == (17, 10)
    assert not set(train) & set(val)


# The benchmark's stored values for the OSVOS authors' masks


VAL_TABLE = {  # J mean, recall, decay, F mean, recall, decay, T of OSVOS, T of the annotations
    "blackswan": (0.9423, 1.0000, 0.0014, 0.9753, 1.0000, 0.0049, 0.0549, 0.0139),
    "car-shadow": (0.9373, 1.0000, 0.0977, 0.9425, 1.0000, 0.1485, 0.1526, 0.0522),
    "dog": (0.9070, 0.9828, 0.0256, 0.9207, 1.0000, 0.0352, 0.4057, 0.2367),
    "drift-straight": (0.6756, 0.7292, 0.5644, 0.7137, 0.6875, 0.5232, 0.9129, 0.1696),
    "libby": (0.8077, 0.9574, 0.2343, 0.9026, 1.0000, 0.1900, 0.9873, 0.8634),
}


@pytest.fixture(name="golden")
def golden_fixture(real_data):
    """Loads (masks, truth, stored per-frame values) of one sequence."""
    results = real_data.parent / "reference" / "osvos_author_results"
    if not results.is_dir():
        pytest.skip(f"no results of the OSVOS authors in {results}")

    def load(sequence):
        truth = sorted((real_data / "DAVIS/Annotations/480p" / sequence).glob("*.png"))
        masks = [results / "masks" / sequence / path.name for path in truth]
        masks[0], masks[-1] = truth[0], truth[-1]  # not scored
        stored = {}
        for name in ("per_frame.json", "per_frame_T.json"):
            stored |= json.loads((results / name).read_text())[sequence]
        read = [np.stack([cv2.imread(str(p), 0) for p in paths]) > 0 for paths in (masks, truth)]
        return *read, stored

    return load


@pytest.mark.real_data
@pytest.mark.parametrize("sequence", VAL_TABLE)
def test_published_values_are_reproduced(golden, sequence):
    masks, truth, stored = golden(sequence)
    J = metrics.region_similarity(masks, truth)[1:-1]
    F = metrics.boundary_accuracy(masks, truth)[1:-1]
    np.testing.assert_allclose(J, stored["J"], rtol=0, atol=0.0006)
    np.testing.assert_allclose(F, stored["F"], rtol=0, atol=0.0006)
    expected = VAL_TABLE[sequence]
    statistics = [*metrics.statistics(J), *metrics.statistics(F)]
    np.testing.assert_allclose(statistics, expected[:6], rtol=0, atol=0.00006)
    raw = pair_instability(masks[:-1])  # its first mask is the annotation
    np.testing.assert_allclose(raw, stored["osvos_T"], rtol=0, atol=1e-9)
    assert 5 * raw.mean() == pytest.approx(expected[6], abs=0.00006)


@pytest.mark.real_data
@pytest.mark.parametrize("sequence", ["car-shadow", "drift-straight"])
def test_published_instability_of_the_annotations_is_reproduced(golden, sequence):
    _, truth, stored = golden(sequence)
    raw = pair_instability(truth[:-1])
    np.testing.assert_allclose(raw, stored["gt_T"], rtol=0, atol=1e-9)
    assert 5 * raw.mean() == pytest.approx(VAL_TABLE[sequence][7], abs=0.00006)


@pytest.mark.real_data
def test_the_first_pair_of_car_shadow_in_detail(golden):
    _, truth, _ = golden("car-shadow")
    polygon = main_polygon(truth[0])
    assert len(polygon) == 48
    assert polygon[:3].tolist() == [[101, 597], [106, 597], [109, 620]]
    samples = [contour_samples(mask) for mask in truth[:2]]
    assert [len(points) for points in samples] == [333, 325]
    assert samples[0][:4].tolist() == [[101, 597], [103.5, 597], [106, 597], [106.375, 599.875]]
    costs = histogram_costs(*map(shape_contexts, samples))
    assert costs[0, 0] == pytest.approx(0.00518957099726646, abs=1e-15)
    path = cheapest_path(costs)
    assert len(path) == 348
    best = min(path[:-1].tolist(), key=lambda node: costs[tuple(node)])
    assert best == [23, 24]


def test_objects_are_scored_one_by_one():
    truth = np.zeros((6, 40, 60), np.int32)
    truth[:, 5:15, 5:25], truth[:, 20:35, 30:50] = 3, 300
    truth[:, 38:] = 255
    labels = truth.copy()
    labels[:, 38:] = 300  # on void, so it does not count
    labels[:, 5:10, 5:25] = 9  # an id that no annotation has takes half of object 3
    scores = metrics.object_scores(labels, truth)
    assert list(scores) == [3, 300]
    assert scores[3].J.tolist() == [0.5] * 4 and scores[300].J.tolist() == [1.0] * 4
    alone = metrics.sequence_scores(labels == 3, truth == 3, truth == 255)
    np.testing.assert_array_equal(scores[3].F, alone.F)
    with pytest.raises(ValueError, match="integer object ids"):
        metrics.object_scores(labels / 2, truth)
