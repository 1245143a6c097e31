"""`python -m pipelines.segment_dataset`: see `osvos_tf.commands.segment_dataset`."""

from osvos_tf.commands.segment_dataset import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
