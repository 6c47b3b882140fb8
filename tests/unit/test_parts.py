"""Recordings of several parts: written, sealed, read and proven as one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ether import codecs
from ether.errors import RecordingError
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.parts import first_of, part_path, parts_of
from ether.recorder.reader import Recording, open_recording
from ether.recorder.verify import verify

T0 = 1_795_374_229_000_000_000
ROLL = "roll"


def record(file: Path, entries: list[Any], *, end: bool = True) -> Recording:
    """Make a recording of (topic, payload) pairs, one a second, with rolls in between; return it opened."""
    with Journal(journal_folder(file), segment_bytes=1 << 20) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "test"}, "provenance": {"config": "a: 1\n"}}))
        for number, entry in enumerate(entries):
            if entry == ROLL:
                journal.append(*note(Kind.ROLL, {}))
            else:
                topic, payload = entry
                journal.append(head(Kind.MESSAGE, 1, T0 + number * 10**9, number, topic), payload)
        if end:
            journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return open_recording(file)


class Oven:
    """Publishes with numbers."""

    def __init__(self, topic: str = "lab/oven") -> None:
        self.topic = topic
        self.number = -1

    def says(self, value: Any) -> tuple[str, bytes]:
        self.number += 1
        return self.topic, codecs.encode(value, Envelope("oven", "b1", self.number, T0 / 1e9 + self.number))


def status(name: str, state: str, **more: Any) -> tuple[str, bytes]:
    return f"ether/status/{name}", codecs.encode({"state": state, "boot": "b1", **more})


def three_parts(folder: Path) -> Path:
    file, oven = folder / "growth.h5", Oven()
    record(
        file,
        [status("oven", "init"), oven.says(1), oven.says(2), ROLL, oven.says(3), ROLL, oven.says(4),
         status("oven", "disconnected", last={"lab/oven": 3})],
    ).close()  # fmt: skip
    return file


def test_parts_are_read_as_one(tmp_path: Path) -> None:
    file = three_parts(tmp_path)

    with open_recording(file) as recording:
        oven = recording["lab/oven"]

        assert [path.name for path in recording.parts] == ["growth.h5", "growth.part-0002.h5", "growth.part-0003.h5"]
        assert oven["value"].tolist() == [1, 2, 3, 4]
        assert oven.number.tolist() == [0, 1, 2, 3]
        assert oven.publisher.tolist() == ["oven"] * 4
        assert oven.between(T0 / 1e9 + 1, T0 / 1e9 + 3)["value"].tolist() == [2, 3]
        assert [message.number for message in recording.messages() if message.publisher] == [0, 1, 2, 3]
        assert (recording.info()["messages"], recording.state) == (6, "sealed")
        assert len(oven.to_pandas()) == 4


def test_parts_are_proven_as_one(tmp_path: Path) -> None:
    report = verify(three_parts(tmp_path))

    assert report.complete, report
    assert (report.parts, report.messages) == (3, 6)
    assert [(tally.first, tally.last, tally.stored, tally.holes) for tally in report.tallies] == [(0, 3, 4, [])]


def test_a_folder_or_any_part_stands_for_the_recording(tmp_path: Path) -> None:
    file = three_parts(tmp_path)

    for name in (tmp_path, part_path(file, 2)):
        with open_recording(name) as recording:
            assert (recording.path, len(recording["lab/oven"])) == (file, 4)
    shutil.copy(file, tmp_path / "other.h5")
    with pytest.raises(RecordingError, match=r"a folder; name one recording in it: growth\.h5, other\.h5"):
        open_recording(tmp_path)


def test_a_part_that_was_copied_away_alone_can_be_read(tmp_path: Path) -> None:
    file = three_parts(tmp_path)
    (tmp_path / "away").mkdir()
    alone = shutil.copy(part_path(file, 2), tmp_path / "away")

    with open_recording(alone) as recording:
        assert recording["lab/oven"]["value"].tolist() == [3]
        assert recording.provenance["config"] == "a: 1\n"
        assert recording.damage == [
            f"{tmp_path / 'away' / 'growth.h5'}: is missing; it begins with growth.part-0002.h5",
            f"{tmp_path / 'away' / 'growth.part-0003.h5'}: no such file, and the part before is not the last",
        ]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_missing_part_is_named(tmp_path: Path, lost: int) -> None:
    file = three_parts(tmp_path)
    part_path(file, lost).unlink()

    report = verify(part_path(file, 2) if lost == 1 else file)

    assert not report.complete
    assert [line for line in report.damage if part_path(file, lost).name in line]


def test_exchanged_parts_are_named(tmp_path: Path) -> None:
    file = three_parts(tmp_path)
    (tmp_path / "b").mkdir()
    other, oven = tmp_path / "b" / "growth.h5", Oven()
    record(other, [oven.says(7), ROLL, oven.says(8), ROLL, oven.says(9)]).close()
    two, three = part_path(file, 2), part_path(file, 3)

    shutil.copy(part_path(other, 2), tmp_path / "kept")
    two.rename(tmp_path / "two")
    (tmp_path / "kept").rename(two)
    assert f"{two}: does not follow {file}; one of them was exchanged" in verify(file).damage

    three.rename(two)
    assert f"{two}: is part 3 of a recording, not part 2" in verify(file).damage


def test_a_flipped_bit_is_named_with_its_part(tmp_path: Path) -> None:
    file = three_parts(tmp_path)
    part = part_path(file, 2)
    with h5py.File(part, "r+") as hurt:
        hurt["raw"][0] ^= 1

    damage = verify(file).damage

    assert damage
    assert all(line.startswith("growth.part-0002.h5: ") for line in damage)


def test_a_hole_over_the_border_of_parts_is_counted(tmp_path: Path) -> None:
    file, oven = tmp_path / "g.h5", Oven()
    first = oven.says(1)
    oven.number = 4
    record(file, [status("oven", "init"), first, ROLL, oven.says(2)]).close()

    report = verify(file)

    assert [tally.holes for tally in report.tallies] == [[[1, 4]]]
    with open_recording(file) as recording:
        assert [(gap["first"], gap["last"]) for gap in recording.gaps] == [(1, 4)]


def test_what_comes_again_in_a_later_part_is_known(tmp_path: Path) -> None:
    file, oven = tmp_path / "g.h5", Oven()
    with Journal(journal_folder(file)) as journal:
        topic, payload = oven.says(1)
        journal.append(head(Kind.MESSAGE, 1, T0, 0, topic), payload)
        journal.append(*note(Kind.ROLL, {}))
        journal.append(*note(Kind.DUPLICATES, [["oven", "b1", topic, 2]]))
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)

    assert [tally.duplicates for tally in verify(file).tallies] == [2]


def test_a_run_over_several_parts_is_one_run(tmp_path: Path) -> None:
    oven = Oven()
    run = {"id": "r1", "name": "growth", "number": 1, "started": T0 / 1e9}
    ended = {**run, "stopped": T0 / 1e9 + 9, "outcome": "success"}

    with record(
        tmp_path / "g.h5",
        [("ether/run", codecs.encode(run)), oven.says(1), ROLL, oven.says(2), ROLL, oven.says(3),
         ("ether/run", codecs.encode(ended))],
    ) as recording:  # fmt: skip
        assert [(run.name, run.outcome) for run in recording.runs] == [("growth", "success")]
        assert recording["lab/oven"].during("growth")["value"].tolist() == [1, 2, 3]


def test_instances_are_told_once(tmp_path: Path) -> None:
    about = {"class": "lab.Oven", "boot": "b1", "publishes": {"lab/oven": {"fields": {"value": {"unit": "degC"}}}}}
    oven = Oven()

    with record(tmp_path / "g.h5", [("ether/about/oven", codecs.encode(about)), ROLL, oven.says(1)]) as recording:
        assert [row["name"] for row in recording.provenance["instances"]] == ["oven"]
        assert recording["lab/oven"].fields["value"].unit == "degC"


@pytest.mark.parametrize(
    ("before", "after", "read"),
    [
        ([1, 2], [0.5], [1.0, 2.0, 0.5]),
        ([0.5], [2], [0.5, 2.0]),
        ([1, None], [0.5], [1.0, None, 0.5]),
        ([(1 << 53) + 1], [0.5], [(1 << 53) + 1, 0.5]),
        ([None], [1], [None, 1]),
        ([1], [None], [1, None]),
        (["a"], [None, "b"], ["a", None, "b"]),
        ([True], [False], [True, False]),
        ([[1, 2]], [[1.5, 2.5]], [[1.0, 2.0], [1.5, 2.5]]),
        ([[1, 2]], [[3]], [[1, 2], [3]]),
        ([[1, 2], [3]], [[4, 5]], [[1, 2], [3], [4, 5]]),
        ([[1, 2]], [None], [[1, 2], None]),
        ([b"a"], [b"bc"], [b"a", b"bc"]),
        ([b"a"], [None], [b"a", None]),
    ],
)
def test_a_column_whose_type_changes_between_parts_keeps_all_values(
    tmp_path: Path, before: list[Any], after: list[Any], read: list[Any]
) -> None:
    oven = Oven()
    said = [oven.says({"x": value}) for value in before], [oven.says({"x": value}) for value in after]

    with record(tmp_path / "g.h5", [*said[0], ROLL, *said[1]]) as recording:
        stream = recording["lab/oven"]
        found = stream.to_numpy()["x"]

        assert [plain(value) for value in found] == read
        assert [plain(value) for value in stream.take(np.array([len(read) - 1, 0])).to_numpy()["x"]] == [
            read[-1],
            read[0],
        ]
        assert len(stream.to_pandas()) == len(read)
        assert verify(recording.path).damage == []


def test_other_types_keep_their_column_through_all_parts(tmp_path: Path) -> None:
    oven = Oven()

    with record(
        tmp_path / "g.h5",
        [oven.says({"x": 1}), oven.says({"x": "a"}), ROLL, oven.says({"x": "b"}), ROLL, oven.says({"x": 2}),
         oven.says({"y": 0.5})],
    ) as recording:  # fmt: skip
        found = recording["lab/oven"].to_numpy()

        assert found["x"].tolist() == [1, None, None, 2, None]
        assert found["x@str"].tolist() == [None, "a", "b", None, None]
        assert [plain(value) for value in found["y"]] == [None, None, None, None, 0.5]


def test_the_journal_is_dropped_as_far_as_parts_are_sealed(tmp_path: Path) -> None:
    file, oven = tmp_path / "g.h5", Oven("lab/" + "x" * 200)
    filler = [oven.says({"x": "y" * 1000}) for _ in range(9000)]
    entries = [status("oven", "init"), *filler[:8990], ROLL, *filler[8990:]]
    with Journal(journal_folder(file), segment_bytes=4 << 20) as journal:
        for number, entry in enumerate(entries):
            pair = note(Kind.ROLL, {}) if entry == ROLL else (head(Kind.MESSAGE, 1, T0, number, entry[0]), entry[1])
            journal.append(*pair)
            if number % 1000 == 0:
                journal.commit()
        journal.commit()
    before = sorted(path.name for path in journal_folder(file).glob("*.etj"))

    died = []

    def die(part: Any, journal: Path) -> None:
        if part.number == 2:
            died.append([path.name for path in journal.glob("*.etj")])
            raise KeyboardInterrupt
        return really(part, journal)

    really = seal.seal
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(seal, "seal", die)
        seal.recover(file)

    assert len(before) == 3
    assert died == [before[-1:]]
    assert seal.recover(file) is True
    report = verify(file)
    assert (report.messages, report.missing, report.damage) == (len(entries) - 1, 0, [])


@pytest.mark.parametrize("step", ["_rewrite", "prove", "sync_directory", "drop_segments", "_drop"])
def test_recovery_killed_around_a_roll_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file, oven = tmp_path / "k.h5", Oven()
    entries = [status("oven", "init"), oven.says(1), ROLL, oven.says(2), ROLL, oven.says(3)]
    really, calls = getattr(seal, step), [0]

    def fail(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == (1 if step == "_drop" else 2):
            raise KeyboardInterrupt
        return really(*given)

    monkeypatch.setattr(seal, step, fail)
    with pytest.raises(KeyboardInterrupt):
        record(file, entries, end=False)
    monkeypatch.undo()

    assert seal.recover(file) is True
    report = verify(file)
    assert (report.parts, report.state, report.messages, report.damage) == (3, "recovered", 4, [])
    assert not journal_folder(file).exists()


def test_names_of_parts(tmp_path: Path) -> None:
    file = tmp_path / "a.b.h5"
    for number in (1, 2, 12_345):
        part_path(file, number).touch()
    (tmp_path / "a.b.part-2.h5").touch()

    assert parts_of(file) == {1: file, 2: tmp_path / "a.b.part-0002.h5", 12_345: tmp_path / "a.b.part-12345.h5"}
    assert {first_of(path) for path in parts_of(file).values()} == {file}


def plain(value: Any) -> Any:
    """Return a value of a column as plain Python has it; None for NaN."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
        return None if all(item != item for item in value) else value
    value = value.item() if isinstance(value, np.generic) else value
    return None if value != value else value
