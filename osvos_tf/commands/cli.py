"""What all commands share: flags to exit status, and progress on a terminal or in a log.

Exit status: 0 done, 2 a mistake in what the user gave (one message, no traceback), 3 some of
many jobs failed and the others are done, 130 and 143 stopped by Ctrl-C and SIGTERM, 141 by whoever
read the output and is gone. Anything else is a fault of ours and shows its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import dataclasses
import errno
import io
import os
import pathlib
import re
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

import tqdm
from absl import flags

from osvos_tf import __version__, commands
from osvos_tf.errors import InputError

# Headings with the names of the flags below them, for `--help`.
Groups = Sequence[tuple[str, Sequence[str]]]
T = TypeVar("T")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal
# Of what `--help` prints.
_LINES: dict[str, Any] = {"width": 88, "break_on_hyphens": False, "break_long_words": False}
# A bar of seconds: a rate of seconds a second would say nothing.
_SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} seconds{postfix}"
_HELP = {"-h", "-help", "--help", "--helpfull", "--helpshort"}
_STOPPED = {signal.SIGINT: "interrupted.", signal.SIGTERM: "terminated."}
_BROKEN_PIPE = 141  # 128 + SIGPIPE, which Python ignores
# What a terminal would obey, and what it cannot show.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
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
            print(_wrap(doc), _describe(flag_values, groups), sep="\n\n")
        elif "--version" in arguments and ("version" not in flag_values or len(arguments) == 1):
            print(_describe_version())
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
    """Holds Ctrl-C and SIGTERM back, so that what is under way can come to a good end.

        with finishing() as stop:
            while not stop():
                ...  # one step

    Yields a function that says whether a signal came; after the block it has its usual effect. A
    second signal has it at once.

    Args:
        words: what is said, on standard error, when a signal comes; "" for nothing.
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
        InputError: words that are no flags.
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


def define_path(
    name: str,
    default: str | None,
    help: str,
    *,
    flag_values: flags.FlagValues,
    required: bool = False,
) -> None:
    """Defines a flag that names a file or a folder; `~` is the user's home, `~ada` that of ada.

    Used as `flags.DEFINE_string`.
    """
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE(
        _PathParser(),
        name,
        default,
        help,
        flag_values=flag_values,
        serializer=serializer,
        required=required,
    )


def define_paths(
    name: str,
    default: Sequence[str] | None,
    help: str,
    *,
    flag_values: flags.FlagValues,
    required: bool = False,
) -> None:
    """Defines a repeatable flag of paths, NAME:PATH among them; used as `DEFINE_multi_string`."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE_multi(
        _PathParser(),
        serializer,
        name,
        default,
        help,
        flag_values=flag_values,
        required=required,
    )


class _PathParser(flags.ArgumentParser):
    """The value of a flag that names a path, NAME:PATH too, with the home folder for `~`."""

    def parse(self, argument: str) -> str:
        """Returns the path; raises ValueError where there is none."""
        if not argument:
            raise ValueError("wanted a path, got nothing")
        path = os.path.expanduser(argument)
        name, colon, value = path.partition(":~")
        if path.startswith("~") and not colon and not os.path.lexists(path):
            user = re.split(r"[/\\]", path)[0]
            raise ValueError(f"{user} is nobody's home folder; a name that begins so is ./{path}")
        if colon and not os.path.lexists(path):
            path = f"{name}:{os.path.expanduser('~' + value)}"
        return path

    def flag_type(self) -> str:
        """What the value is."""
        return "path"


def define_common(flag_values: flags.FlagValues, *, precision: bool = True) -> None:
    """Defines the flags that mean the same in every command that trains."""
    if precision:
        flags.DEFINE_enum(
            "precision",
            "auto",
            ["auto", "float32", "bfloat16"],
            "Compute type of the convolutions; auto takes what is fastest on this processor. "
            "Weights, logits and the loss are float32 in any case.",
            flag_values=flag_values,
        )
    flags.DEFINE_integer(
        "seed", 0, "Seed of weights, order and augmentation.", flag_values=flag_values
    )


def define_overwrite(flag_values: flags.FlagValues) -> None:
    """Defines the flag without which finished results of other work are never replaced."""
    flags.DEFINE_boolean(
        "overwrite",
        False,
        "Replace finished results of other flags or inputs in --out. They stand until the new ones "
        "are whole.",
        flag_values=flag_values,
    )


def read_options(kind: type[T], flag_values: flags.FlagValues) -> T:
    """Returns the dataclass `kind` with the values of the flags that are called as its fields."""
    names = (field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: flag_values[name].value for name in names})


class Progress:
    """A progress bar on a terminal, a line every ten seconds elsewhere; on standard error.

        with Progress("Training", total=500, unit="update") as progress:
            progress.advance(note="loss 0.31")

    It also wraps an iterator: `for x in progress.over(iterator)`. Where time is what runs out:

        with Progress("Training", total=15, unit="second") as progress:
            progress.advance(note="loss 0.31", to=seconds)
    """

    def __init__(
        self, what: str, total: float | None = None, unit: str = "frame", first: int = 0
    ) -> None:
        self._what, self._total, self._unit, self._count = what, total, unit, first
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            desc=what,
            total=total,
            unit=unit,
            initial=first,
            disable=not self._is_terminal,
            bar_format=_SECONDS if unit == "second" else None,
        )
        self._start = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        """Starts the clock."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Prints the last state."""
        self._bar.close()
        if not self._is_terminal and kind is None:
            took = f"{time.monotonic() - self._start:.0f} s"
            self._print("" if self._unit == "second" else took)

    def advance(self, note: str = "", to: float | None = None) -> None:
        """Counts one more unit, or all up to number `to`; `note` says how it goes."""
        step = 1 if to is None else int(to) - self._count
        self._count += step
        self._bar.set_postfix_str(printable(note), refresh=False)
        self._bar.update(step)
        if not self._is_terminal and time.monotonic() - self._printed >= _PLAIN_SECONDS:
            self._printed = time.monotonic()
            self._print(note)

    def over(self, iterator: Iterable[T]) -> Iterator[T]:
        """Yields the iterator's elements, counting them."""
        for element in iterator:
            yield element
            self.advance()

    def _print(self, note: str) -> None:
        of = f" of {self._total:.12g}" if self._total else ""
        more = f", {note}" if note else ""
        text = printable(f"{self._what}: {self._count}{of} {self._unit}s{more}")
        print(text, file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """Returns the text with what a terminal would obey written out: names may hold anything."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))


def require_positive(flag_values: flags.FlagValues, *names: str) -> None:
    """Raises InputError where a flag is given and not above zero."""
    for name in names:
        value = flag_values[name].value
        if value is not None and not value > 0:
            raise InputError(f"--{name} must be above 0. Received: {value}.")


def _wrap(doc: str) -> str:
    """Returns a docstring whose lines are as wide as the flags'."""
    parts = doc.strip().split("\n\n")
    for index, part in enumerate(parts):
        if not part.startswith(" "):
            parts[index] = textwrap.fill(" ".join(part.split()), **_LINES)
            continue
        lines = part.split("\n")
        for number, line in enumerate(lines):  # of code: broken before a flag
            cut = line.rfind(" --", 0, _LINES["width"] - 2)
            if len(line) > _LINES["width"] and cut > 0:
                lines[number : number + 1] = [f"{line[:cut]} \\", f"        {line[cut + 1 :]}"]
        parts[index] = "\n".join(lines)
    return "\n\n".join(parts)


def _describe(flag_values: flags.FlagValues, groups: Groups) -> str:
    """Returns the flags, one a paragraph, group by group."""
    left = set(flag_values)
    lines = ["Flags:"]
    for heading, names in (*groups, ("Others", None)):
        names = sorted(left) if names is None else names
        if groups and names:
            lines += ["", heading]
        for name in names:
            left.remove(name)  # KeyError: no such flag, or in two groups
            lines.append(_describe_flag(flag_values[name]))
    return "\n".join(lines)


def _describe_flag(flag: flags.Flag) -> str:
    """Returns a flag's paragraph: its name, `--noNAME` where that changes anything, its help."""
    text = flag.help.partition(";\n    repeat this option")[0]  # ours says "Repeatable"
    names = f"--{flag.name}"
    if text.startswith("<"):  # the choices, as absl puts them
        choices, _, text = text.partition(": ")
        names += f"={choices}"
    if flag.boolean and flag.default is not False:
        names += f", --no{flag.name}"
    value = "" if flag.default is False else (flag.default_as_str or "").strip("'")
    default = f" (default: {value})" if value else ""
    return textwrap.fill(
        f"{names}: {text}{default}", initial_indent="  ", subsequent_indent="      ", **_LINES
    )


def _describe_version() -> str:
    """Returns the versions that decide over results, without loading anything that is slow."""
    from importlib import metadata

    lines = [f"osvos_tf {__version__}"]
    for package in ("tensorflow", "keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            lines.append(f"{package} {metadata.version(package)}")
    return "\n".join([*lines, f"Python {sys.version.split()[0]}"])


def _prepare_streams() -> None:
    """Makes the standard streams take any text; those that are closed lead nowhere."""
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
    """Returns the message and exit status for what ended a command; None: a fault of ours."""
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
    if isinstance(error, OSError) and (error.filename or error.errno):
        where = f" ({error.filename})" if error.filename else ""
        hint = " Make room, or name another folder." if error.errno in _NO_ROOM else ""
        return f"{error.strerror or error}{where}.{hint}", 2
    return "", None


def name_flags(message: str, flag_values: flags.FlagValues) -> str:
    """Returns a message of the library in this command's words: `seed` is its flag --seed."""
    return re.sub(
        r"`(\w+)`", lambda name: f"--{name[1]}" if name[1] in flag_values else name[1], message
    )


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Raises what ends a command that got this signal; amid an import, ends the process.

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
    """Ends the process, with a message on standard error; streams that broke are let go."""
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
