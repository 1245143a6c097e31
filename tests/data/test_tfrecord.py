"""Records: what goes in comes out, and what must not go in is refused by name."""

import hashlib
import io
import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osvos_tf.data import davis, tfrecord
from osvos_tf.data.tfrecord_writer import _deal, write_records
from osvos_tf.errors import InputError

HEIGHT, WIDTH = 48, 80
BOX = (slice(10, 30), slice(20, 60))  # the object of `write_sequence`


@pytest.fixture
def train(fake_davis):
    return davis.read_split(fake_davis, "train")


def examples(records):
    return [
        tf.io.parse_single_example(example, tfrecord.FEATURES)
        for example in tfrecord.read_records(records)
    ]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(*words):
    return pytest.raises(InputError, match=r"[\s\S]*".join(words))


def image_file(path, height=HEIGHT, width=WIDTH, box=BOX, **options):
    frame = np.full((height, width, 3), (20, 60, 90), np.uint8)
    frame[box] = (250, 240, 230)
    Image.fromarray(frame).save(path, **{"format": "JPEG", "quality": 95, **options})
    return path


def mask_file(path, height=HEIGHT, width=WIDTH, box=BOX, value=255):
    mask = np.zeros((height, width), np.uint8)
    mask[box] = value
    cv2.imwrite(str(path), mask)
    return path


def palette_file(path, labels):
    image = Image.frombytes("P", labels.shape[::-1], labels.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [224] * 759)
    image.save(path)
    return path


def convert(tmp_path, image, mask, **options):
    """Writes records of one frame and returns their folder."""
    out = tmp_path / "records"
    sequence = davis.Sequence("wolf", (davis.Frame("00007", image, mask),))
    write_records([sequence], out, "train", shards=1, **options)
    return out


def parse_only(records, **options):
    """Returns the one frame of a folder as NumPy arrays."""
    (record,) = tfrecord.read_records(records)
    image, mask = tfrecord.parse(record, **options)
    return image.numpy(), mask.numpy()


# --- what is written ------------------------------------------------------------------------------


def test_examples_hold_the_source(train, tmp_path):
    write_records(train, tmp_path, "train", shards=3)
    found = examples(tmp_path)
    frames = [(sequence.name, frame) for sequence in train for frame in sequence.frames]
    assert len(found) == len(frames) == 8
    for features, (sequence, frame) in zip(found, frames, strict=True):
        assert features["sequence"] == sequence and features["frame"] == frame.name
        assert (features["height"], features["width"]) == (HEIGHT, WIDTH)
        assert features["image"].numpy() == frame.image.read_bytes()
        stored = Image.open(io.BytesIO(features["mask"].numpy()))
        assert (stored.format, stored.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.array(stored), cv2.imread(str(frame.mask), 0))


def test_examples_have_the_features_of_the_schema_and_no_others(train, tmp_path):
    write_records(train, tmp_path, "train", shards=1)
    for record in tfrecord.read_records(tmp_path):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        assert set(feature) == set(tfrecord.FEATURES)


def test_manifest_tells_the_truth(train, tmp_path):
    returned = write_records(train, tmp_path / "new" / "out", "train", shards=3)
    out = tmp_path / "new" / "out"
    manifest = tfrecord.read_manifest(out)
    assert manifest == returned == json.loads((out / "manifest.json").read_text())
    assert manifest["schema_version"] == tfrecord.SCHEMA_VERSION
    assert manifest["split"] == "train" and manifest["height"] is None
    assert manifest["sequences"] == {"bear": 4, "goat": 4} and manifest["frames"] == 8
    names = [f"train-{i:05d}-of-00003.tfrecord" for i in range(3)]
    assert [shard["file"] for shard in manifest["shards"]] == names
    assert sorted(content(out)) == ["manifest.json", *names]
    for shard in manifest["shards"]:
        written = (out / shard["file"]).read_bytes()
        assert shard["bytes"] == len(written)
        assert shard["sha256"] == hashlib.sha256(written).hexdigest()
        dataset = tf.data.TFRecordDataset(str(out / shard["file"]))
        assert shard["frames"] == sum(1 for _ in dataset)


@pytest.mark.parametrize("shards", [1, 5, 8])
def test_no_frame_is_lost_between_shards(train, tmp_path, shards):
    write_records(train, tmp_path, "train", shards=shards)
    found = [
        (e["sequence"].numpy().decode(), e["frame"].numpy().decode()) for e in examples(tmp_path)
    ]
    assert found == [(s.name, f.name) for s in train for f in s.frames]


@given(data=st.data(), frames=st.integers(1, 5000))
def test_frames_are_dealt_out_evenly(data, frames):
    shards = data.draw(st.integers(1, frames))
    counts = _deal(frames, shards)
    assert len(counts) == shards and sum(counts) == frames
    assert min(counts) >= 1 and max(counts) - min(counts) <= 1


@pytest.mark.parametrize("shards", [-1, 0, 9])
def test_number_of_shards_that_cannot_be_filled(train, tmp_path, shards):
    with refused("`shards`", "8", f"Received: {shards}"):
        write_records(train, tmp_path, "train", shards=shards)


def test_progress_sees_every_frame(train, tmp_path):
    seen = []

    def watch(iterator):
        for element in iterator:
            yield element
            seen.append(element)  # runs when the next element is asked for

    write_records(train, tmp_path, "train", shards=3, progress=watch)
    assert len(seen) == 8


def test_rerun_replaces(train, tmp_path):
    write_records(train, tmp_path / "once", "train", shards=2)
    out = tmp_path / "twice"
    write_records(train[:1], out, "train", shards=4)
    for name in (".0123abcd.train-00000-of-00002.tfrecord", ".0123abcd.manifest.json"):
        (out / name).write_bytes(b"left by a run that was killed")
    (out / "train-notes.tfrecord").write_bytes(b"of the user")
    write_records(train, out, "train", shards=2)
    assert content(out).pop("train-notes.tfrecord") == b"of the user"
    (out / "train-notes.tfrecord").unlink()
    assert content(out) == content(tmp_path / "once")


def test_folder_with_another_split_is_left_alone(train, tmp_path):
    out = tmp_path / "out"
    write_records(train, out, "val", shards=2)
    before = content(out)
    with refused("'val'", "another folder", "'train'"):
        write_records(train, out, "train", shards=2)
    assert content(out) == before


@pytest.mark.parametrize("text", ['{"name": "an app"}', "[1]", "{"])
def test_manifest_of_something_else_is_left_alone(train, tmp_path, text):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(text)
    with refused("manifest.json", "another folder"):
        write_records(train, out, "train", shards=2)
    assert content(out) == {"manifest.json": text.encode()}


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of a file")
def test_full_disk_is_told_and_leaves_nothing(train, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # a disk that takes 2000 bytes
    try:
        with refused("Cannot write", "train-00000-of-00002.tfrecord", "another folder"):
            write_records(train, tmp_path / "out", "train", shards=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(tmp_path / "out") == {}


# --- masks ----------------------------------------------------------------------------------------


def test_mask_of_zeros_and_ones(tmp_path):
    mask = mask_file(tmp_path / "mask.png", value=1)
    out = convert(tmp_path, image_file(tmp_path / "a.jpg"), mask)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[BOX] = 255
    (example,) = examples(out)
    stored = tf.io.decode_png(example["mask"])[..., 0]
    np.testing.assert_array_equal(stored, expected)
    np.testing.assert_array_equal(parse_only(out)[1][..., 0], expected // 255)


def test_palette_mask_with_void(tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[5:20, 10:30], labels[25:40, 10:30], labels[5:40, 50:60] = 1, 2, 255
    out = convert(
        tmp_path, image_file(tmp_path / "a.jpg"), palette_file(tmp_path / "mask.png", labels)
    )
    image, mask = parse_only(out)
    assert mask.dtype == np.uint8 and mask.shape == (*image.shape[:2], 1)
    np.testing.assert_array_equal(mask[..., 0], np.where(labels == 2, 1, labels))


def test_frame_without_mask_is_void(tmp_path):
    out = convert(tmp_path, image_file(tmp_path / "a.jpg"), None)
    (record,) = tfrecord.read_records(out)
    assert "mask" not in tf.train.Example.FromString(record.numpy()).features.feature
    for size in (None, (HEIGHT // 2, WIDTH // 2)):
        image, mask = parse_only(out, size=size)
        assert mask.dtype == np.uint8 and mask.shape == (*image.shape[:2], 1)
        assert np.all(mask == 255)


def test_mask_of_another_size(tmp_path):
    image = image_file(tmp_path / "a.jpg")
    mask = mask_file(tmp_path / "mask.png", height=WIDTH, width=HEIGHT)
    with refused("mask.png is 48x80", "a.jpg is 80x48"):
        convert(tmp_path, image, mask)


def test_mask_with_shades(tmp_path):
    mask = mask_file(tmp_path / "mask.png", value=np.arange(40, dtype=np.uint8) * 5)
    with refused("mask.png", "5, 10"):
        convert(tmp_path, image_file(tmp_path / "a.jpg"), mask)


def test_mask_that_is_no_png(tmp_path):
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with refused("mask.png"):
        convert(tmp_path, image_file(tmp_path / "a.jpg"), mask)


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_image_is_refused_by_name_and_leaves_nothing(train, tmp_path, keep):
    image = train[1].frames[2].image
    whole = image.read_bytes()
    image.write_bytes(whole[: int(keep * len(whole))])
    with refused("Cannot read image", "goat.00002.jpg"):
        write_records(train, tmp_path / "out", "train", shards=8)
    assert content(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_png_becomes_jpeg_once(tmp_path, name):
    image = image_file(tmp_path / name, format="PNG")
    out = convert(tmp_path, image, mask_file(tmp_path / "mask.png"))
    parsed, _ = parse_only(out)
    difference = np.asarray(parsed).astype(int) - np.array(Image.open(image).convert("RGB"))
    assert np.abs(difference).mean() < 8


def test_grey_image_comes_out_as_rgb(tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 77, np.uint8)).save(tmp_path / "grey.jpg")
    out = convert(tmp_path, tmp_path / "grey.jpg", mask_file(tmp_path / "mask.png"))
    image, _ = parse_only(out)
    assert image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH, 3) and np.all(image == 77)


def test_height_resizes_frames_and_masks(train, tmp_path):
    manifest = write_records(train, tmp_path, "train", shards=2, height=25)
    assert manifest["height"] == 25
    for record, sequence in zip(
        examples(tmp_path), [s for s in train for _ in s.frames], strict=True
    ):
        assert (record["height"], record["width"]) == (25, 42)  # 80 * 25 / 48 = 41.7
        frame = next(f for f in sequence.frames if f.name == record["frame"])
        image = tf.io.decode_jpeg(record["image"]).numpy()
        mask = tf.io.decode_png(record["mask"]).numpy()[..., 0]
        assert image.shape == (25, 42, 3) and mask.shape == (25, 42)
        assert set(np.unique(mask)) == {0, 255}
        source = cv2.imread(str(frame.mask), 0)
        for indices, where in zip(np.nonzero(mask), np.nonzero(source), strict=True):
            middle, expected = np.mean(indices) + 0.5, (np.mean(where) + 0.5) * 25 / 48
            assert abs(middle - expected) <= 0.55
        bright = image[..., 0] > 150  # the square is the only thing with much red
        assert np.mean(bright == (mask > 0)) > 0.98
        # The bytes themselves are a new, smaller JPEG.
        assert record["image"].numpy() != frame.image.read_bytes()


def test_height_keeps_void_and_objects_apart(tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:, 20:40], labels[:, 50:70] = 1, 255
    out = convert(
        tmp_path,
        image_file(tmp_path / "a.jpg"),
        palette_file(tmp_path / "mask.png", labels),
        height=20,
    )
    (example,) = examples(out)
    assert set(np.unique(tf.io.decode_png(example["mask"]))) == {0, 128, 255}
    for value, first, end in ((1, 20, 40), (255, 50, 70)):
        columns = np.nonzero(parse_only(out)[1][0, :, 0] == value)[0] * WIDTH / 33
        assert abs(columns.min() - first) <= 1.3 and abs(columns.max() + WIDTH / 33 - end) <= 1.3


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 80), (97, 163), (101, 54), (33, 47)])
@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_parse_decodes_as_small_as_suffices(tmp_path, size, ratio):
    """Image and mask show the object's edges where the whole frame has them, at odd sizes too."""
    edges = [(length // 4, length * 7 // 8) for length in size]
    box = tuple(slice(first, end) for first, end in edges)
    image = image_file(tmp_path / "a.jpg", *size, box, subsampling=0)
    out = convert(tmp_path, image, mask_file(tmp_path / "mask.png", *size, box))
    image, mask = parse_only(out, size=(size[0] // ratio, size[1] // ratio))
    assert image.shape == (-(-size[0] // ratio), -(-size[1] // ratio), 3)
    assert mask.shape == (*image.shape[:2], 1) and set(np.unique(mask)) == {0, 1}
    for shown in (image[..., 0] > 135, mask[..., 0] > 0):
        for indices, (first, end) in zip(np.nonzero(shown), edges, strict=True):
            assert abs(indices.min() * ratio - first) <= ratio / 2
            assert abs((indices.max() + 1) * ratio - end) <= ratio / 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, 97),
        ((200, 1), 97),
        ((97, 163), 97),
        ((49, 1), 97),
        ((48, 1), 49),
        ((48, 82), 97),  # a view as wide as that needs the whole width
        ((48, 81), 49),
        ((25, 1), 49),
        ((24, 1), 25),
        ((13, 1), 25),
        ((12, 1), 13),
        ((1, 1), 13),
    ],
)
def test_parse_never_decodes_smaller_than_asked_for(tmp_path, size, expected):
    out = convert(
        tmp_path,
        image_file(tmp_path / "a.jpg", 97, 163),
        mask_file(tmp_path / "mask.png", 97, 163),
    )
    image, mask = parse_only(out, size=size)
    assert image.shape[0] == mask.shape[0] == expected


@pytest.mark.parametrize("size", [None, (24, 40), (12, 20)])
def test_parse_gives_the_same_inside_a_map(fake_records, size):
    records = tfrecord.read_records(fake_records).take(1)
    (inside,) = records.map(lambda record: tfrecord.parse(record, size=size))
    (record,) = records
    for mapped, direct in zip(inside, tfrecord.parse(record, size=size), strict=True):
        np.testing.assert_array_equal(mapped, direct)


@pytest.fixture
def copy(fake_records, tmp_path):
    return shutil.copytree(fake_records, tmp_path / "copy")


def test_folder_without_manifest(copy):
    (copy / "manifest.json").unlink()
    for folder in (copy, copy / "absent"):
        with refused("No manifest.json", "davis_to_tfrecord"):
            tfrecord.read_records(folder)


def test_shard_that_is_missing(copy):
    (copy / "train-00001-of-00003.tfrecord").unlink()
    with refused("train-00001-of-00003.tfrecord is missing"):
        tfrecord.read_manifest(copy)


@pytest.mark.parametrize("change", [-1, 1])
def test_shard_of_another_size(copy, change):
    shard = copy / "train-00002-of-00003.tfrecord"
    whole = shard.read_bytes()
    shard.write_bytes((whole + b"x")[: len(whole) + change])
    with refused(shard.name, str(len(whole) + change), str(len(whole))):
        tfrecord.read_manifest(copy)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 1, "shards": 3}', "\xff"])
def test_manifest_that_is_none(copy, text):
    (copy / "manifest.json").write_text(text, encoding="latin-1")
    with refused("manifest.json is not a manifest"):
        tfrecord.read_manifest(copy)


def test_manifest_of_another_schema(copy):
    path = copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with refused("schema version 1, got 99"):
        tfrecord.read_manifest(copy)
