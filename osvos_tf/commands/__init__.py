"""The commands: one absl-flag script each."""

import os
import pathlib
import signal
import sys


def leave(number: int, frame: object) -> None:
    """Ends the process at once: there is nothing yet to bring to an end."""
    os._exit(128 + number)


def _is_command(program: pathlib.Path) -> bool:
    """Whether this process runs `osvos-NAME`, a script in `pipelines`, or `python -m` anything."""
    return program.name.startswith(("osvos-", "-m")) or program.parent.name == "pipelines"


# Python's own answer to Ctrl-C is a traceback, even during a command's imports, and this package is
# what a command imports first. "-m" is the program's name while Python looks for the module.
if _is_command(pathlib.Path(sys.argv[0])):
    for _number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(_number, leave)
