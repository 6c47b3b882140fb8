"""One format on stderr and on `ether/log/<name>`."""

from __future__ import annotations

import json
import re
from pathlib import Path

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
