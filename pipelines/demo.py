"""`python -m pipelines.demo`: see `osvos_tf.commands.demo`."""

from osvos_tf.commands.demo import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
