"""Masks by what a person sees in them: one test for each kind that drawing programs write."""

import numpy as np
import pytest
from PIL import Image

from osvos_tf.errors import InputError
from osvos_tf.media.mask_pictures import davis_palette
from osvos_tf.media.masks import read_mask

SQUARE = np.zeros((6, 8), np.uint8)
SQUARE[1:4, 2:6] = 1
BLACK, WHITE, RED, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)


def painted(background, colour):
    """The square in one colour on another; RGB, or RGBA."""
    return Image.fromarray(np.where(SQUARE[..., None] == 1, colour, background).astype(np.uint8))


def require_square(source, **options):
    np.testing.assert_array_equal(read_mask(source, **options), SQUARE)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("colours", [2, 16, 256])
def test_black_and_white_palettes_go_by_colour(tmp_path, colours):
    """`quantize` may well put white first."""
    image = painted(BLACK, WHITE).quantize(colours)
    require_square(save(tmp_path / "m.png", image))
    swapped = Image.fromarray(1 - SQUARE, "P")
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    require_square(save(tmp_path / "m.png", swapped))


def test_grey_palettes_are_grey_values(tmp_path):
    require_square(save(tmp_path / "m.png", Image.fromarray(SQUARE * 255).convert("P")))
    require_square(save(tmp_path / "m.png", Image.fromarray(SQUARE).convert("P")))


def test_palettes_with_colours_are_ids(tmp_path):
    image = Image.fromarray(SQUARE * 7, "P")
    image.putpalette(davis_palette())  # 7 is grey there, and an id all the same
    require_square(save(tmp_path / "m.png", image), object_id=7)
    require_square(save(tmp_path / "m.png", image))
    require_square(save(tmp_path / "m.png", image.convert("RGB")), threshold=0.2)


def test_davis_colours_are_ids_without_a_palette(tmp_path):
    image = Image.fromarray(np.where(SQUARE, 1, 3 * np.eye(6, 8)).astype(np.uint8), "P")
    image.putpalette(davis_palette())
    path = save(tmp_path / "m.png", image.convert("RGB"))
    require_square(path, object_id=1)
    assert read_mask(path, 3).sum() == (np.array(image) == 3).sum() > 0


@pytest.mark.parametrize(
    ("background", "colour"),
    [
        (BLACK, RED),
        (BLACK, (37, 90, 201)),
        (WHITE, BLUE),
        (BLACK, WHITE),
        ((0, 0, 0, 0), (0, 0, 0, 255)),  # black paint on nothing
        ((255, 255, 255, 0), (255, 0, 0, 255)),
        ((9, 9, 9, 0), (255, 255, 255, 255)),
    ],
)
def test_two_colours_or_a_cut_out_are_a_mask(tmp_path, background, colour):
    require_square(save(tmp_path / "m.png", painted(background, colour)))
    require_square(painted(background, colour))


def test_a_photograph_on_nothing_is_a_mask(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 4), np.uint8)
    pixels[..., 3] = SQUARE * 255
    require_square(save(tmp_path / "m.png", Image.fromarray(pixels)))
    gif = Image.fromarray(SQUARE, "P")
    gif.putpalette([1, 2, 3, 200, 100, 50])
    require_square(save(tmp_path / "m.gif", gif, transparency=0))


def test_black_and_white_with_transparent_corners(tmp_path):
    pixels = np.array(painted((0, 0, 0, 255), (255, 255, 255, 255)))
    pixels[0, 0] = 0
    require_square(save(tmp_path / "m.png", Image.fromarray(pixels)))


@pytest.mark.parametrize("kind", ["bmp", "tif", "gif", "webp", "png", "pgm"])
def test_what_keeps_values_is_read(tmp_path, kind):
    options = {"lossless": True} if kind == "webp" else {}
    require_square(save(tmp_path / f"m.{kind}", Image.fromarray(SQUARE * 255), **options))


@pytest.mark.parametrize("array", [SQUARE, SQUARE * 255, SQUARE > 0, SQUARE.astype(np.float32)])
def test_numpy_files(tmp_path, array):
    np.save(tmp_path / "m.npy", array)
    require_square(tmp_path / "m.npy")


def test_shades_need_a_threshold(tmp_path):
    soft = np.array([[0, 40, 200, 255]] * 3, np.uint8)
    path = save(tmp_path / "soft.png", Image.fromarray(soft))
    with pytest.raises(InputError, match=r"holds 0, 40, 200, 255.*`mask_threshold`"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, threshold=0.5), soft > 127)
    np.testing.assert_array_equal(read_mask(path, threshold=0.1), soft > 25)
    deep = save(tmp_path / "deep.png", Image.fromarray(soft.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read_mask(deep, threshold=0.5), soft > 127)
    veiled = np.dstack([np.full((*soft.shape, 3), 90, np.uint8), soft])
    path = save(tmp_path / "veiled.png", Image.fromarray(veiled))
    with pytest.raises(InputError, match=r"opacities 0, 40, 200, 255.*`mask_threshold`"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, threshold=0.5), soft > 127)


def test_jpeg_says_what_to_do(tmp_path):
    large = np.kron(SQUARE, np.ones((8, 8), np.uint8)) * 255
    path = save(tmp_path / "m.jpg", Image.fromarray(large))
    with pytest.raises(InputError, match=r"JPEG, which blurs.*`mask_threshold`"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, threshold=0.5), large > 0)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (painted(RED, BLUE), r"make the background black"),
        (painted((90, 90, 90), (200, 200, 200)), r"shades 90 and 200|shades 200 and 90"),
        (
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)),
            "48 colours",
        ),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path, image, words):
    with pytest.raises(InputError, match=words):
        read_mask(save(tmp_path / "m.png", image))


def test_other_things_say_what_they_are(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_mask(tmp_path)
    (tmp_path / "m.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"array in .*m\.npy' cannot be read"):
        read_mask(tmp_path / "m.npy")
    np.save(tmp_path / "m.npy", np.zeros((4, 4, 3)))
    with pytest.raises(InputError, match="shape"):
        read_mask(tmp_path / "m.npy")
    np.save(tmp_path / "m.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_mask(tmp_path / "m.npy")
