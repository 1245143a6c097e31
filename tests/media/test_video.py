"""Frames, masks and videos: real files of each kind, read and written."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path, ensure_writable
from osvos_tf.media.folders import _natural_key
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import read_mask, write_mask, write_probability
from osvos_tf.media.video_writer import DEFAULT_FPS, write_video

DAVIS_COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 753  # palette: 256 RGB triples


def picture(height=24, width=40, shade=0):
    """A smooth uint8 RGB picture; `shade` tells pictures of one folder apart."""
    ramp = np.linspace(0, 180, width, dtype=np.uint8)
    frame = np.full((height, width, 3), shade, np.uint8)
    frame[..., 0] = ramp
    return frame


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def save_palette(path, labels):
    image = Image.fromarray(labels.astype(np.uint8), mode=None)
    image = image.convert("L")
    palette = Image.frombytes("P", image.size, image.tobytes())
    palette.putpalette(DAVIS_COLOURS)
    palette.save(path)
    return path


def make_video(path, frames, fps=12.0):
    with write_video(path, size=frames[0].shape[:2], fps=fps) as video:
        for frame in frames:
            video.write(frame)
    return path


def only_file(folder):
    (name,) = [file.name for file in folder.iterdir()]
    return name


# --- files ----------------------------------------------------------------------------------------


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".csv"
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert only_file(tmp_path) == "table.csv"


def test_atomic_path_wants_the_file_to_be_written(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "nothing.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_ensure_writable_makes_parents_and_leaves_nothing_inside(tmp_path):
    folder = ensure_writable(tmp_path / "a" / "b")
    assert folder.is_dir() and not list(folder.iterdir())
    assert ensure_writable(folder) == folder


def test_ensure_writable_refuses_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="Name another folder"):
            ensure_writable(folder)


# --- folders --------------------------------------------------------------------------------------


def test_folder_is_read_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        save(tmp_path / f"shot{number}.png", picture(shade=number))
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    frames = open_frames(tmp_path)
    assert frames.names == ["shot1", "shot9", "shot10"]
    assert (frames.size, frames.length, frames.fps) == ((24, 40), 3, DEFAULT_FPS)
    frames.check()
    for _ in range(2):  # iterable again
        assert [frame[0, 0, 2] for _, frame in frames] == [1, 9, 10]
    assert frames.first()[0] == "shot1"
    np.testing.assert_array_equal(frames.read("shot9"), picture(shade=9))


@given(st.lists(st.text("ab09_", max_size=4), unique=True))
def test_natural_order_is_total_and_counts_digits_as_numbers(names):
    ordered = sorted(names, key=_natural_key)
    assert sorted(reversed(ordered), key=_natural_key) == ordered
    assert sorted(["f10", "f9", "f010"], key=_natural_key) == ["f9", "f010", "f10"]


def test_every_image_kind_comes_out_as_uint8_rgb(tmp_path):
    grey = picture()[..., 0]
    opaque = np.full((*grey.shape, 1), 128, np.uint8)
    save(tmp_path / "1rgb.jpg", picture(), quality=95)
    save(tmp_path / "2grey.png", grey)
    save(tmp_path / "3alpha.png", np.concatenate((picture(), opaque), -1))
    save(tmp_path / "4deep.png", grey.astype(np.uint16) << 8)
    save(tmp_path / "5.bmp", picture())
    save(tmp_path / "6.webp", picture(), lossless=True)
    save(tmp_path / "7.TIF", picture(), format="TIFF")
    save_palette(tmp_path / "8palette.png", grey > 90)
    cv2.imwrite(str(tmp_path / "9deep.png"), picture()[..., ::-1].astype(np.uint16) << 8)
    frames = dict(open_frames(tmp_path))
    assert len(frames) == 9
    assert {(str(frame.dtype), frame.shape) for frame in frames.values()} == {
        ("uint8", (24, 40, 3))
    }
    for name in ("3alpha", "5", "6", "7", "9deep"):
        np.testing.assert_array_equal(frames[name], picture(), err_msg=name)
    for name in ("2grey", "4deep"):
        np.testing.assert_array_equal(frames[name], np.stack([grey] * 3, -1), err_msg=name)
    assert np.abs(frames["1rgb"].astype(int) - picture()).mean() < 4
    assert np.unique(frames["8palette"].reshape(-1, 3), axis=0).tolist() == [[0] * 3, [128, 0, 0]]


def test_jpeg_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise to stand upright
    save(tmp_path / "phone.jpg", picture(), quality=95, exif=exif)
    frames = open_frames(tmp_path)
    frames.check()
    _, frame = frames.first()
    assert frames.size == frame.shape[:2] == (40, 24)
    assert frame[-1, 0, 0] > frame[0, 0, 0] + 100  # the ramp now runs downwards


def test_mixed_sizes_name_the_odd_frame(tmp_path):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "b.png", picture())
    save(tmp_path / "c.png", picture(width=42))
    frames = open_frames(tmp_path)
    for read in (frames.check, lambda: list(frames)):
        with pytest.raises(InputError, match=r"'c\.png' is 42x24 .* 'a\.png', is 40x24"):
            read()


def test_folder_without_images_says_what_counts(tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match=r"no image \(\.jpg, \.jpeg, \.png"):
        open_frames(tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path):
    save(tmp_path / "0.jpg", picture())
    save(tmp_path / "0.png", picture())
    with pytest.raises(InputError, match=r"'0\.jpg' and '0\.png'"):
        open_frames(tmp_path)


def test_missing_path_single_image_and_unknown_frame(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_frames(tmp_path / "absent")
    with pytest.raises(InputError, match="single image"):
        open_frames(save(tmp_path / "one.png", picture()))
    with pytest.raises(InputError, match="1 frames are named 'one' to 'one'"):
        open_frames(tmp_path).read("one.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_image_is_named(tmp_path, suffix, capfd):
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    save(tmp_path / f"a{suffix}", noise)
    torn = save(tmp_path / f"b{suffix}", noise)
    torn.write_bytes(torn.read_bytes()[:2000])
    frames = open_frames(tmp_path)
    with pytest.raises(InputError, match=rf"b\{suffix}' cannot be read"):
        list(frames)
    torn.write_bytes(b"")
    with pytest.raises(InputError, match=rf"b\{suffix}' cannot be read"):
        frames.check()
    assert capfd.readouterr().err == ""


# --- masks ----------------------------------------------------------------------------------------

SQUARE = np.zeros((6, 8), np.uint8)
SQUARE[1:4, 2:6] = 1


@pytest.mark.parametrize(
    "array",
    [
        SQUARE,
        SQUARE * 255,
        SQUARE.astype(bool),
        SQUARE.astype(np.uint16) * 65535,
        np.stack([SQUARE * 255] * 3, -1),
        np.stack([SQUARE * 255] * 3 + [SQUARE * 0 + 255], -1),
        np.stack([SQUARE * 0 + 255] * 3 + [SQUARE * 255], -1),
        np.stack([SQUARE * 255, SQUARE * 255], -1),
    ],
    ids=["0-1", "0-255", "1-bit", "16-bit", "rgb", "rgba", "cut-out", "grey-alpha"],
)
def test_black_and_white_masks_are_understood(tmp_path, array):
    mask = read_mask(save(tmp_path / "mask.png", array))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, SQUARE)


def test_palette_indices_are_object_ids_and_255_is_void(tmp_path):
    labels = SQUARE * 3
    labels[5] = 255
    labels[0, 0] = 7
    path = save_palette(tmp_path / "mask.png", labels)
    void = np.where(labels == 255, 255, 0)
    np.testing.assert_array_equal(read_mask(path), np.where(labels == 255, 255, labels > 0))
    np.testing.assert_array_equal(read_mask(path, 3), SQUARE + void)
    np.testing.assert_array_equal(read_mask(path, 7), (labels == 7) + void)
    with pytest.raises(InputError, match=r"object 4 in .* are 3, 7"):
        read_mask(path, object_id=4)
    with pytest.raises(InputError, match="from 1 to 254"):
        read_mask(path, object_id=255)


def test_grey_label_map_needs_an_object_id(tmp_path):
    path = save(tmp_path / "mask.png", SQUARE * 2)
    with pytest.raises(
        InputError, match=r"holds 0, 2\. .*without smoothing.*pick one by object_id"
    ):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, object_id=2), SQUARE)


def test_four_bit_palette_is_unpacked(tmp_path):
    """Written by hand, as other programs do it: two indices a byte."""
    rows = b"".join(b"\0" + bytes([row << 4 | 1, 0x02]) for row in (0, 1))

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    path = tmp_path / "mask.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, 4, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes(range(9)))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert read_mask(path, 1).tolist() == [[0, 1, 0, 0], [1, 1, 0, 0]]


def test_shades_colours_and_half_transparency_are_refused_with_what_was_found(tmp_path):
    shades = np.arange(48, dtype=np.uint8).reshape(6, 8)
    with pytest.raises(InputError, match="0, 1, 2, 3, 4, 5, 6, 7 and 40 more"):
        read_mask(save(tmp_path / "shades.png", shades))
    colours = np.kron(shades[..., None], np.array([1, 2, 3], np.uint8))
    with pytest.raises(InputError, match=r"holds 48 colours, among them RGB \(0, 0, 0\)"):
        read_mask(save(tmp_path / "colours.png", colours))
    veiled = np.stack([SQUARE * 255] * 3 + [SQUARE * 100], -1)
    with pytest.raises(InputError, match="opacities 0, 100"):
        read_mask(save(tmp_path / "veiled.png", veiled))


def test_masks_must_be_png_files(tmp_path):
    with pytest.raises(InputError, match="is JPEG"):
        read_mask(save(tmp_path / "mask.jpg", SQUARE * 255))
    with pytest.raises(InputError, match="does not exist"):
        read_mask(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="cannot be read"):
        read_mask(tmp_path / "text.png")


def test_empty_mask_comes_back_empty(tmp_path):
    assert not read_mask(save(tmp_path / "empty.png", SQUARE * 0)).any()


@pytest.mark.parametrize("mask", [SQUARE, SQUARE.astype(bool), SQUARE.astype(np.float32)])
def test_written_mask_reads_back(tmp_path, mask):
    write_mask(tmp_path / "mask.png", mask)
    stored = np.array(Image.open(tmp_path / "mask.png"))
    assert stored.shape == (6, 8) and set(np.unique(stored)) == {0, 255}
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), SQUARE)
    assert only_file(tmp_path) == "mask.png"


def test_write_mask_refuses_void_and_channels(tmp_path):
    for mask in (SQUARE * 255, SQUARE[..., None], np.zeros((0, 4))):
        with pytest.raises(ValueError, match="Received"):
            write_mask(tmp_path / "mask.png", mask)
    assert not list(tmp_path.iterdir())


def test_probability_is_rounded_to_eight_bits(tmp_path):
    probability = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    write_probability(tmp_path / "p.png", probability)
    stored = np.array(Image.open(tmp_path / "p.png"))
    np.testing.assert_array_equal(stored, np.rint(probability * 255))
    for wrong in (probability * 255, probability * np.nan):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            write_probability(tmp_path / "p.png", wrong)


# --- videos ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_video_round_trip(tmp_path, size, capfd):
    shown = [picture(*size, shade=40 * number) for number in range(5)]
    path = make_video(tmp_path / "clip.mp4", shown)
    assert only_file(tmp_path) == "clip.mp4"
    frames = open_frames(path)
    assert frames.size == (48 + 2 * (size[0] % 2), 64 + 2 * (size[1] % 2))  # made even
    assert (frames.fps, frames.length) == (12.0, 5)
    assert frames.names == ["00000", "00001", "00002", "00003", "00004"]
    read = dict(frames)
    assert list(read) == frames.names
    for name, original in zip(read, shown, strict=True):
        cropped = read[name][: size[0], : size[1]].astype(int)
        assert np.abs(cropped - original).mean() < 6
        np.testing.assert_array_equal(frames.read(name), read[name])
    np.testing.assert_array_equal(frames.first()[1], read["00000"])
    frames.check()
    for absent in ("5", "00005", "x", "²"):
        with pytest.raises(InputError, match="5 frames are named '00000' to '00004'"):
            frames.read(absent)
    assert capfd.readouterr().err == ""


def test_video_rotation_is_honoured(tmp_path):
    path = make_video(tmp_path / "clip.mp4", [picture(48, 64)] * 2)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # where the track header says how to turn the picture
    one = 0x10000
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
    frames = open_frames(path)
    assert frames.size == (64, 48)
    frame = frames.read("00001")
    assert frame.shape == (64, 48, 3) and frame[-1, 0, 0] > frame[0, 0, 0] + 100


@pytest.mark.parametrize("content", [b"", b"not a video at all " * 50])
def test_what_is_no_video_is_refused_quietly(tmp_path, content, capfd):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be decoded as a video"):
        open_frames(path)
    assert capfd.readouterr().err == ""


def test_video_without_decodable_frames_is_refused(tmp_path, capfd):
    path = make_video(tmp_path / "clip.mp4", [picture(48, 64)] * 2)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(InputError, match="no frame that can be decoded"):
        open_frames(path)
    assert capfd.readouterr().err == ""


def test_failed_or_empty_video_leaves_the_old_file(tmp_path):
    path = make_video(tmp_path / "clip.mp4", [picture()])
    before = path.read_bytes()
    with pytest.raises(KeyError), write_video(path, size=(24, 40)) as video:
        video.write(picture())
        raise KeyError
    with pytest.raises(ValueError, match="No frame"), write_video(path, size=(24, 40)):
        pass
    assert path.read_bytes() == before
    assert only_file(tmp_path) == "clip.mp4"


def test_video_writer_refuses_frames_that_opencv_would_drop(tmp_path):
    with write_video(tmp_path / "clip.mp4", size=(24, 40)) as video:
        video.write(picture())
        for wrong in (picture(40, 24), picture().astype(np.float32), picture()[..., 0]):
            with pytest.raises(ValueError, match="A frame must be uint8"):
                video.write(wrong)
    with pytest.raises(ValueError, match="fps"):
        write_video(tmp_path / "clip.mp4", size=(24, 40), fps=0).__enter__()


def test_video_writer_says_when_the_folder_is_missing(tmp_path, capfd):
    with (
        pytest.raises(FileNotFoundError, match="absent"),
        write_video(tmp_path / "absent" / "clip.mp4", size=(24, 40)),
    ):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".gif", ".avif", ".ppm", ".pgm"])
def test_what_pillow_reads_is_a_frame(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    grey = np.full((24, 40), 90, np.uint8)
    for number in range(2):
        save(tmp_path / f"{number}{suffix}", grey)
    frames = open_frames(tmp_path)
    frames.check()
    for _, frame in frames:
        assert frame.shape == (24, 40, 3) and np.abs(frame.astype(int) - 90).max() <= 3
