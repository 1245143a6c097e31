"""How good masks and contours are."""
