"""`python -m pipelines.serve`: see `osvos_tf.commands.serve`."""

from osvos_tf.commands.serve import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
