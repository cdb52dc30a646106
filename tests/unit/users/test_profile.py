"""`analysed`: a profile from whatever the user said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.users.processors import analysed

PROFILES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    # hobby
    ({"hobby": "fishing"}, {"interests": ["fishing"]}),
    ({"hobby": " 釣り "}, {"interests": ["釣り"]}),
    ({"hobby": ["go", "fishing", "go"]}, {"interests": ["fishing", "go"]}),
    ({"hobby": ["go", " go", 5, None, "", " ", ["x"], {}]}, {"interests": ["go"]}),
    ({"hobby": ""}, {}),
    ({"hobby": []}, {}),
    ({"hobby": 5}, {}),
    ({"hobby": {"a": "b"}}, {}),
    ({"hobby": None}, {}),
    # location
    ({"location": " 鎌倉 "}, {"region": "鎌倉"}),
    ({"location": ""}, {}),
    ({"location": ["Kamakura"]}, {}),
    ({"location": {"lat": 35.3}}, {}),
    # score
    ({"score": 100}, {"score": 100, "rank": "gold"}),
    ({"score": 80}, {"score": 80, "rank": "gold"}),
    ({"score": 79.99}, {"score": 79.99, "rank": "silver"}),
    ({"score": 50}, {"score": 50, "rank": "silver"}),
    ({"score": 49}, {"score": 49, "rank": "bronze"}),
    ({"score": 0}, {"score": 0, "rank": "bronze"}),
    ({"score": -1}, {"score": -1, "rank": "bronze"}),
    ({"score": 10**400}, {"score": 10**400, "rank": "gold"}),
    ({"score": True}, {}),
    ({"score": "80"}, {}),
    ({"score": None}, {}),
    ({"score": [80]}, {}),
    # the rest is named, and not repeated
    ({"b": 1, "a": {"secret": 2}}, {"other_fields": ["a", "b"]}),
    ({"Hobby": "x", "": 1}, {"other_fields": ["", "Hobby"]}),
    (
        {"hobby": "go", "location": "Nara", "score": 60, "plan": "pro"},
        {
            "interests": ["go"],
            "region": "Nara",
            "score": 60,
            "rank": "silver",
            "other_fields": ["plan"],
        },
    ),
]


@pytest.mark.parametrize(("additional", "profile"), PROFILES, ids=lambda it: repr(it)[:50])
def test_a_profile_is_what_can_be_understood(
    additional: dict[str, Any], profile: dict[str, Any]
) -> None:
    assert analysed(additional) == profile


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["hobby", "location", "score", "x"]) | st.text(), json_values)
)
def test_nothing_that_a_user_says_is_too_much(additional: dict[str, Any]) -> None:
    profile = analysed(additional)

    json.dumps(profile)
    assert profile.keys() <= {"interests", "region", "score", "rank", "other_fields"}
