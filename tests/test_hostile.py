"""Files and requests from outside that are damaged or lie: a message, never a fault or a flood."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from osvos_tf import files, results
from osvos_tf.data import davis, tfrecord
from osvos_tf.data.tfrecord_writer import _example, _read_jpeg
from osvos_tf.errors import InputError
from osvos_tf.jobs import video_job, worker, worklist
from osvos_tf.media import images
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import read_mask
from osvos_tf.media.video_writer import write_video
from osvos_tf.network import model_store
from osvos_tf.segmentation import specialist
from osvos_tf.serving import model_config
from osvos_tf.serving import tf_serving_messages as messages
from osvos_tf.serving.client_base import ServingError, from_pngs
from support import fuzzing, quick_specialist
from support.records import records_of

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}
PICTURE = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)


def encoded(array, kind):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def a_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# --- images and masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@settings(**fuzzing.FUZZ, max_examples=60)
@given(data=st.data())
def test_damaged_images(kind, tmp_path_factory, data):
    folder = a_folder(tmp_path_factory)
    content = data.draw(fuzzing.damaged(encoded(PICTURE, kind)))
    (folder / f"0{FORMATS[kind]}").write_bytes(content)
    with contextlib.suppress(InputError):
        frames = open_frames(folder)
        frames.check()
        for _, frame in frames:
            assert frame.dtype == np.uint8 and frame.shape == (*frames.size, 3)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=0, interlace=0, pixels=b"", palette=b""):
    """A PNG whose checksums are right, whatever it says."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    chunks = chunk(b"IHDR", header)
    if palette:
        chunks += chunk(b"PLTE", palette)
    chunks += chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


SIDES = st.integers(0, 20) | st.integers(0, 2**32 - 1)


@settings(**fuzzing.FUZZ, max_examples=200)
@given(
    content=st.builds(
        png,
        SIDES,
        SIDES,
        st.sampled_from([1, 2, 4, 8, 16, 3]),
        st.integers(0, 7),
        st.integers(0, 2),
        st.binary(max_size=300),
        st.binary(max_size=12),
    )
)
def test_masks_that_lie(tmp_path_factory, content):
    path = a_folder(tmp_path_factory) / "mask.png"
    path.write_bytes(content)
    for object_id in (None, 1):
        with contextlib.suppress(InputError):
            mask = read_mask(path, object_id)
            assert mask.dtype == np.uint8 and mask.ndim == 2 and set(np.unique(mask)) <= {0, 1, 255}


def patched_jpeg(width, height):
    content = bytearray(encoded(PICTURE, "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


BOMBS = {
    "a.png": png(60_000, 60_000),
    "b.png": png(9_000, 9_000, 1, 0, 0, bytes(9_000 * 1126)),  # unpacks to what it says
    "c.jpg": patched_jpeg(65_000, 65_000),
    "d.jpg": patched_jpeg(65_000, 1_100),
    "e.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    reads = [
        lambda: open_frames(tmp_path),
        lambda: read_mask(path),
        lambda: _read_jpeg(path),
    ]
    for read in reads:
        with pytest.raises(InputError, match="more than the limit of 67108864 pixels"):
            read()


def test_programs_are_no_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    with pytest.raises(InputError, match="cannot be read"):
        open_frames(tmp_path)


@pytest.mark.parametrize("size", [(2, 8000), (8000, 2), (1, 17)])
def test_strips_are_refused(tmp_path, size):
    """A network looks at frames of one height, at which a strip would know no bound."""
    path = tmp_path / "strip.png"
    path.write_bytes(encoded(np.zeros((*size, 3), np.uint8), "PNG"))
    with pytest.raises(InputError, match="no side may be 16 times the other"):
        images.read_image(path)
    with pytest.raises(InputError, match="no side may be 16 times the other"):
        read_mask(path)
    with pytest.raises(InputError, match="no side may be 16 times the other"):
        open_frames(tmp_path).check()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("suffix", [".png", ".mp4", ".npy", ".json", ".txt", ".gif", ".tif"])
def test_pipes_are_no_files(tmp_path, suffix):
    """Nobody writes into this one: who opens it waits for ever."""
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    for read in (read_mask, open_frames, worklist.read_list, images.read_image):
        with pytest.raises(InputError):
            read(pipe)
    with pytest.raises(ValueError, match="no regular file"):
        files.read_json(pipe)


# --- videos ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with write_video(path, (32, 48), 10) as writer:
        for shade in range(4):
            writer.write(np.full((32, 48, 3), shade * 60, np.uint8))
    return path.read_bytes()


@settings(**fuzzing.FUZZ, max_examples=80)
@given(data=st.data())
def test_damaged_videos(clip, tmp_path_factory, data):
    path = a_folder(tmp_path_factory) / "clip.mp4"
    path.write_bytes(data.draw(fuzzing.damaged(clip)))
    with contextlib.suppress(InputError):
        frames = open_frames(path)
        for count, (_, frame) in enumerate(frames):
            assert frame.shape == (*frames.size, 3) and count < 10_000


def test_large_videos_are_refused(clip, tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(clip)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match=r"48x32 .* more than the limit of 1000 pixels"):
        open_frames(tmp_path / "clip.mp4")


# --- lists ----------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["bear", "goat", "/JPEGImages/480p/bear/00000.jpg", "/Annotations/480p/bear/00000.png", "..",
     "/../x.jpg", "//etc/passwd", "C:\\x", "a\0b", ".", " ", "\t", "\r", "\u2028", "ü", "\x1b[2J"]
)  # fmt: skip


@settings(**fuzzing.FUZZ, max_examples=100)
@given(lines=st.lists(st.lists(WORDS | st.text(max_size=5), max_size=3).map(" ".join), max_size=4))
def test_lists_that_lie(shared_davis, lines):
    (shared_davis / "ImageSets" / "480p" / "fuzz.txt").write_bytes("\n".join(lines).encode())
    with contextlib.suppress(InputError):
        for sequence in davis.read_split(shared_davis, "fuzz"):
            for name in (sequence.name, *(frame.name for frame in sequence.frames)):
                davis.check_name(name, "the test")
            for frame in sequence.frames:
                for path in (frame.image, frame.mask):
                    assert path.resolve().is_relative_to(shared_davis.resolve())


@pytest.fixture(scope="module")
def shared_davis(tmp_path_factory):
    from support.world import paint

    return paint(tmp_path_factory.mktemp("fuzz") / "DAVIS")


# --- records --------------------------------------------------------------------------------------


@settings(**fuzzing.FUZZ, max_examples=100)
@given(data=st.data())
def test_manifests_that_lie(fake_records, tmp_path_factory, data):
    folder = shutil.copytree(fake_records, a_folder(tmp_path_factory) / "records")
    manifest = json.loads((folder / "manifest.json").read_text())
    fuzzing.spoil(data.draw, manifest, deepest=3)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for skip_corrupt in (False, True):
        with contextlib.suppress(InputError):
            tfrecord.load_records(folder, skip_corrupt=skip_corrupt)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shards"].extend(m["shards"] * 1000), "names a shard twice"),
        (lambda m: m["shards"][0].update(frames=10**30), "not a number up to"),
    ],
)
def test_manifests_that_multiply(fake_records, tmp_path, change, message):
    folder = shutil.copytree(fake_records, tmp_path / "records")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        tfrecord.load_records(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\0b", "..", ""])
def test_shards_elsewhere_are_not_read(fake_records, tmp_path, name):
    folder = shutil.copytree(fake_records, tmp_path / "records")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="not a plain sequence or frame name"):
        tfrecord.load_records(folder)


def test_manifests_that_are_too_deep_or_too_large(fake_records, tmp_path, monkeypatch):
    folder = shutil.copytree(fake_records, tmp_path / "records")
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        tfrecord.read_manifest(folder)
    monkeypatch.setattr("osvos_tf.files.MAX_JSON_BYTES", 1000)
    with pytest.raises(InputError, match="more than 1000 bytes"):
        tfrecord.read_manifest(folder)


@settings(**fuzzing.FUZZ, max_examples=60)
@given(data=st.data())
def test_damaged_shards_give_what_is_whole(fake_records, tmp_path_factory, data):
    """Each example is one of those written; together with what is said to be lost they are all."""
    written, lost = tfrecord.load_records(fake_records)
    assert (len(written), lost) == (8, [])
    folder = shutil.copytree(fake_records, a_folder(tmp_path_factory) / "records")
    shard = data.draw(st.sampled_from(sorted(folder.glob("*.tfrecord"))))
    content = shard.read_bytes()
    shard.write_bytes(data.draw(fuzzing.damaged(content)))
    found, lost = tfrecord.load_records(folder, skip_corrupt=True)
    assert found == [example for example in written if example in found]
    assert len(found) + sum(entry.count for entry in lost) == len(written)
    if lost:
        assert all(entry.shard == shard.name for entry in lost)
        with pytest.raises(InputError, match=shard.name):
            tfrecord.load_records(folder)


@pytest.mark.parametrize(
    ("image", "mask", "word"),
    [
        (b"", b"", "no example of ours"),
        (b"no picture", b"", "no example of ours"),
        (encoded(PICTURE, "PNG"), b"", "its image is PNG"),
        (encoded(PICTURE[1:], "JPEG"), b"", "size"),
        (patched_jpeg(65_000, 65_000), b"", "more than the limit of 67108864 pixels"),
        (encoded(PICTURE, "JPEG"), encoded(PICTURE[1:, :, 0], "PNG"), "its mask"),
        (encoded(PICTURE, "JPEG"), png(60_000, 60_000), "more than the limit of 67108864 pixels"),
        (encoded(PICTURE, "JPEG"), b"no picture", "no example of ours"),
    ],
)
def test_records_that_lie(tmp_path, image, mask, word):
    good = _example("bear", "0", PICTURE.shape[:2], encoded(PICTURE, "JPEG"), b"")
    bad = _example("bear", "1", PICTURE.shape[:2], image, mask)
    records_of(tmp_path, good.SerializeToString(), bad.SerializeToString())
    with pytest.raises(InputError, match=rf"record 1 of .*'bear'[\s\S]*{word}"):
        tfrecord.load_records(tmp_path)
    found, (lost,) = tfrecord.load_records(tmp_path, skip_corrupt=True)
    assert found == [good.SerializeToString()]
    assert (lost.record, lost.sequence, lost.frame, lost.count) == (1, "bear", 1, 1)


@settings(**fuzzing.FUZZ, max_examples=60)
@given(example=st.binary(max_size=60))
def test_records_of_anything(tmp_path_factory, example):
    folder = records_of(a_folder(tmp_path_factory), example)
    with pytest.raises(InputError, match="record 0 of"):
        tfrecord.load_records(folder)


# --- results --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job whose results are whole."""
    from support.world import paint

    root = paint(tmp_path_factory.mktemp("finished") / "DAVIS")
    job = video_job.VideoJob(
        frames=str(root / "JPEGImages/480p/bear"),
        masks=(str(root / "Annotations/480p/bear/00000.png"),),
        out=str(root.parent / "bear"),
    )
    with pytest.MonkeyPatch.context() as patched:
        quick_specialist.install(patched)
        video_job.run(job)
    return job


def spoiled(data, job, folder, name):
    """A copy of a job's results in which one JSON file lies; returns the job on it."""
    out = shutil.copytree(job.out, folder / "bear")
    if data.draw(st.booleans()):
        value = json.loads((out / name).read_text())
        fuzzing.spoil(data.draw, value, deepest=4)
        (out / name).write_text(json.dumps(value))
    else:
        (out / name).write_bytes(data.draw(fuzzing.damaged((out / name).read_bytes())))
    return dataclasses.replace(job, out=str(out), overwrite=True)


@settings(**fuzzing.FUZZ, max_examples=100)
@given(data=st.data())
def test_records_of_results_that_lie(finished, tmp_path_factory, data):
    """They are taken for whole or for damaged; and nothing outside of their folder is touched."""
    folder = a_folder(tmp_path_factory)
    job = spoiled(data, finished, folder, "run.json")
    (folder / "notes.txt").write_text("mine")
    if job.find_fault() is None:
        worker.summary(results.read_record(job.out))
    with contextlib.suppress(InputError):
        with results.draft(job.out, {"command": "test"}, overwrite=True) as draft:
            draft.publish({})
        assert results.is_finished(job.out, {"command": "test"})
    assert {path.name for path in folder.iterdir()} == {"bear", "notes.txt"}


@pytest.mark.parametrize("name", ["../notes.txt", "/etc", "", ".", "..", "bear/../../notes.txt"])
def test_records_that_claim_what_lies_elsewhere(finished, tmp_path, name):
    out = shutil.copytree(finished.out, tmp_path / "bear")
    (tmp_path / "notes.txt").write_text("mine")
    record = json.loads((out / "run.json").read_text())
    record["contents"].append(name)
    (out / "run.json").write_text(json.dumps(record))
    with results.draft(out, {"command": "test"}, overwrite=True) as draft:
        draft.publish({})
    assert {path.name for path in tmp_path.iterdir()} == {"bear", "notes.txt"}
    assert {path.name for path in out.iterdir()} == {"run.json"}


@settings(**fuzzing.FUZZ, max_examples=100)
@given(data=st.data())
def test_specialists_that_lie(finished, tmp_path_factory, data):
    job = spoiled(data, finished, a_folder(tmp_path_factory), "specialist.json")
    with pytest.MonkeyPatch.context() as patched:
        quick_specialist.install(patched)
        with contextlib.suppress(InputError):
            known = specialist.load(job.out)
            ((number, name),) = known.objects.items()
            assert 1 <= number <= 254 and isinstance(name, str)
            assert known.options.stage()


@settings(**fuzzing.FUZZ, max_examples=100)
@given(
    lines=st.lists(
        st.builds(json.dumps, fuzzing.JSON | st.fixed_dictionaries({"sequence": fuzzing.JSON}))
        | st.text(max_size=9)
        | st.just("[" * 100_000),
        max_size=5,
    )
)
def test_lines_of_results_that_lie(tmp_path_factory, lines):
    path = a_folder(tmp_path_factory) / "results.jsonl"
    path.write_bytes("\n".join(lines).encode(errors="replace") + b"\n\xff\n")
    worklist.append_result(path, {"sequence": "bear", "status": "done"})
    found = worklist.read_results(path)
    assert found["bear"]["status"] == "done"
    assert all(isinstance(result, dict) for result in found.values())


# --- the server -----------------------------------------------------------------------------------


def signature(**dtypes):
    signature_def = meta_graph_pb2.SignatureDef()
    for name, dtype in dtypes.items():
        signature_def.inputs[name].dtype = dtype.as_datatype_enum
    return signature_def


SIGNATURES = st.sampled_from(
    [
        signature(images=tf.uint8),
        signature(image_bytes=tf.string),
        signature(a=tf.float32, b=tf.bool, c=tf.int64),
    ]
)
VALUES = fuzzing.JSON | st.recursive(
    st.integers() | st.floats() | st.just({"b64": "AAA="}) | st.just({"b64": 1}),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["images", "image_bytes", "a", "b", "c"]), inner)
    ),
)


@settings(**fuzzing.FUZZ, max_examples=300)
@given(
    document=st.fixed_dictionaries(
        {}, optional={"instances": VALUES, "inputs": VALUES, "signature_name": VALUES}
    ),
    signature_def=SIGNATURES,
)
def test_any_json_request(document, signature_def):
    with contextlib.suppress(messages.RequestError):
        _, arrays, _ = messages.from_json(json.dumps(document).encode(), lambda _: signature_def)
        infos = signature_def.inputs
        assert arrays.keys() <= set(infos)
        for key, array in arrays.items():
            assert array.dtype == tf.dtypes.as_dtype(infos[key].dtype).as_numpy_dtype


@settings(**fuzzing.FUZZ, max_examples=200)
@given(data=st.data())
def test_any_bytes_as_a_request(data):
    good = b'{"signature_name": "", "instances": [{"images": [[1, 2], [3, 255]]}]}'
    with contextlib.suppress(messages.RequestError):
        messages.from_json(data.draw(fuzzing.damaged(good)), lambda _: signature(images=tf.uint8))


NUMBERS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)


@settings(**fuzzing.FUZZ, max_examples=300)
@given(
    dtype=st.sampled_from(sorted(tf.dtypes.as_dtype(d).as_datatype_enum for d in (
        tf.uint8, tf.float32, tf.string, tf.bool, tf.int64, tf.float16, tf.complex64, tf.resource,
        tf.variant, tf.qint8, tf.bfloat16))) | st.integers(0, 40),
    shape=st.lists(st.integers(-3, 4) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    content=st.binary(max_size=16),
    numbers=NUMBERS,
    texts=st.lists(st.binary(max_size=4), max_size=3),
    unknown_rank=st.booleans(),
)  # fmt: skip
def test_any_tensor_proto(dtype, shape, content, numbers, texts, unknown_rank):
    proto = tensor_pb2.TensorProto(
        dtype=dtype, tensor_content=content, int_val=numbers, string_val=texts
    )
    for side in shape:
        proto.tensor_shape.dim.add(size=side)
    proto.tensor_shape.unknown_rank = unknown_rank
    with contextlib.suppress(messages.RequestError):
        found = messages.from_proto("x", proto, 10_000)
        assert found.nbytes <= 80_000 and found.shape == tuple(shape)
        assert found.dtype == tf.dtypes.as_dtype(dtype).as_numpy_dtype


CONFIG = b"""model_config_list {
  config { name: "dog" base_path: "/models/dog" model_platform: "tensorflow" }
}
"""


@settings(**fuzzing.FUZZ, max_examples=150)
@given(data=st.data())
def test_damaged_models_config(tmp_path_factory, data):
    path = a_folder(tmp_path_factory) / "models.config"
    path.write_bytes(data.draw(fuzzing.damaged(CONFIG)))
    for read in (model_config.read_config, model_store.read_config):
        with contextlib.suppress(InputError):
            read(path)


def test_models_config_that_is_deep_or_absent(tmp_path):
    path = tmp_path / "models.config"
    for read in (model_config.read_config, model_store.read_config):
        path.write_text("model_config_list { " * 50_000)
        with pytest.raises(InputError, match=r"models\.config"):
            read(path)
    path.unlink()
    with pytest.raises(InputError, match=r"models\.config"):
        model_config.read_config(path)


def test_a_reply_that_is_a_bomb_is_not_decoded(monkeypatch):

    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ServingError, match="60000x60000"):
        from_pngs([png(60_000, 60_000)], (12, 16))
