"""The one exception that means: the user can fix this; and words for what the system refuses."""

import errno

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


class InputError(ValueError):
    """A mistake in what the user gave: a path, a file's content, a flag's value.

    The message is a small help page: what was wanted, what was found, what to do. Commands print
    it without a traceback and exit with status 2; any other exception is our bug.
    """


# What pip installs for each extra of setup.py; no index has this package, so it cannot be asked
# for `osvos_tf[serving]`.
PACKAGES = {
    "serving": (
        '"tensorflow-serving-api<2.22" grpcio grpcio-health-checking aiohttp prometheus-client '
        "requests"
    ),
    "studio": "aiohttp",
    "distributed": "ray",
}


def missing_package(what: str, extra: str, error: ImportError) -> InputError:
    """Returns the error that says which packages are missing and how to install them.

    Args:
        what: what needs them, as the beginning of a sentence.
        extra: the extra of setup.py that they belong to.
        error: why the import failed.
    """
    return InputError(
        f"{what} needs a package that cannot be imported ({error}). Install what belongs to it: "
        f"pip install {PACKAGES[extra]}"
    )


def describe_os_error(error: OSError) -> str:
    """Returns in words what the system refused to do with a file."""
    where = f" ({error.filename})" if error.filename else ""
    hint = " Make room, or name another folder." if error.errno in _NO_ROOM else ""
    return f"{error.strerror or error}{where}.{hint}"
