"""Edited source starts again just the instances that import it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

CODE = """
from ether import ether_get
import {helper}


class Part:
    @ether_get
    def word(self):
        return {helper}.WORD
"""


@pytest.fixture
def write(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(workdir))

    def write(name: str, text: str) -> None:
        """Replace a module in one step, as editors do; no two texts of a test have the same length and time."""
        (workdir / "new").write_text(text)
        (workdir / "new").replace(workdir / f"{name}.py")

    yield write
    for name in ("left_part", "right_part", "left_help", "right_help"):
        sys.modules.pop(name, None)


def test_just_the_instances_that_import_an_edited_file_start_again(ether, write, until, caplog) -> None:
    for side in ("left", "right"):
        write(f"{side}_help", "WORD = 'old'\n")
        write(f"{side}_part", CODE.format(helper=f"{side}_help"))
    ether.tap(
        {
            "broker": "embedded", "record": "off", "session": {"reload": True},
            "instances": {side: {"class_path": f"{side}_part.Part"} for side in ("left", "right")},
        }
    )  # fmt: skip
    boots = {name: info.boot for name, info in ether.instances().items()}

    def ready() -> bool:
        left = ether.instances()["left"]
        return left.boot != boots["left"] and str(left.state) == "ready"

    write("left_help", "WORD = 'newer'\n")
    until(ready, 20.0, "the start with the edited module")
    assert ether.get("left", "word") == "newer"

    boots["left"] = ether.instances()["left"].boot
    write("left_help", "WORD = 'not closed\n")
    write("left_help", "WORD = undefined_name\n")  # compiles, and cannot be imported
    until(lambda: str(ether.instances()["left"].state) == "lost", 20.0, "the failure")
    assert "NameError: name 'undefined_name' is not defined" in ether.instances()["left"].detail
    write("left_help", "WORD = 'mended again'\n")
    until(ready, 20.0, "the start with the mended module")
    assert ether.get("left", "word") == "mended again"
    assert ether.instances()["right"].boot == boots["right"]
    assert ether.shutdown().problems == ()
