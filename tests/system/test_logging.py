"""One format on stderr and on `ether/log/<name>`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from ether import log
from ether.cli.app import run

PARTS = str(Path(__file__).parents[1] / "parts")
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} - [\w-]+:\d+ - (DEBUG|INFO|WARNING|ERROR) - .+")
SCRIPT = f"""
import sys
sys.path.insert(0, {PARTS!r})
from ether import ether
ether.tap({{"broker": "embedded", "record": "off", "instances": {{"talker": {{"class_path": "lab_parts.Talker"}}}}}})
ether.pub({{"text": "this"}}, "log")
ether.pub({{"wrong": 1}}, "log")
ether.shutdown()
"""


def test_every_process_logs_in_the_one_format_on_stderr(script):
    done = script(SCRIPT).end()

    logged = [line for line in done.errors if "cannot listen" not in line]  # another test may have taken the port
    assert [line for line in logged if not LINE.fullmatch(line)] == []
    assert any(re.search(r" - talker:\d+ - WARNING - logged this$", line) for line in logged)
    assert any(
        re.search(r" - talker:\d+ - WARNING - talker: message on 'log' from session, number 1 rejected", line)
        for line in logged
    )
    assert any(
        re.search(r" - ether:\d+ - INFO - broker: embedded at mqtt://127.0.0.1:\d+, asked for$", line)
        for line in logged
    )


def test_the_format_may_be_json(script):
    done = script(SCRIPT, ETHER_LOG_FORMAT="json").end()

    talker = [json.loads(line) for line in done.errors if line.startswith("{") and '"talker"' in line]
    said = [(line["level"], line["logger"], line["message"]) for line in talker]
    assert ("WARNING", "talker.own", "logged this") in said


def test_the_level_is_set_by_the_environment(script):
    done = script(SCRIPT, ETHER_LOG_LEVEL="error").end()

    assert [line for line in done.errors if "cannot listen" not in line] == []  # another test may have taken the port


def test_logs_travel_to_the_log_topic(ether, raw):
    ether.tap({"broker": "embedded", "record": "off", "instances": {"talker": {"class_path": "lab_parts.Talker"}}})
    client = raw(ether.info()["broker"]["url"])
    client.subscribe("ether/log/#")

    ether.pub({"text": "this"}, "log")

    message = client.next()
    content = json.loads(message.payload)
    assert message.topic == "ether/log/talker"
    assert (content["level"], content["logger"], content["message"], type(content["t"])) == (
        "WARNING", "talker.own", "logged this", float,
    )  # fmt: skip


def test_a_poison_message_is_told_on_the_log_topic(ether, raw):
    ether.tap({"broker": "embedded", "record": "off", "instances": {"talker": {"class_path": "lab_parts.Talker"}}})
    client = raw(ether.info()["broker"]["url"])
    client.subscribe("ether/log/talker")

    ether.pub({"wrong": 1}, "log")

    assert json.loads(client.next().payload)["message"] == (
        "talker: message on 'log' from session, number 0 rejected: Talker.log: field `text` is missing; got ['wrong']"
    )


# --- the session's log


def _lines(capsys, *options: str) -> list[tuple[str, str, str]]:
    capsys.readouterr()
    assert run(["logs", "--json", *options]) == 0
    rows = map(json.loads, capsys.readouterr().out.splitlines())
    return [(row["name"], row["level"] or row["stream"], row["message"]) for row in rows]


def test_what_instances_print_and_log_is_shown_while_the_session_runs_and_afterwards(ether, raw, until, capsys):
    talker = {"class_path": "lab_parts.Talker"}
    ether.tap({"broker": "embedded", "record": "off", "instances": {"talker": talker, "other": talker}})
    for topic in ("say", "log"):
        ether.sync(topic, {"text": "größer"})
    raw(ether.info()["broker"]["url"]).publish(
        "ether/log/board-7", b'{"level": "ERROR", "message": "no sensor", "logger": "", "t": 1.0}'
    )
    wanted = [
        ("talker", "stdout", "printed in the constructor"), ("talker", "stdout", "said größer"),
        ("talker", "stderr", "complained größer"), ("talker", "WARNING", "logged größer"),
    ]  # fmt: skip
    until(lambda: set(wanted) <= set(_lines(capsys, "talker")))
    until(lambda: _lines(capsys, "board-7") == [("board-7", "ERROR", "no sensor")])
    with socket.create_connection(("127.0.0.1", int(ether.info()["broker"]["url"].rpartition(":")[2]))) as stranger:
        stranger.sendall(b"\x10\x05garbage")
        until(
            lambda: any(line[:2] == ("broker", "WARNING") and "closed" in line[2] for line in _lines(capsys, "broker"))
        )

    ether.shutdown()

    assert {*wanted, ("session", "INFO", "talker is ready"), ("session", "INFO", "ended")} <= set(_lines(capsys))
    assert set(_lines(capsys, "--level", "warning", "talker")) == set(wanted[2:])
    assert _lines(capsys, "--grep", "gr.ßer$", "--since", "1h", "other", "-n", "1")[0][0] == "other"
    assert run(["logs", "talkr"]) == 1
    assert "nothing of 'talkr' is in the log; did you mean `talker`?" in capsys.readouterr().err


def test_the_log_of_a_session_that_was_killed_tells_its_last_words(script, until, capsys, processes):
    killed = script(SCRIPT.replace("ether.shutdown()", "print('up', flush=True); ether.wait()"))
    killed.wait_for("up")
    path = log.find()
    until(lambda: any("logged this" in line.message for line in log.read(path)))

    killed.signal(signal.SIGKILL)
    killed.end()

    assert ("talker", "WARNING", "logged this") in _lines(capsys)
    assert ("session", "INFO", "ended") not in _lines(capsys)
    until(lambda: processes() == [], 10.0, "the end of the orphans")


def test_the_log_of_a_session_elsewhere_is_asked_for(ether):
    ether.tap({"broker": "embedded", "record": "off", "instances": {"talker": {"class_path": "lab_parts.Talker"}}})
    ether.sync("say", {"text": "so"})
    url = ether.info()["broker"]["url"]

    done = subprocess.run(
        [sys.executable, "-m", "ether.cli", "logs", "talker"], capture_output=True, text=True, check=False,
        env={**os.environ, "ETHER_BROKER": url, "XDG_RUNTIME_DIR": os.environ["TMPDIR"]},
    )  # fmt: skip

    said = [line.split(" - ", 3)[3] for line in done.stdout.splitlines()]
    assert sorted(said) == ["complained so", "printed in the constructor", "said so"], done.stderr
