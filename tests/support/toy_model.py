"""A SavedModel with the signatures of our exports and no network: bright pixels are the object."""

import time

import tensorflow as tf

from osvos_tf.network import model_store


class Toy(tf.Module):
    """A pixel's probability is its brightness, times a gain that tells versions apart."""

    def __init__(self, gain):
        super().__init__()
        self.gain = tf.Variable(gain, dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def segment(self, images):
        brightness = tf.reduce_mean(tf.cast(images, tf.float32), axis=-1, keepdims=True) / 255
        probabilities = brightness * self.gain
        return {"probabilities": probabilities, "masks": tf.cast(probabilities > 0.5, tf.uint8)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def encoded(self, image_bytes):
        images = tf.map_fn(
            lambda item: tf.io.decode_jpeg(item, channels=3),
            image_bytes,
            fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
        )
        return {"mask_bytes": tf.io.encode_png(self.segment(images)["masks"] * 255)}


def save(folder, gain=1.0):
    """Writes one version, with variables and all."""
    toy = Toy(gain)
    signatures = {"serving_default": toy.segment, "encoded": toy.encoded}
    tf.saved_model.save(toy, str(folder), signatures=signatures)
    (folder / model_store.FACTS_FILE).parent.mkdir()
    model_store.write_facts(folder, None)  # it takes images as they come
    return folder


def wait_until(condition, seconds=30):
    """Waits for what another thread or process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come about"
        time.sleep(0.005)
