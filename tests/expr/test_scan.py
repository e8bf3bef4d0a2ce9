"""JSON documents looked through by the kernel against the same documents decoded."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elanus.base.kernel import is_compiled
from elanus.expr import shred
from elanus.model.columns import Column

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_compiled(), reason="numba is not installed: pip install elanus[kernels]"),
]

KEYS = st.sampled_from(["a", "b", "aa", "é", "", "k/0", 'q"', "a\nb", "x" * 20])
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([10**17, 10**18 - 1, -(10**18) + 1, 10**18, 2**63, -(2**63), 2**70]),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text('aé中\\"{}[],: \n', max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
PATHS = st.lists(st.one_of(KEYS.filter(bool), st.integers(0, 2)), max_size=3).map(tuple)


@st.composite
def spelled(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON text in one of its spellings: blanks anywhere, escapes or not, keys repeated."""
    blank = draw(st.sampled_from(["", "", " ", "\n\t "]))
    if isinstance(value, list):
        inner = f"{blank},{blank}".join(draw(spelled(item)) for item in value)
        return f"[{blank}{inner}{blank}]"
    if isinstance(value, dict):
        members = [(key, draw(spelled(item))) for key, item in value.items()]
        if members and draw(st.booleans()):
            members.insert(0, (members[-1][0], draw(st.sampled_from(["1", '"x"', "null", "{}", '{"a":1}']))))
        texts = [f"{json.dumps(key, ensure_ascii=draw(st.booleans()))}{blank}:{blank}{text}" for key, text in members]
        return "{" + blank + f"{blank},{blank}".join(texts) + blank + "}"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


DOCUMENTS = st.one_of(st.none(), VALUES.flatmap(spelled).map(str.encode), st.just(b""), st.just(b"-0"), st.just(b"1E3"))


def same(left: shred.Shred, right: shred.Shred) -> None:
    assert left.kinds.tolist() == right.kinds.tolist()
    assert left.integers.tolist() == right.integers.tolist()
    assert left.numbers.tobytes() == right.numbers.tobytes()
    assert left.strings.to_pylist() == right.strings.to_pylist()
    assert left.solid.tolist() == right.solid.tolist()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(DOCUMENTS, min_size=1, max_size=12), PATHS, st.integers(0, 3))
def test_looking_finds_what_decoding_finds(documents: list[bytes | None], path: Any, start: int) -> None:
    """Any spelling, any path, also in a slice of a column; a scan may only give up."""
    valid = np.array([document is not None for document in documents], np.bool_)
    values = pa.array([document if document is not None else b'{"a":1}' for document in documents], pa.large_binary())
    column = Column(values, None if valid.all() else valid).slice(min(start, len(documents) - 1), len(documents))
    found = shred.scanned_column(column, path)
    if found is not None:
        same(found, shred.decoded_column(column, path))


def test_plain_documents_are_not_decoded() -> None:
    """Numbers, texts and truth values behind other members and in lists are found by looking alone."""
    document = {"o": {"a": [1, {"z": "}"}], "b": "x,]"}, "n": -12, "f": 2.5, "s": "é中", "t": True, "l": [[], 7]}
    texts = [json.dumps(document, ensure_ascii=False), json.dumps(document, separators=(",", ":"), ensure_ascii=False)]
    column = Column(pa.array([text.encode() for text in texts * 3], pa.large_binary()))
    for path, kind in (
        (("n",), shred.INTEGER), (("f",), shred.FLOAT), (("s",), shred.STRING), (("t",), shred.BOOL),
        (("l", 1), shred.INTEGER), (("o", "b"), shred.STRING), (("o", "a", 1, "z"), shred.STRING),
        (("o", "n"), shred.MISSING), (("n", "x"), shred.MISSING), (("l", 2), shred.MISSING),
    ):  # fmt: skip
        found = shred.scanned_column(column, path)
        assert found is not None
        assert found.kinds.tolist() == [kind] * 6
        same(found, shred.decoded_column(column, path))
