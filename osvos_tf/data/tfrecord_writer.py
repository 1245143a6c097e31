"""Writes a data set's split as TFRecords and their manifest, see `tfrecord`."""

import glob
import hashlib
import io
import itertools
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from osvos_tf.data.davis import Frame, Sequence
from osvos_tf.data.tfrecord import MANIFEST, SCHEMA_VERSION, STORED_VOID
from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path, ensure_writable, read_json, write_json
from osvos_tf.media.images import describe_size, is_turned, open_image, read_image
from osvos_tf.media.masks import VOID, read_mask

_JPEG_QUALITY = 95  # of images that were resized or turned


def write_records(
    sequences: Collection[Sequence],
    out: str | os.PathLike[str],
    split: str,
    *,
    shards: int = 8,
    height: int | None = None,
    progress: Callable[[Iterator[bytes]], Iterable[bytes]] = iter,
    read_mask: Callable[[str], np.ndarray] = read_mask,
) -> dict[str, Any]:
    """Converts sequences to shards; all of them and the manifest, or no manifest.

    Args:
        sequences: of `davis.read_split`.
        out: the folder for shards and manifest; made where it is missing.
        split: the shards' name.
        shards: number of files; frames are dealt out in order, so a shard holds whole stretches.
        height: height in pixels to resize frames to; None keeps the JPEG bytes as they are.
        progress: wraps the iterator over the frames, for a progress bar.
        read_mask: function of a frame's mask path to uint8 [height, width] with 0 background,
            1 object, 255 void; that of `bsds` or `label_maps` makes records of contours.

    Returns:
        The manifest, a dict.

    Raises:
        InputError: an unreadable image, a mask of another size or with unexpected values, a folder
            that cannot be written or holds the records of another split.
    """
    out = ensure_writable(out)
    frames = [(sequence.name, frame) for sequence in sequences for frame in sequence.frames]
    if not 1 <= shards <= len(frames):
        raise InputError(f"`shards` must be in 1..{len(frames)} (the frames). Received: {shards}.")
    _clear(out, split)
    examples = iter(progress(_examples(frames, height, read_mask)))
    try:
        entries = [
            _write_shard(
                out / f"{split}-{index:05d}-of-{shards:05d}.tfrecord",
                list(itertools.islice(examples, count)),
            )
            for index, count in enumerate(_deal(len(frames), shards))
        ]
        next(examples, None)  # progress counts an element when it is asked for the one after it
    except BaseException:
        _clear(out, split)
        raise
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "split": split,
        "height": height,
        "sequences": {sequence.name: len(sequence.frames) for sequence in sequences},
        "frames": len(frames),
        "shards": entries,
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def _examples(
    frames: Iterable[tuple[str, Frame]],
    height: int | None,
    read_mask: Callable[[str], np.ndarray],
) -> Iterator[bytes]:
    """Yields serialised examples, read and checked in parallel by a `tf.data` pipeline."""

    def load(row: tf.Tensor) -> tuple[bytes, str]:
        sequence, name, image, mask = (text.decode() for text in row.numpy())
        # An error travels as a value: an exception inside a map would lose its message.
        try:
            return _serialise(sequence, name, image, mask, height, read_mask), ""
        except InputError as error:
            return b"", str(error)

    rows = [[s, f.name, str(f.image), str(f.mask or "")] for s, f in frames]
    dataset = tf.data.Dataset.from_tensor_slices(rows).map(
        lambda row: tf.py_function(load, [row], (tf.string, tf.string)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # as in `input_pipeline`
    for example, error in dataset.prefetch(16).with_options(options).as_numpy_iterator():
        if error:
            raise InputError(error.decode())
        yield example


def _serialise(
    sequence: str,
    name: str,
    image_path: str,
    mask_path: str,
    height: int | None,
    read_mask: Callable[[str], np.ndarray],
) -> bytes:
    image, size = _read_jpeg(image_path)
    mask = b""
    if mask_path:
        values = read_mask(mask_path)
        if values.shape != size:
            raise InputError(
                f"Mask {mask_path} is {describe_size(values.shape)}, its frame {image_path} is "
                f"{describe_size(size)}. A mask must have its frame's size."
            )
    if height is not None:
        width = max(1, round(size[1] * height / size[0]))
        image = _resize_jpeg(image, width, height)
        if mask_path:
            values = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        size = (height, width)
    if mask_path:
        mask = _encode_mask(values)
    # By default protobuf orders the features at random.
    return _example(sequence, name, size, image, mask).SerializeToString(deterministic=True)


def _example(
    sequence: str, name: str, size: tuple[int, int], image: bytes, mask: bytes
) -> tf.train.Example:
    values = {
        "sequence": sequence.encode(),
        "frame": name.encode(),
        "height": size[0],
        "width": size[1],
        "image": image,
        "mask": mask,
    }
    features = {
        key: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        if isinstance(value, int)
        else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in values.items()
        if value != b""
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def _read_jpeg(path: str) -> tuple[bytes, tuple[int, int]]:
    """Returns the file's bytes and its (height, width), after decoding it as a check."""
    try:
        content = pathlib.Path(path).read_bytes()
        with open_image(io.BytesIO(content)) as picture:
            kind, (width, height) = picture.format, picture.size
            if is_turned(picture):  # a reader of records knows nothing of EXIF
                picture = ImageOps.exif_transpose(picture)
                return _to_jpeg(picture.convert("RGB")), picture.size[::-1]
            picture.draft("L", (width // 8, height // 8))  # reads every byte, computes few pixels
            picture.load()
    except Exception as error:  # a damaged file fails in many ways inside Pillow
        raise InputError(f"Cannot read image {path}: {error}. Replace the file.") from error
    if kind not in ("JPEG", "MPO"):  # once, so that training decodes one kind
        pixels = read_image(pathlib.Path(path))
        return _to_jpeg(Image.fromarray(pixels)), pixels.shape[:2]
    return content, (height, width)


def _resize_jpeg(content: bytes, width: int, height: int) -> bytes:
    with Image.open(io.BytesIO(content)) as picture:
        return _to_jpeg(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


def _to_jpeg(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=_JPEG_QUALITY, exif=b"")
    return encoded.getvalue()


def _encode_mask(values: np.ndarray) -> bytes:
    stored = values * 255  # 0 and 1 to 0 and 255; void, 255, is set below
    stored[values == VOID] = STORED_VOID
    encoded = io.BytesIO()
    # Lightly compressed, because training decodes it again and again: 0.8 ms at 480p, where what
    # OpenCV writes takes 1.9 ms.
    Image.fromarray(stored).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def _deal(frames: int, shards: int) -> list[int]:
    """Returns how many of the frames each shard gets: together all, and no shard none."""
    edges = [index * frames // shards for index in range(shards + 1)]
    return [end - start for start, end in itertools.pairwise(edges)]


def _write_shard(path: pathlib.Path, examples: list[bytes]) -> dict[str, Any]:
    with atomic_path(path) as temporary:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for example in examples:
                    writer.write(example)
        except tf.errors.OpError as error:
            raise InputError(
                f"Cannot write {path}: {error.message}. Make room, or name another folder."
            ) from error
        content = temporary.read_bytes()
    return {
        "file": path.name,
        "frames": len(examples),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _clear(out: pathlib.Path, split: str) -> None:
    """Removes the manifest first, then all shards: what is left of a killed run is no records."""
    manifest = out / MANIFEST
    if manifest.exists():
        try:
            content: Any = read_json(manifest)
            holds = content["split"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{manifest} is no manifest of records, and is in the way of one. Name another "
                "folder, or remove the file."
            ) from None
        if holds != split:
            raise InputError(
                f"{out} holds the records of split {holds!r}. Name another folder for {split!r}."
            )
        manifest.unlink()
    shards = f"{glob.escape(split)}-?????-of-?????.tfrecord"
    for pattern in (shards, f".????????.{shards}", f".????????.{MANIFEST}"):  # dot: cut short
        for file in out.glob(pattern):
            file.unlink()
