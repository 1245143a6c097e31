"""The commands as scripts, for a checkout: `python -m pipelines.NAME`."""
