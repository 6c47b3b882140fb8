"""ether: one observable, recorded system out of plain Python classes.

Importing this loads the decorators and nothing else; the rest comes when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ether import errors
from ether.decorators import (
    Param,
    ether_cleanup,
    ether_get,
    ether_init,
    ether_pub,
    ether_safe,
    ether_save,
    ether_save_all,
    ether_shutdown,
    ether_start,
    ether_sub,
)
from ether.model import Annotation, Message, Reading, Run, State, Status

if TYPE_CHECKING:
    from ether.config import Config
    from ether.recorder.reader import Recording
    from ether.recorder.reader import open_recording as open
    from ether.session import Ether, ether

__version__ = "0.1.0"

__all__ = [
    "Annotation",
    "Config",
    "Ether",
    "Message",
    "Param",
    "Reading",
    "Recording",
    "Run",
    "State",
    "Status",
    "errors",
    "ether",
    "ether_cleanup",
    "ether_get",
    "ether_init",
    "ether_pub",
    "ether_safe",
    "ether_save",
    "ether_save_all",
    "ether_shutdown",
    "ether_start",
    "ether_sub",
    "open",
]

_LAZY = {
    "Config": ("ether.config", "Config"),
    "Ether": ("ether.session", "Ether"),
    "Recording": ("ether.recorder.reader", "Recording"),
    "ether": ("ether.session", "ether"),
    "open": ("ether.recorder.reader", "open_recording"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        hint = (
            "; the session's methods are on the object: `from ether import ether`" if not name.startswith("_") else ""
        )
        raise AttributeError(f"module 'ether' has no attribute {name!r}{hint}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
