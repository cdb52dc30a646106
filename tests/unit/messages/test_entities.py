"""`apply`: whatever the order in which messages come, and however often, the entity is the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.messages.entities import Change, Entity, Operation, apply

START = datetime(2023, 1, 1, 12, tzinfo=UTC)
#: Where a date begins, and what Go calls a time that nobody has set.
GO_ZERO = datetime(1, 1, 1, tzinfo=UTC)


def change(operation: Operation, second: int, **attributes: Any) -> Change:
    return Change(operation, START + timedelta(seconds=second), attributes)


def after(*changes: Change) -> Entity:
    return reduce(apply, changes, Entity())


def seen(entity: Entity) -> tuple[bool, str]:
    """What a reader of the entity sees, as JSON: in Python 1, 1.0 and True are equal."""
    return entity.is_deleted, json.dumps(entity.attributes, sort_keys=True)


# --- any order, any number ----------------------------------------------------------------------

# Few moments, names and values: collisions are what is looked for.
moments = st.sampled_from([GO_ZERO, *(START + timedelta(seconds=second) for second in range(4))])
values = st.sampled_from([None, True, 1, 1.0, "1", "2", [1], {"a": 1, "b": 2}, {"b": 2, "a": 1}])
changes = st.lists(
    st.builds(
        Change,
        st.sampled_from(["create", "update", "delete"]),
        moments,
        st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    ),
    max_size=7,
)


@given(changes, st.randoms(use_true_random=False))
def test_any_order_ends_in_the_same_entity(changes: list[Change], random: Any) -> None:
    shuffled = random.sample(changes, len(changes))

    assert after(*shuffled) == after(*changes)
    assert seen(after(*shuffled)) == seen(after(*changes))


@given(changes, st.randoms(use_true_random=False))
def test_a_change_that_comes_again_changes_nothing(changes: list[Change], random: Any) -> None:
    """Also long after: SQS may give a copy hours later."""
    again = changes + [random.choice(changes) for _ in range(5) if changes]

    assert seen(after(*random.sample(again, len(again)))) == seen(after(*changes))


@given(changes)
def test_only_the_attributes_that_are_there_have_a_time(changes: list[Change]) -> None:
    entity = after(*changes)

    assert entity.attributes.keys() == entity.written_at.keys()
    if entity.is_deleted:
        assert entity.attributes == {}


@given(changes, st.dictionaries(st.sampled_from("abc"), values))
def test_the_latest_create_is_all_there_is(
    changes: list[Change], attributes: dict[str, Any]
) -> None:
    entity = after(*changes, change("create", 10, **attributes))

    assert seen(entity) == (False, json.dumps(attributes, sort_keys=True))


@given(changes)
def test_the_latest_delete_leaves_nothing(changes: list[Change]) -> None:
    assert seen(after(*changes, change("delete", 10))) == (True, "{}")


def test_applying_leaves_the_entity_that_it_was_given_alone() -> None:
    before = after(change("create", 0, a=1))
    apply(before, change("update", 1, a=2, b=3))
    apply(before, change("delete", 2))

    assert before == after(change("create", 0, a=1))


# --- by hand ------------------------------------------------------------------------------------

EXAMPLES: dict[str, tuple[list[Change], bool, dict[str, Any]]] = {
    "nothing yet": ([], False, {}),
    "a create": ([change("create", 0, a=1)], False, {"a": 1}),
    "an update of what nobody created": ([change("update", 0, a=1)], False, {"a": 1}),
    "a delete of what nobody created": ([change("delete", 0, a=1)], True, {}),
    "the update comes before its create": (
        [change("update", 1, b=2), change("create", 0, a=1, b=1)],
        False,
        {"a": 1, "b": 2},
    ),
    "an update leaves other attributes": (
        [change("create", 0, a=1, b=1), change("update", 1, b=2)],
        False,
        {"a": 1, "b": 2},
    ),
    "an older update fills in what the newer does not name": (
        [change("update", 1, a=1), change("update", 0, a=0, b=0)],
        False,
        {"a": 1, "b": 0},
    ),
    "null is a value": (
        [change("create", 0, a=1), change("update", 1, a=None)],
        False,
        {"a": None},
    ),
    "at the same moment the delete wins": (
        [change("delete", 0), change("create", 0, a=1), change("update", 0, b=1)],
        True,
        {},
    ),
    "an older update does not revive": (
        [change("delete", 1), change("update", 0, a=1)],
        True,
        {},
    ),
    "an older create does not revive": (
        [change("delete", 1), change("create", 0, a=1)],
        True,
        {},
    ),
    "a later update revives, without what was there": (
        [change("create", 0, a=1), change("delete", 1), change("update", 2, b=2)],
        False,
        {"b": 2},
    ),
    "a delete that comes late takes what was older": (
        [change("create", 0, a=1), change("update", 2, b=2), change("delete", 1)],
        False,
        {"b": 2},
    ),
    "a create begins anew": (
        [change("create", 0, a=1), change("create", 1, b=2)],
        False,
        {"b": 2},
    ),
    "a create that comes late takes what was older": (
        [change("update", 0, a=1), change("update", 2, b=2), change("create", 1, c=3)],
        False,
        {"b": 2, "c": 3},
    ),
    "an update at the moment of the create stays": (
        [change("update", 0, a=1), change("create", 0, b=2)],
        False,
        {"a": 1, "b": 2},
    ),
    "a delete between two creates": (
        [change("create", 0, a=1), change("create", 2, b=2), change("delete", 1)],
        False,
        {"b": 2},
    ),
    "two deletes": ([change("delete", 1), change("delete", 0)], True, {}),
}


@pytest.mark.parametrize(("changes", "is_deleted", "attributes"), EXAMPLES.values(), ids=EXAMPLES)
def test_by_hand(changes: list[Change], is_deleted: bool, attributes: dict[str, Any]) -> None:
    expected = (is_deleted, json.dumps(attributes, sort_keys=True))

    assert seen(after(*changes)) == expected
    assert seen(after(*reversed(changes))) == expected


@pytest.mark.parametrize(
    ("one", "other"), [(1, 2), (1, "1"), (1, 1.0), (True, 1), (None, {}), ([1], [1, 1])]
)
def test_of_two_values_at_the_same_moment_all_keep_the_same(one: Any, other: Any) -> None:
    first, second = change("update", 0, a=one), change("update", 0, a=other)

    assert seen(after(first, second)) == seen(after(second, first))


@pytest.mark.parametrize("operation", ["create", "update"])
def test_what_is_said_of_the_first_moment_of_all_is_kept(operation: Operation) -> None:
    """Any age is right; a Go program that sets no time sends this one."""
    entity = after(Change(operation, GO_ZERO, {"a": 1}))

    assert seen(entity) == (False, '{"a": 1}')
    assert seen(apply(entity, Change("delete", GO_ZERO))) == (True, "{}")
