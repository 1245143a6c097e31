"""How the tests spoil files: hypothesis strategies for damaged bytes and for JSON that lies."""

import hypothesis
from hypothesis import strategies as st

FUZZ = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@st.composite
def damaged(draw, content):
    """The bytes with a few of them changed, and perhaps the end cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


def spoil(draw, value, deepest=7):
    """Replaces one thing somewhere inside a JSON value, in place, by any other."""
    for _ in range(draw(st.integers(0, deepest))):
        inner = [key for key in _keys(value) if isinstance(value[key], dict | list) and value[key]]
        if not inner:
            break
        value = value[draw(st.sampled_from(inner))]
    value[draw(st.sampled_from(_keys(value)))] = draw(JSON)


def _keys(value):
    return sorted(value) if isinstance(value, dict) else range(len(value))
