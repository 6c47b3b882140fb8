"""A kind of broker that another package brings: the one of docs/extending.md, word for word."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ether import brokers
from ether.brokers.child import guarded
from ether.cli import main
from ether.config import Config
from ether.errors import BrokerError, ConfigError
from ether.mqtt import Connection

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of the page, installed."""
    text = PAGE.read_text(encoding="utf-8")
    code = re.search(r"```python file=lab_brokers.py\n(.*?)```", text, re.DOTALL)
    line = re.search(r"^plain = \"(.+)\"$", text, re.MULTILINE)
    assert code and line
    (tmp_path / "lab_brokers.py").write_text(code[1], encoding="utf-8")
    facts = tmp_path / "lab_brokers-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-brokers\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[ether.brokers]\nplain = {line[1]}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lab_brokers", raising=False)
    return tmp_path


def test_a_session_runs_over_a_broker_that_another_package_brings(
    mosquitto: str, package: Path, ether, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(mosquitto).parent), prepend=os.pathsep)

    with ether.session(
        {"broker": "plain", "record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}}
    ) as lab:
        assert lab.info()["broker"]["kind"] == "plain"
        assert lab.get("echo", "where")["word"] == "hello"


def test_it_ends_with_whoever_started_it(
    mosquitto: str, package: Path, script: Callable[..., object], processes: Callable[[], list], until, monkeypatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(mosquitto).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    started = script(
        """
        from ether import brokers
        with brokers.choose("plain"):
            print("up", flush=True)
            input()
        """
    )
    started.wait_for("up")

    started.popen.kill()

    until(lambda: not processes(), 10.0, "the end of the broker")


def test_users_are_not_left_to_a_broker_that_ignores_them(package: Path, tmp_path: Path) -> None:
    users = tmp_path / "users.yaml"
    users.write_text("users: {}\n")

    with pytest.raises(BrokerError, match="'plain' does not enforce them; use embedded or mosquitto"):
        brokers.choose("plain", security=brokers.Security(users=users))


def test_a_program_that_is_missing_or_fails_is_one_line(package: Path, tmp_path: Path, monkeypatch) -> None:
    class Missing(brokers.ChildBroker):
        kind = "missing"

        def command(self) -> list[str]:
            return ["no-such-broker"]

    class Broken(brokers.ChildBroker):
        kind = "broken"

        def command(self) -> list[str]:
            return [sys.executable, "-c", "raise SystemExit('no licence')"]

    with pytest.raises(BrokerError, match="broker.kind missing: no-such-broker is not installed"), Missing():
        pass
    with (
        pytest.raises(BrokerError, match=r"broken did not start at 127.0.0.1:\d+ \(exit code 1\): no licence"),
        Broken(),
    ):
        pass


def test_an_unknown_kind_is_told_with_those_of_packages(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no broker of the kind 'plane'; there are .*plain; did you mean `plain`"):
        Config.load({"broker": {"kind": "plane"}})
    assert main(["broker", "--kind", "plane"]) == 2
    assert "did you mean `plain`" in capsys.readouterr().err


def test_a_broker_of_ours_goes_as_soon_as_its_parent_and_its_clients_are_gone(tmp_path: Path, until: Any) -> None:
    folder = tmp_path / "doomed"
    folder.mkdir()
    line, held = os.pipe()
    broker = subprocess.Popen(guarded(["sleep", "60"], str(folder), line), stdin=subprocess.PIPE, pass_fds=[line])
    assert broker.stdin is not None

    broker.stdin.close()  # the parent is gone
    with pytest.raises(subprocess.TimeoutExpired):
        broker.wait(0.5)
    os.close(held)  # and now the clients

    assert broker.wait(4.0) == -signal.SIGTERM
    until(lambda: not folder.exists())
    os.close(line)


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_port_0_is_any_that_is_free(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto")
    with brokers.choose(kind, listen="127.0.0.1:0", folder=str(tmp_path)) as broker:
        address, _, port = broker.url.rpartition(":")

        assert (address, int(port) > 0) == ("mqtt://127.0.0.1", True)
        connection = Connection(broker.url, "probe")
        connection.open(10)
        connection.close(1)


def test_who_begins_to_wait_when_a_broker_has_been_left_is_told_at_once(tmp_path: Path) -> None:
    broker = brokers.Embedded("127.0.0.1:0", str(tmp_path))
    with broker:
        assert broker.process is not None

    assert broker.wait() == 0
