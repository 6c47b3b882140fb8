"""Topics: matching against a reference written differently, covering, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ether import topics
from ether.errors import TopicError

LEVELS = st.sampled_from(["a", "b", "", "$x", "a b", "ä"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = st.tuples(
    st.lists(st.one_of(LEVELS, st.just("+")), min_size=1, max_size=4), st.booleans()
).map(lambda parts: "/".join([*parts[0][:-1], "#"] if parts[1] else parts[0])).filter(bool)  # fmt: skip


def _reference(topic_filter: str, topic: str) -> bool:
    """MQTT 3.1.1, section 4.7, as one regular expression."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    pattern = "/".join("[^/]*" if level == "+" else re.escape(level) for level in topic_filter.split("/"))
    if topic_filter == "#":
        pattern = ".*"
    elif topic_filter.endswith("/#"):
        pattern = pattern[: -len(re.escape("/#"))] + "(/.*)?"
    return re.fullmatch(pattern, topic, re.DOTALL) is not None


@given(FILTERS, TOPICS)
def test_matching_agrees_with_the_reference(topic_filter: str, topic: str):
    assert topics.matches(topic_filter, topic) == _reference(topic_filter, topic)


@given(FILTERS, FILTERS, TOPICS)
def test_what_covers_another_filter_matches_all_that_it_matches(wider: str, narrower: str, topic: str):
    if topics.covers(wider, narrower) and topics.matches(narrower, topic) and not topic.startswith("$"):
        assert topics.matches(wider, topic)


@given(FILTERS)
def test_a_filter_covers_itself_and_everything_covers_it(topic_filter: str):
    assert topics.covers(topic_filter, topic_filter)
    assert topics.covers("#", topic_filter)


@given(st.lists(FILTERS, max_size=5), TOPICS)
def test_the_widest_filters_match_what_all_of_them_match(filters: list[str], topic: str):
    if not topic.startswith("$"):
        assert topics.matches_any(topics.widest(filters), topic) == topics.matches_any(filters, topic)


@given(TOPICS, st.sampled_from(["", "lab", "lab/one"]))
def test_a_namespace_comes_off_as_it_was_put_on(topic: str, namespace: str):
    assert topics.strip(namespace, topics.join(namespace, topic)) == topic


@pytest.mark.parametrize(
    ("wider", "narrower", "covered"),
    [
        ("a/#", "a", True), ("a/#", "a/+/b", True), ("a/+", "a/b", True), ("a/+", "a/+", True), ("+/b", "a/+", False),
        ("a/+", "a/#", False), ("a/b", "a/+", False), ("a/+", "a/b/c", False), ("+", "a/b", False), ("a", "a/#", False),
    ],
)  # fmt: skip
def test_covering_by_example(wider: str, narrower: str, covered: bool):
    assert topics.covers(wider, narrower) is covered


@pytest.mark.parametrize("topic", ["", "a/+", "#", "$SYS", "ether", "ether/x", "a\0", "\ud800", "x" * 65_536, None, 5])
def test_a_topic_that_nobody_may_publish_to_is_refused(topic):
    with pytest.raises(TopicError):
        topics.check_topic(topic)


@pytest.mark.parametrize("topic_filter", ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "$SYS/#", "ether/#", "a\0"])
def test_a_filter_that_breaks_a_rule_is_refused(topic_filter):
    with pytest.raises(TopicError):
        topics.check_filter(topic_filter)


@pytest.mark.parametrize("topic", ["a", "/", "a/b", "DataLogger.log", "ä/ö", "a b", "etherea/x", "x/ether/y"])
def test_users_own_names_travel_verbatim(topic):
    assert (topics.check_topic(topic), topics.check_filter(topic)) == (topic, topic)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "a+", None, "a\n"])
def test_a_name_that_would_break_the_tree_is_refused(name):
    with pytest.raises(TopicError):
        topics.check_name(name)


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("lab/x", None),
        ("etherx", None),
        (topics.status("oven"), topics.Reserved("status", "oven")),
        (topics.command("oven", "stop"), topics.Reserved("command", "oven", "stop")),
        (topics.call("oven", "read"), topics.Reserved("call", "oven", "read")),
        (topics.control("start"), topics.Reserved("control", "start")),
        (topics.resend("lab/a/b"), topics.Reserved("resend", "lab/a/b")),
    ],
)
def test_reserved_topics_are_read_as_they_are_written(topic, says):
    assert topics.parse(topic) == says


@pytest.mark.parametrize(
    ("topic", "portable"), [("lab/oven", True), ("a.b", False), ("/a", False), ("ä", False), ("a b", False)]
)
def test_portable_topics(topic, portable):
    assert topics.portable(topic) is portable
