"""A reader of pickles that runs no code: numbers, texts, containers, and what the caller allows.

Python's own unpickler calls any function that a file names. This one is a small machine over the
opcodes that state dicts and arrays are made of; it knows no way to import, and calls only the
functions in the table that it is given. Lengths are those of the file: nothing is allocated for a
length that a file merely claims.
"""

import pickletools
import reprlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

# Opcodes whose argument is the value itself. Texts of Python 2 (the STRING family) are read as
# Latin-1, which keeps bytes as they are.
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_NOTHING = {"PROTO", "FRAME", "STOP"}

# Functions make new things of the same ones as often as a pickle says, in a few bytes each. What
# they are given is charged, an element of text or of a container, against what the file holds.
_COSTS: dict[type, int] = {str: 32, bytes: 32, tuple: 16, list: 16, dict: 16}
_PER_BYTE, _BESIDE = 64, 2**20
_LONGEST = 200  # characters of a name in a message
_USUAL_SIZE = 2**26  # of what has no length


def load(
    file: Any,
    functions: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads one pickle of protocol 2 or later.

    Args:
        file: bytes, or a file whose `read` and `readline` return no more than there is (an
            `mmap`); it is left behind the pickle.
        functions: all that the pickle may name, by "module.name". What can be called is called
            where the pickle asks for it; its result may have a `__setstate__`.
        persistent: makes an object of what a pickle says about one that lies outside of it.

    Raises:
        ValueError: no pickle, a damaged one, or one that asks for anything else.
    """
    size = len(file) if hasattr(file, "__len__") else _USUAL_SIZE
    machine = _Machine(functions or {}, persistent, _BESIDE + _PER_BYTE * size)
    try:
        with warnings.catch_warnings():
            # Of texts in the old form with a stray backslash, as they are in what is no pickle.
            warnings.simplefilter("ignore", DeprecationWarning)
            for opcode, argument, _ in pickletools.genops(file):
                machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (AttributeError, LookupError, OverflowError, TypeError) as error:
        raise ValueError(f"damaged pickle ({type(error).__name__}: {error})") from error


def shown(value: Any) -> str:
    """Returns what a message says of a value: never all of one that holds itself many times."""
    return reprlib.repr(value)


class _Machine:
    """Stack, memo, and a budget that what functions are given is charged to."""

    def __init__(
        self,
        functions: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
        budget: int,
    ) -> None:
        self.functions, self.persistent, self.budget = functions, persistent, budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follows one opcode."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _PUTS:
            self.memo[argument] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(self._named(*argument.split(" ", 1)))
        elif name in self.STEPS:
            self.STEPS[name](self)
        elif name not in _NOTHING:
            raise ValueError(f"a pickle with the opcode {name}, which no plain data needs")

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _tuple(self) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _append(self) -> None:
        (value,) = self._pop(1)
        self._top(list).append(value)

    def _appends(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _setitem(self) -> None:
        key, value = self._pop(2)
        self._set(self._top(dict), key, value)

    def _setitems(self) -> None:
        items = self._pop_to_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(self._top(dict), key, value)

    def _stack_global(self) -> None:
        self.stack.append(self._named(*self._pop(2)))

    def _reduce(self) -> None:
        function, arguments = self._pop(2)
        self.budget -= sum(
            _COSTS[type(value)] * len(value) for value in arguments if type(value) in _COSTS
        )
        if self.budget < 0:
            raise ValueError("a pickle that makes far more of its content than it holds")
        self.stack.append(function(*arguments))

    def _build(self) -> None:
        (state,) = self._pop(1)
        made = self.stack[-1]
        if not isinstance(made, dict):  # a dict's attributes are not its content
            made.__setstate__(state)

    def _binpersid(self) -> None:
        (about,) = self._pop(1)
        if self.persistent is None:
            raise ValueError(
                "a pickle that is not complete in itself: it names an object outside itself"
            )
        self.stack.append(self.persistent(about))

    STEPS: ClassVar[dict[str, Callable[["_Machine"], None]]] = {
        "MARK": _mark,
        "MEMOIZE": _memoize,
        "TUPLE": _tuple,
        "APPEND": _append,
        "APPENDS": _appends,
        "SETITEM": _setitem,
        "SETITEMS": _setitems,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "BUILD": _build,
        "BINPERSID": _binpersid,
    }

    def _named(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError(f"a pickle that asks for {shown(module)}, which is no name")
        full = f"{module}.{name}"
        if full not in self.functions:
            raise ValueError(
                f"a pickle that asks for {full[:_LONGEST]}, which no array needs; nothing was run"
            )
        return self.functions[full]

    def _pop(self, count: int) -> list[Any]:
        values = [self.stack.pop() for _ in range(count)]
        return values[::-1]

    def _pop_to_mark(self) -> list[Any]:
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"wanted a {kind.__name__}, got a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _set(self, items: dict[Any, Any], key: Any, value: Any) -> None:
        if not isinstance(key, (str, int, bytes)):  # tuples of tuples can take forever to hash
            raise TypeError(f"a {type(key).__name__} as a key")
        items[key] = value
