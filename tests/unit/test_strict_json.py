"""`parse`: one meaning or none."""

from __future__ import annotations

import codecs
import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.strict_json import MAX_DEPTH, parse

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
documents = st.recursive(
    scalars,
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + closing * depth).encode()


@given(documents)
def test_what_json_writes_is_read_back(document: Any) -> None:
    assert parse(json.dumps(document).encode()) == document
    assert parse(json.dumps(document, ensure_ascii=False).encode()) == document


@given(st.binary())
def test_any_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    with suppress(Invalid):
        parse(data)


@given(st.text(min_size=1), st.lists(st.text(), max_size=3), scalars, scalars)
def test_a_key_that_stands_twice_is_refused_at_any_depth(
    key: str, path: list[str], first: Any, second: Any
) -> None:
    text = f"{{{json.dumps(key)}: {json.dumps(first)}, {json.dumps(key)}: {json.dumps(second)}}}"
    for step in path:
        text = f"{{{json.dumps(step)}: [{text}]}}"

    with pytest.raises(Invalid, match="twice"):
        parse(text.encode())


def test_two_spellings_of_one_key_are_the_same_key() -> None:
    with pytest.raises(Invalid, match="twice"):
        parse(rb'{"amount": 1, "\u0061mount": 2}')


def test_the_same_key_in_two_objects_is_not_twice() -> None:
    assert parse(b'[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_limited(opening: str, closing: str) -> None:
    innermost = "" if opening == "[" else "0"

    def document(depth: int) -> bytes:
        return (opening * depth + innermost + closing * depth).encode()

    scalar = 0 if opening == "[" else 1  # the 0 inside the innermost object is a level of its own
    parse(document(MAX_DEPTH - scalar))
    for depth in (MAX_DEPTH + 1, 1_000, 10_000):
        with pytest.raises(Invalid, match="nested too deeply"):
            parse(document(depth))


def test_nesting_that_never_closes_is_refused() -> None:
    with pytest.raises(Invalid):
        parse(b"[" * 60_000)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_only_javascript_calls_a_number_is_refused(constant: str) -> None:
    with pytest.raises(Invalid, match=f"{constant} is not a JSON number"):
        parse(f'{{"amount": {constant}}}'.encode())


def test_a_number_that_no_machine_holds_is_refused() -> None:
    """Python would take quadratic time for its digits."""
    with pytest.raises(Invalid, match="a number is too long"):
        parse(b'{"amount": ' + b"9" * 60_000 + b"}")


def test_a_float_beyond_the_largest_is_no_integer() -> None:
    """It is refused where it is used: no field of ours takes a float."""
    assert math.isinf(parse(b"1e999"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"   ", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"{} {}", "Extra data"),
        (b'{"a": 1,}', "line 1 column"),
        (b"{'a': 1}", "Expecting property name"),
        (b'"a\nb"', "Invalid control character"),
        (b'"\x00"', "Invalid control character"),
        (b"\xff\xfe", "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),  # a surrogate, encoded as if it were a character
        (b'"\xc0\xaf"', "not UTF-8"),  # an overlong slash
        (codecs.BOM_UTF8 + b"{}", "BOM"),
        ("{}".encode("utf-16"), "not UTF-8"),
        ("{}".encode("utf-16-le"), "Expecting property name"),
        ("{}".encode("utf-32-le"), "Expecting property name"),
    ],
)
def test_what_is_not_one_utf8_document_is_refused_with_a_reason(data: bytes, why: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse(data)

    assert why in refusal.value.message


def test_the_reason_does_not_quote_the_body() -> None:
    with pytest.raises(Invalid) as refusal:
        parse(b'{"recipient": "hanako@example.com" "amount"}')

    assert "hanako" not in refusal.value.message


def test_deep_enough_for_the_api() -> None:
    assert parse(nested(3)) == [[[]]]
