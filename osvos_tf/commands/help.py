"""What `--help` and `--version` print."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from osvos_tf import __version__

# Headings with the names of the flags below them, for `--help`.
Groups = Sequence[tuple[str, Sequence[str]]]
# Of what `--help` prints.
_LINES: dict[str, Any] = {"width": 88, "break_on_hyphens": False, "break_long_words": False}


def wrap(doc: str) -> str:
    """Returns a docstring wrapped to the width of the flags."""
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


def describe(flag_values: flags.FlagValues, groups: Groups) -> str:
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


def describe_version() -> str:
    """Returns the versions that results depend on, without loading anything slow."""
    from importlib import metadata

    lines = [f"osvos_tf {__version__}"]
    for package in ("tensorflow", "keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            lines.append(f"{package} {metadata.version(package)}")
    return "\n".join([*lines, f"Python {sys.version.split()[0]}"])
