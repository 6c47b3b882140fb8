"""Plots: which lines share an axis, what is marked, that nothing is smoothed over; as pictures and in a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ether import codecs
from ether.cli import main
from ether.cli.plot import decimated
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note

T0 = 1_795_374_229
COLUMNS, LINES = 80, 24


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of an oven with a hole, a room, a run and two annotations."""
    file = tmp_path_factory.mktemp("plot") / "bake.h5"
    units = {
        "lab/oven": {"fields": {"celsius": {"unit": "degC"}, "power": {"unit": "W"}}},
        "lab/room": {"fields": {"celsius": {"unit": "degC"}}},
    }
    run = {"id": "r", "name": "bake", "number": 1, "started": T0 + 20, "stopped": T0 + 80, "outcome": "success"}
    with Journal(journal_folder(file)) as journal:

        def message(after: float, topic: str, payload: bytes) -> None:
            journal.append(head(Kind.MESSAGE, 1, round((T0 + after) * 1e9), 0, topic), payload)

        message(0, "ether/about/oven", json.dumps({"boot": "b", "publishes": units}).encode())
        message(0, "ether/run", json.dumps(run).encode())
        message(0, "ether/annotation", json.dumps({"text": "costs $5 or $6", "t0": T0 + 30}).encode())
        message(0, "ether/annotation", json.dumps({"text": "draught", "t0": T0 + 40, "t1": T0 + 50}).encode())
        for number in range(100):
            if not 60 <= number < 70:
                fields = {
                    "celsius": number + 20.0,
                    "power": 800,
                    "on": number % 20 < 10,
                    "xyz": np.arange(3.0),
                    "who": "a",
                }
                message(number, "lab/oven", codecs.encode(fields, Envelope("oven", "b", number, T0 + number)))
            message(number, "lab/room", codecs.encode({"celsius": 21.0}, Envelope("room", "b", number, T0 + number)))
        message(0, "lab/words", b'{"who": "Ada"}')
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return file


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("LINES", str(LINES))


def test_in_a_terminal_it_fits_and_says_what_it_shows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotext")

    assert main(["plot", str(file), "lab/oven:celsius", "lab/room"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= LINES - 1
    assert max(map(len, lines)) <= COLUMNS
    assert "\x1b" not in "".join(lines)
    assert lines[0] == "bake.h5, from 2026-11-22 19:03:49 (UTC)"
    assert lines[1].strip() == "celsius [degC]"
    assert "lab/oven celsius" in lines[3] and "lab/room celsius" in lines[4]
    assert lines[-3:] == [
        "  run   19:04:09 – 19:05:09  bake",
        "  note  19:04:19  costs $5 or $6",
        "  note  19:04:29 – 19:04:39  draught",
    ]


def test_a_hole_stays_a_hole(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotext")

    main(["plot", str(file), "lab/oven:power", "--from", "55s", "--until", "75s"])

    drawn = [line.partition("┤")[2] for line in capsys.readouterr().out.splitlines() if "⠤" in line or "⠒" in line]
    assert [" " * 25 in line.strip("│ ") for line in drawn] == [True]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_as_a_picture(file: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"a.{suffix}"

    assert main(["plot", str(file), "lab/#", "--out", str(out)]) == 0

    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    assert told.err == "ether: left out, since no line can be drawn of it: lab/oven:who (str), lab/words:who (str)\n"
    if suffix == "svg":
        text = out.read_text()
        for word in (
            "celsius [degC]",
            "power [W]",
            "lab/oven on",
            "lab/oven xyz[2]",
            "bake",
            "costs $5 or $6",
            "draught",
            "time (UTC)",
        ):
            assert f">{word}<" in text or f"> {word}<" in text, word
    else:
        assert out.read_bytes()[:4] in (b"\x89PNG", b"%PDF")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["lab/ovn"], "no topic 'lab/ovn' in bake.h5; nearest: 'lab/oven', 'lab/room'"),
        (["lab/oven:celcius"], "no field 'celcius' in 'lab/oven'; there are: celsius, on, power, who, xyz"),
        (["lab/words"], "nothing to draw; `ether info` lists topics and fields"),
        (["lab/oven", "--from", "1h"], "no reading in what was asked for"),
        (["lab/oven", "--out", "a.jpeg"], "a.jpeg: end it in one of .png, .svg, .pdf"),
        (["lab/oven", "--out", "there.png"], "there.png: exists; nothing is overwritten"),
        (["lab/oven", "--out", "no/a.png"], "no/a.png: cannot be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_drawn_has_one_line(
    file: Path, words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("there.png").write_text("mine")

    assert main(["plot", str(file), *words]) in (1, 2)

    assert line in capsys.readouterr().err.splitlines()[-1]
    assert (os.listdir(tmp_path), Path("there.png").read_text()) == (["there.png"], "mine")


def test_thinning_out_keeps_peaks_breaks_and_ends() -> None:
    time = np.arange(1_000_000).view("datetime64[ns]")
    values = np.sin(np.arange(1_000_000) / 1e5)
    values[123_456], values[654_321] = 50.0, -50.0
    values[400_000:400_100] = np.nan

    kept, thin = decimated(time, values, 1000)

    assert len(thin) <= 1010
    assert (np.nanmax(thin), np.nanmin(thin), np.isnan(thin).sum()) == (50.0, -50.0, 1)
    assert (kept[0], kept[-1]) == (time[0], time[-1])
    assert (np.diff(kept.astype(int)) > 0).all()
    assert np.isnan(decimated(time[:5000], np.full(5000, np.nan), 1000)[1]).all()
