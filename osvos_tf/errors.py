"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """A mistake in what the user gave: a path, a file's content, a flag's value.

    The message is a small help page: what was wanted, what was found, what to do. Pipelines print
    it without a traceback and exit with status 2; every other exception is a fault of ours.
    """
