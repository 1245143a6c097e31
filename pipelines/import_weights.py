"""`python -m pipelines.import_weights`: see `osvos_tf.commands.import_weights`."""

from osvos_tf.commands.import_weights import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
