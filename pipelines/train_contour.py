"""`python -m pipelines.train_contour`: see `osvos_tf.commands.train_contour`."""

from osvos_tf.commands.train_contour import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
