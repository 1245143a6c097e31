"""`python -m pipelines.train_parent`: see `osvos_tf.commands.train_parent`."""

from osvos_tf.commands.train_parent import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
