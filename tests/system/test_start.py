"""Sessions that cannot start: one clear error within five seconds, and nothing left running."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ether.errors import BrokerError, ComponentError, ConfigError, EtherError, StartError

PARTS = str(Path(__file__).parents[1] / "parts")


def _config(broker: Any = "embedded", **instances: Any) -> dict[str, Any]:
    return {"broker": broker, "record": "off", "instances": instances}


def _fails(ether: Any, processes: Any, config: Any, kind: type[EtherError]) -> str:
    """Tap, expecting an error; return its text."""
    started = time.monotonic()
    with pytest.raises(EtherError) as caught:
        ether.tap(config)
    assert time.monotonic() - started < 5.0
    assert (type(caught.value), ether.tapped, processes()) == (kind, False, [])
    return str(caught.value)


def test_a_constructor_that_raises_is_told_with_its_traceback_and_tried_once(ether, processes, workdir):
    text = _fails(
        ether, processes,
        _config(
            bad={"class_path": "lab_parts.RaisingConstructor", "args": ["tries.txt"]},
            good={"class_path": "lab_parts.Echo"},
        ),
        StartError,
    )  # fmt: skip

    assert text.startswith("bad: OSError: no device at /dev/ttyUSB7\nTraceback (most recent call last)")
    assert (text.count("no device"), (workdir / "tries.txt").read_text()) == (3, "tried\n")


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        ("ExitingConstructor", "bad: SystemExit: cannot go on"),
        ("DyingConstructor", "bad: ended: exit code 9"),
        ("RaisingInit", "bad: RaisingInit.prepare raised OSError: the valve is stuck"),
    ],
)
def test_an_instance_that_does_not_become_ready_is_named_with_the_reason(ether, processes, cls, reason):
    text = _fails(ether, processes, _config(bad={"class_path": f"lab_parts.{cls}"}), StartError)

    assert reason in text


def test_every_instance_that_fails_is_named(ether, processes):
    bad = {"class_path": "lab_parts.RaisingInit"}

    text = _fails(ether, processes, _config(one=bad, two=bad), StartError)

    assert ("one: RaisingInit.prepare raised" in text, "two: RaisingInit.prepare raised" in text) == (True, True)


def test_an_instance_that_takes_too_long_is_named(ether, processes):
    config = _config(stuck={"class_path": "lab_parts.StuckConstructor"}, good={"class_path": "lab_parts.Echo"})

    text = _fails(ether, processes, config | {"session": {"start_timeout": "1.5s"}}, StartError)

    assert text == "stuck: not ready within 1.5 s (it is init)"


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"class_path": "lab_parts.Ecko"}, "lab_parts has no `Ecko`; did you mean `Echo`?"),
        ({"class_path": "lab_party.Echo"}, "No module named 'lab_party'"),
        ({"class_path": "raising_module.Thing"}, "importing raising_module raised ZeroDivisionError"),
        ({"class_path": "needing_module.Thing"}, "importing needing_module failed: No module named 'no_such_thing'"),
        ({"class_path": "lab_parts.time"}, "a module, not a class"),
        ({"class_path": "lab_parts.Sketch"}, "Sketch is abstract; it lacks draw"),
        ({"class_path": "lab_parts.Needy", "kwargs": {"port": "a"}}, "missing a required argument: 'baud'"),
        ({"class_path": "lab_parts.Needy", "args": ["a", "fast"]}, "argument `baud`"),
        ({"class_path": "lab_parts.Needy", "args": ["a", 1], "kwargs": {"pord": 1}}, "did you mean `port`?"),
        ({"class_pat": "lab_parts.Echo"}, "did you mean `class_path`?"),
        ({"class_path": "lab_parts.Echo", "autorum": False}, "did you mean `autorun`?"),
    ],
)
def test_what_cannot_work_is_a_configuration_error_before_anything_starts(
    ether, processes, workdir, monkeypatch, block, reason
):
    (workdir / "raising_module.py").write_text("1 / 0\n")
    (workdir / "needing_module.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(str(workdir))

    assert reason in _fails(ether, processes, _config(bad=block), ConfigError)


def test_all_that_is_wrong_is_told_at_once(ether, processes):
    text = _fails(
        ether, processes,
        _config(one={"class_path": "lab_parts.Ecko"}, two={"class_path": "lab_parts.Sketch"}), ConfigError,
    )  # fmt: skip

    assert len(text.splitlines()) == 2


def test_a_missing_file_is_a_configuration_error(ether, processes):
    assert "nowhere.yaml" in _fails(ether, processes, "nowhere.yaml", ConfigError)


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_busy_explicit_port_is_a_broker_error(ether, processes, free_port, kind):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()

        broker = {"kind": kind, "listen": f"127.0.0.1:{free_port}"}
        text = _fails(ether, processes, _config(broker, echo={"class_path": "lab_parts.Echo"}), BrokerError)

    assert f"127.0.0.1:{free_port}" in text
    assert "taken" in text


def test_two_sessions_may_start_though_the_default_port_is_taken(ether, processes, broker_kind, until):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def take() -> bool:
            try:
                taken.bind(("127.0.0.1", 1883))
            except OSError:  # a session of another test has it, and may leave it any moment
                return False
            taken.listen()
            return True

        until(take, 30.0)

        ether.tap(_config(broker_kind, echo={"class_path": "lab_parts.Echo"}))

        assert not ether.info()["broker"]["url"].endswith(":1883")


def test_an_external_broker_that_is_not_there_is_a_broker_error(ether, processes, free_port):
    config = _config(f"mqtt://127.0.0.1:{free_port}", echo={"class_path": "lab_parts.Echo"})
    started = time.monotonic()

    with pytest.raises(BrokerError, match=f"no broker at mqtt://127.0.0.1:{free_port}"):
        ether.tap(config)

    assert (time.monotonic() - started < 15, processes()) == (True, [])


def test_a_component_that_cannot_work_is_refused_by_add(ether):
    from ether import ether_sub

    class Odd:
        @ether_sub(topic="a/#/b")
        def take(self) -> None: ...

    ether.tap(_config())

    with pytest.raises(ComponentError, match=r"Odd.take: topic filter 'a/#/b': '#' stands alone"):
        ether.add(Odd())


def test_a_session_that_failed_to_start_is_followed_by_one_that_starts(ether):
    with pytest.raises(StartError):
        ether.tap(_config(bad={"class_path": "lab_parts.RaisingInit"}))

    ether.tap(_config(echo={"class_path": "lab_parts.Echo"}))

    assert ether.get("echo", "where")["word"] == "hello"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare"
)
@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_machine_without_network_starts_as_fast(script, kind):
    text = f"""
    import socket, sys, time
    sys.path.insert(0, {PARTS!r})
    looked = []
    def refuse(host, *rest, plain=socket.getaddrinfo):
        if host not in ("127.0.0.1", "localhost", "::1", None):
            looked.append(host)
        return plain(host, *rest)
    socket.getaddrinfo = refuse
    from ether import ether
    started = time.monotonic()
    ether.tap({{"broker": {kind!r}, "record": "off", "instances": {{"echo": {{"class_path": "lab_parts.Echo"}}}}}})
    print(time.monotonic() - started < 5, looked, ether.get("echo", "where")["word"])
    ether.shutdown()
    """
    inside = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$0" -W error "$1"'

    done = script(text, python=["unshare", "-n", "sh", "-c", inside, sys.executable]).end()

    assert (done.lines, done.code) == (["True [] hello"], 0), done.transcript()
