"""Several processes in one session, several sessions on one machine."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from ether import ghosts
from ether.cli.app import run
from ether.errors import BrokerError, SessionError
from ether.member import Member
from ether.model import About, State
from ether.session import Ether

PARTS = str(Path(__file__).parents[1] / "parts")


def _config(broker: str = "embedded", **session: Any) -> dict[str, Any]:
    return {
        "broker": broker, "record": "off", "session": {"stop_timeout": "3s", **session},
        "instances": {"echo": {"class_path": "lab_parts.Echo"}},
    }  # fmt: skip


GUEST = """
from ether import ether
ether.tap(join_only=True)
print(sorted(ether.instances()), flush=True)
print(ether.get("echo", "where")["word"], flush=True)
ether.pub({"x": 5}, "echo/in")
"""


@pytest.mark.parametrize("how", ["leaves", "falls off its end", "raises", "is killed"])
def test_a_guest_that_comes_and_goes_disturbs_nobody(ether, script, until, broker_kind, how):
    ether.tap(_config(broker_kind))
    before = ether.get("echo", "where")["pid"]
    ending = {"leaves": "print(ether.shutdown())", "raises": "1 / 0", "is killed": "ether.wait(30)"}.get(how, "")
    guest = script(f"{GUEST}\n{ending}\nprint('end', flush=True)")
    guest.wait_for("hello")

    if how == "is killed":
        until(lambda: ether.get("echo", "where")["got"] == [5])
        guest.signal(signal.SIGKILL)
    guest.end()

    assert guest.lines[:2] == ["['echo', 'session']", "hello"]
    until(lambda: ether.get("echo", "where")["got"] == [5])
    assert ether.get("echo", "where")["pid"] == before
    assert sorted(ether.instances()) == ["echo", "session"]


def test_two_sessions_at_once_know_nothing_of_each_other(ether, script, wire):
    ether.tap(_config(name="one"))
    out = wire(ether, "#")
    other = script(
        f"""
        import sys
        sys.path.insert(0, {PARTS!r})
        from ether import ether
        ether.tap({_config(name="two")!r})
        ether.pub({{"x": 1}}, "echo/in")
        print(sorted(ether.instances()), ether.get("echo", "where")["got"], ether.info()["session"]["name"])
        ether.shutdown()
        """
    ).end()

    assert other.lines == ["['echo', 'session'] [1] two"], other.transcript()
    assert (ether.get("echo", "where")["got"], out.readings, ether.info()["session"]["name"]) == ([], [], "one")


def test_a_session_is_joined_by_its_name(ether, script):
    ether.tap(_config(name="one"))
    other = script(
        f"""
        import sys
        sys.path.insert(0, {PARTS!r})
        from ether import ether
        ether.tap({_config(name="two")!r})
        print("two", flush=True)
        ether.wait(30)
        """,
        name="two.py",
    )
    other.wait_for("two")

    guests = [Ether().tap({"session": {"name": name}}, join_only=True) for name in ("one", "two")]

    names = [guest.info()["session"]["name"] for guest in guests]
    for guest in guests:
        guest.shutdown()
    other.signal(signal.SIGTERM)
    other.end()
    assert names == ["one", "two"]


def test_instances_given_with_the_name_of_a_running_session_join_it(ether, until):
    ether.tap(_config(name="one"))
    config = {"session": {"name": "one"}, "record": "off", "instances": {"late": {"class_path": "lab_parts.Echo"}}}

    second = Ether().tap(config)

    names = sorted(ether.instances())
    asked = ether.get("late", "where")["word"]
    second.shutdown()
    assert (names, asked) == (["echo", "late", "session"], "hello")
    until(lambda: sorted(ether.instances()) == ["echo", "session"])


def test_an_instance_that_joins_under_a_taken_name_is_refused(ether):
    ether.tap(_config(name="one"))

    with pytest.raises(SessionError, match="the session 'one' runs already, and has an instance 'echo'; "):
        Ether().tap({**_config(), "session": {"name": "one"}})

    assert ether.get("echo", "where")["word"] == "hello"


def test_an_object_added_under_a_taken_name_is_refused(ether):
    ether.tap(_config())

    with pytest.raises(SessionError, match="an instance is called 'echo' already"):
        ether.add(object(), "echo")


def test_without_a_session_a_guest_is_told_and_others_get_a_private_one(ether, processes):
    with pytest.raises(BrokerError, match="no session runs on this machine"):
        ether.tap(join_only=True)

    ether.tap({"record": "off"})

    assert sorted(ether.instances()) == ["session"]


def test_a_guest_that_names_no_running_session_is_told_which_run(ether):
    ether.tap(_config(name="one"))

    with pytest.raises(BrokerError, match="^no session 'other' runs on this machine; there is: one$"):
        Ether().tap({"session": {"name": "other"}}, join_only=True)


def test_ether_broker_names_the_session_to_join(ether, broker, workdir, monkeypatch):
    ether.tap(_config(broker.url))
    with monkeypatch.context() as patch:
        patch.setenv("ETHER_BROKER", broker.url)
        patch.setenv("XDG_RUNTIME_DIR", str(workdir))  # no session is remembered there
        guest = Ether().tap()

    word = guest.get("echo", "where")["word"]
    guest.shutdown()
    assert word == "hello"


def test_an_external_broker_is_not_shared_by_two_sessions_of_one_namespace(ether, broker):
    ether.tap(_config(broker.url))

    with pytest.raises(SessionError, match="a session runs already at .*; set session.namespace to run beside it"):
        Ether().tap(_config(broker.url))

    assert ether.get("echo", "where")["word"] == "hello"
    assert {"ether/status/echo", "ether/status/session"} <= broker.retained().keys()


def test_namespaces_keep_sessions_on_one_broker_apart(ether, broker, until, wire):
    ether.tap(_config(broker.url, namespace="left", name="one"))
    second = Ether().tap(_config(broker.url, namespace="right/side", name="two"))
    out = wire(ether, "#")

    second.pub({"x": 1}, "echo/in")
    second._need().echo()
    second.start()

    got = ether.get("echo", "where")["got"], second.get("echo", "where")["got"], sorted(second.instances())
    topics = {topic.partition("/")[0] for topic in broker.retained()}
    second.shutdown()
    assert (got, out.readings, topics) == (([], [1], ["echo", "session"]), [], {"left", "right"})
    assert ether.get("echo", "where")["word"] == "hello"


def test_the_host_died_and_left_its_statuses_on_an_external_broker(ether, broker, raw):
    raw(broker.url).publish("ether/status/session", b'{"state":"lost","boot":"dead"}', retain=True)
    raw(broker.url).publish("ether/status/echo", b'{"state":"ready","boot":"dead","every":2}', retain=True)

    ether.tap(_config(broker.url))

    assert ether.get("echo", "where")["word"] == "hello"


def test_instances_and_info_tell_what_runs(ether, broker_kind, workdir):
    ether.tap(_config(broker_kind, name="growth"))

    info, echo = ether.info(), ether.instances()["echo"]

    assert (info["session"]["name"], info["broker"]["kind"], info["namespace"], info["recording"], info["run"]) == (
        "growth", broker_kind, "", None, None,
    )  # fmt: skip
    assert (echo.state, echo.process, echo.class_name, echo.pid) == (
        "ready", "running", "lab_parts.Echo", ether.get("echo", "where")["pid"],
    )  # fmt: skip
    assert echo.about.calls.keys() == {"where", "sleep", "die"}
    assert echo.about.publishes.keys() == {"echo/out"}
    assert echo.about.subscribes["echo/in"]["methods"] == ["echo"]


def test_a_guest_can_end_the_session(ether, script):
    host = script(
        f"""
        import sys
        sys.path.insert(0, {PARTS!r})
        from ether import ether
        ether.tap({_config(name="one")!r})
        print("runs", flush=True)
        print(ether.wait(20), flush=True)
        """
    )
    host.wait_for("runs")
    guest = Ether().tap(join_only=True)

    guest.stop_session()

    guest.shutdown()
    host.end()
    assert (host.lines, host.code) == (["runs", "True"], 0), host.transcript()


def test_runs_are_numbered_nest_and_end_with_their_outcome(ether, broker, raw):
    ether.tap(_config(broker.url))
    client = raw(broker.url)
    client.subscribe("ether/run")

    with pytest.raises(ValueError, match="too hot"), ether.run("growth", sample="K12") as run:
        with run.trial("first", level=1):
            pass
        raise ValueError("too hot")
    with ether.run("growth"):
        pass

    told = []
    while len(told) < 9:
        found = json.loads(client.next().payload)
        told.append((found.get("name"), found.get("number"), found.get("outcome")))
    assert told == [
        ("growth", 1, None),
        ("first", 1, None),
        ("first", 1, "success"),
        ("growth", 1, None),
        ("growth", 1, "failed: ValueError: too hot"),
        (None, None, None),
        ("growth", 2, None),
        ("growth", 2, "success"),
        (None, None, None),
    ]


# --- ghosts


KILLED = f"""
import sys
sys.path.insert(0, {PARTS!r})
from ether import ether
old = {{"old-a": {{"class_path": "lab_parts.Echo"}}, "old-b": {{"class_path": "lab_parts.Echo"}}}}
ether.tap({{"broker": sys.argv[1], "record": "off", "session": {{"name": "old"}}, "instances": old}})
print("runs", flush=True)
ether.wait()
"""
EMBEDDED = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)


@pytest.fixture
def killed(script, broker, raw, processes, until, monkeypatch):
    """A broker of whose session only ghosts are left, and on which a member and a device live."""
    monkeypatch.setattr(ghosts, "_PATIENCE_S", 0.5)
    running = script(KILLED, broker.url)
    running.wait_for("runs")
    running.signal(signal.SIGKILL)
    running.end()
    until(lambda: [each.pid for each in processes()] == [broker.process.pid], 10.0, "the end of all children")
    living = Member(broker.url, "living", every=0.2)
    living.open()
    living.set_about(About("living"))
    living.set_status(State.READY)
    raw(broker.url).publish("ether/status/device", b"ready", retain=True)
    raw(broker.url).publish("ether/status/silent", b'{"state": "ready", "boot": "b", "every": 0.1}', retain=True)
    yield broker
    living.close(1.0)


def _retained(broker) -> set[str]:
    return {topic.partition("/")[2] for topic in broker.retained()}


LIVING = {"status/living", "about/living", "status/device"}
OLD = {"status/old-a", "about/old-a", "status/old-b", "about/old-b", "status/session", "about/session", "session"}


@EMBEDDED
def test_prune_clears_what_dead_members_left_and_nobody_who_lives(killed, monkeypatch, capsys):
    monkeypatch.setenv("ETHER_BROKER", killed.url)
    assert _retained(killed) == LIVING | OLD | {"status/silent"}

    assert run(["prune", "--dry-run", "--json"]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["old-a", "old-b", "session", "silent"]
    assert _retained(killed) == LIVING | OLD | {"status/silent"}, "only listed"
    assert run(["prune"]) == 0
    assert "silent: ready, and silent; cleared" in capsys.readouterr().out
    assert _retained(killed) == LIVING
    assert run(["prune"]) == 0
    assert capsys.readouterr().out == "nothing is retained of members that are gone\n"


@EMBEDDED
def test_prune_leaves_those_alone_that_a_running_session_has_stopped(ether, broker, monkeypatch, capsys):
    monkeypatch.setattr(ghosts, "_PATIENCE_S", 0.5)
    ether.tap({"broker": broker.url, "record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}})
    ether.stop("echo")
    monkeypatch.setenv("ETHER_BROKER", broker.url)

    assert run(["prune"]) == 0

    assert capsys.readouterr().out == "nothing is retained of members that are gone\n"
    assert {"status/echo", "about/echo", "session"} <= _retained(broker)


@EMBEDDED
def test_the_next_session_says_what_a_killed_one_left_and_clears_it(ether, killed, until, caplog):
    config = {"broker": killed.url, "record": "off", "session": {"name": "old"}}
    ether.tap({**config, "instances": {"new": {"class_path": "lab_parts.Echo"}}})

    until(lambda: "cleared what a session that was killed left on the broker: old-a (" in caplog.text, 20.0)

    assert "the last session 'old' was killed; what it said is in " in caplog.text
    until(lambda: not any("old" in topic for topic in _retained(killed)))
    assert LIVING | {"status/silent", "status/new"} <= _retained(killed), "devices are left alone"


def test_prune_without_a_broker_says_how_to_name_one(capsys):
    assert run(["prune"]) == 4
    assert "no session runs on this machine, and no broker is named" in capsys.readouterr().err
