"""Rights: what a filter covers, what each role may do, and what may be granted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ether_broker.acl import ROLES, Access, Rights, check_filter, rights
from ether_broker.manage import mosquitto_acl
from ether_broker.matching import covers, matches
from ether_broker.users import User


def user(name: str = "oven", role: str = "component", **granted: tuple[str, ...]) -> User:
    return User(name, role, "", "", **granted)


def access(role: str, name: str = "oven", client_id: str = "oven-1", namespace: str = "", **granted) -> Access:
    return Access(name, rights(user(name, role, **granted), namespace), client_id)


def may_publish(of: Access, topic: str) -> bool:
    return of.may_publish(len(topic).to_bytes(2, "big") + topic.encode())


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("a/+", "a/b", True),
        ("a/+", "a/+", True),
        ("a/+", "a/#", False),
        ("a/+", "+/b", False),
        ("a/#", "a", True),
        ("a/#", "a/#", True),
        ("a/#", "a/+/c", True),
        ("a/#", "#", False),
        ("a/#", "ab", False),
        ("+/b", "+/b", True),
        ("+/#", "#", False),
        ("+/#", "a", True),
        ("#", "#", True),
        ("#", "$SYS/#", False),
        ("#", "$SYS/broker/uptime", False),
        ("+/broker", "$SYS/broker", False),
        ("$SYS/#", "$SYS/+/x", True),
        ("a/b", "a/b/c", False),
        ("a/+/c", "a/b", False),
        ("a//c", "a/+/c", False),
        ("a/+/c", "a//c", True),
    ],
)
def test_containment_of_filters(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


LEVEL = st.sampled_from(["a", "b", "", "+"])
FILTER = st.tuples(st.lists(LEVEL, min_size=1, max_size=4), st.booleans()).map(
    lambda parts: "/".join([*parts[0], *(["#"] if parts[1] else [])]) or "a"
)
TOPIC = st.lists(st.sampled_from(["a", "b", "", "c"]), min_size=1, max_size=5).map("/".join).filter(bool)


@given(FILTER, FILTER, TOPIC)
def test_what_a_covered_filter_matches_is_matched_by_the_wider(wide: str, narrow: str, topic: str) -> None:
    if covers(wide, narrow) and matches(narrow, topic):
        assert matches(wide, topic)


@pytest.mark.parametrize(
    ("role", "publish", "not_publish"),
    [
        ("component", ["oven/x", "oven", "ether/status/oven", "ether/call/pump/on", "ether/reply/x",
                       "ether/resend/oven/x", "ether/command/recorder/confirm"],
         ["lab/x", "ether/status/pump", "ether/about/pump", "ether/run", "ether/session", "ether/stored/oven",
          "ether/control/start", "ether/command/pump/stop", "ether/command/recorder/stop", "ether/resend/lab/x"]),
        ("recorder", ["ether/status/oven", "ether/stored/pump", "ether/command/board/ping"], ["oven/x", "ether/run"]),
        ("device", ["oven/x", "ether/status/oven", "ether/pong/oven", "ether/resend/oven/x",
                    "ether/command/recorder/confirm"],
         ["lab/x", "ether/status/pump", "ether/call/pump/on", "ether/command/recorder/stop"]),
        ("dashboard", [], ["oven/x", "ether/status/oven", "ether/control/start"]),
        ("admin", ["anything", "ether/run", "ether/status/pump"], []),
    ],
)  # fmt: skip
def test_what_a_role_may_publish(role: str, publish: list[str], not_publish: list[str]) -> None:
    found = access(role)

    assert [topic for topic in publish + not_publish if may_publish(found, topic)] == publish


@pytest.mark.parametrize(
    ("role", "subscribe", "not_subscribe"),
    [
        ("component", ["#", "lab/+", "ether/command/oven/+", "ether/reply/oven-1", "$share/g/lab/#"], ["$SYS/#"]),
        ("recorder", ["#", "$SYS/#", "ether/resend/#"], ["$CONTROL/#"]),
        ("device", ["ether/command/oven/#", "ether/stored/oven", "ether/reply/oven-1", "ether/control/start"],
         ["#", "lab/x", "ether/command/+/stop", "ether/reply/pump", "ether/reply/+", "$share/g/lab/x"]),
        ("dashboard", ["#", "$SYS/#"], []),
        ("admin", ["#", "$SYS/#"], []),
    ],
)  # fmt: skip
def test_what_a_role_may_subscribe_to(role: str, subscribe: list[str], not_subscribe: list[str]) -> None:
    found = access(role)

    assert [each for each in subscribe + not_subscribe if found.may_subscribe(each)] == subscribe


def test_listed_topics_replace_the_default_ones() -> None:
    found = access("component", publish=("lab/%u/#",), subscribe=("lab/#",))

    assert may_publish(found, "lab/oven/t") and may_publish(found, "ether/resend/lab/oven/t")
    assert not may_publish(found, "oven/t") and not may_publish(found, "lab/pump/t")
    assert found.may_subscribe("lab/+/t") and found.may_subscribe("ether/status/+")
    assert not found.may_subscribe("#") and not found.may_subscribe("oven/t")


def test_a_dashboard_gets_its_button_by_name() -> None:
    found = access("dashboard", publish=("lab/setpoint", "ether/control/start"))

    assert may_publish(found, "ether/control/start") and not may_publish(found, "ether/control/shutdown")


def test_the_namespace_comes_before_everything_but_the_brokers_own_topics() -> None:
    found = access("recorder", namespace="lab2")

    assert may_publish(found, "lab2/ether/stored/oven") and not may_publish(found, "ether/stored/oven")
    assert found.may_subscribe("lab2/#") and found.may_subscribe("$SYS/#") and not found.may_subscribe("#")


@pytest.mark.parametrize("client_id", ["+", "#", "a/b"])
def test_a_client_identifier_cannot_widen_its_rights(client_id: str) -> None:
    found = Access("oven", Rights(read=("ether/reply/%c",)), client_id)

    assert not found.may_subscribe("ether/reply/+") and not found.may_subscribe(f"ether/reply/{client_id}")


@pytest.mark.parametrize(
    ("topic_filter", "why"),
    [
        ("#", "covers the topics of ether itself"),
        ("+/status/x", "covers the topics of ether itself"),
        ("%c/#", "covers the topics of ether itself"),
        ("e%c/status/x", "covers the topics of ether itself"),
        ("a/#/b", "is no topic filter"),
        ("", "is no topic filter"),
        ("a\nuser admin", "is no topic filter"),
        (" a", "is no topic filter"),
        ("$SYS/#", "are the broker's own"),
    ],
)
def test_what_cannot_be_granted(topic_filter: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_filter(topic_filter, publish=True)


def test_the_acl_file_says_the_same() -> None:
    known = {name: user(name, role) for name, role in (("oven", "device"), ("page", "dashboard"))}

    lines = mosquitto_acl(known, "n").splitlines()

    assert lines[0] == "user oven" and "topic write n/ether/status/oven" in lines and "topic write n/oven/#" in lines
    assert lines[-4:] == ["user page", "topic read n/#", "topic read $SYS/#", "pattern read n/ether/reply/%c"]


def test_no_right_of_a_role_has_a_client_in_it() -> None:
    """Mosquitto fills in `%c` for every user or none; so it may stand only in what everybody may do."""
    assert [each for role in ROLES.values() for each in (*role.read, *role.write) if "%c" in each] == []
