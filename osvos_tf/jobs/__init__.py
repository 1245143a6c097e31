"""Many sequences, on many machines."""
