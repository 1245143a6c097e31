"""`python -m pipelines.export_saved_model`: see `osvos_tf.commands.export_saved_model`."""

from osvos_tf.commands.export_saved_model import FLAGS, main, run

__all__ = ["FLAGS", "main", "run"]

if __name__ == "__main__":
    run()
