"""Which sessions run on this machine: one small file each in the user's runtime directory; and whose it is."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["alive", "author", "find", "folder", "forget", "remember", "running", "user"]


def folder() -> Path:
    """Return the user's own folder for such files; it need not exist yet."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_dir():
        return Path(base) / "ether"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"ether-{user}"


def remember(entry: dict[str, Any]) -> Path:
    """Write down a session; only its user may read it. What dead sessions left is removed.

    Args:
        entry: ``id``, ``name``, ``namespace``, ``url``, ``pid``, ``started``, and the ``folder`` to remove with it.
    """
    running()
    place = folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = place / f"{entry['id']}.json"
    # Written beside and renamed, so that nobody reads half of it.
    draft = path.with_suffix(f".{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(entry, file)
    draft.replace(path)
    return path


def forget(session_id: str) -> None:
    (folder() / f"{session_id}.json").unlink(missing_ok=True)


def running() -> list[dict[str, Any]]:
    """Return the sessions whose host process lives, newest first; what dead ones left is removed."""
    found = []
    for path in folder().glob("*.json"):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            lives = alive(int(entry["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if lives:
            found.append(entry)
        else:
            path.unlink(missing_ok=True)
            if entry.get("folder"):
                shutil.rmtree(entry["folder"], ignore_errors=True)
    return sorted(found, key=lambda entry: float(entry.get("started", 0)), reverse=True)


def find(name: str | None = None, namespace: str | None = None) -> dict[str, Any] | None:
    """Return the newest running session, of that name and namespace if given; None where there is none."""
    for entry in running():
        if name in (None, entry["name"]) and namespace in (None, entry["namespace"]):
            return entry
    return None


def alive(pid: int) -> bool:
    """Return whether there is a process of this number on this machine."""
    if os.name == "nt":  # os.kill would end it there; joining a dead session fails clearly anyway
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that has ended may wait for its parent to look, which in a container may take long
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True  # not on Linux


def user() -> str:
    """Return who is logged in; empty where that is not known."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def author() -> str:
    """Return ``user@host``: whose remark or change it is."""
    return f"{user()}@{socket.gethostname()}"
