"""TFRecord shards of annotated frames: the schema, the writer and the reader.

    OUT/<split>-00000-of-00008.tfrecord   one tf.train.Example a frame, see `FEATURES`
    OUT/manifest.json                     sequences, frames, a checksum a shard

The manifest is written last: a folder without one holds no records.
"""

import dataclasses
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

from osvos_tf.data.davis import Frame, Sequence, check_name
from osvos_tf.errors import InputError
from osvos_tf.files import atomic_path, ensure_writable, read_json, write_json
from osvos_tf.formats import tfrecord_repair
from osvos_tf.media.images import describe_size, is_turned, open_image
from osvos_tf.media.masks import VOID, read_mask

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
# `image` is a JPEG, the source's own bytes unless it was resized, or turned upright as its EXIF
# orientation says. `mask` is a one-channel PNG with
# 0 background, 255 object, 128 void; it is empty where the frame has none.
FEATURES = {
    "sequence": tf.io.FixedLenFeature([], tf.string),
    "frame": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
    "image": tf.io.FixedLenFeature([], tf.string),
    "mask": tf.io.FixedLenFeature([], tf.string, default_value=b""),
}
_STORED_VOID = 128
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
        split: the name that the shards bear.
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


def read_manifest(records: str | os.PathLike[str], *, allow_cut: bool = False) -> dict[str, Any]:
    """Returns the manifest of a records folder, after checking that every shard is there.

    Args:
        records: the folder.
        allow_cut: lets shards pass that are shorter or longer than the manifest says.

    Raises:
        InputError: no manifest, another schema, or a shard that is missing or cut short.
    """
    records = pathlib.Path(records)
    path = records / MANIFEST
    if not path.is_file():
        raise InputError(
            f"No {MANIFEST} in {records}. Wanted a folder that davis_to_tfrecord has finished; run "
            "it (again) into this folder."
        )
    try:
        manifest: Any = read_json(path)
        version = manifest["schema_version"]
        shards = [(str(shard["file"]), shard["bytes"]) for shard in manifest["shards"]]
        _check_counts(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no manifest of records ({error}). Remove it, convert again."
        ) from error
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: wanted schema version {SCHEMA_VERSION}, got {version}.")
    for name, size in shards:
        check_name(name, path)
        shard = records / name
        found = shard.stat().st_size if shard.is_file() else None
        if found is None or (found != size and not allow_cut):
            state = "is missing" if found is None else f"has {found} bytes"
            raise InputError(f"{shard} {state}, {MANIFEST} says {size} bytes. Convert again.")
    return manifest


def _check_counts(manifest: dict[str, Any]) -> None:
    """Raises ValueError unless the numbers of frames go together and are possible."""
    shards, counts = manifest["shards"], manifest["sequences"].values()
    frames = [shard["frames"] for shard in shards]
    if not all(type(count) is int and count >= 0 for count in (*frames, *counts)):
        raise ValueError("a number of frames is none")
    if sum(frames) != sum(counts):
        raise ValueError(f"{sum(frames)} frames in the shards, {sum(counts)} in the sequences")


def read_records(records: str | os.PathLike[str]) -> tf.data.Dataset:
    """Returns a dataset of serialised examples, in the order in which they were written."""
    manifest = read_manifest(records)
    paths = [str(pathlib.Path(records) / shard["file"]) for shard in manifest["shards"]]
    return tf.data.TFRecordDataset(paths)


@dataclasses.dataclass(frozen=True)
class Lost:
    """Frames that cannot be had from a shard: one damaged record, or all from a place on.

    Attributes:
        shard: name of the file.
        record: number in it of the first one lost, from 0.
        sequence: the sequence to which it belongs.
        frame: its number in the sequence, from 0.
        count: how many are lost here.
        reason: what is wrong with the first.
    """

    shard: str
    record: int
    sequence: str
    frame: int
    count: int
    reason: str

    def __str__(self) -> str:
        more = f" and the {self.count - 1} behind it" if self.count > 1 else ""
        return (
            f"record {self.record} of {self.shard} (frame {self.frame} of sequence "
            f"{self.sequence!r}, counted from 0){more}: {self.reason}"
        )


def load_records(
    records: str | os.PathLike[str], *, skip_corrupt: bool = False
) -> tuple[list[bytes], list[Lost]]:
    """Reads all serialised examples into memory and checks every one of them.

    Shards are held against the manifest's checksums. In one that differs, each record is held
    against its own, so that the damaged frame can be named. Pictures are of the size that the
    record says, and none is larger than `video.MAX_PIXELS`.

    Args:
        records: the folder.
        skip_corrupt: leaves damaged frames out instead of raising.

    Returns:
        `(examples, lost)`: a list of bytes, and a list of `Lost`, empty unless frames were left
        out.

    Raises:
        InputError: no manifest, a missing shard, or a damaged frame; the first one is named.
    """
    records = pathlib.Path(records)
    manifest = read_manifest(records, allow_cut=skip_corrupt)
    examples: list[bytes] = []
    lost: list[Lost] = []
    first = 0
    for shard in manifest["shards"]:
        whole, damages = _read_shard(records / shard["file"], shard)
        damaged = [
            Lost(shard["file"], index, *_place(manifest, first + index), count, reason)
            for index, count, reason in damages
        ]
        if damaged and not skip_corrupt:
            raise InputError(
                f"Damaged records in {records}: {damaged[0]}. Convert again, or leave such frames "
                "out with `skip_corrupt`."
            )
        examples += whole
        lost += damaged
        first += shard["frames"]
    return examples, lost


def _place(manifest: dict[str, Any], number: int) -> tuple[str, int]:
    """Returns (sequence, number of the frame in it) of a frame, counted over all of them."""
    for name, count in manifest["sequences"].items():
        if number < count:
            return name, number
        number -= count
    raise IndexError(number)


def _read_shard(
    path: pathlib.Path, entry: dict[str, Any]
) -> tuple[list[bytes], list[tuple[int, int, str]]]:
    """Returns a shard's examples, and (index, count, reason) for each place where some are lost.

    Args:
        path: the shard.
        entry: what the manifest says of it.
    """
    content = path.read_bytes()
    is_right = hashlib.sha256(content).hexdigest() == entry.get("sha256")
    records = itertools.chain(
        tfrecord_repair.split(content, check=not is_right),
        [tfrecord_repair.Damage("the shard ends before it", is_end=True)],
    )
    examples: list[bytes] = []
    damages: list[tuple[int, int, str]] = []
    for index, record in enumerate(itertools.islice(records, entry["frames"])):
        if isinstance(record, bytes):
            reason = _fault(record)
            if reason is None:
                examples.append(record)
                continue
            record = tfrecord_repair.Damage(reason)
        damages.append((index, entry["frames"] - index if record.is_end else 1, record.reason))
        if record.is_end:
            break
    return examples, damages


def _fault(example: bytes) -> str | None:
    """Returns what makes a serialised example unfit for `parse`, None if nothing does."""
    try:
        features = tf.train.Example.FromString(example).features.feature
        size = [features[side].int64_list.value[0] for side in ("height", "width")]
        for name, formats in (("image", ("JPEG", "MPO")), ("mask", ("PNG",))):
            if name == "mask" and name not in features:
                continue
            with open_image(io.BytesIO(features[name].bytes_list.value[0])) as picture:
                if picture.format not in formats or list(picture.size[::-1]) != size:
                    return f"its {name} is {picture.format} of the size {picture.size}"
    except Exception as error:  # its bytes may be anything
        return f"it is no example of ours ({type(error).__name__}: {error})"
    return None


def parse(
    example: tf.Tensor, *, size: tuple[int, int] | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes one serialised example inside a `tf.data` map.

    Args:
        example: scalar string.
        size: (height, width) in pixels that is enough for the caller; a JPEG can be decoded at a
            half, a quarter or an eighth for much less than at full size, and is where that
            suffices.

    Returns:
        `(image, mask)`: uint8 [h, w, 3], and uint8 [h, w, 1] with 0 background, 1 object, 255
        void; a frame without a mask is void all over.
    """
    features = tf.io.parse_single_example(example, FEATURES)

    def decode(ratio: int) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_jpeg(features["image"], channels=3, ratio=ratio)
        return image, _decode_mask(features["mask"], image, ratio)

    if size is None:
        return decode(1)
    fits = tf.minimum(features["height"] // size[0], features["width"] // size[1])
    return tf.case(
        [(fits >= ratio, lambda ratio=ratio: decode(ratio)) for ratio in (8, 4, 2)],
        default=lambda: decode(1),
    )


def _decode_mask(png: tf.Tensor, image: tf.Tensor, ratio: int) -> tf.Tensor:
    def decode() -> tf.Tensor:
        values = tf.io.decode_png(png, channels=1)
        for axis in (0, 1):  # the middle of each block; a block at the border may be cut short
            middle = tf.range(tf.shape(image)[axis]) * ratio + ratio // 2
            values = tf.gather(values, tf.minimum(middle, tf.shape(values)[axis] - 1), axis=axis)
        void = tf.cast(values == _STORED_VOID, tf.uint8) * VOID
        return tf.cast(values == 255, tf.uint8) + void

    shape = tf.concat([tf.shape(image)[:2], [1]], axis=0)
    return tf.cond(
        tf.strings.length(png) > 0, decode, lambda: tf.fill(shape, tf.constant(VOID, "uint8"))
    )


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
    for example, error in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
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
    # Without being told so, protobuf orders the features by chance.
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
    if kind != "JPEG":
        raise InputError(f"Image {path} is {kind} inside. Records take JPEG files.")
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
    stored[values == VOID] = _STORED_VOID
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
