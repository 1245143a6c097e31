"""TFRecord shards of annotated frames: the schema and the reader; `tfrecord_writer` writes them.

    OUT/<split>-00000-of-00008.tfrecord   one tf.train.Example a frame, see `FEATURES`
    OUT/manifest.json                     sequences, frames, a checksum a shard

The manifest is written last: a folder without one holds no records.
"""

import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
from typing import Any

import tensorflow as tf

from osvos_tf.data.davis import check_name
from osvos_tf.errors import InputError
from osvos_tf.files import read_json
from osvos_tf.formats import tfrecord_repair
from osvos_tf.media.images import open_image
from osvos_tf.media.masks import VOID

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
STORED_VOID = 128
_MOST_FRAMES = 2**40  # that a manifest may claim


def read_manifest(records: str | os.PathLike[str], *, allow_cut: bool = False) -> dict[str, Any]:
    """Returns the manifest of a records folder, after checking that every shard is there.

    Args:
        records: the folder.
        allow_cut: accepts shards that are shorter or longer than the manifest says.

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
            f"{path} is not a manifest of records ({error}). Remove it and convert again."
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
    """Raises ValueError unless the numbers of frames are possible and agree."""
    shards, counts = manifest["shards"], manifest["sequences"].values()
    frames = [shard["frames"] for shard in shards]
    if not all(type(count) is int and 0 <= count <= _MOST_FRAMES for count in (*frames, *counts)):
        raise ValueError(f"a number of frames is not a number up to {_MOST_FRAMES}")
    if len({str(shard["file"]) for shard in shards}) != len(shards):
        raise ValueError("it names a shard twice")
    if sum(frames) != sum(counts):
        raise ValueError(f"{sum(frames)} frames in the shards, {sum(counts)} in the sequences")


def read_records(records: str | os.PathLike[str]) -> tf.data.Dataset:
    """Returns a dataset of serialised examples, in the order in which they were written."""
    manifest = read_manifest(records)
    paths = [str(pathlib.Path(records) / shard["file"]) for shard in manifest["shards"]]
    return tf.data.TFRecordDataset(paths)


@dataclasses.dataclass(frozen=True)
class Lost:
    """Frames that cannot be read from a shard: one damaged record, or all from some point on.

    Attributes:
        shard: name of the file.
        record: number of the first lost one in it, from 0.
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

    Shards are checked against the manifest's checksums. In one that differs, each record is checked
    against its own, so that the damaged frame can be named. Pictures have the size that
    the record says, and none is larger than `images.MAX_PIXELS`.

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
        void; without a mask a frame is all void.
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
        void = tf.cast(values == STORED_VOID, tf.uint8) * VOID
        return tf.cast(values == 255, tf.uint8) + void

    shape = tf.concat([tf.shape(image)[:2], [1]], axis=0)
    return tf.cond(
        tf.strings.length(png) > 0, decode, lambda: tf.fill(shape, tf.constant(VOID, "uint8"))
    )
