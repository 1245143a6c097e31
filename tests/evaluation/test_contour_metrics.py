"""The contour benchmark: thinning, the one-to-one matching, the counts and what is made of them."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from osvos_tf.data import bsds
from osvos_tf.evaluation import contour_metrics as metrics

SIZE = (60, 80)
DISTANCE = metrics.TOLERANCE * math.hypot(321, 481)  # 4.3 pixels, as on BSDS500
ROWS, COLUMNS = np.mgrid[-32:33, -32:33]


def lines(*columns, size=SIZE):
    """Draws upright lines; they end 5 pixels from the border."""
    drawn = np.zeros(size, bool)
    drawn[5:-5, list(columns)] = True
    return drawn


def blurred_line(angle, offset, sigma):
    """Returns the strength of a line and each pixel's distance from it, both [65, 65]."""
    distance = COLUMNS * math.cos(angle) + ROWS * math.sin(angle) - offset
    return 0.9 * np.exp(-((distance / sigma) ** 2) / 2), distance


@st.composite
def drawings(draw):
    """Two small random drawings of one size."""
    size = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).random((2, *size))
    density = st.sampled_from([0, 0.05, 0.3, 0.7, 1])
    return noise[0] < draw(density), noise[1] < draw(density)


# Thinning


@settings(deadline=None)
@given(st.floats(0, math.pi), st.floats(-0.5, 0.5), st.floats(1, 4))
def test_a_blurred_line_of_any_direction_becomes_one_pixel_wide(angle, offset, sigma):
    strength, distance = blurred_line(angle, offset, sigma)
    thinned = metrics.thin(strength)
    assert thinned.dtype == np.float32
    kept = thinned > 0
    np.testing.assert_array_equal(thinned[kept], np.float32(strength)[kept])
    if abs(math.sin(angle)) > abs(math.cos(angle)):  # rather level than upright
        kept, distance = kept.T, distance.T
    kept, distance = kept[16:-16], distance[16:-16]
    assert (kept.sum(axis=1) == 1).all()
    half_pixel = (abs(math.cos(angle)) + abs(math.sin(angle))) / 2
    assert abs(distance[kept]).max() < half_pixel + 0.001  # the line runs through these pixels


@pytest.mark.parametrize("value", [0, 0.3, 1])
def test_a_constant_map_has_no_line(value):
    assert not metrics.thin(np.full(SIZE, value, np.float32)).any()


def test_a_flat_top_is_thinned_to_its_middle():
    strength = np.zeros(SIZE)
    strength[:, 38:43] = 1
    assert np.flatnonzero(metrics.thin(strength)[5:-5].any(axis=0)).tolist() == [40]


def test_both_of_two_crossing_lines_stay():
    strengths = [blurred_line(angle, 0, 1.5)[0] for angle in (0.4, 0.4 + math.pi / 2)]
    thinned = metrics.thin(np.maximum(*strengths))
    for strength in strengths:
        alone = metrics.thin(strength) > 0
        _, found = metrics.match(thinned > 0, alone, 1.5)
        assert found.sum() >= 0.95 * alone.sum()


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (np.zeros(SIZE, np.uint8), "strength: wanted float .* got uint8 of shape"),
        (np.zeros((1, *SIZE)), r"got float64 of shape \(1, 60, 80\)"),
        (np.full(SIZE, 1.5), r"wanted 0\.\.1, got 1\.5\.\.1\.5"),
        (np.full(SIZE, np.nan), r"wanted 0\.\.1, got nan\.\.nan"),
    ],
)
def test_what_is_not_a_contour_map_is_refused(strength, message):
    for function in (metrics.thin, lambda strength: metrics.image_counts(strength, [lines(9)])):
        with pytest.raises(ValueError, match=message):
            function(strength)


# Matching


def most_pairs(contour, truth, max_distance):
    """The highest number of pairs, by SciPy's Hopcroft-Karp on all distances."""
    points = [np.argwhere(side) for side in (contour, truth)]
    squares = ((points[0][:, None] - points[1][None]) ** 2).sum(axis=-1)
    graph = sparse.csr_array(squares <= max_distance**2)
    return (sparse.csgraph.maximum_bipartite_matching(graph) >= 0).sum() if graph.nnz else 0


@settings(max_examples=300, deadline=None)
@given(drawings(), st.floats(0, 6))
def test_the_matching_is_one_to_one_and_there_is_none_larger(drawing, max_distance):
    contour, truth = drawing
    matched, found = metrics.match(contour, truth, max_distance)
    assert not (matched & ~contour).any() and not (found & ~truth).any()
    pairs = most_pairs(contour, truth, max_distance)
    assert matched.sum() == found.sum() == pairs
    assert most_pairs(matched, found, max_distance) == pairs  # these pixels do fit together


def test_who_comes_late_is_let_in_by_moving_the_others():
    contour, truth = np.zeros((2, 1, 12), bool)
    contour[0, [2, 4, 6]] = True
    truth[0, [0, 3, 5]] = True  # 2 takes 3, its nearest; 6 needs 5, so 4 needs 3, so 2 needs 0
    matched, found = metrics.match(contour, truth, 2)
    assert matched.sum() == found.sum() == 3


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (4, 1), (5, 0)])
def test_lines_match_up_to_the_tolerance(shift, expected):
    matched, found = metrics.match(lines(20 + shift), lines(20), DISTANCE)
    assert matched.sum() == found.sum() == expected * lines(20).sum()


def test_a_doubled_line_is_half_wrong():
    matched, found = metrics.match(lines(20, 22), lines(21), DISTANCE)
    assert matched.sum() == found.sum() == lines(21).sum() == lines(20, 22).sum() / 2


def test_only_drawings_of_one_size_match():
    with pytest.raises(ValueError, match=r"truth: wanted the contour's shape \(60, 80\), got"):
        metrics.match(lines(20), lines(20)[1:], DISTANCE)
    with pytest.raises(ValueError, match=r"contour: wanted bool .* got float64"):
        metrics.match(lines(20) * 1.0, lines(20), DISTANCE)


# Counts of an image


def test_precision_asks_for_any_annotator_and_recall_for_all():
    length = lines(9).sum()
    truths = [lines(10), lines(10, 40), lines(70)]
    counts = metrics.image_counts(lines(10, 40, 55) * 1.0, truths, (0.5,))
    assert counts.tolist() == [[2 * length, 3 * length, 3 * length, 4 * length]]


def test_each_threshold_is_counted_as_if_it_were_alone():
    randomness = np.random.default_rng(0)
    strength = randomness.random(SIZE) * (randomness.random(SIZE) < 0.2)
    truths = randomness.random((3, *SIZE)) < 0.05
    max_distance = metrics.TOLERANCE * math.hypot(*SIZE)
    counts = metrics.image_counts(strength, truths)
    for row, threshold in zip(counts, metrics.THRESHOLDS, strict=True):
        contour = metrics._thin_lines(strength >= threshold)
        pairs = [metrics.match(contour, truth, max_distance) for truth in truths]
        correct = np.logical_or.reduce([matched for matched, _ in pairs])
        found = sum(found.sum() for _, found in pairs)
        assert row.tolist() == [correct.sum(), contour.sum(), found, truths.sum()]


def test_a_thick_line_is_thinned_before_it_is_counted():
    counts = metrics.image_counts(lines(19, 20, 21) * 1.0, [lines(20)], (0.5,))
    assert 0 < counts[0, 1] <= lines(20).sum()


def test_a_strength_equal_to_the_threshold_counts():
    strength = np.zeros(SIZE, np.float32)
    for threshold, column in zip(metrics.THRESHOLDS, range(5, 71, 2), strict=True):
        strength[lines(column)] = threshold
    counts = metrics.image_counts(strength, [lines(20)])
    assert counts[:, 1].tolist() == [n * lines(20).sum() for n in range(33, 0, -1)]


def test_annotations_of_another_size_are_refused():
    for truths in ([lines(20)[1:]], lines(20)):
        with pytest.raises(ValueError, match=r"truths: wanted .* of the map's size"):
            metrics.image_counts(lines(20) * 1.0, truths)


# Scores of a set of images


def scores_of(*maps_and_truths, thresholds=metrics.THRESHOLDS):
    counts = [metrics.image_counts(*pair, thresholds) for pair in maps_and_truths]
    return metrics.ods_ois(counts, thresholds)


def test_the_truth_itself_scores_one():
    scores = scores_of((lines(20, 40) * 1.0, [lines(20, 40)]))
    assert scores.ODS == scores.OIS == (1, 1, 1)


def test_an_image_alone_is_its_own_data_set():
    strength = lines(20) * 0.8 + lines(40, 60) * 0.4
    scores = scores_of((strength, [lines(20, 40)]))
    assert scores.ODS == scores.OIS == (2 / 3, 1, pytest.approx(0.8))
    assert scores.threshold == metrics.THRESHOLDS[0]


def test_each_image_may_have_its_own_threshold_in_ois_only():
    # What is noise in the one is contour in the other.
    strong = lines(20) * 0.9 + lines(40, 60) * 0.5
    weak = lines(20) * 0.5 + lines(60) * 0.1
    scores = scores_of((strong, [lines(20)]), (weak, [lines(20)]), thresholds=(0.3, 0.7))
    assert scores.OIS == (1, 1, 1)
    assert tuple(scores.ODS) == (0.5, 1, pytest.approx(2 / 3))
    assert scores.threshold == 0.3


def test_pixels_count_alike_whatever_their_image():
    counts = [[[3, 10, 30, 40]], [[90, 90, 50, 60]]]
    precision, recall = 93 / 100, 80 / 100
    expected = (precision, recall, pytest.approx(2 * precision * recall / (precision + recall)))
    scores = metrics.ods_ois(counts, (0.5,))
    assert scores.ODS == scores.OIS == expected


@pytest.mark.parametrize(
    ("strength", "truth"),
    [(lines(), lines()), (lines(), lines(20)), (lines(20), lines())],
)
def test_a_share_of_nothing_is_zero(strength, truth):
    scores = scores_of((strength * 1.0, [truth]))
    assert scores.ODS == scores.OIS == (0, 0, 0)


@pytest.mark.parametrize("counts", [[], np.zeros((33, 4)), np.zeros((2, 32, 4))])
def test_scores_want_counts_of_every_threshold(counts):
    with pytest.raises(ValueError, match=r"counts: wanted .* 33 thresholds, 4"):
        metrics.ods_ois(counts)


# Real annotations


@pytest.mark.real_data
def test_people_agree_with_each_other_more_than_with_canny(real_data):
    root = real_data / "BSDS500"
    if not root.is_dir():
        pytest.skip(f"no folder BSDS500 in {real_data}")
    human, canny = [], []
    for frame in bsds.read_split(root, "val").frames[:100:20]:
        first, *others = bsds.read_boundaries(frame.mask)
        image = cv2.GaussianBlur(cv2.imread(str(frame.image)), None, 2)
        edges = cv2.Canny(image, 40, 80, L2gradient=True) > 0
        human.append(metrics.image_counts(first * 1.0, others, (0.5,)))
        canny.append(metrics.image_counts(edges * 1.0, others, (0.5,)))
    human, canny = (metrics.ods_ois(counts, (0.5,)).ODS for counts in (human, canny))
    assert human.F > canny.F + 0.1
    assert human.precision > 0.8
