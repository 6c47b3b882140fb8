"""The embedded broker: `ether_broker` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from ether.brokers.child import ChildBroker
from ether.errors import BrokerError

__all__ = ["Embedded"]

_PREFIX = "listening "
_START_S = 30.0  # it reads its store first, which may be large
_PORT_TAKEN = 4
"""Its exit code where it cannot listen."""


class Embedded(ChildBroker):
    """Needs nothing but Python. It says on stdout where it listens, and ends when our end of its stdin closes."""

    kind = "embedded"

    def _start(self) -> None:
        warnings = [argument for option in sys.warnoptions for argument in ("-W", option)]
        command = [sys.executable, *warnings, "-m", "ether_broker", "--listen", f"{self.host}:{self.port}"]
        command += ["--data", str(self.folder), "--parent-pipe"]
        if self._folder is None:
            command.append("--remove-data")  # we may die before we can
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        too_late = threading.Timer(_START_S, self.process.kill)  # which ends the line we wait for
        too_late.start()
        line = self.process.stdout.readline().decode().strip()
        too_late.cancel()
        if not line.startswith(_PREFIX):
            code = self.process.wait()
            why = "the port is taken" if code == _PORT_TAKEN else f"exit code {code}"
            raise BrokerError(f"the embedded broker did not start at {self.host}:{self.port}: {why}")
        self.port = int(line.rpartition(":")[2])
