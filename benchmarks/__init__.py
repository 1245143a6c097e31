"""What is fast, and how we know: each module runs as `python -m benchmarks.<name>`."""

import os

# As the commands have it, see `osvos_tf.runtime.import_tensorflow`; read when TensorFlow is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
