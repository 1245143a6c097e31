"""A page in the browser: mark an object, learn it, look, correct, take it home."""
