"""What is fast, and how we know: each module runs as `python -m benchmarks.<name>`."""

import os

# As the commands have it, see `pipelines.cli.import_tensorflow`; read when TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
