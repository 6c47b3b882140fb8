"""What every child process of a session does: take its orders, log in the one format, notice its parent's death.

Orders are one JSON line on stdin. After it the pipe stays open, and its end means that the parent is gone: that works
on every system, and no process outlives its session.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "DATE",
    "DETACHED",
    "FORMAT",
    "HUNG_CODE",
    "RESTART_CODE",
    "give_orders",
    "inherited",
    "log_to_stderr",
    "on_orphaned",
    "orders",
    "spawn",
]

FORMAT = "%(asctime)s.%(msecs)03d - {name}:%(process)d - %(levelname)s - %(message)s"
RESTART_CODE = 75
"""Exit code of a child that was told to restart (EX_TEMPFAIL): its supervisor starts it again at once."""
HUNG_CODE = 70
"""Exit code of a child that ended because it hung (EX_SOFTWARE), to be started again."""
DETACHED = "ETHER_DETACHED"
"""In the environment of a session that nobody looks at: what its processes say goes to its log alone."""
_PATH = "ETHER_SYS_PATH"
_OUTPUT = "ETHER_OUTPUT"
_pipe: int | None = None
_output: list[int] = []
inherited: set[int] = set()
"""Descriptors that each child holds open as long as it lives, for whoever waits for the end of all."""


def spawn(module: str, name: str, *, heard: bool = False) -> subprocess.Popen[bytes]:
    """Start ``main()`` of a module in a fresh interpreter with our module search path; its stdin awaits orders.

    It leads a session of its own, so a Ctrl-C in the terminal reaches only us, who stop it in order.

    Args:
        module: imported by the child. Not run as ``-m``: the user's own ``__main__`` must be free to come along.
        name: shows in the process list.
        heard: what it writes to stdout and stderr comes to us by the `Popen` object, which has to be read; once we are
            gone, it goes where our own output went.
    """
    environment = {name: value for name, value in os.environ.items() if name != DETACHED}
    environment |= {_PATH: os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
    ours = [os.dup(1), os.dup(2)] if heard and os.name == "posix" else []
    if ours:
        environment[_OUTPUT] = ",".join(map(str, ours))
    warnings = [argument for option in sys.warnoptions for argument in ("-W", option)]
    code = (
        f"import os, sys; sys.path[:] = os.environ.pop({_PATH!r}).split(os.pathsep); from {module} import main; main()"
    )
    try:
        return subprocess.Popen(
            [sys.executable, "-u", *warnings, "-c", code, name],  # -u: prints appear when they are made
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if heard else None,
            stderr=subprocess.PIPE if heard else None,
            env=environment,
            start_new_session=True,
            pass_fds=[*ours, *inherited],
        )
    finally:
        for each in ours:
            os.close(each)


def give_orders(child: subprocess.Popen[bytes], content: dict[str, Any]) -> None:
    """Write the orders of a spawned child; BrokenPipeError where it has died already."""
    assert child.stdin is not None
    child.stdin.write(json.dumps(content).encode() + b"\n")
    child.stdin.flush()


def orders() -> dict[str, Any]:
    """Return the parent's orders; from then on stdin is empty for everybody else."""
    global _pipe
    _pipe = os.dup(0)
    os.set_inheritable(_pipe, False)
    _output[:] = map(int, filter(None, os.environ.pop(_OUTPUT, "").split(",")))
    for each in _output:
        os.set_inheritable(each, False)
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
        for ours, theirs in enumerate(_output, 1):
            os.dup2(theirs, ours)  # nobody reads our pipes any more
        callback()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def log_to_stderr(name: str, level: str = "INFO") -> None:
    """Send all logging of this process to stderr in the one format.

    ``ETHER_LOG_FORMAT=json`` writes one JSON object a line instead.
    """
    handler = logging.StreamHandler(sys.stderr)
    as_json = os.environ.get("ETHER_LOG_FORMAT") == "json"
    handler.setFormatter(_JsonFormatter(name) if as_json else logging.Formatter(FORMAT.format(name=name), DATE))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


DATE = "%Y-%m-%d %H:%M:%S"


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
