from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/serial_device"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_serial_instrument_is_written_to_read_and_closed(run_example: Callable[[str], Any]) -> None:
    done = run_example("serial_device")

    assert done.lines == [
        "identified: EXAMPLE,SUPPLY,0,1.0",
        "measured: 5.0 V",
        "left switched off: OUTP OFF",
    ]
    with done.recording as recording:
        stream = recording["bench/supply"]
        assert stream.to_numpy()["volts"][-1] == 5.0
        assert stream.fields["volts"].unit == "V"


def test_the_instrument_does_not_import_ether() -> None:
    assert "import ether" not in (EXAMPLE / "supply.py").read_text()
