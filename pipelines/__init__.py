"""The runnable stages: one absl-flag script each."""
