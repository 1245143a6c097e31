"""How TensorFlow is loaded: quietly, and as Keras's backend.

Modules that import Keras import this one before it: from then on Keras runs on TensorFlow,
whatever `KERAS_BACKEND` or its `keras.json` say.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType

from osvos_tf import __version__
from osvos_tf.errors import InputError

_LOADING = threading.Lock()  # of those that load TensorFlow, the first one moves standard error


if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "tensorflow"  # above the user's keras.json; read by Keras


def require_backend() -> None:
    """Raises InputError if Keras was loaded before this module with another backend."""
    keras = sys.modules.get("keras")
    backend = keras.backend.backend() if keras else "tensorflow"
    if backend != "tensorflow":
        raise InputError(
            f"osvos_tf needs Keras on TensorFlow, but Keras is loaded already and runs on "
            f"{backend}. Set KERAS_BACKEND=tensorflow, or import osvos_tf.runtime before Keras, "
            f"and restart Python."
        )


def import_tensorflow() -> ModuleType:
    """Imports TensorFlow without its C++ side's chatter on standard error, and returns it.

    Commands call this once the user's input has been checked: a mistake should not wait for it.

    Raises:
        InputError: see `require_backend`.
        ImportError: TensorFlow cannot be loaded; standard error then shows what it said.
    """
    require_backend()
    # Read by TensorFlow as it is loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # One operation at a time, each on all cores: no slower here, and bfloat16 gradients repeat to
    # the last bit, which they do not while operations run side by side.
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    with _LOADING:
        if "tensorflow" in sys.modules:
            import tensorflow as tf
        else:
            with _quiet():
                import tensorflow as tf
    return tf


def versions(tf: ModuleType) -> dict[str, str]:
    """Returns the versions that a result depends on, by package name."""
    import keras  # not `tf.keras`, which has no version in TF 2.15

    return {
        "osvos_tf": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what is written to file descriptor 2 back; it is shown if an exception ends this."""
    try:
        chatter = tempfile.TemporaryFile()  # noqa: SIM115
        stderr = os.dup(2)
    except OSError:  # no standard error to move, or nowhere to keep it
        yield
        return
    watches = not faulthandler.is_enabled()
    if watches:  # where a crash of the C++ side takes this process along, the place is told
        faulthandler.enable(stderr)
    os.dup2(chatter.fileno(), 2)
    try:
        yield
    except Exception:
        os.dup2(stderr, 2)
        chatter.seek(0)
        print(chatter.read().decode(errors="replace"), end="", file=sys.stderr, flush=True)
        raise
    finally:
        os.dup2(stderr, 2)
        if watches:
            faulthandler.disable()
        os.close(stderr)
        chatter.close()
