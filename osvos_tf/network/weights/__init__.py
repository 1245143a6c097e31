"""Weights that others trained: VGG16 to start from, and the OSVOS authors' networks."""
