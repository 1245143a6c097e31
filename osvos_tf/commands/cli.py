"""What all commands share: flags to exit status, and progress on a terminal or in a log.

Exit status: 0 done, 2 a mistake in what the user gave (one message, no traceback), 3 some of
many jobs failed and the others are done, 130 and 143 stopped by Ctrl-C and SIGTERM, 141 when
the reader of the output is gone. Anything else is our bug and shows its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import io
import os
import pathlib
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn, TypeVar

from absl import flags

from osvos_tf import commands
from osvos_tf.commands.help import Groups, describe, describe_version, wrap
from osvos_tf.commands.progress_bar import printable
from osvos_tf.errors import InputError, describe_os_error

T = TypeVar("T")

_OUT_OF_MEMORY = ("ResourceExhaustedError",)  # TensorFlow's, which may not be loaded
_HELP = {"-h", "-help", "--help", "--helpfull", "--helpshort"}
_STOPPED = {signal.SIGINT: "interrupted.", signal.SIGTERM: "terminated."}
_BROKEN_PIPE = 141  # 128 + SIGPIPE, which Python ignores
_came: list[int] = []  # signals that this process was asked to end by


class Unfinished(Exception):
    """Some of many jobs failed while the others are done; the message names them."""


def run(
    main: Callable[[flags.FlagValues], None],
    flag_values: flags.FlagValues,
    doc: str,
    groups: Groups = (),
) -> None:
    """Runs a command's `main` on the process's arguments; returns, or exits with a status.

    Args:
        main: function of the parsed flags.
        flag_values: the command's own `flags.FlagValues`.
        doc: what `--help` prints above the flags; its first line is the command's purpose.
        groups: the order of flags in `--help`: a heading and names of flags, group by group. Flags
            that no group names come last.
    """
    _prepare_streams()
    # Pillow's warning of a large picture: our own limit is lower, and has its own message.
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
    name, arguments = pathlib.Path(sys.argv[0]).stem, sys.argv[1:]
    try:
        if _HELP & set(arguments):
            print(wrap(doc), describe(flag_values, groups), sep="\n\n")
        elif "--version" in arguments and ("version" not in flag_values or len(arguments) == 1):
            print(describe_version())
        else:
            with _stoppable():
                main(parse(flag_values, arguments, name))
            if _came:  # and something on the way made nothing of it
                _stop(_came[0], None)
        sys.stdout.flush()
        for number in _STOPPED:  # all is done: nothing is left to stop but Python's own end
            signal.signal(number, signal.SIG_IGN)
        return
    except BaseException as error:
        message, status = _judge(error)
        if status is None:
            raise
    # The exception is gone, and with it what it held: generators have closed what they had opened.
    _exit(name, name_flags(str(message), flag_values), status)


@contextlib.contextmanager
def finishing(
    words: str = "Stopping as soon as this update is saved.",
) -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C and SIGTERM back, so that a step under way can finish.

        with finishing() as stop:
            while not stop():
                ...  # one step

    Yields a function that says whether a signal came; after the block it has its usual effect. A
    second signal has it at once.

    Args:
        words: what to say on standard error when a signal comes; "" for nothing.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield lambda: False
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            _stop(number, frame)
        came.append(number)
        if words:  # `print` fails where the signal came amid another one
            with contextlib.suppress(OSError):
                os.write(2, ("\n" * sys.stderr.isatty() + words + "\n").encode())

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        _stop(came[0], None)


def parse(
    flag_values: flags.FlagValues, arguments: Sequence[str], name: str = "command"
) -> flags.FlagValues:
    """Parses arguments (without the command's name); returns a copy of the flags with their values.

    Raises:
        flags.Error: unknown or missing flags, or values that do not fit.
        InputError: words that are not flags.
    """
    flag_values = copy.deepcopy(flag_values)
    try:
        rest = flag_values([name, *arguments])[1:]
    except flags.IllegalFlagValueError as error:
        missing = re.findall(r"(--\w+) must have a value other than None", str(error))
        if not missing:
            raise
        raise InputError(f"Wanted {', '.join(missing)} as well. See --help.") from None
    if rest:
        raise InputError(
            f"Wanted flags only, such as --name=VALUE; got {' '.join(map(repr, rest))}. See --help."
        )
    return flag_values


def _prepare_streams() -> None:
    """Makes the standard streams accept any text; output to closed ones is dropped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # or the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A file at first, and moved to a pipe since, it cannot be changed any more.
        with contextlib.suppress(OSError):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Lets signals end the work inside by an exception; before and after they end the process."""

    def retry(lost: sys.UnraisableHookArgs) -> None:
        if not (_came and isinstance(lost.exc_value, (KeyboardInterrupt, SystemExit))):
            sys.__unraisablehook__(lost)
        elif at_work:  # Python drops it in destructors and the like: once more, elsewhere
            threading.Timer(0.05, again).start()

    def again() -> None:
        if at_work:
            os.kill(os.getpid(), _came[-1])

    at_work = True
    ignored = {number for number in _STOPPED if signal.getsignal(number) == signal.SIG_IGN}
    sys.unraisablehook = retry
    for number in set(_STOPPED) - ignored:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        at_work = False
        for number in set(_STOPPED) - ignored:
            signal.signal(number, commands.leave)


def _judge(error: BaseException) -> tuple[object, int | None]:
    """Returns the message and exit status for what ended a command; None: our bug."""
    if _came:  # whatever others made of the exception on its way
        return _STOPPED[signal.Signals(_came[0])], 128 + _came[0]
    if isinstance(error, KeyboardInterrupt):
        return _STOPPED[signal.SIGINT], 130
    if isinstance(error, BrokenPipeError):
        return "", _BROKEN_PIPE
    if isinstance(error, Unfinished):
        return error, 3
    if isinstance(error, (InputError, flags.Error, FloatingPointError)):
        return error, 2
    if isinstance(error, MemoryError) or type(error).__name__ in _OUT_OF_MEMORY:
        return (
            "out of memory. It needs 2 to 4 GB, and 0.9 GB more for each million pixels that the "
            "network looks at: end other programs, or let it look at less (--height, where there "
            "is one).",
            2,
        )
    if isinstance(error, OSError) and (error.filename or error.errno):
        return describe_os_error(error), 2
    return "", None


def name_flags(message: str, flag_values: flags.FlagValues) -> str:
    """Returns a message of the library in this command's words: `seed` is its flag --seed."""
    return re.sub(
        r"`(\w+)`", lambda name: f"--{name[1]}" if name[1] in flag_values else name[1], message
    )


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Raises what ends a command that got this signal; during an import, ends the process.

    There an exception would become an ImportError, or be dropped by who can do without the module.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            commands.leave(number, frame)
        frame = frame.f_back
    _came.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _exit(name: str, message: str, status: int) -> NoReturn:
    """Ends the process with a message on standard error; broken streams are abandoned."""
    with contextlib.suppress(OSError):
        if message:
            print(f"{name}: {printable(message)}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again as it ends, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if _came:  # everything has come to its end; threads that still run would be waited for
        atexit._run_exitfuncs()
        os._exit(status)
    sys.exit(status)
