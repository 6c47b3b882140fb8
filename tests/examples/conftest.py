"""Run an example as its reader does: a subprocess, in a folder of its own, with every warning an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ether.recorder.reader import Recording, open_recording

ROOT = Path(__file__).parents[2]
RUN_S = 45.0


@dataclass(frozen=True)
class Finished:
    """An example that has ended well."""

    lines: list[str]
    """What it printed."""
    recording: Recording


@pytest.fixture
def run_example(tmp_path: Path) -> Callable[[str], Finished]:
    """Return a function that runs an example to its end, and proves its recording complete."""

    def run(name: str) -> Finished:
        folder = tmp_path / "Meßplatz 7"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-W", "error", str(ROOT / "examples" / name / "run.py")],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "broker")])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        assert done.returncode == 0, done.stderr
        (path,) = folder.glob("data/*.h5")
        recording = open_recording(path)
        report = recording.verify()
        assert report.complete, report
        return Finished(done.stdout.splitlines(), recording)

    return run
