"""The C client on what it is made for: how large it is there, and that each example compiles without a warning."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hardware_c import EXAMPLES, HEADERS, SOURCES, STRICT

CORTEX_M0 = ["arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb", "-Os", "-std=c99"]
AVR = ["avr-gcc", "-mmcu=atmega328p", "-Os", "-mcall-prologues", "-std=c99"]
ARDUINO = ["-x", "c++", "-std=c++11", f"-I{SOURCES / 'arduino'}", "-include", "Arduino.h"]
SKETCHES = {name: EXAMPLES / name / f"{name}.ino" for name in ("arduino_wifi", "arduino_ethernet")}


@pytest.fixture
def compiled(tmp_path: Path, missing: Any) -> Any:
    """Compile a source with every warning an error; return sections' sizes: text, data, bss."""

    def compile_(source: Path, command: list[str], *flags: str) -> tuple[int, int, int]:
        if shutil.which(command[0]) is None:
            missing(command[0])
        target = tmp_path / "object.o"
        words = [*command, *STRICT, f"-I{HEADERS}", *flags, "-c", str(source), "-o", str(target)]
        subprocess.run(words, check=True)
        size = "avr-size" if "avr" in command[0] else "arm-none-eabi-size" if "arm" in command[0] else "size"
        said = subprocess.run([size, target], check=True, capture_output=True, text=True).stdout
        text, data, bss = said.splitlines()[1].split()[:3]
        return int(text), int(data), int(bss)

    return compile_


@pytest.mark.parametrize(
    ("command", "flags", "limit"),
    [(CORTEX_M0, [], 5300), (CORTEX_M0, ["-DEVERYTHING"], 6650), (AVR, [], 8310), (AVR, ["-DEVERYTHING"], 10550)],
    ids=["cortex-m0", "cortex-m0 with all functions", "avr", "avr with all functions"],
)
def test_size_on_small_processors(compiled: Any, command: list[str], flags: list[str], limit: int) -> None:
    text, data, bss = compiled(SOURCES / "size.c", command, "-fno-common", *flags)

    assert text <= limit
    assert data == 0
    assert 500 < bss <= 700  # a device with two topics


@pytest.mark.parametrize("name", sorted(SKETCHES))
@pytest.mark.parametrize("board", [[], ["-DESP32"]], ids=["any board", "ESP32"])
def test_arduino_example_compiles_against_the_core_as_far_as_it_uses_it(
    compiled: Any, name: str, board: list[str]
) -> None:
    assert compiled(SKETCHES[name], ["g++"], *ARDUINO, *board)


def test_ethernet_example_compiles_for_the_uno(compiled: Any) -> None:
    less = ["-DETHER_MISSING=0", "-DETHER_EVERY=0"]  # as one would where flash is scarce

    text, data, bss = compiled(SKETCHES["arduino_ethernet"], ["avr-g++", "-mmcu=atmega328p", "-Os"], *ARDUINO, *less)

    assert data + bss < 1024  # half of its RAM is left to the core and the Ethernet library
    assert text < 16384  # and half of its flash
