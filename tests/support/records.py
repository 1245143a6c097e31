"""Records that hold whatever a test wants."""

import hashlib
import json

import tensorflow as tf

from osvos_tf.data import tfrecord


def records_of(folder, *examples):
    """A records folder whose checksums are all right, whatever it holds."""
    path = folder / "x-00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example)
    content = path.read_bytes()
    shard = {
        "file": path.name,
        "frames": len(examples),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    manifest = {
        "schema_version": tfrecord.SCHEMA_VERSION,
        "split": "x",
        "sequences": {"bear": len(examples)},
        "shards": [shard],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
