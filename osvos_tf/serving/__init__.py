"""TensorFlow Serving's contract: its configuration, a server, and clients."""
