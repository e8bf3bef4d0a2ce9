"""Paths of indexes on JSON fields: what is written is read, what is not a path is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.model.errors import RequestError
from elanus.model.index import IndexDefinition, parse_path

names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]*\Z") | st.just("$meta")
keys = st.text(st.characters(exclude_characters="\"'"), max_size=5)


@given(names, st.lists(keys | st.integers(0, 99), max_size=4), st.sampled_from(["'", '"']))
def test_paths_are_read_as_written(name: str, steps: list[str | int], quote: str) -> None:
    text = name + "".join(f"[{step}]" if isinstance(step, int) else f"[{quote}{step}{quote}]" for step in steps)
    assert parse_path(text) == (name, *(f"[{step}]" if isinstance(step, int) else step for step in steps))


@pytest.mark.parametrize("text", ["", "1", "1.0", "/", "a.b", "a[", "a['x'", "a[x]", "a['x']b", "a[-1]", "a b"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="cannot parse identifier"):
        parse_path(text)


def test_equal_paths_are_the_same_place_whatever_their_quotes() -> None:
    first = IndexDefinition(1, "i", 103, "j", {"json_path": "j['a'][0]"})
    second = IndexDefinition(2, "k", 103, "j", {"json_path": 'j["a"][0]'})
    assert first.path == second.path != IndexDefinition(3, "l", 103, "j", {}).path
