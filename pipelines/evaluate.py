"""`python -m pipelines.evaluate`: see `osvos_tf.commands.evaluate`."""

from osvos_tf.commands.evaluate import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
