"""Pictures: what is marked, and that nothing else is."""

import numpy as np
import pytest
import scipy.ndimage

from osvos_tf.media.visualize import (
    AGREEMENT,
    ONLY_MASK,
    ONLY_TRUTH,
    contact_sheet,
    difference,
    label,
    overlay,
    overlay_objects,
)

FRAME = np.full((60, 80, 3), 100, np.uint8)
SQUARE = np.zeros((60, 80), np.uint8)
SQUARE[20:40, 30:60] = 1


def at(picture, row, column):
    return tuple(picture[row, column].tolist())


def test_overlay_tints_inside_and_outlines_twice():
    before = FRAME.copy()
    picture = overlay(FRAME, SQUARE, colour=(200, 0, 100), opacity=0.5)
    assert at(picture, 30, 45) == (150, 50, 100)  # half colour, half frame
    assert at(picture, 20, 45) == (255, 255, 255)  # the object's outermost pixels
    assert at(picture, 19, 45) == (32, 32, 32)  # the pixels around it
    far = np.ones(SQUARE.shape, bool)
    far[18:42, 28:62] = False
    np.testing.assert_array_equal(picture[far], FRAME[far])
    np.testing.assert_array_equal(FRAME, before)


def test_objects_have_the_palettes_colours():
    labels = np.zeros(SQUARE.shape, np.uint8)
    labels[SQUARE > 0], labels[2:9, 2:9] = 2, 1
    picture = overlay_objects(FRAME, labels)
    once = overlay(FRAME, labels == 1, (128, 0, 0))
    np.testing.assert_array_equal(picture, overlay(once, labels == 2, (0, 128, 0)))
    np.testing.assert_array_equal(overlay_objects(FRAME, labels * 0), FRAME)


def test_overlay_outline_grows_with_the_frame():
    frame = np.zeros((480, 854, 3), np.uint8)
    mask = np.zeros((480, 854), bool)
    mask[100:300, 100:300] = True
    picture = overlay(frame, mask)
    assert [at(picture, row, 200) == (255, 255, 255) for row in (100, 101, 102)] == [1, 1, 0]
    assert [at(picture, row, 200) == (32, 32, 32) for row in (99, 98, 97)] == [1, 1, 0]


def test_overlay_has_no_outline_along_the_frame_border():
    picture = overlay(FRAME, np.ones((60, 80), bool), colour=(200, 0, 100), opacity=0.5)
    assert np.unique(picture.reshape(-1, 3), axis=0).tolist() == [[150, 50, 100]]


def test_overlay_is_what_erosion_and_dilation_of_the_whole_frame_say():
    cross = scipy.ndimage.generate_binary_structure(2, 1)
    numbers = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((60, 80), bool)
        for _ in range(3):  # some of them at the border
            top, left = numbers.integers(-10, 60), numbers.integers(-10, 80)
            mask[max(0, top) : top + 20, max(0, left) : left + 15] = True
        picture = overlay(FRAME, mask, colour=(200, 0, 100), opacity=0.5)
        inner = scipy.ndimage.binary_erosion(mask, cross, border_value=1)
        outer = scipy.ndimage.binary_dilation(mask, cross)
        expected = FRAME.copy()
        expected[mask], expected[mask & ~inner] = (150, 50, 100), (255, 255, 255)
        expected[outer & ~mask] = (32, 32, 32)
        np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("value", [0, 255])
def test_overlay_of_nothing_or_void_is_the_frame(value):
    np.testing.assert_array_equal(overlay(FRAME, SQUARE * value), FRAME)


def test_difference_separates_the_three_cases_and_leaves_void_alone():
    truth = np.roll(SQUARE, 10, axis=1)
    truth[0:5] = 255
    mask = SQUARE.copy()
    mask[0:3] = 1
    picture = difference(FRAME, mask, truth)
    nothing = at(picture, 55, 5)
    assert len(set(nothing)) == 1  # grey
    assert at(picture, 2, 5) == nothing
    seen = {"both": at(picture, 30, 50), "mask": at(picture, 30, 32), "truth": at(picture, 30, 65)}
    for name, colour in (("both", AGREEMENT), ("mask", ONLY_MASK), ("truth", ONLY_TRUTH)):
        distances = {other: np.abs(np.subtract(seen[other], colour)).sum() for other in seen}
        assert min(distances, key=distances.get) == name


@pytest.mark.parametrize(
    "frame, mask",
    [(FRAME, SQUARE[:-1]), (FRAME / 255, SQUARE), (FRAME[..., 0], SQUARE)],
    ids=["sizes", "float", "grey"],
)
def test_what_does_not_fit_is_refused(frame, mask):
    with pytest.raises(ValueError, match="Received"):
        overlay(frame, mask)
    with pytest.raises(ValueError, match="Received"):
        difference(frame, mask, mask)


@pytest.mark.parametrize("text", ["00012", "a name much too long for this picture", "", "é ß 図"])
def test_label_writes_into_the_corner_only(text):
    picture = label(FRAME, text)
    assert picture.shape == FRAME.shape and picture.dtype == np.uint8
    assert (picture[2:25] != FRAME[2:25]).any()
    np.testing.assert_array_equal(picture[30:], FRAME[30:])
    assert (FRAME == 100).all()


def test_label_survives_a_tiny_picture():
    assert label(np.zeros((4, 4, 3), np.uint8), "text").shape == (4, 4, 3)


def test_contact_sheet_holds_every_picture_unchanged_on_white():
    shades = [[10, 60, 110], [160, 210]]
    rows = [[np.full((60, 80, 3), shade, np.uint8) for shade in row] for row in shades]
    sheet = contact_sheet(rows)
    assert sheet.dtype == np.uint8
    for shade in (10, 60, 110, 160, 210):
        where = np.argwhere((sheet == shade).all(axis=-1))
        assert len(where) == 60 * 80
        assert np.ptp(where, axis=0).tolist() == [59, 79]
    for border in (sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]):
        assert (border == 255).all()


def test_contact_sheet_texts_take_space_and_stay_off_the_pictures():
    rows = [[FRAME, FRAME]] * 2
    bare = contact_sheet(rows)
    full = contact_sheet(
        rows,
        row_labels=["parent", "one-shot with a long name"],
        column_labels=["frame 00000", "a column label that is far too long"],
        title="A title",
        legend={"agreement": AGREEMENT, "missed": ONLY_TRUTH},
    )
    assert full.shape[0] > bare.shape[0] and full.shape[1] > bare.shape[1]
    assert (full == 100).all(axis=-1).sum() >= 4 * FRAME[..., 0].size
    assert (full == AGREEMENT).all(axis=-1).sum() >= 100
    assert (full[0] == 255).all() and (full[:, 0] == 255).all() and (full[:, -1] == 255).all()


def test_contact_sheet_refuses_mixed_sizes_and_wrong_label_counts():
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([[FRAME, FRAME[:-1]]])
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([])
    with pytest.raises(ValueError, match="row_labels must be 1 texts"):
        contact_sheet([[FRAME]], row_labels=["a", "b"])
    with pytest.raises(ValueError, match="column_labels must be 2 texts"):
        contact_sheet([[FRAME, FRAME], [FRAME]], column_labels=["a"])
