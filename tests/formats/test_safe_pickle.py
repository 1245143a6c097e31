"""Pickles without code: what the machine reads, and what it refuses with nothing run."""

import collections
import contextlib
import os
import pathlib
import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvos_tf.formats import safe_pickle

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text() | st.integers() | st.binary()
VALUES = st.recursive(
    SCALARS | st.binary(),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)
# Python 3 writes bytes of protocol 2 as calls of these functions.
CODECS = {
    "_codecs.encode": lambda text, code: text.encode(code),
    "__builtin__.bytes": lambda: b"",
}


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@given(VALUES, st.sampled_from([2, 3, 4, 5]))
def test_reads_what_python_reads(value, protocol):
    assert safe_pickle.load(pickle.dumps(value, protocol), CODECS) == value


@given(VALUES, st.data())
def test_damaged_pickles_are_damaged_pickles_and_nothing_else(value, data):
    content = bytearray(pickle.dumps(value, data.draw(st.sampled_from([2, 4]))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with contextlib.suppress(ValueError):
        safe_pickle.load(bytes(content), CODECS)


def test_texts_of_python_2_are_latin_1():
    assert safe_pickle.load(b"\x80\x02U\x03a\xff\x00.") == "a\xff\x00"


def test_one_object_named_twice_is_one():
    shared = [1]
    first, second = safe_pickle.load(pickle.dumps((shared, shared), 2))
    assert first is second


def test_allowed_functions_are_called_and_get_their_state():
    class Made:
        def __setstate__(self, state):
            self.state = state

    content = b"\x80\x02cbox\nmake\n)R}U\x01aK\x01sb."
    made = safe_pickle.load(content, {"box.make": Made})
    assert made.state == {"a": 1}


def test_a_dict_keeps_its_items_and_not_its_attributes():
    value = collections.OrderedDict(a=1)
    value._metadata = {"version": 1}
    allowed = {"collections.OrderedDict": dict}
    assert safe_pickle.load(pickle.dumps(value, 2), allowed) == {"a": 1}


def hostile(path):
    """Pickles that make a file when Python reads them, by every way there is to call."""
    touch = pathlib.Path.touch, path
    system = f"touch {path}"
    quoted = f"(S'{system}'\n".encode()
    return {
        "reduce": pickle.dumps(Runs(os.system, system), 2),
        "reduce, protocol 4": pickle.dumps(Runs(os.system, system), 4),
        "eval": pickle.dumps(Runs(eval, f"open({str(path)!r}, 'w').close()"), 2),
        "in a list": pickle.dumps([1, {"a": (Runs(*touch),)}], 4),
        "old instance": quoted + b"ios\nsystem\n.",
        "object": b"(cos\nsystem\n" + quoted[1:] + b"o.",
        "what persistent would get": pickle.dumps(Runs(*touch), 2)[:-1] + b"Q.",
    }


@pytest.mark.parametrize("name", hostile(pathlib.Path("x")))
def test_code_is_refused_and_not_run(name, tmp_path):
    path = tmp_path / "ran"
    content = hostile(path)[name]
    with contextlib.suppress(pickle.UnpicklingError):  # the last one, after the call
        pickle.loads(content)
    assert path.exists(), "this pickle does no harm, so its refusal shows nothing"
    path.unlink()
    with pytest.raises(ValueError, match=r"asks for|no plain data needs"):
        safe_pickle.load(content, CODECS, persistent=lambda about: about)
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fab.",  # BINBYTES8 of 2**60 bytes
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0fab.",  # BINUNICODE8
        b"\x80\x02T\xff\xff\xff\x7fab.",  # BINSTRING of 2**31 bytes
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0fab.",  # BYTEARRAY8
        b"\x80\x02\x8b\xff\xff\xff\x7fab.",  # LONG4
    ],
)
def test_a_claimed_length_is_not_allocated(content):
    with pytest.raises(ValueError, match=r"expected \d+ bytes|not enough data"):
        safe_pickle.load(content)


def test_objects_outside_of_a_pickle_where_none_are_wanted():
    with pytest.raises(ValueError, match="an object outside itself"):
        safe_pickle.load(b"\x80\x02K\x07Q.")


def test_a_far_place_in_the_memo_costs_nothing():
    content = b"\x80\x02K\x07r\xff\xff\xff\x7fj\xff\xff\xff\x7f."
    assert safe_pickle.load(content) == 7


def test_keys_that_take_for_ever_to_hash_are_refused():
    nested = ()
    for _ in range(60):
        nested = (nested, nested)
    content = pickle.dumps(nested, 2)[:-1].replace(b"\x80\x02", b"\x80\x02}", 1) + b"K\x01s."
    with pytest.raises(ValueError, match="a tuple as a key"):
        safe_pickle.load(content)


def test_a_stray_backslash_is_no_warning():
    """Python itself warns of it, in the old form of texts; whatever comes, we refuse or read."""
    with pytest.raises(ValueError):
        safe_pickle.load(b"c\\q\n\\q\n.")


def tuples_in_tuples(count):
    """The opcodes of t = (t, t), again and again: 2**count empty tuples to whoever prints it."""
    again = (b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(count))
    return b"\x80\x02)" + b"".join(again)


@pytest.mark.parametrize(
    "pickled",
    [
        tuples_in_tuples(60) + b"X\x01\x00\x00\x00x\x93.",  # as a module's name
        tuples_in_tuples(60) + b"Q.",  # as what lies outside
        b"\x80\x02X\x01\x00\x00\x00m" + tuples_in_tuples(60)[2:] + b"\x93.",  # as a function's
    ],
)
def test_what_is_small_to_write_and_endless_to_say(pickled):
    with pytest.raises(ValueError, match=r"asks for|outside"):
        safe_pickle.load(pickled)


@pytest.mark.parametrize(
    ("name", "arguments", "content"),
    [
        (
            "_codecs.encode",
            b"h\x01X\x06\x00\x00\x00latin1\x86",
            b"X\x10\x27\x00\x00" + b"a" * 10_000,
        ),
        (
            "collections.OrderedDict",
            b"h\x01\x85",
            b"}(" + b"".join(b"M" + n.to_bytes(2, "little") + b"K\x01" for n in range(2000)) + b"u",
        ),
    ],
)
def test_copies_without_end(name, arguments, content):
    """20,000 copies of 10 KB or of 2,000 items, by a few bytes each."""
    module, _, function = name.partition(".")
    pickled = f"\x80\x02c{module}\n{function}\nq\x00".encode("latin-1") + content + b"q\x01"
    pickled += (b"h\x00" + arguments + b"R") * 20_000 + b"."
    functions = {"_codecs.encode": str.encode, "collections.OrderedDict": dict}
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="makes far more"):
            safe_pickle.load(pickled, functions)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
