"""Data sets, from their own layouts to the views that networks are trained on."""
