"""Stages of training as values, and the loop that runs them."""
