"""The runnable stages: one absl-flag script each."""

import os
import signal
import sys


def leave(number: int, frame: object) -> None:
    """Ends the process by a signal: at once, while there is nothing yet to bring to an end."""
    os._exit(128 + number)


# Python's own answer to Ctrl-C is a traceback, also amid a command's imports; this package is what
# a command imports first. "-m" is the program's name while Python looks for `pipelines.NAME`.
if sys.argv[0] == "-m" or os.path.basename(sys.argv[0]).startswith("osvos-"):
    for _number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(_number, leave)
