"""What all commands share: flags to exit status, and progress on a terminal or in a log.

Exit status: 0 done, 2 a mistake in what the user gave (one message, no traceback), 3 some of
many jobs failed and the others are done, 130 and 143 stopped by Ctrl-C and SIGTERM. Anything else
is a fault of ours and shows its traceback.
"""

import contextlib
import copy
import errno
import pathlib
import re
import signal
import sys
import textwrap
import threading
import time
import warnings

import tqdm
from absl import flags

from osvos_tf import files
from osvos_tf.errors import InputError
from osvos_tf.runtime import import_tensorflow, versions  # noqa: F401 (handed on)

RECORD = "run.json"  # what a finished run leaves last
_UNFINISHED = ".unfinished"  # what marks the results of one that is not, or was killed

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Unfinished(Exception):
    """Some of many jobs failed while the others are done; the message names them."""


def run(main, flag_values, doc):
    """Runs a command's `main` on the process's arguments and exits.

    Args:
        main: function of the parsed flags.
        flag_values: the command's own `flags.FlagValues`.
        doc: what `--help` prints above the flags; its first line is the command's purpose.
    """
    name = pathlib.Path(sys.argv[0]).stem
    if {"-h", "--help", "-help"} & set(sys.argv[1:]):
        print(doc.strip(), _describe(flag_values), sep="\n\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, _on_sigterm)
    # Pillow's warning of a large picture: our own limit is lower, and has its own message.
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
    try:
        main(parse(flag_values, sys.argv[1:], name))
    except (InputError, flags.Error) as error:
        _exit(name, error, 2)
    except Unfinished as error:
        _exit(name, error, 3)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        hint = " Make room, or name another folder." if error.errno in _NO_ROOM else ""
        _exit(name, f"{error.strerror or error}{where}.{hint}", 2)
    except FloatingPointError as error:
        _exit(name, error, 2)
    except KeyboardInterrupt:
        _exit(name, "interrupted.", 130)


@contextlib.contextmanager
def finishing():
    """Holds Ctrl-C and SIGTERM back, so that what is under way can come to a good end.

        with finishing() as stop:
            while not stop():
                ...  # one step

    Yields a function that says whether a signal came; after the block it has its usual effect. A
    second signal has it at once.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield lambda: False
        return
    came = []

    def note(number, frame):
        if came:
            _stop(number)
        came.append(number)
        print("Stopping as soon as this update is saved.", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        _stop(came[0])


def parse(flag_values, arguments, name="command"):
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
            f"Wanted flags only, such as --out=DIR; got {' '.join(map(repr, rest))}. See --help."
        )
    return flag_values


def define_common(flag_values, *, precision=True):
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


class Progress:
    """A progress bar on a terminal, a line every ten seconds elsewhere; on standard error.

        with Progress("Training", total=500, unit="update") as progress:
            progress.advance(note="loss 0.31")

    It also wraps an iterator: `for x in progress.over(iterator)`.
    """

    def __init__(self, what, total=None, unit="frame", first=0):
        self._what, self._total, self._unit, self._count = what, total, unit, first
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            desc=what, total=total, unit=unit, initial=first, disable=not self._is_terminal
        )
        self._start = self._printed = time.monotonic()

    def __enter__(self):
        """Starts the clock."""
        return self

    def __exit__(self, *error):
        """Prints the last state."""
        self._bar.close()
        if not self._is_terminal and error[0] is None:
            self._print(f"{time.monotonic() - self._start:.0f} s")

    def advance(self, note="", to=None):
        """Counts one more unit, or all up to number `to`; `note` says how it goes."""
        step = 1 if to is None else to - self._count
        self._count += step
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(step)
        if not self._is_terminal and time.monotonic() - self._printed >= _PLAIN_SECONDS:
            self._printed = time.monotonic()
            self._print(note)

    def over(self, iterator):
        """Yields the iterator's elements, counting them."""
        for element in iterator:
            yield element
            self.advance()

    def _print(self, note):
        of = f" of {self._total}" if self._total else ""
        more = f", {note}" if note else ""
        print(f"{self._what}: {self._count}{of} {self._unit}s{more}", file=sys.stderr, flush=True)


def clear_results(out, *folders):
    """Removes an earlier run's PNG files, of a killed one too: it may have had other frames.

    Its `RECORD`, or what marks a run that has none yet, says that they are ours.

    Args:
        out: the output folder, a `pathlib.Path`.
        folders: names of the folders in it whose PNG files go.
    """
    unfinished = out / _UNFINISHED
    is_ours = (out / RECORD).is_file() or unfinished.is_file()
    unfinished.touch()
    (out / RECORD).unlink(missing_ok=True)
    for folder in (out, *(out / name for name in folders)):
        files.remove_leftovers(folder)
        if is_ours and folder != out:
            for path in folder.glob("*.png"):
                path.unlink()


def write_record(out, record):
    """Writes `RECORD`, which says that all of a run's results are there."""
    files.write_json(out / RECORD, record)
    (out / _UNFINISHED).unlink(missing_ok=True)


def require_positive(flag_values, *names):
    """Raises InputError where a flag is given and not above zero."""
    for name in names:
        value = flag_values[name].value
        if value is not None and not value > 0:
            raise InputError(f"--{name} must be above 0. Received: {value}.")


def _describe(flag_values):
    lines = ["Flags:"]
    for name in sorted(flag_values):
        flag = flag_values[name]
        default = "" if flag.default is None else f" (default: {flag.default_as_str})"
        lines.append(textwrap.fill(
            f"--{name}: {flag.help}{default}", 88, initial_indent="  ", subsequent_indent="      "
        ))  # fmt: skip
    return "\n".join(lines)


def _on_sigterm(number, frame):
    _stop(number)


def _stop(number):
    """Raises what ends a command that got this signal."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _exit(name, message, status):
    print(f"{name}: {message}", file=sys.stderr)
    sys.exit(status)
