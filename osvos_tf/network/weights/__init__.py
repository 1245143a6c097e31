"""Weights that others trained: VGG16 for a start, and the networks of the OSVOS authors."""
