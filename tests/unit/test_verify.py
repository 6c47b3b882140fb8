"""The proof: holes are listed exactly, and damage is named, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ether import codecs
from ether.cli import main
from ether.errors import RecordingError
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import seal
from ether.recorder.account import Account, Track
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.verify import verify


def record(
    file: Path, numbers: list[int], *, last: int | None = None, birth: bool = False, end: bool = True,
    lost: bool = False, ending: dict[str, Any] | None = None, hurt: int | None = None,
) -> None:  # fmt: skip
    """Make a recording; with a bit flipped at a place of its journal, before it is made of it."""

    def status(state: str, **more: Any) -> tuple[bytes, bytes]:
        content = json.dumps({"state": state, "boot": "b", **more}).encode()
        return head(Kind.MESSAGE, 1, 1, 1, "ether/status/oven"), content

    with Journal(journal_folder(file)) as journal:
        if birth:
            journal.append(*status("init"))
        for number in numbers:
            payload = codecs.encode({"a": number, "s": "text"}, Envelope("oven", "b", number, 1.0))
            journal.append(head(Kind.MESSAGE, 1, number, number, "lab/oven"), payload)
            if number % 100 == 99:
                journal.commit()
        journal.append(*note(Kind.DUPLICATES, [["oven", "b", "lab/oven", 2]]))
        if last is not None:
            journal.append(*status("disconnected", last={"lab/oven": last}))
        if lost:
            journal.append(*status("lost"))
        if end:
            journal.append(*note(Kind.END, ending or {"reason": "stop", "connected": True}))
        journal.commit()
    if hurt is not None:
        (segment,) = journal_folder(file).glob("*.etj")
        damaged = bytearray(segment.read_bytes())
        damaged[hurt] ^= 1
        segment.write_bytes(damaged)
    seal.recover(file)


def test_a_complete_recording(tmp_path: Path) -> None:
    record(tmp_path / "r.h5", list(range(1000)), last=999, birth=True)

    report = verify(tmp_path / "r.h5")

    assert (report.complete, report.damage, report.missing) == (True, [], 0)
    (tally,) = json.loads(json.dumps(report.as_dict()))["tallies"]
    assert tally == {
        "publisher": "oven", "boot": "b", "topic": "lab/oven", "level": "L1", "first": 0, "last": 999, "announced": 999,
        "received": 1000,
        "stored": 1000, "duplicates": 2, "holes": [], "from_start": True, "rejected": 0, "missing": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "last", "birth", "holes"),
    [
        ([0, 1, 4], None, True, [[2, 3]]),
        ([4, 0, 1], None, True, [[2, 3]]),
        ([2, 3], None, True, [[0, 1]]),
        ([2, 3], None, False, []),
        ([0, 1], 4, True, [[2, 4]]),
        ([], 4, True, [[0, 4]]),
        ([], 4, False, []),
        ([7, 3, 5], 8, False, [[4, 4], [6, 6], [8, 8]]),
    ],
)
def test_holes(numbers: list[int], last: int | None, birth: bool, holes: list[list[int]], tmp_path: Path) -> None:
    record(tmp_path / "r.h5", numbers, last=last, birth=birth)

    report = verify(tmp_path / "r.h5")

    assert [tally.holes for tally in report.tallies] == [holes]
    assert report.complete is not bool(holes)
    assert report.damage == []


@pytest.mark.parametrize(
    ("how", "unproven"),
    [
        ({"lost": True}, ["oven (boot b) on 'lab/oven' after 1: it died without telling its last number"]),
        ({"lost": True, "last": 1}, []),
        ({"ending": {"reason": "stop", "connected": True}}, []),
        (
            {"ending": {"reason": "terminated", "connected": False}},
            [
                "oven (boot b) on 'lab/oven' after 1: the recorder ended before it did (terminated, cut off from the broker)"
            ],
        ),
        ({"ending": {"reason": "stop", "connected": False}, "last": 1}, []),
    ],
)
def test_a_tail_that_may_be_missing_unseen_keeps_a_recording_from_being_complete(
    how: dict[str, Any], unproven: list[str], tmp_path: Path
) -> None:
    record(tmp_path / "r.h5", [0, 1], birth=True, **how)

    report = verify(tmp_path / "r.h5")

    assert (report.unproven, report.complete) == (unproven, not unproven)


def test_a_recording_without_a_clean_end_is_not_complete(tmp_path: Path) -> None:
    record(tmp_path / "r.h5", [0, 1], end=False)

    assert (verify(tmp_path / "r.h5").state, verify(tmp_path / "r.h5").complete) == ("recovered", False)


def change(name: str, edit: Callable[[np.ndarray], None]) -> Callable[[h5py.File], None]:
    def apply(file: h5py.File) -> None:
        values = file[name][...]
        edit(values)
        file[name][...] = values

    return apply


def flip(values: np.ndarray) -> None:
    values[3] += 1


def drop_rows(file: h5py.File) -> None:
    values = file["data/lab/oven/readings/a"][:-1]
    del file["data/lab/oven/readings/a"]
    file["data/lab/oven/readings/a"] = values


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change("raw", flip), "/raw: message 0 on 'lab/oven' does not match its checksum"),
        (change("data/lab/oven/readings/a", flip), "/data/lab/oven/readings/a: changed since it was sealed"),
        (change("data/lab/oven/readings/time", flip), "/data/lab/oven/readings/time: changed since it was sealed"),
        (change("messages", lambda rows: rows["t_recv"].__setitem__(3, 7)), "content_sha256: the messages are not"),
        (change("messages", lambda rows: rows["n"].__setitem__(3, 2)), "are stored twice"),
        (drop_rows, "/data/lab/oven/readings/a: 299 rows, the stream has 300"),
        (lambda file: file.__delitem__("raw"), "/raw: cannot be read"),
        (lambda file: file.__delitem__("topics"), "/messages"),
        (lambda file: file.__delitem__("data/lab"), "/data: nothing of 'lab/oven', the ledger holds 300 readings"),
        (lambda file: file.__delitem__("checksums"), "/checksums: cannot be read"),
    ],
    ids=["raw", "column", "time", "ledger", "number", "rows", "no raw", "no topics", "no data", "no checksums"],
)
def test_damage_is_named(damage: Callable[[h5py.File], None], named: str, tmp_path: Path) -> None:
    record(tmp_path / "r.h5", list(range(300)))
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        damage(file)

    report = verify(tmp_path / "r.h5")

    assert not report.complete
    if named != "/messages":
        assert any(named in line for line in report.damage), report.damage
    assert report.damage


def test_any_flipped_byte_is_named_or_harmless_and_never_a_traceback(tmp_path: Path) -> None:
    record(tmp_path / "r.h5", list(range(300)))
    whole = (tmp_path / "r.h5").read_bytes()
    with h5py.File(tmp_path / "r.h5") as file:
        place = file["raw"].id.get_chunk_info(0)
    unnoticed, lines = [], []

    for offset in [*range(0, len(whole), len(whole) // 40), *range(place.byte_offset, place.byte_offset + 40, 10)]:
        damaged = bytearray(whole)
        damaged[offset] ^= 0x10
        (tmp_path / "d.h5").write_bytes(damaged)
        try:
            named = " ".join(verify(tmp_path / "d.h5").damage)
        except RecordingError as exc:
            named = str(exc)
        lines.append(named)
        if not named:
            unnoticed.append(offset)

    assert not any("\n" in line for line in lines)
    assert not [offset for offset in unnoticed if place.byte_offset <= offset < place.byte_offset + place.size]


@pytest.mark.parametrize("place", ["journal", "raw", "column", "sealed file"])
def test_a_byte_that_flipped_is_found_by_the_command(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the bytes on disk, not by HDF5: in the journal before the file is made of it, or in the file."""
    file = tmp_path / "r.h5"
    if place == "journal":
        record(file, list(range(300)), birth=True, last=299, hurt=700)
    else:
        record(file, list(range(300)), birth=True, last=299)
        assert main(["verify", str(file)]) == 0
        with h5py.File(file) as opened:
            dataset = opened["raw" if place == "raw" else "data/lab/oven/readings/a"]
            chunk = dataset.id.get_chunk_info(0) if dataset.chunks else None
            offset = dataset.id.get_offset() if chunk is None else chunk.byte_offset
        whole = bytearray(file.read_bytes())
        if place == "sealed file":
            offset = whole.index(b"ether/status/oven")
        whole[offset + 10] ^= 1
        file.write_bytes(whole)
    capsys.readouterr()

    assert main(["verify", str(file)]) == 5

    out = capsys.readouterr().out
    assert "damage: " in out
    assert "INCOMPLETE" in out


def test_a_truncated_file_has_one_clear_line(tmp_path: Path) -> None:
    record(tmp_path / "r.h5", list(range(300)))
    whole = (tmp_path / "r.h5").read_bytes()
    (tmp_path / "r.h5").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(RecordingError, match="damaged or not readable"):
        verify(tmp_path / "r.h5")


def test_a_journal_that_was_damaged_is_told(tmp_path: Path) -> None:
    file = tmp_path / "r.h5"
    with Journal(journal_folder(file)) as journal:
        for number in range(20):
            payload = codecs.encode({"a": number}, Envelope("oven", "b", number, 1.0))
            journal.append(head(Kind.MESSAGE, 1, number, number, "lab/oven"), payload)
            journal.commit()
        journal.append(*note(Kind.END, {}))
        journal.commit()
    (segment,) = journal_folder(file).glob("*.etj")
    damaged = bytearray(segment.read_bytes())
    damaged[500] ^= 1
    segment.write_bytes(damaged)
    seal.recover(file)

    report = verify(file)

    (lost,) = report.tallies[0].holes
    assert lost[0] == lost[1]
    assert [line.startswith("journal: 000001.etj:") for line in report.damage] == [True]
    assert not report.complete


def test_the_account_takes_numbers_in_any_order() -> None:
    track = Track(fresh=True)

    taken = [
        track.take(first, last) for first, last in [(0, 0), (3, 5), (3, 5), (4, 4), (1, 2), (8, 9), (5, 8), (0, 9)]
    ]

    assert taken == [True, True, False, False, True, True, True, False]
    assert (track.spans, track.received, track.duplicates) == ([[0, 9]], 10, 3)
    assert track.watermark() == 9


def test_a_watermark_never_passes_a_hole() -> None:
    account = Account()
    account.heard("oven", {"state": "init", "boot": "b"}, replay=False)
    for number in (1, 2):
        account.take("t", Envelope("oven", "b", number))
    track = account.tracks["oven", "b", "t"]
    before = track.watermark()
    account.take("t", Envelope("oven", "b", 0))

    assert (before, track.watermark()) == (None, 2)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":1,"_ether":{"by":"x","b":"y","n":7,"t":1.5}}',
        b'{"_ether": {"by": "x", "b": "y", "n": 7, "t": 1.5}, "a": {"_ether": 3}}\n',
        codecs.encode({"a": np.arange(3)}, Envelope("x", "y", 7, 1.5)),
        codecs.CBOR_MAGIC + __import__("cbor2").dumps({"_ether": {"by": "x", "b": "y", "n": 7, "t": 1.5}, "a": [1]}),
    ],
)
def test_numbering_is_found_wherever_it_stands(payload: bytes) -> None:
    assert codecs.numbering(payload) == Envelope("x", "y", 7, 1.5)


@pytest.mark.parametrize(
    "payload",
    [b"", b"_ether", b'"_ether":{"by":"x","b":"y","n":7}}', b'{"_ether": []}', codecs.CBOR_MAGIC + b"_ether",
     b'{"s":"\\"_ether\\":{\\"by\\":\\"x\\",\\"b\\":\\"y\\",\\"n\\":7}}"}',
     b'{"a":{"_ether":{"by":"x","b":"y","n":7}}}'],
)  # fmt: skip
def test_what_is_no_numbering_is_none(payload: bytes) -> None:
    assert codecs.numbering(payload) is None


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":1,"_ether":{"by":"x","b":"y","n":7,"t":1.5,"k":3,"dt":0.5}}',
        b'{"_ether": {"by": "x", "b": "y", "n": 7}, "a": {"_ether": 3}}\n',
        b'{"a":{"_ether":{"by":"x","b":"y","n":7}}}',
        b'{"_ether":{"by":"x","b":"y","n":1},"_ether":{"by":"x","b":"y","n":7}}',
        b'{"\\u005fether":{"by":"x","b":"y","n":7},"a":1}',
        b'{"a":1,"_ether":"mine"}',
        b'{"a":1',
        b'{a,"_ether":{"by":"x","b":"y","n":7}}',
        b'["_ether"]',
        b"",
        codecs.encode({"a": [1, 2]}, Envelope("x", "y", 7, 1.5)),
        codecs.encode({"a": b"x"}, Envelope("x", "y", 7, 1.5)),
    ],
)
def test_the_writer_numbers_a_message_as_ingest_does(payload: bytes) -> None:
    fields, envelope = codecs.parsed(payload)

    assert envelope == codecs.numbering(payload)
    assert fields is None or fields == codecs.decode(payload)[0]
