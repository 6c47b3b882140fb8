"""The ready profiles, fed with what the devices say: the readings, units and states that come of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from foreign_messages import CASES

from ether import topics
from ether.config import Config, profile_files
from ether.foreign.facts import Alive, Taken, Trouble
from ether.foreign.readers import reader_of
from ether.model import Message

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0


def feed(profile, options, messages):
    """Return the facts that came of messages, and how many messages said nothing that is known.

    Only messages that the reader subscribed to reach it.
    """
    (source,) = Config.load({"ingest": [{"profile": profile, **options}]}).sources
    reader = reader_of(source)
    facts, ignored = [], 0
    for topic, payload in messages:
        heard = topics.matches_any(reader.filters(), topic)
        found = reader.take(Message(topic, payload), NOW) if heard else None
        ignored += found is None
        facts += found or []
    return facts, ignored


@pytest.mark.parametrize("profile", CASES)
def test_a_profile_reads_what_its_devices_say(profile):
    case = CASES[profile]

    facts, ignored = feed(profile, case.options, case.payloads())

    taken = [(fact.topic.replace("{dev}", topics.slug(fact.device)), fact) for fact in facts if isinstance(fact, Taken)]
    assert [(topic, fact.fields) for topic, fact in taken] == case.readings
    assert [list(map(type, fact.fields.values())) for _, fact in taken] == [
        list(map(type, fields.values())) for _, fields in case.readings
    ]
    units = {f"{topic}:{name}": each.get("unit") for topic, fact in taken for name, each in fact.schema.items()}
    assert {key: units[key] for key in case.units} == case.units
    assert {fact.device: str(fact.state) for fact in facts if isinstance(fact, Alive)} == case.states
    assert [fact.time for _, fact in taken if fact.time is not None][: len(case.times)] == case.times
    assert [fact for fact in facts if isinstance(fact, Trouble)] == []
    assert ignored == case.ignored


def test_the_profiles_are_in_an_installed_package(tmp_path):
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    (place,) = [there for here, there in shipped["force-include"].items() if here == "hardware/profiles"]
    shutil.copytree(ROOT / "ether", tmp_path / "ether", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "hardware/profiles", tmp_path / place)

    code = "from ether.config import profile_files; print(*profile_files().values(), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)

    assert [Path(line) for line in done.stdout.splitlines()] == sorted((tmp_path / place).glob("*.yaml"))


def test_every_profile_has_messages_that_it_is_tested_with():
    assert set(profile_files()) == set(CASES)
