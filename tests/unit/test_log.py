"""The session's log: bounded, read while it is written and after a crash, and each line with its level."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ether import log
from ether.log import Line, SessionLog

TRACEBACK = ["Traceback (most recent call last):", '  File "oven.py", line 1', "OSError: no port"]


@pytest.fixture
def opened() -> list[SessionLog]:
    return []


@pytest.fixture
def new(opened: list[SessionLog]) -> Callable[..., SessionLog]:
    def make(session: str = "lab", session_id: str = "id", **options: object) -> SessionLog:
        opened.append(SessionLog(session, session_id, ["oven"], **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def _said(path: Path) -> list[tuple[str, str]]:
    return [(line.level or line.stream, line.message) for line in log.read(path) if line.name == "oven"]


def test_records_prints_and_tracebacks_are_told_apart(new: Callable[..., SessionLog]) -> None:
    found = new()

    found.hear("oven", 7, "stderr", ["2026-01-16 11:28:42.765 - oven:8 - ERROR - it failed", *TRACEBACK])
    found.hear("oven", 7, "stderr", ["a library complains"])
    found.hear("oven", 7, "stdout", ["2026-01-16 11:28:42.765 - oven:8 - ERROR - said by a print"])

    assert _said(found.path) == [
        ("ERROR", "it failed"), *(("ERROR", line) for line in TRACEBACK),
        ("stderr", "a library complains"), ("stdout", "2026-01-16 11:28:42.765 - oven:8 - ERROR - said by a print"),
    ]  # fmt: skip
    assert [line.pid for line in log.read(found.path) if line.name == "oven"] == [8, 7, 7, 7, 7, 7]


def test_records_in_json_are_read_too(new: Callable[..., SessionLog]) -> None:
    found = new()

    found.hear("oven", 7, "stderr", ['{"t": 1.5, "pid": 8, "level": "ERROR", "message": "hot", "traceback": "Trace"}'])
    found.hear("oven", 7, "stderr", ['{"t": 1.5, "what": "a print that looks like one"}'])

    assert [level for level, _ in _said(found.path)] == ["ERROR", "stderr"]
    assert _said(found.path)[0][1] == "hot\nTrace"


def test_a_log_is_bounded_and_keeps_the_newest(new: Callable[..., SessionLog], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_PART_BYTES", 10_000)
    found = new()

    for number in range(1000):
        found.hear("oven", 7, "stdout", [f"line {number}"])

    assert sum(path.stat().st_size for path in log.folder().iterdir()) < 25_000
    said = [message for _, message in _said(found.path)]
    assert said == [f"line {number}" for number in range(1000 - len(said), 1000)]
    assert len(said) > 50


def test_who_follows_misses_nothing_though_the_file_is_full_meanwhile(
    new: Callable[..., SessionLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_PART_BYTES", 2_000)
    found = new()
    ended = threading.Event()
    numbers = iter(range(500))
    followed: list[str] = []

    for line in log.follow(found.path, lambda: not ended.is_set(), lambda seconds: None):
        if line is not None:
            followed.append(line.message)
            continue
        for _ in range(5):
            if (number := next(numbers, None)) is None:
                ended.set()
                break
            found.hear("oven", 7, "stdout", [f"line {number}"])

    assert [message for message in followed if message.startswith("line")] == [f"line {n}" for n in range(500)]


def test_what_a_killed_process_left_half_written_is_passed_over(new: Callable[..., SessionLog]) -> None:
    found = new()
    found.hear("oven", 7, "stdout", ["whole"])
    with found.path.open("a") as file:
        file.write('{"t": 1.0, "name": "ov')

    assert _said(found.path) == [("stdout", "whole")]


def test_the_newest_is_found_by_name_and_those_of_long_ago_go(new: Callable[..., SessionLog]) -> None:
    place = log.folder()
    place.mkdir(parents=True)
    for number in range(30):
        (place / f"2020{number:04}-000000-old-{number:08}.log").write_text('{"session": "old"}\n')

    found = new("new/lab", running=["00000003"])

    assert (log.find(), log.find("new/lab"), log.find("none")) == (found.path, found.path, None)
    assert log.header(found.path)["instances"] == ["oven"]
    left = [path.stem.rpartition("-")[2] for path in place.glob("*old*")]
    assert len(left) == 21 and "00000003" in left and "00000000" not in left
    assert log.find("old") == place / "20200029-000000-old-00000029.log"


def test_the_log_of_the_session_that_ended_last_is_found_and_not_of_who_was_refused_meanwhile(
    new: Callable[..., SessionLog],
) -> None:
    first, refused = new(session_id="a"), new(session_id="b")

    refused.close()
    os.utime(refused.path, ns=(0, first.path.stat().st_mtime_ns - 1))
    found_meanwhile = log.unfinished("lab")
    first.close()

    assert (found_meanwhile, log.find()) == (first.path, first.path)


def test_who_asks_from_elsewhere_gets_what_is_new(new: Callable[..., SessionLog]) -> None:
    found = new()
    found.hear("oven", 7, "stdout", ["one"])
    first = found.recent()
    found.hear("oven", 7, "stdout", ["two"])

    assert [Line(**line).message for line in found.recent(first["next"])["lines"]] == ["two"]


def test_a_disk_that_refuses_is_said_once(
    new: Callable[..., SessionLog], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    found = new()
    found.hear("oven", 7, "stdout", ["one", "two"])

    (record,) = caplog.records
    assert "cannot be written" in record.message and str(found.path) in record.message


def test_a_log_without_an_end_is_that_of_a_session_that_goes_on_or_was_killed(new: Callable[..., SessionLog]) -> None:
    ended, goes_on = new("ended"), new("goes-on", "other")

    ended.close()

    assert (log.unfinished("ended"), log.unfinished("goes-on"), log.unfinished("none")) == (None, goes_on.path, None)
    assert log.header(goes_on.path)["pid"] == os.getpid()
