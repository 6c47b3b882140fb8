"""Whatever a stranger says, a reader answers with facts, with nothing, or with one line."""

from __future__ import annotations

import json
import random

import pytest
from foreign_messages import CASES

from ether.config import Config
from ether.errors import EtherError
from ether.foreign.facts import Alive, Taken, Trouble
from ether.foreign.readers import reader_of
from ether.model import Message

ROUNDS = 60
WORDS = [
    "availability", "components", "device", "exposes", "features", "friendly_name", "definition", "property", "type", "unit",
    "nodes", "properties", "datatype", "root", "homie", "state", "stat_t", "val_tpl", "avty", "topic", "name", "ids", "~", "bn",
    "n", "v", "t", "u", "numeric", "binary", "composite", "value_on", "access", "platform", "sensor", "dev", "o", "origin", "#",
    "{{ value_json.x }}", "{{ value_json[", "Time", "ENERGY", "", "ether/status/x", "a/b", "\0", "ä",
]  # fmt: skip


def anything(chance: random.Random, depth: int = 0):
    """Return any JSON value, with words that readers look for."""
    kind = chance.randrange(9 if depth < 4 else 7)
    if kind == 7:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 8:
        return {chance.choice(WORDS): anything(chance, depth + 1) for _ in range(chance.randrange(5))}
    plain = [None, True, chance.randrange(-(10**20), 10**20), chance.random(), float("nan"), chance.choice(WORDS), "on"]
    return plain[kind]


def spoiled(chance: random.Random, value):
    """Return a message with one part of it exchanged for anything."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return {**value, key: spoiled(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], spoiled(chance, value[place]), *value[place + 1 :]]
    return anything(chance)


@pytest.mark.parametrize("profile", CASES)
def test_no_reader_is_stopped_by_what_it_is_told(profile):
    (source,) = Config.load({"ingest": [{"profile": profile, **CASES[profile].options}]}).sources
    chance = random.Random(profile)  # the same every time
    for _ in range(ROUNDS):
        reader = reader_of(source)
        for topic, given in CASES[profile].messages:
            payload = json.dumps(given if chance.random() < 0.5 else spoiled(chance, given)).encode()
            if chance.random() < 0.1:
                payload = chance.randbytes(chance.randrange(12))
            try:
                found = reader.take(Message(topic, payload), 1.8e9)
            except EtherError as exc:
                assert str(exc)
            else:
                assert found is None or all(isinstance(fact, Taken | Alive | Trouble) for fact in found)
            assert all(isinstance(each, str) and each for each in reader.filters())
