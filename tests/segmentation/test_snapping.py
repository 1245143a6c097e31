"""Snapping: the contour map's hierarchy, the superpixels' vote, and the bilateral solver."""

import json
import subprocess
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osvos_tf.data import davis
from osvos_tf.segmentation import colours, snapping
from support.world import REPOSITORY

hg = snapping.hg  # its first import warns, see there

# Invented contours


def closed_line(shape, size=(40, 60)):
    """Draws a closed line of strength 1, one pixel wide; returns (contours, inside, outside)."""
    line = np.zeros(size, np.uint8)
    if shape == "rectangle":
        cv2.rectangle(line, (15, 8), (44, 30), 1)
    else:
        cv2.ellipse(line, (30, 20), (19, 12), 20, 0, 360, 1)
    count, parts = cv2.connectedComponents(1 - line, connectivity=4)
    assert count == 3  # and 0, the line itself
    return line.astype(np.float32), parts == parts[20, 30], parts == parts[0, 0]


def blobs(seed, size=(48, 64)):
    """Smooth noise, all values different: a map without ties."""
    noise = np.random.default_rng(seed).random(size, np.float32)
    noise = cv2.GaussianBlur(noise, None, 2)
    return (noise - noise.min()) / np.ptp(noise)


@st.composite
def contour_maps(draw):
    """Small maps: noise, often of few levels so that there are ties, and straight lines."""
    height, width = draw(st.tuples(st.integers(1, 9), st.integers(1, 11)))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).random((height, width))
    levels = draw(st.sampled_from([0, 1, 2, 4, 1000]))
    contours = np.round(noise * levels) / levels if levels else np.zeros((height, width))
    for _ in range(draw(st.integers(0, 2))):
        contours[draw(st.integers(0, height - 1))] = draw(st.sampled_from([0, 0.3, 1]))
        contours[:, draw(st.integers(0, width - 1))] = draw(st.sampled_from([0, 0.3, 1]))
    return contours.astype(draw(st.sampled_from([np.float32, np.float64])))


@st.composite
def label_maps(draw):
    """Small label maps from 0 or above, with gaps between the labels, and a mask."""
    size = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    randomness = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = randomness.integers(0, draw(st.integers(1, 12)), size)
    return 3 * labels + draw(st.integers(0, 2)), randomness.random(size) < 0.5


def same_partition(first, second):
    """Whether two label maps put the same pixels together."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(first)) == len(np.unique(second))


def neighbours(image):
    """Returns what is on both sides of each gap between columns, then between rows."""
    return (image[:, :-1], image[:, 1:]), (image[:-1], image[1:])


# The ultrametric contour map


@settings(deadline=None)
@given(contour_maps())
def test_the_map_lies_on_the_double_grid(contours):
    grid = snapping.ucm(contours)
    assert grid.dtype == np.float32
    assert grid.shape == (2 * contours.shape[0] + 1, 2 * contours.shape[1] + 1)
    assert grid.min() >= 0 and grid.max() <= 1
    assert (grid[1::2, 1::2] == 0).all()
    assert (grid[[0, -1]] == 1).all() and (grid[:, [0, -1]] == 1).all()
    corners = grid[2:-1:2, 2:-1:2]
    around = grid[1:-2:2, 2:-1:2], grid[3::2, 2:-1:2], grid[2:-1:2, 1:-2:2], grid[2:-1:2, 3::2]
    assert (corners == np.max(around, axis=0)).all()


@settings(deadline=None)
@given(contour_maps())
def test_boundaries_are_closed_and_partitions_nested(contours):
    grid = snapping.ucm(contours)
    finer = None
    for threshold in np.unique(grid):
        labels = snapping.superpixels(grid, threshold)
        assert set(labels.ravel().tolist()) == set(range(1, labels.max() + 1))
        gaps = grid[1::2, 2:-1:2], grid[2:-1:2, 1::2]
        for gap, (first, second) in zip(gaps, neighbours(labels), strict=True):
            np.testing.assert_array_equal(gap > threshold, first != second)
        if finer is not None:  # a superpixel lies inside a single one of the next threshold
            pairs = np.unique(np.stack([finer.ravel(), labels.ravel()]), axis=1)
            assert pairs.shape[1] == finer.max()
        finer = labels
    assert finer.max() == 1


@settings(deadline=None, max_examples=50)
@given(contour_maps())
def test_merging_strengths_are_an_ultrametric(contours):
    grid = snapping.ucm(contours)
    thresholds = np.unique(grid)
    labels = np.stack([snapping.superpixels(grid, t).ravel() for t in thresholds])
    together = labels[:, :, None] == labels[:, None, :]
    distance = thresholds[together.argmax(axis=0)]  # the first threshold that joins two pixels
    for middle in range(distance.shape[0]):
        detour = np.maximum(distance[:, middle, None], distance[None, middle, :])
        assert (distance <= detour).all()


@pytest.mark.parametrize("value", [0, 0.29, 0.5, 1])
def test_without_contours_there_is_one_superpixel(value):
    grid = snapping.ucm(np.full((7, 9), value, np.float32))
    assert (grid[1:-1, 1:-1] == 0).all()
    assert (snapping.superpixels(grid, 0) == 1).all()


@pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
def test_a_closed_contour_separates_its_inside_from_its_outside(shape):
    contours, inside, outside = closed_line(shape)
    labels = snapping.superpixels(snapping.ucm(contours))
    assert labels.max() == 2
    assert len(np.unique(labels[inside])) == len(np.unique(labels[outside])) == 1
    assert labels[inside][0] != labels[outside][0]


def test_a_contour_with_a_gap_separates_nothing():
    contours, _, _ = closed_line("rectangle")
    contours[8, 20:23] = 0
    assert snapping.superpixels(snapping.ucm(contours)).max() == 1


def test_a_straight_contour_is_as_strong_as_its_mean():
    contours = np.zeros((20, 50), np.float32)
    contours[:, 10], contours[:10, 30], contours[10:, 30] = 0.2, 0.4, 0.6
    grid = snapping.ucm(contours)
    gaps = np.unique(grid[1::2, 2:-1:2])
    assert gaps.tolist() == pytest.approx([0, 0.2, 0.5], abs=0.01)
    counts = [snapping.superpixels(grid, threshold).max() for threshold in (0, 0.3, 0.6)]
    assert counts == [3, 2, 1]


def test_a_boundary_across_a_ridge_counts_less():
    rows, columns = np.mgrid[-40:41, -40:41] / 10
    contours = 0.8 * np.exp(-(rows**2)) + 0.1 * np.exp(-100 * columns**2)
    grid = snapping.ucm(contours)
    with mock.patch.object(snapping, "_BLUNTNESS", np.inf):  # no arc has a direction
        plain = snapping.ucm(contours)
    across, along = (slice(1, None, 2), slice(2, -1, 2)), (slice(2, -1, 2), slice(1, None, 2))
    assert grid[across].max() < 0.65 * plain[across].max()
    assert grid[along].max() > 0.99 * plain[along].max()


@pytest.mark.parametrize("seed", range(4))
def test_regions_without_ties_are_higra_s_watershed(seed):
    contours = blobs(seed)
    graph = hg.get_4_adjacency_graph(contours.shape)
    weights = hg.weight_graph(graph, contours, hg.WeightFunction.mean)
    expected = hg.labelisation_watershed(graph, weights)
    assert same_partition(snapping._watershed(contours), expected)


@settings(deadline=None)
@given(contour_maps())
def test_there_are_as_many_regions_as_minima_even_with_ties(contours):
    contours = np.round(8 * contours) / 8  # sums of two are exact
    graph = hg.get_4_adjacency_graph(contours.shape)
    weights = hg.weight_graph(graph, contours, hg.WeightFunction.mean)
    expected = hg.labelisation_watershed(graph, weights).max() if weights.size else 1
    assert snapping._watershed(contours).max() == expected


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_flipped_contours_give_the_flipped_map(axis):
    contours = blobs(5)
    flipped = snapping.ucm(np.flip(contours, axis))
    np.testing.assert_allclose(np.flip(flipped, axis), snapping.ucm(contours), atol=1e-5)


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        (np.zeros((4, 5, 1, 1), np.float32), r"wanted float \[height, width\], got .* \(4, 5, 1"),
        (np.zeros((0, 5), np.float32), r"got float32 of shape \(0, 5\)"),
        (np.zeros((4, 5), np.uint8), "got uint8"),
        (np.full((4, 5), np.nan, np.float32), "wanted values in 0..1, got nan"),
        (np.full((4, 5), -0.1), "got -0.1 to -0.1"),
        (np.full((4, 5), 1.1), "got 1.1 to 1.1"),
    ],
)
def test_what_is_no_probability_is_refused(contours, message):
    frame = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match=f"contours: .*{message}"):
        snapping.ucm(contours)
    with pytest.raises(ValueError, match=f"probability: .*{message}"):
        colours.snap_to_colours(contours, frame)


@pytest.mark.parametrize(
    ("grid", "threshold", "message"),
    [
        (np.zeros((4, 5), np.float32), 0.3, r"ucm: wanted shape \[2 \* height \+ 1, .* \(4, 5\)"),
        (np.zeros((1, 5), np.float32), 0.3, "ucm: wanted shape"),
        (np.full((3, 5), np.nan), 0.3, "ucm: wanted values in 0..1"),
        (np.zeros((3, 5), np.float32), 1.5, "threshold: wanted a number in 0..1, got 1.5"),
        (np.zeros((3, 5), np.float32), np.nan, "threshold: wanted a number in 0..1, got nan"),
    ],
)
def test_what_is_no_contour_map_or_threshold_is_refused(grid, threshold, message):
    with pytest.raises(ValueError, match=message):
        snapping.superpixels(grid, threshold)


# The vote


def test_more_than_half_decides_and_a_tie_is_background():
    labels = np.repeat([[1, 2, 3, 7]], 4, axis=0)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    for kind in (bool, np.uint8, np.float32):
        snapped = snapping.majority_vote(mask.astype(kind), labels)
        assert snapped.dtype == np.uint8
        assert snapped.tolist() == [[1, 0, 0, 0]] * 4


@given(label_maps())
def test_the_vote_is_its_definition_and_idempotent(labels_and_mask):
    labels, mask = labels_and_mask
    snapped = snapping.majority_vote(mask, labels)
    for label in np.unique(labels):
        votes = mask[labels == label]
        assert (snapped[labels == label] == (2 * votes.sum() > votes.size)).all()
    for refine in (False, True):  # a union of superpixels stays what it is
        assert (snapping.majority_vote(snapped, labels, refine=refine) == snapped).all()


@settings(deadline=None)
@given(contour_maps(), st.integers(0, 99), st.sampled_from([0, 0.29, 0.6]))
def test_snapping_to_contours_is_idempotent(contours, seed, threshold):
    labels = snapping.superpixels(snapping.ucm(contours), threshold)
    mask = np.random.default_rng(seed).random(contours.shape) < 0.5
    snapped = snapping.majority_vote(mask, labels)
    assert (snapping.majority_vote(snapped, labels) == snapped).all()


def test_refining_keeps_the_mask_in_large_superpixels_of_two_kinds():
    labels = np.repeat([1, 2, 3, 4], 100).reshape(20, 20)
    objects = {1: 71, 2: 70, 3: 7, 4: 29}
    mask = np.zeros(400, bool)
    for label, count in objects.items():
        mask[100 * (label - 1) : 100 * (label - 1) + count] = True
    labels[14, 3:] = 5  # 3 is left with 83 pixels, 7 of them object: background
    mask = mask.reshape(20, 20)
    snapped = snapping.majority_vote(mask, labels, refine=True)
    assert snapped[labels == 1].all()
    np.testing.assert_array_equal(snapped[labels == 2], mask[labels == 2])
    assert not snapped[labels >= 3].any()
    small = np.zeros((20, 20), bool)  # 10 of 20 pixels, but not 5 % of a mask of 210
    small[:10], small[15, :10] = True, True
    labels = np.where(np.arange(20)[:, None] == 15, 2, np.arange(20)[:, None] < 10)
    labels = np.broadcast_to(labels, (20, 20))
    assert snapping.majority_vote(small, labels, refine=True).sum() == 200


@pytest.mark.parametrize(
    ("mask", "labels", "message"),
    [
        (np.zeros((4, 5, 1)), np.zeros((4, 5), int), r"mask: wanted \[height, width\], got shape"),
        (np.full((4, 5), 255), np.zeros((4, 5), int), r"mask: wanted values 0 and 1, got \[255\]"),
        (np.full((4, 5), np.nan), np.zeros((4, 5), int), "mask: wanted values 0 and 1, got .nan"),
        (np.zeros((4, 5)), np.zeros((4, 6), int), r"labels: wanted the mask's shape \(4, 5\), got"),
        (np.zeros((4, 5)), np.zeros((4, 5)), "labels: wanted integers from 0, got float64"),
        (np.zeros((4, 5)), np.full((4, 5), -1), "labels: wanted integers from 0, got int64 -1"),
    ],
)
def test_what_is_no_mask_or_no_labels_is_refused(mask, labels, message):
    with pytest.raises(ValueError, match=message):
        snapping.majority_vote(mask, labels)


# The bilateral solver


def noise_frame(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (7, 1), (33, 47), (60, 81)])
def test_the_solver_takes_any_size_and_stays_in_range(size):
    probability = np.random.default_rng(1).random(size) < 0.5
    smoothed = colours.snap_to_colours(probability.astype(np.float64), noise_frame(size))
    assert (smoothed.shape, smoothed.dtype) == (size, np.float32)
    assert smoothed.min() >= 0 and smoothed.max() <= 1


@pytest.mark.parametrize("value", [0, 0.2, 0.5, 1])
def test_a_constant_stays_constant(value):
    smoothed = colours.snap_to_colours(np.full((40, 50), value, np.float32), noise_frame((40, 50)))
    np.testing.assert_allclose(smoothed, value, atol=1e-4)


def test_a_blurred_edge_moves_to_the_edge_of_the_frame():
    frame = np.zeros((60, 120, 3), np.uint8)
    frame[:, :57], frame[:, 57:] = (40, 60, 90), (160, 120, 60)
    probability = np.tile((np.arange(120) > 62).astype(np.float32), (60, 1))
    probability = cv2.GaussianBlur(probability, None, 6)
    mask = colours.snap_to_colours(probability, frame) > 0.5
    expected = np.tile(np.arange(120) >= 57, (60, 1))
    assert ((probability > 0.5) != expected).sum() == 60 * 6
    np.testing.assert_array_equal(mask, expected)


def test_without_edges_in_the_frame_the_edge_stays_about_where_it_is():
    probability = np.tile((np.arange(120) > 62).astype(np.float32), (60, 1))
    mask = colours.snap_to_colours(probability, np.full((60, 120, 3), 90, np.uint8)) > 0.5
    assert (mask != (probability > 0.5)).sum() <= 60 * colours.SIGMA_SPATIAL


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3))]
)
def test_a_frame_of_another_kind_is_refused(frame):
    with pytest.raises(ValueError, match=r"frame: wanted uint8 of shape \(4, 5, 3\), got"):
        colours.snap_to_colours(np.zeros((4, 5), np.float32), frame)


def bilateral_by_definition(probability, frame):
    """Solves the equations of the module's `_solve` as they stand, with dense matrices."""
    pixels = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb).reshape(-1, 3)
    places = np.indices(probability.shape).reshape(2, -1).T
    sigmas = [colours.SIGMA_SPATIAL] * 2 + [colours.SIGMA_LUMA] + [colours.SIGMA_CHROMA] * 2
    bins = np.floor_divide(np.hstack([places, pixels]), sigmas)
    vertices, vertex = np.unique(bins, axis=0, return_inverse=True)
    distance = np.abs(vertices[:, None] - vertices[None]).sum(axis=2)
    blur = (distance == 1) + 10 * np.eye(len(vertices))
    splat = (np.arange(len(vertices))[:, None] == vertex.ravel()).astype(float)
    scale = np.ones(len(vertices))
    for _ in range(colours.BALANCING_STEPS):
        scale = np.sqrt(scale * splat.sum(axis=1) / (blur @ scale))
    roughness = np.diag(scale * (blur @ scale)) - scale[:, None] * blur * scale
    confidence = np.maximum(np.abs(2 * probability.ravel() - 1), colours.CONFIDENCE_FLOOR)
    matrix = colours.SMOOTHNESS * roughness + np.diag(splat @ confidence)
    values = np.linalg.solve(matrix, splat @ (confidence * probability.ravel()))
    return values[vertex.ravel()].reshape(probability.shape)


def test_with_enough_steps_the_solver_solves_its_equations():
    size = (24, 31)
    smooth = cv2.GaussianBlur(noise_frame(size), None, 3)
    probability = np.random.default_rng(2).random(size, np.float32)
    with mock.patch.object(colours, "SOLVER_STEPS", 200):
        solved = colours.snap_to_colours(probability, smooth)
    expected = bilateral_by_definition(probability, smooth)
    np.testing.assert_allclose(solved, expected, atol=1e-4)


# Degraded annotations of real sequences


@pytest.mark.real_data
def test_degraded_annotations_gain(real_data, tmp_path):
    """By the benchmark, on one or two frames of each validation sequence.

    The frame's gradient stands in for a contour network: it is no judge of what the vote gains on
    the fine errors of a mask that was resampled softly.
    """
    rows = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.snapping", "--every=40"]
    command += [f"--davis={real_data / 'DAVIS'}", f"--json={rows}"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=300)
    rows = [row for row in json.loads(rows.read_text()) if "degraded" in row]
    sequences = davis.read_split(real_data / "DAVIS", "val")
    assert len(rows) == 3 * (len(sequences) + 1)
    means = {row["degraded"]: row for row in rows if row["what"] == "J of mean"}
    for degraded, row in means.items():
        assert row["J_bilateral"] > row["J_before"], degraded
    for degraded in ("blocks", "jitter"):
        assert means[degraded]["J_contours"] > means[degraded]["J_before"] + 0.01
