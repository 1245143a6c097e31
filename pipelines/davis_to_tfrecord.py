"""`python -m pipelines.davis_to_tfrecord`: see `osvos_tf.commands.davis_to_tfrecord`."""

from osvos_tf.commands.davis_to_tfrecord import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
