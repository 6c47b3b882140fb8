from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples/external_classes"


def test_classes_that_nobody_edited_are_wired_by_yaml(run_example: Callable[[str], Any]) -> None:
    done = run_example("external_classes")

    assert done.lines == [
        "incubator: {'port': 'sim', 'target': 37.0}",
        "history reached 36.5 degC: True",
    ]
    with done.recording as recording:
        celsius = recording["lab/incubator"].to_numpy()["celsius"]
        assert celsius[0] == 20.0
        assert celsius[-1] >= 36.5
        assert recording["lab/incubator"].fields["celsius"].unit == "degC"


def test_the_third_party_module_does_not_import_ether() -> None:
    assert "import ether" not in (EXAMPLE / "vendor_thermo.py").read_text()
