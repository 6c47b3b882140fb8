"""One decorated class, run by `ether` here and by `ether_lite` in MicroPython: the same description and topics."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from same_class import Bench

from ether.component import Component
from ether.member import read_about

PROGRAM = Path(__file__).parents[1] / "parts" / "same_class.py"


def test_both_describe_the_same(micropython, compiled):
    env = {**os.environ, "MICROPYPATH": f"{compiled}:.frozen"}
    done = subprocess.run([micropython, str(PROGRAM)], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    said, filters = done.stdout.splitlines()

    about = read_about("bench1", said.encode())
    component = Component.of(Bench)

    assert about is not None
    assert about.class_name == component.name
    assert about.publishes == component.publishes()
    assert about.subscribes == component.subscribes()
    assert dict(json.loads(filters.replace("'", '"'))) == component.filters()
