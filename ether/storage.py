"""Storage: where a session's recording is written, and beside it what its publishers keep until it is recorded."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ether import clock, process
from ether.config import Config
from ether.errors import RecordingError
from ether.guest import Guest
from ether.mqtt import Connection
from ether.outbox import Sender, leftovers, outbox_folder, sender_orders
from ether.recorder.entries import journal_folder
from ether.recorder.parts import is_taken

__all__ = ["Storage", "make_folder"]

_OUTBOX_S = 5.0


class Storage:
    """Of a session that this process began, or of its own part in one that it joined."""

    def __init__(self, config: Config, guest: Guest | None) -> None:
        self.recording: Path | None = None
        """Ours, once it has a name; None where nobody records, or the session is another's."""
        self._config = config
        self._guest = guest
        self._for_the_dead: list[Sender] = guest.for_the_dead if guest else []
        self._recovery: subprocess.Popen[bytes] | None = None

    def begin(self, name: str) -> Path:
        """Return the file to record into: `name` in the session's folder, or another that nobody has.

        Raises:
            RecordingError: the folder cannot be written.
        """
        wanted = Path(self._config.session.data).absolute() / name
        make_folder(wanted.parent)
        self.recording = _unused(wanted)
        return self.recording

    @property
    def sealed(self) -> bool:
        """Whether the recording is complete in its file, journal and all."""
        return self.recording is None or not journal_folder(self.recording).exists()

    def orders(self, name: str) -> dict[str, Any] | None:
        """Return where an instance keeps what is not recorded yet; None where nobody records."""
        if self._guest is not None:
            return self._guest.outbox_orders(name)
        record = self._config.record
        if record is None or self.recording is None:
            return None
        return sender_orders(self.recording, name, record.topics, record.exclude, record.outbox.model_dump())

    def recover_the_killed(self, log_level: str) -> None:
        """Have recordings made of what killed sessions left where ours is written, while this one goes on."""
        ours = self.recording
        if ours is None:
            return
        left = {journal_folder(ours).suffix, outbox_folder(ours).suffix}
        if any(path.suffix in left and path.stem != f".{ours.stem}" for path in ours.parent.glob(".*")):
            self._recovery = process.spawn("ether.recorder.recovery", "recovery")
            process.give_orders(self._recovery, {"ours": str(ours), "log_level": log_level})

    def end_recovery(self) -> None:
        """It may be killed at any point; the next session goes on with it."""
        if self._recovery is not None and self._recovery.stdin is not None:
            self._recovery.kill()
            self._recovery.wait()
            with contextlib.suppress(OSError):
                self._recovery.stdin.close()

    def settle_for_the_dead(self, connection: Connection, ours: Collection[str]) -> None:
        """Send what instances of a guest left behind that died for good; those of a session its recorder takes over."""
        for folder in self._outboxes(ours):
            if folder.name == "session":
                continue
            sender = Sender(connection, folder.name, "", folder)
            self._for_the_dead.append(sender)
            sender.begin()
        deadline = clock.monotonic() + _OUTBOX_S
        for sender in self._for_the_dead:
            sender.settle(max(0.1, deadline - clock.monotonic()))
            sender.close()

    def clear(self, ours: Collection[str]) -> list[str]:
        """Remove the folders of outboxes that are settled; return what is to be said of those that are not."""
        problems = []
        for folder in self._outboxes(ours):
            for each in leftovers(folder):
                problems.append(f"{folder.name} published what is not recorded; it is kept in {each}")
            _remove_empty(folder)
        if (place := self._place()) is not None:
            _remove_empty(place)
        return problems

    def forget(self) -> None:
        """Remove the recording's folder, if nothing came of it."""
        if self.recording is not None:
            _remove_empty(self.recording.parent)

    def _outboxes(self, ours: Collection[str]) -> list[Path]:
        """Return the folders of publishers that are ours to settle, one each; `ours` are those of this process."""
        place = self._place()
        found = leftovers(place) if place is not None else []
        return [each for each in found if self.recording is not None or each.name in ours]

    def _place(self) -> Path | None:
        """Return where outboxes are that are ours to settle; None where there are none."""
        elsewhere = self._guest.recording_elsewhere if self._guest is not None else None
        recording = self.recording or elsewhere
        return outbox_folder(recording) if recording is not None else None


def make_folder(folder: Path) -> None:
    """Make a folder for recordings; RecordingError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "not allowed, or read-only"
    except OSError as exc:
        why = exc.strerror or str(exc)
    if why:
        raise RecordingError(f"{folder}: cannot be written ({why}); name another with `session.data` or ETHER_DATA")


def _unused(path: Path) -> Path:
    """Return a path that no recording has yet: two sessions may start in the same second."""
    found, number = path, 1
    while is_taken(found) or journal_folder(found).exists():
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # something else is in it, or it was never made
