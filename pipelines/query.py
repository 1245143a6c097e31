"""`python -m pipelines.query`: see `osvos_tf.commands.query`."""

from osvos_tf.commands.query import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
