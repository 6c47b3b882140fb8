"""Provenance: what tells later how a recording came to be: configuration, code, versions, machine and people."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from ether import runtime
from ether.component import load_class, source_of
from ether.config import Config

__all__ = ["provenance_of"]

_SOURCE_BYTES = 1_000_000


def provenance_of(config: Config) -> dict[str, Any]:
    """Return what tells later how this came to be; secrets are redacted by the configuration itself."""
    return {
        "config": config.safe_text,
        "config_path": None if config.path is None else str(config.path),
        "resolved": config.resolved(),
        "command_line": sys.argv,
        "cwd": str(Path.cwd()),
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "user": runtime.user(),
        "packages": _packages(),
        "git": _git(),
        "sources": _sources(config),
    }


def _sources(config: Config) -> dict[str, dict[str, str]]:
    """Return the files that hold the instances' classes, by their checksum."""
    found = {}
    for path in {instance.class_path for instance in config.instances.values()}:
        source = source_of(config.classes.get(path) or load_class(path))
        if source is not None:
            text = source[1][:_SOURCE_BYTES].decode(errors="replace")
            found[f"sha256:{sha256(source[1]).hexdigest()}"] = {"file": str(source[0]), "text": text}
    for profile in {each.file for each in config.sources if each.file is not None}:
        content = profile.read_bytes()
        text = content[:_SOURCE_BYTES].decode(errors="replace")
        found[f"sha256:{sha256(content).hexdigest()}"] = {"file": str(profile), "text": text}
    return found


def _packages() -> dict[str, str]:
    """Return the installed distributions, name to version."""
    found = (each.metadata for each in metadata.distributions())  # once each: it reads and parses a file
    return dict(sorted((str(each["Name"]), str(each["Version"])) for each in found if each["Name"]))


def _git() -> dict[str, Any] | None:
    """Return commit, whether the work tree differs from it, and how; None outside a repository."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        status = ask("status", "--porcelain")
        return {"commit": commit, "dirty": bool(status), "diff": ask("diff", "HEAD")[:1_000_000] if status else ""}
    except (OSError, subprocess.SubprocessError):
        return None
