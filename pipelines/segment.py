"""`python -m pipelines.segment`: see `osvos_tf.commands.segment`."""

from osvos_tf.commands.segment import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
