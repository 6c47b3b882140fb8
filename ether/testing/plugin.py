"""What pytest finds by itself: the fixture `ether_lab`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ether.testing.lab import Lab

__all__ = ["ether_lab"]


@pytest.fixture
def ether_lab() -> Iterator[Lab]:
    """A session in this process, on a clock that the test drives: `tap(config)` begins it, the test's end ends it."""
    from ether.testing.lab import Lab  # only by whom it is used: every run of pytest imports this module

    with Lab() as lab:
        yield lab
