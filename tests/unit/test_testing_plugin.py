"""The fixture that users name: pytest finds it by itself, and what a test leaves is cleaned up after it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

TESTS = """
    from ether import ether, ether_pub


    class Oven:
        @ether_pub(topic="oven/temperature", every=1.0)
        def measure(self) -> float:
            return 20.0


    def test_a_minute(ether_lab):
        ether_lab.tap({"instances": {"oven": {"class_path": Oven}}}).start()

        ether_lab.advance(60)

        assert len(ether_lab.messages("oven/temperature")) == 61


    def test_a_yaml_file(ether_lab):
        ether_lab.tap("session.yaml").start()

        assert ether_lab.state("oven") == "ready"
        assert not ether_lab.messages("oven/temperature")[1:]


    def test_without_a_session(ether_lab):
        assert not ether.tapped
"""


def test_pytest_finds_the_fixture_and_each_test_has_a_session_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_oven.py").write_text(textwrap.dedent(TESTS))
    (tmp_path / "lab_oven.py").write_text(textwrap.dedent(TESTS.partition("def test_a_minute")[0]))
    (tmp_path / "session.yaml").write_text("broker: embedded\ninstances: {oven: {class_path: lab_oven.Oven}}\n")

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(tmp_path)])},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert list(tmp_path.glob("data*")) == []


def test_the_plugin_is_light() -> None:
    (found,) = [each for each in entry_points(group="pytest11") if each.value == "ether.testing.plugin"]
    assert found.name == "ether"

    code = "import sys, pytest, ether.testing.plugin; print(sorted({'amqtt', 'paho', 'pydantic', 'h5py', 'asyncio.events'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"
