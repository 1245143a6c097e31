"""Flags that several commands share, and the way from flags to options."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence

from absl import flags

from osvos_tf.commands.cli import T
from osvos_tf.errors import InputError


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
        """Returns the path; raises ValueError if it is empty."""
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
        """Returns the name of the value's type."""
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


def require_positive(flag_values: flags.FlagValues, *names: str) -> None:
    """Raises InputError if a flag is given and not above zero."""
    for name in names:
        value = flag_values[name].value
        if value is not None and not value > 0:
            raise InputError(f"--{name} must be above 0. Received: {value}.")
