"""Reload: notice that source has been edited which this process has imported.

Looked at rather than subscribed to: a few files twice a second cost nothing, and that works on every file system.
"""

from __future__ import annotations

import logging
import site
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Sources", "files_of", "watch"]

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_Stamp = tuple[int, int, int]


class Sources:
    """The user's modules among those imported: neither Python's own, nor installed ones, nor ether's."""

    def __init__(self, further: Iterable[Path] = ()) -> None:
        """Remember the files as they are.

        Args:
            further: files to look at that may not have been imported, such as those where an import failed.
        """
        self._foreign = tuple(Path(each).resolve() for each in _foreign())
        self._further = frozenset(each.resolve() for each in further)
        self._seen: dict[Path, _Stamp] = {}
        self.changed()

    def changed(self) -> list[Path]:
        """Return the files that were edited since the last look; one that is gone for a moment is not."""
        found = []
        for path in self._files():
            stamp = _stamp(path)
            if stamp is None:
                continue
            if path in self._seen and self._seen[path] != stamp:
                found.append(path)
            self._seen[path] = stamp
        return found

    def wait(self, ended: threading.Event) -> Path | None:
        """Return the first file that has been edited and can be compiled; None once `ended` is set."""
        while not ended.wait(_LOOK_S):
            for path in self.changed():
                try:
                    compile(path.read_bytes(), str(path), "exec")
                except (SyntaxError, ValueError, OSError) as exc:
                    logger.error("%s: not reloaded: %s", path, exc)
                else:
                    return path
        return None

    def _files(self) -> set[Path]:
        files = {each for each in self._further if self._is_ours(each)}
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file.endswith(".py"):
                path = Path(file).resolve()
                if self._is_ours(path):
                    files.add(path)
        return files

    def _is_ours(self, path: Path) -> bool:
        return not any(path.is_relative_to(folder) for folder in self._foreign)


def watch(on_change: Callable[[Path], None]) -> None:
    """Call back, once, in a thread of its own, when source of this process has been edited."""
    sources = Sources()

    def look() -> None:
        path = sources.wait(threading.Event())
        if path is not None:
            on_change(path)

    threading.Thread(target=look, name="reload", daemon=True).start()


def files_of(exc: BaseException | None) -> set[Path]:
    """Return the files in which an error, or what caused it, came about."""
    found: set[Path] = set()
    while exc is not None:
        found |= {Path(frame.filename) for frame in traceback.extract_tb(exc.__traceback__)}
        if isinstance(exc, SyntaxError) and exc.filename:
            found.add(Path(exc.filename))
        exc = exc.__cause__ or exc.__context__
    return found


def _foreign() -> list[str]:
    installed = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")]
    return [*installed, str(Path(__file__).parent)]


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
