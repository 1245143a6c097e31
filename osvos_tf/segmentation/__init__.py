"""From frames to masks: what the Python API is made of."""
