"""`python -m pipelines.studio`: see `osvos_tf.commands.studio`."""

from osvos_tf.commands.studio import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
