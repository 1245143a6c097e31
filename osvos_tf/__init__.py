"""One-shot video object segmentation (OSVOS, Caelles et al., CVPR 2017) in Keras and TensorFlow.

Importing the package is silent and cheap: TensorFlow is loaded by the modules that need it.
"""

__version__ = "0.1.0"


def load_model(path):
    """Returns the functional `keras.Model` stored at `path`; see `osvos_tf.model.load_model`."""
    from osvos_tf import model

    return model.load_model(path)
