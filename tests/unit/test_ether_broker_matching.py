"""ether_broker.matching: the trie says what the standard's rule says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ether_broker.limits import Limits
from ether_broker.matching import Subscriptions, matches, valid_filter
from ether_broker.sessions import Counters, Session


def session(name: str, *, persistent: bool = False) -> Session:
    return Session(name, persistent, Limits(), Counters(), None)


levels = st.sampled_from(["a", "b", "", "$x"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.tuples(st.lists(st.one_of(levels, st.just("+")), max_size=3), st.sampled_from(["", "#", "a"]))
    .map(lambda parts: "/".join([*parts[0], parts[1]]))
    .filter(bool)
)


@given(st.lists(filters, max_size=6, unique=True), topics)
def test_trie_agrees_with_the_plain_rule(subscribed: list[str], topic: str) -> None:
    trie = Subscriptions()
    sessions = {topic_filter: session(topic_filter) for topic_filter in subscribed}
    for topic_filter, each in sessions.items():
        trie.add(topic_filter, each, 0)

    found = {each.client_id for each, _ in trie.route(topic).targets}

    assert found == {topic_filter for topic_filter in subscribed if matches(topic_filter, topic)}


@given(st.lists(filters, max_size=8))
def test_nothing_is_left_when_all_have_unsubscribed(subscribed: list[str]) -> None:
    trie, each = Subscriptions(), session("one")
    for topic_filter in subscribed:
        trie.add(topic_filter, each, 1)
        trie.add("$share/group/" + topic_filter, each, 1)

    for topic_filter in subscribed:
        trie.remove(topic_filter, each)
        trie.remove("$share/group/" + topic_filter, each)

    assert (trie.count, trie.shared_count, trie._root.empty) == (0, 0, True)


def test_overlapping_filters_give_the_highest_qos() -> None:
    trie, each = Subscriptions(), session("one")
    for topic_filter, qos in (("a/#", 0), ("a/+", 2), ("a/b", 1)):
        trie.add(topic_filter, each, qos)

    assert trie.route("a/b").targets == [(each, 2)]


@pytest.mark.parametrize("topic_filter", ["", "a#", "#/a", "a+", "+a/b", "a/b#", "/".join("a" * 201), "a/#/b"])
def test_bad_filters_are_refused(topic_filter: str) -> None:
    assert not valid_filter(topic_filter, 200)


@pytest.mark.parametrize("topic_filter", ["#", "+", "/", "a/+/b/#", "$SYS/#", " ", "/".join("a" * 200)])
def test_good_filters_are_accepted(topic_filter: str) -> None:
    assert valid_filter(topic_filter, 200)


def test_group_without_connected_members_keeps_for_a_persistent_one() -> None:
    trie, away = Subscriptions(), session("away", persistent=True)
    trie.add("$share/g/a", session("clean"), 1)
    trie.add("$share/g/a", away, 1)

    (group,) = trie.route("a").groups

    assert group.pick() == (away, 1)
