"""What every child process of a session does: take its orders, log in the one format, notice its parent's death.

Orders are one JSON line on stdin. After it the pipe stays open, and its end means that the parent is gone: that works
on every system, and no process outlives its session.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["FORMAT", "command_line", "ignore_interrupt", "log_to_stderr", "on_orphaned", "orders"]

FORMAT = "%(asctime)s.%(msecs)03d - {name}:%(process)d - %(levelname)s - %(message)s"
_pipe: int | None = None


def command_line(module: str, name: str) -> list[str]:
    """Return the command that runs ``main()`` of a module in a fresh interpreter; `name` shows in the process list."""
    # Not `-m`: then __main__ would be the module, and the user's own __main__ could not stand in for it.
    return [sys.executable, "-c", f"from {module} import main; main()", name]


def orders() -> dict[str, Any]:
    """Return the parent's orders; from then on stdin is empty for everybody else."""
    global _pipe  # noqa: PLW0603 - one stdin, one pipe
    _pipe = os.dup(0)
    os.set_inheritable(_pipe, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(_pipe, 65_536)
        if not piece:
            raise SystemExit("ether: no orders on stdin; this program is started by a session, not by hand")
        line += piece
    return json.loads(line)  # type: ignore[no-any-return]  # the parent writes an object


def on_orphaned(callback: Callable[[], None]) -> None:
    """Call back, in a thread of its own, when the parent process is gone."""
    pipe = _pipe
    if pipe is None:
        return

    def watch() -> None:
        while os.read(pipe, 4096):
            pass
        callback()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def log_to_stderr(name: str, level: str = "INFO") -> None:
    """Send all logging of this process to stderr in the one format.

    ``ETHER_LOG_FORMAT=json`` writes one JSON object a line instead.
    """
    handler = logging.StreamHandler(sys.stderr)
    as_json = os.environ.get("ETHER_LOG_FORMAT") == "json"
    handler.setFormatter(_JsonFormatter(name) if as_json else logging.Formatter(FORMAT.format(name=name), _DATE))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def ignore_interrupt() -> None:
    """Leave Ctrl-C, which a terminal sends to the whole group, to the parent: it stops its children in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_DATE = "%Y-%m-%d %H:%M:%S"


class _JsonFormatter(logging.Formatter):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "t": record.created,
            "name": self._name,
            "pid": record.process,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)
