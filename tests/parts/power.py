"""Simulated power cuts: what a program does to files is logged by strace, and replayed up to any moment.

The usual model: what was synced before the cut is there. Of what was not, each 4 KiB page of a file has the first few
of its writes, the last of them possibly torn; a directory has the first few of its changes; a length may be old.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096
CHANGING = (
    "write", "pwrite64", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "rename", "unlink", "unlinkat",
    "mkdir", "rmdir", "sendfile", "copy_file_range",
)  # fmt: skip
_TRACED = (*CHANGING, "openat", "lseek", "close", "renameat", "renameat2", "creat", "pwritev", "truncate")
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\((.*)| resumed>(.*))")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"(\w+)<((?:\\x[0-9a-f]{2})+)>")


def strace() -> str | None:
    return shutil.which("strace")


def traced(command: list[str], log: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a command with all its children, logging what it does to files."""
    words = ["strace", "-f", "-y", "-xx", "-s", "100000000", "-o", str(log), "-e", f"trace={','.join(_TRACED)}", *more]
    return subprocess.run([*words, *command], capture_output=True, text=True, timeout=120, check=False)


def killed_at(command: list[str], call: str, number: int) -> int:
    """Run a command that dies at its so-manyth call of a kind; return its exit code."""
    inject = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    inject += ["-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run([*inject, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode


@dataclass(eq=False)
class _File:
    """An inode: its changes in their order, and when it was synced."""

    folder: bool = False
    base: bytes = b""
    entries: dict[str, _File] = field(default_factory=dict)
    """Of a folder, as the program sees it now."""
    changes: list[tuple[int, str, int, bytes]] = field(default_factory=list)
    """Of a file: when, ``write`` or ``length`` or ``extend``, offset or length, data."""
    syncs: list[tuple[int, int]] = field(default_factory=list)
    """When a sync began and ended."""

    def durable(self, moment: int) -> int:
        """Return the moment up to which everything was synced before `moment`."""
        return max((begun for begun, ended in self.syncs if ended < moment), default=-1)


class WriteLog:
    """What a traced program did below a folder, from a state that was durable."""

    def __init__(self, log: Path, folder: Path, before: dict[str, bytes] | None = None) -> None:
        self.folder = str(folder)
        self.root = _File(folder=True)
        self.base: list[tuple[_File, str, _File]] = []
        self.links: list[tuple[int, list[tuple[_File, str, _File | None]]]] = []
        """When, and which names of which folders changed together."""
        self.moments: list[int] = []
        """When something changed or was synced."""
        self.said: list[tuple[int, str]] = []
        """When the program had written which line to its standard output."""
        self._position: dict[tuple[str, str], int] = {}
        for path, content in (before or {}).items():
            place, name = self._parent(f"{self.folder}/{path}", make=True)
            place.entries[name] = _File(base=content)
            self.base.append((place, name, place.entries[name]))
        begun: dict[tuple[str, str], tuple[int, str]] = {}
        for moment, line in enumerate(log.read_text().splitlines()):
            found = _LINE.match(line)
            if found is None:
                continue
            thread, call, whole, resumed = found.groups()
            if whole is not None and whole.endswith("<unfinished ...>"):
                begun[thread, call] = (moment, whole.removesuffix("<unfinished ...>"))
                continue
            start, text = moment, whole
            if resumed is not None:
                start, first = begun.pop((thread, call))
                text = first + resumed
            arguments, _, result = text.rpartition(" = ")
            if not result.startswith(("-1", "?")):
                self._take(start, moment, call, arguments, result)

    def _parent(self, path: str, make: bool = False) -> tuple[_File, str]:
        place = self.root
        *folders, name = path.removeprefix(self.folder).strip("/").split("/")
        for each in folders:
            if make and each not in place.entries:
                place.entries[each] = _File(folder=True)
                self.base.append((place, each, place.entries[each]))
            place = place.entries[each]
        return place, name

    def _ours(self, path: str) -> bool:
        return path.startswith(self.folder + "/")

    def _file(self, path: str) -> _File:
        if path == self.folder:
            return self.root
        place, name = self._parent(path)
        return place.entries[name]

    def _link(self, moment: int, *changes: tuple[str, _File | None]) -> None:
        group = []
        for path, file in changes:
            place, name = self._parent(path)
            group.append((place, name, file))
            if file is None:
                place.entries.pop(name, None)
            else:
                place.entries[name] = file
        self.links.append((moment, group))
        self.moments.append(moment)

    def _take(self, start: int, moment: int, call: str, arguments: str, result: str) -> None:
        fds = [(number, _plain(path).decode("utf-8", "surrogateescape")) for number, path in _FD.findall(arguments)]
        strings = [_plain(each) for each in _STRING.findall(arguments)]
        if call == "write" and arguments.startswith("1<"):
            self.said += [(moment, line) for line in strings[0].decode().splitlines()]
            return
        if call in ("openat", "mkdir", "rename", "unlink", "unlinkat", "rmdir", "creat", "truncate"):
            base = fds[0][1] if fds and call in ("openat", "unlinkat") else ""
            paths = [os.path.join(base, each.decode("utf-8", "surrogateescape")) for each in strings]  # noqa: PTH118
            if call == "openat":
                self._open(moment, paths[0], arguments, result)
            elif not any(map(self._ours, paths)):
                return
            elif call == "mkdir":
                self._link(moment, (paths[0], _File(folder=True)))
            elif call == "rename":
                self._link(moment, (paths[1], self._file(paths[0])), (paths[0], None))
            else:
                assert call in ("unlink", "unlinkat", "rmdir"), call
                self._link(moment, (paths[0], None))
            return
        assert call not in ("renameat", "renameat2", "pwritev"), f"{call} is not modelled"
        if not fds or not self._ours(fds[0][1]) or ">(deleted)" in arguments:
            if call in ("fsync", "fdatasync") and fds and fds[0][1] == self.folder:
                self.root.syncs.append((start, moment))
            return
        self._change(start, moment, call, fds, strings, arguments, int(result.split()[0].split("<")[0]))

    def _open(self, moment: int, path: str, arguments: str, result: str) -> None:
        if not self._ours(path):
            return
        place, name = self._parent(path)
        if name not in place.entries:
            self._link(moment, (path, _File()))
        elif "O_TRUNC" in arguments:
            place.entries[name].changes.append((moment, "length", 0, b""))
        self._position[path, result.split("<")[0]] = 0

    def _change(
        self, start: int, moment: int, call: str, fds: list[tuple[str, str]], strings: list[bytes], arguments: str,
        result: int,
    ) -> None:  # fmt: skip
        fd, path = fds[0]
        file = self._file(path)
        numbers = [int(each) for each in re.findall(r"(?<=, )\d+(?=\s*[,)])", arguments)]
        key = (path, fd)
        if call in ("fsync", "fdatasync"):
            file.syncs.append((start, moment))
        elif call == "lseek":
            self._position[key] = result
            return
        elif call == "pwrite64":
            file.changes.append((moment, "write", numbers[-1], strings[0][:result]))
        elif call in ("write", "writev", "sendfile", "copy_file_range"):
            data = b"".join(strings)[:result]
            if call in ("sendfile", "copy_file_range"):
                offset = int(re.findall(r"\[(\d+)\]", arguments)[0])
                data = self.content(self._file(fds[1][1]), moment)[offset : offset + result]
            offset = self._position.get(key, 0)
            file.changes.append((moment, "write", offset, data))
            self._position[key] = offset + len(data)
        elif call == "ftruncate":
            file.changes.append((moment, "length", numbers[-1], b""))
        elif call == "fallocate":
            file.changes.append((moment, "extend", numbers[-2] + numbers[-1], b""))
        else:
            return
        self.moments.append(moment)

    # --- what is left

    @staticmethod
    def content(file: _File, moment: int) -> bytes:
        """Return what a file holds at a moment, to a program."""
        content = bytearray(file.base)
        for when, what, number, data in file.changes:
            if when <= moment:
                _apply(content, what, number, data)
        return bytes(content)

    def cut(self, moment: int, rng: random.Random, target: Path) -> None:
        """Write down what a power cut after `moment` may leave, into an empty folder."""
        names: dict[_File, dict[str, _File]] = defaultdict(dict)
        for place, name, file in self.base:
            names[place][name] = file
        until: dict[_File, int] = {}
        for when, group in self.links:
            for place, _, _ in group:
                if place not in until:
                    synced = place.durable(moment)
                    until[place] = rng.choice([synced, rng.randint(synced, moment), moment])
            if when <= moment and any(when <= until[place] for place, _, _ in group):
                for place, name, file in group:
                    if file is None:
                        names[place].pop(name, None)
                    else:
                        names[place][name] = file
        for path, file in _walk(self.root, names, target):
            if file.folder:
                path.mkdir()
            else:
                path.write_bytes(self._torn(file, moment, rng))

    def _torn(self, file: _File, moment: int, rng: random.Random) -> bytes:
        synced = file.durable(moment)
        content = bytearray(file.base)
        pending = []
        for change in file.changes:
            if change[0] <= synced:
                _apply(content, *change[1:])
            elif change[0] <= moment:
                pending.append(change)
        lengths = [when for when, what, _, _ in pending if what != "write"]
        length_until = rng.choice([synced, moment, *lengths[:1]])
        writes: dict[int, list[int]] = defaultdict(list)
        for when, what, offset, data in pending:
            if what == "write":
                for page in range(offset // PAGE, (offset + max(len(data), 1) - 1) // PAGE + 1):
                    writes[page].append(when)
        fate = rng.choice(["none", "all", "some", "some", "some"])
        kept = {
            page: {"none": 0, "all": len(whens), "some": rng.randint(0, len(whens))}[fate]
            for page, whens in writes.items()
        }
        for when, what, number, data in pending:
            if what != "write":
                if when <= length_until:
                    _apply(content, what, number, data)
                continue
            for page in range(number // PAGE, (number + max(len(data), 1) - 1) // PAGE + 1):
                place = bisect_left(writes[page], when)
                if place >= kept[page]:
                    continue
                low, high = max(number, page * PAGE), min(number + len(data), (page + 1) * PAGE)
                if fate == "some" and place == kept[page] - 1 and rng.random() < 0.3:
                    high = rng.randint(low, high)  # torn
                _apply(content, "write", low, data[low - number : high - number])
        return bytes(content)


def _walk(folder: _File, names: dict[_File, dict[str, _File]], path: Path) -> Iterator[tuple[Path, _File]]:
    for name, file in names[folder].items():
        yield path / name, file
        if file.folder:
            yield from _walk(file, names, path / name)


def _apply(content: bytearray, what: str, number: int, data: bytes) -> None:
    if what == "length":
        del content[number:]
    end = number + len(data) if what == "write" else number
    if len(content) < end:
        content += bytes(end - len(content))
    if what == "write":
        content[number:end] = data


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]
