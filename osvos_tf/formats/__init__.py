"""Strangers' file formats, read within bounds."""
