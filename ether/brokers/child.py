"""What the brokers we start have in common: a port, a folder, a child process that ends with us."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ether import clock, process
from ether.address import is_loopback
from ether.brokers.security import SESSION_USER, Security
from ether.errors import BrokerError
from ether.mqtt import BrokerLimits

__all__ = ["DEFAULT_PORT", "ChildBroker", "Limits", "LoggedBroker", "free_port", "guarded", "split_listen"]

logger = logging.getLogger(__name__)

DEFAULT_PORT = 1883
_START_S = 30.0
_STOP_S = 5.0
# Few brokers watch their parent. A shell does, beside them: once it is gone, it waits for the broker's clients, which
# end by themselves and hold the pipe $1 open until then, but for no more than five seconds.
_GUARD = """
line=/dev/fd/$1; shift
exec 3<&0 </dev/null
(
    cat <&3
    cat $line & clients=$!
    n=0; while kill -0 $clients && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
    kill $clients
    kill -TERM $$ || exit
    n=0; while kill -0 $$ && [ $n -lt 10 ]; do sleep 0.1; n=$((n+1)); done
    rm -rf "$0"
) >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""


def guarded(command: list[str], doomed: str | None, line: int) -> list[str]:
    """Return `command` such that it ends when its stdin and the pipe `line` do, and the folder `doomed` with it."""
    return ["/bin/sh", "-c", _GUARD, doomed or "", str(line), *command]


def split_listen(listen: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; BrokerError says what is wrong with it."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise BrokerError(f"broker.listen {listen!r}: write host:port, such as 127.0.0.1:1883")
    return host.strip("[]") or "127.0.0.1", int(port)


def free_port(host: str, wanted: int) -> int:
    """Return `wanted` if nobody listens there, else a free port."""
    with contextlib.suppress(OSError):
        return _bound(host, wanted)
    try:
        return _bound(host, 0)
    except OSError as exc:
        raise BrokerError(f"broker.listen {host}: {exc.strerror}; write an address of this machine") from exc


def _bound(host: str, port: int) -> int:
    """Return the port that one gets who wants `port`, 0 for any; OSError says why it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client may ask of a broker that we start; None leaves it at the broker's default."""

    packet_bytes: int | None = None
    """Largest packet."""
    connections: int | None = None
    """Clients at once."""
    queue_bytes: int | None = None
    """Memory for what waits for one client; the embedded broker's only."""
    session_expiry_s: float | None = None
    """A persistent session is forgotten this long after its client left."""


class ChildBroker:
    """A broker process that we start and stop, on loopback unless it has users; it ends by itself if we die.

    A further backend is a subclass with a `kind` and a `command`, found by its entry point in the group
    ``ether.brokers``.
    """

    kind = ""
    enforces_security = False
    """Whether it enforces `security`; one that does not is never started with users."""
    enforces_limits = False
    """The same for `limits`."""
    takes = BrokerLimits()
    """What it takes of a client, unless it is given `limits`."""
    around = 9
    """Bytes of a packet around topic and payload, at most."""

    def __init__(
        self, listen: str | None = None, folder: str | None = None, why: str = "", security: Security | None = None,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.why = why
        self.security = security or Security()
        self.limits = limits or Limits()
        self.process: subprocess.Popen[bytes] | None = None
        self._line: tuple[int, int] | None = None
        self.on_said: Callable[[list[str]], None] = lambda lines: None
        """Called, in a thread of its own, with what the broker says on stderr, where it says it in our format."""
        self._given = listen is not None
        self.host, self.port = split_listen(listen) if listen else ("127.0.0.1", DEFAULT_PORT)
        self.security.check(listen or "", self.host)
        if self.security.users is not None and not self.enforces_security:
            raise BrokerError(f"broker.users: the kind {self.kind!r} does not enforce them; use embedded or mosquitto")
        if self.security.cert is not None and not self.enforces_security:
            raise BrokerError(f"broker.tls: the kind {self.kind!r} is started without; use embedded or mosquitto")
        if self.limits != Limits() and not self.enforces_limits:
            raise BrokerError(f"broker.limits: the kind {self.kind!r} has its own; use embedded or mosquitto")
        self.local_port = 0
        """Of the listener without TLS, where there is one for the session's own processes."""
        self._folder = folder
        self.folder = Path()

    @property
    def client_limits(self) -> BrokerLimits:
        """What it takes of a client."""
        packet = self.limits.packet_bytes
        return self.takes if packet is None else replace(self.takes, largest_message=max(0, packet - self.around))

    @property
    def url(self) -> str:
        """Where clients on this machine connect; for the session's own processes with their credentials."""
        user = f"{SESSION_USER}:{self.security.session_password}@" if self.security.session_password else ""
        if self.local_port:
            return f"mqtt://{user}127.0.0.1:{self.local_port}"
        host = f"[{self.reachable_host}]" if ":" in self.reachable_host else self.reachable_host
        return f"mqtt{'s' if self.security.cert else ''}://{user}{host}:{self.port}"

    @property
    def reachable_host(self) -> str:
        """Where a client on this machine finds us."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - nothing is bound here

    @property
    def open_to_all(self) -> bool:
        """Whether other machines can connect without credentials."""
        return self.security.users is None and not is_loopback(self.host)

    @property
    def temporary_folder(self) -> str | None:
        return str(self.folder) if self._folder is None else None

    def __enter__(self) -> ChildBroker:
        # A temporary folder is private to us and goes with us; a given one stays, for the next start.
        self.folder = Path(self._folder or tempfile.mkdtemp(prefix="ether-broker-")).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start_at_a_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_at_a_port(self) -> None:
        """Start at the given port; without one, at MQTT's or any: if it is taken after our look, we look again."""
        if self._given and self.port:
            try:
                _bound(self.host, self.port)
            except OSError as exc:
                why = "the port is taken" if exc.errno == errno.EADDRINUSE else exc.strerror
                raise BrokerError(f"broker.listen {self.host}:{self.port}: {why}") from exc
            self._start()
            return
        for wanted in (self.port, 0, 0):
            self.port = free_port(self.host, wanted)
            try:
                self._start()
            except BrokerError as exc:
                failure = exc
                self._end()
            else:
                return
        raise failure

    def command(self) -> list[str]:
        """Return the command that serves MQTT at `host` and `port`, and keeps in `folder` what must survive it."""
        raise NotImplementedError

    def _start(self) -> None:
        """Run `command` until somebody answers at the port; what it prints goes to a file in its folder."""
        command = self.command()
        program = shutil.which(command[0])
        if program is None:
            raise BrokerError(f"broker.kind {self.kind}: {command[0]} is not installed; install it, or use embedded")
        log = self.folder / f"{self.kind}.log"
        with open(log, "wb") as output:
            self.process = self._popen([program, *command[1:]], output, output)
        deadline = clock.monotonic() + _START_S
        while not self._answers():
            code = self.process.poll()
            if code is not None or clock.monotonic() > deadline:
                how = f"within {_START_S:g} s" if code is None else f"(exit code {code})"
                said = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
                raise BrokerError(f"{self.kind} did not start at {self.host}:{self.port} {how}: {said or 'no word'}")
            threading.Event().wait(0.02)

    def _popen(self, command: list[str], stdout: IO[bytes] | int, stderr: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a command that ends when we do, and its clients have: our children, which hold our pipe open."""
        if os.name == "posix":
            if self._line is None:
                self._line = os.pipe()
                process.inherited.add(self._line[1])
            command = guarded(command, self.temporary_folder, self._line[0])
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, cwd=self.folder, start_new_session=True,
            pass_fds=self._line[:1] if self._line is not None else (),
        )  # fmt: skip

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.reachable_host, self.port), 1.0).close()
        except OSError:
            return False
        return True

    def wait(self) -> int:
        """Return the exit code of the broker, once it has ended; 0 of one that was left meanwhile."""
        process = self.process
        return 0 if process is None else process.wait()

    def restart(self) -> None:
        """Start a broker that has ended again: same addresses, same folder; BrokerError if that fails."""
        self._end()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start()

    def __exit__(self, *exc: object) -> None:
        self._end()
        if self._line is not None:
            process.inherited.discard(self._line[1])
            for each in self._line:
                os.close(each)
            self._line = None
        if self._folder is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        if self.process is not None:
            self._signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
                self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):  # stderr is closed by whoever reads it
                if stream is not None:
                    stream.close()
            self.process = None

    def _signal(self, number: int) -> None:
        """Signal the broker, and whatever guards it: it leads a process group of its own."""
        assert self.process is not None
        if hasattr(os, "killpg"):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass  # it has ended by itself
        else:
            self.process.terminate()


class LoggedBroker(ChildBroker):
    """One whose log we read: its own word that it runs, and what it complains of, in the session's log.

    An answer at the port would not do: it might come from another broker, which has taken the port from us.
    """

    patience_s = _START_S
    """How long it may take until it runs."""

    def complaint(self, line: str) -> str | None:
        """Return what a line of its log complains of; "" for nothing, None where the line says that it runs."""
        raise NotImplementedError

    def _start(self) -> None:
        self.process = self._popen(self.command(), subprocess.DEVNULL, subprocess.PIPE)
        self._running = threading.Event()
        self._last = ""
        reader = threading.Thread(target=self._read_log, args=(self.process.stderr,), name=self.kind, daemon=True)
        reader.start()
        deadline = clock.monotonic() + self.patience_s
        while not self._running.wait(0.01):
            code = self.process.poll()
            if code is not None or clock.monotonic() > deadline:
                reader.join(1.0)  # for its last word
                how = f"within {self.patience_s:g} s" if code is None else f"(exit code {code})"
                said = self._last or "is the port taken?"
                raise BrokerError(f"{self.kind} did not start at {self.host}:{self.port} {how}: {said}")

    def _read_log(self, lines: IO[bytes]) -> None:
        running = self._running
        with lines:
            for line in lines:
                said = self.complaint(line.decode(errors="replace").strip())
                if said is None:
                    running.set()
                elif said:
                    self._last = said
                    logger.warning("%s: %s", self.kind, said)
