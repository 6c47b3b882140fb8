"""Inbox: bounded, and nothing leaves it unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ether import inbox
from ether.inbox import Inbox
from ether.model import Message


def message(number: int, topic: str = "t", size: int = 0) -> Message:
    return Message(topic, b"%d" % number + bytes(size))


def drained(found: Inbox) -> list[int]:
    taken = []
    while (each := found.take()) is not None:
        taken.append(int(each.payload.rstrip(b"\0")))
    return taken


def test_what_blocks_takes_more_than_its_bound_and_says_that_it_is_full() -> None:
    found = Inbox("block", 3)

    assert [(found.put(message(number)), found.full, found.relaxed) for number in range(4)] == [
        (True, False, True), (True, False, False), (True, True, False), (True, True, False),
    ]  # fmt: skip
    assert (drained(found), found.dropped) == ([0, 1, 2, 3], 0)
    assert found.relaxed


def test_the_oldest_go_first() -> None:
    found = Inbox("drop-oldest", 3)

    assert [found.put(message(number)) for number in range(5)] == [True, True, True, False, False]
    assert (drained(found), found.dropped) == ([2, 3, 4], 2)


def test_the_latest_of_each_topic_stays_in_the_order_of_coming() -> None:
    found = Inbox("latest")

    turns = [found.put(message(number, topic)) for number, topic in enumerate("abab")]

    assert turns == [True, True, False, False]
    assert (drained(found), found.dropped) == ([2, 3], 2)


@pytest.mark.parametrize("policy", ["block", "drop-oldest"])
def test_large_messages_fill_it_before_their_count_does(policy, monkeypatch) -> None:
    monkeypatch.setattr(inbox, "LIMIT_BYTES", 1_000)
    found = Inbox(policy, 100)

    for number in range(3):
        found.put(message(number, size=600))

    assert found.full
    assert (drained(found), found.dropped) == (([0, 1, 2], 0) if policy == "block" else ([1, 2], 1))
    assert not found.full


def test_clearing_counts_what_nobody_will_handle() -> None:
    found = Inbox("block", 3)
    found.put(message(1, size=10))

    assert (found.clear(), found.dropped, len(found), found.take()) == (1, 1, 0, None)


@given(
    st.sampled_from(["block", "drop-oldest", "latest"]),
    st.integers(1, 5),
    st.lists(st.one_of(st.none(), st.sampled_from("abc"))),
)
def test_turns_and_counts_add_up_whatever_comes_and_goes(policy, queue, steps) -> None:
    found = Inbox(policy, queue)
    put = taken = turns = 0
    for step in steps:
        if step is None:
            taken += found.take() is not None
        else:
            put += 1
            turns += found.put(message(put, step))
        assert put == taken + len(found) + found.dropped
        assert turns == taken + len(found)
        if policy == "drop-oldest":
            assert len(found) <= queue
