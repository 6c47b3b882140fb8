"""`hardware/check_board.py`: what it says of a board that keeps the contract, and of one that does not."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hardware_c import EXAMPLES, LANGUAGES, build

from ether.model import Message
from ether.recorder.device_clock import Sample

SCRIPT = Path(__file__).parents[2] / "hardware" / "check_board.py"


@pytest.fixture(scope="module")
def check() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("check_board", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_board"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_board"]


@pytest.fixture
def board(tmp_path: Path, missing: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Start a device of level 3: the C client's example."""
    if shutil.which("gcc") is None:
        missing("gcc")
    program = build(LANGUAGES["c99"], EXAMPLES / "posix" / "bench.c", tmp_path / "bench", "-O2")
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> None:
        started.append(subprocess.Popen([program, "127.0.0.1", str(port), "bench1", "100"], stderr=subprocess.DEVNULL))

    yield start
    for each in started:
        each.kill()
        each.wait()


@pytest.mark.parametrize("broker_kind", ["mosquitto"], indirect=True)
def test_a_board_that_keeps_the_contract_passes_with_its_connection_cut(
    check: Any, broker: Any, board: Callable[[int], None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Relay(check.Relay):
        def __init__(self, port: int, address: tuple[str, int]) -> None:
            super().__init__(port, address)
            board(self.port)

    monkeypatch.setattr(check, "Relay", Relay)

    code = check.main(["bench1", "--broker", broker.url, "--for", "6s", "--through", "0"])

    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert code == 0, out
    assert {name: words[0] for name, words in rows.items() if name not in ("last", "level")} == dict.fromkeys(
        ("readings", "status", "heartbeat", "description", "numbers", "time", "ping", "clock", "reconnect",
         "malformed"), "ok",
    )  # fmt: skip
    assert rows["last"][:2] == ["will", "ok"]
    assert rows["level"][0] == "3"
    assert " ".join(rows["numbers"]).startswith("ok no hole")  # some may have come twice, as they must
    assert float(rows["clock"][1]) == pytest.approx(0.0, abs=1.0)


def test_no_broker_is_one_line(check: Any, free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["bench1", "--broker", "http://x"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("check_board: `http` is no scheme")
    assert check.main(["bench1", "--broker", "mqtt://127.0.0.1", "--for", "soon"]) == 1
    assert "soon" in capsys.readouterr().err


# --- from messages alone


class Wire:
    """Messages with a second between them, as the script sees them."""

    def __init__(self, seen: Any) -> None:
        self.seen = seen
        self.at = 100.0

    def say(self, topic: str, content: Any, *, retain: bool = False, after_s: float = 1.0) -> None:
        self.at += after_s
        payload = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
        self.seen.take(Message(topic, payload, 1, retain), round(self.at * 1e9))

    def reading(self, number: int, ms: int | None = None, boot: str = "a", **more: Any) -> None:
        envelope = {"by": "bench1", "b": boot, "n": number, "ms": number * 1000 if ms is None else ms}
        self.say("lab/temp", {"value": 1, "_ether": envelope}, **more)

    def status(self, state: str = "ready", boot: str = "a", **more: Any) -> None:
        self.say("ether/status/bench1", {"state": state, "boot": boot, **more})

    def about(self, boot: str = "a", **more: Any) -> None:
        self.say("ether/about/bench1", {"ether": 1, "boot": boot, "publishes": {"lab/temp": {}}, **more})


@pytest.fixture
def wire(check: Any) -> Wire:
    return Wire(check.Seen("bench1"))


@pytest.fixture
def verdict(check: Any, wire: Wire) -> Callable[..., tuple[str, str]]:
    """What is said of a subject."""

    def say(subject: str, cut: bool = False) -> tuple[str, str]:
        [row] = [row for row in check.verdicts(wire.seen, 60.0, cut) if row.subject == subject]
        return row.verdict, row.found

    return say


def test_silence_fails(check: Any, wire: Wire, verdict: Any) -> None:
    assert verdict("readings")[0] == "failed"
    assert verdict("reconnect")[0] == "warning"
    assert check.level(wire.seen) == "none"


def test_a_bare_number_is_level_0(check: Any, wire: Wire, verdict: Any) -> None:
    wire.about()
    wire.say("lab/temp", b"23.4")

    assert verdict("readings") == ("ok", "1 on lab/temp; 0.0167 a second")
    assert verdict("numbers") == ("warning", "none: of losses nothing can be known")
    assert verdict("status") == ("warning", "none: level 0")
    assert check.level(wire.seen) == "0 (a bare number)"


def test_holes_fail_and_what_is_sent_again_or_retained_is_no_harm(wire: Wire, verdict: Any) -> None:
    for number in (0, 1, 2, 5, 6):
        wire.reading(number)
    wire.reading(6)
    wire.reading(3, retain=True)
    assert verdict("numbers") == ("failed", "missing: 2 of lab/temp (boot a), from 3; 1 came twice, which is no harm")

    for number in (3, 4):
        wire.say("ether/resend/lab/temp", {"value": 1, "_ether": {"by": "bench1", "b": "a", "n": number, "ms": 1}})
    assert verdict("numbers") == ("ok", "no hole; 1 came twice, which is no harm")


def test_others_are_not_taken_for_the_board(wire: Wire, verdict: Any) -> None:
    wire.about()
    wire.say("lab/temp", {"value": 1, "_ether": {"by": "bench2", "b": "a", "n": 0, "ms": 1}})
    wire.say("lab/else", b"1")
    wire.say("ether/status/bench2", b"lost")

    assert verdict("readings")[0] == "failed"
    assert verdict("status")[0] == "warning"


@pytest.mark.parametrize(
    ("subject", "act", "found"),
    [
        ("status", lambda w: w.status("lost"), "lost, boot a"),
        ("status", lambda w: w.status(boot=""), "ready, boot not said"),
        ("heartbeat", lambda w: [w.status(every=1), w.reading(0, after_s=9.0), w.status(every=1)],
         "promised every 1 s; at most 10.0 s apart"),
        ("description", lambda w: [w.status(), w.about("b")], "boot b, while the status says a"),
        ("time", lambda w: [w.reading(0, ms=2), w.reading(1, ms=1)], "`ms` runs backwards in boot a"),
        ("malformed", lambda w: w.say("ether/status/bench1", b"{broken"), "1, such as status b'{broken'"),
        ("malformed", lambda w: w.say("ether/pong/bench1", b"{}"), "1, such as pong b'{}'"),
        ("malformed", lambda w: [w.about(), w.say("lab/temp", b'{"value":1,"_ether":{"by":5}}')],
         "1, such as lab/temp: the envelope of b'{\"value\":1,\"_ether\":{\"by\":5}}'"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_fails(wire: Wire, verdict: Any, subject: str, act: Any, found: str) -> None:
    act(wire)

    assert verdict(subject) == ("failed", found)


def test_a_clock_that_runs_fast_is_measured(wire: Wire, verdict: Any) -> None:
    for second in range(30):
        sent = second * 10**9
        wire.seen.samples.append(Sample(round(sent * 1.1), sent, sent + 2_000_000))

    assert verdict("ping") == ("ok", "30 of 30 answered; 2.0 ms, at most 2.0 ms")
    assert verdict("clock")[0] == "ok"
    assert verdict("clock")[1].startswith("+10.00 % fast, known to ")


def test_pings_that_are_not_answered_are_a_warning_but_those_while_it_was_away(wire: Wire, verdict: Any) -> None:
    wire.status()
    wire.at += 1.0
    wire.seen.samples.append(Sample(1, round(wire.at * 1e9), round(wire.at * 1e9) + 1_000_000))
    wire.seen.sent = {number: round((wire.at + number) * 1e9) for number in range(3)}
    assert verdict("ping") == ("warning", "1 of 4 answered; 1.0 ms, at most 1.0 ms")

    wire.seen.gone.append((wire.at, wire.at + 1))
    assert verdict("ping")[0] == "ok"


def test_losses_that_the_board_tells_itself_are_a_warning(wire: Wire, verdict: Any) -> None:
    wire.status(counts={"dropped": 3, "published": 9})

    assert verdict("status") == ("warning", "ready, boot a, dropped 3")


def test_a_board_that_starts_again_or_is_deaf_after_a_cut_fails(wire: Wire, verdict: Any) -> None:
    wire.status()
    wire.seen.samples.append(Sample(1, round(wire.at * 1e9), round(wire.at * 1e9) + 1_000_000))
    wire.seen.gone.append((wire.at + 1, wire.at + 2))
    assert verdict("last will", cut=True) == ("failed", "did not come as its connection was cut")
    assert verdict("reconnect", cut=True)[1].startswith("it has not come back within")

    wire.at += 2
    wire.status()
    assert verdict("reconnect", cut=True) == ("failed", "back after 1.0 s, but deaf: it did not subscribe again")

    wire.status(boot="b")
    assert verdict("reconnect", cut=True)[1] == "back after 1.0 s, but it was started again: another boot"


def test_a_board_that_never_came_through_is_told(verdict: Any) -> None:
    assert verdict("reconnect", cut=True) == ("failed", "it never was at the port that is given by --through")
