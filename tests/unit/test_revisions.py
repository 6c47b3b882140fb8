"""What is said of a finished recording afterwards: kept beside the sealed file, merged when read, proven by its chain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from ether import codecs
from ether.cli import main
from ether.errors import RecordingError
from ether.journal import Journal
from ether.model import Annotation, Envelope
from ether.recorder import revisions, seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.reader import open_recording
from ether.recorder.verify import verify

T0 = 1_795_374_229


def record(file: Path, session: str = "s") -> Path:
    remark = {"text": "while it ran", "t0": T0 + 1.5, "by": "ada"}
    with Journal(journal_folder(file)) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": session}, "provenance": {}}))
        journal.append(head(Kind.MESSAGE, 1, T0 * 10**9, 0, "ether/annotation"), json.dumps(remark).encode())
        for number in range(5):
            payload = codecs.encode({"v": session}, Envelope("oven", "b", number, T0 + number))
            journal.append(head(Kind.MESSAGE, 1, (T0 + number) * 10**9, number, "lab/oven"), payload)
        journal.append(*note(Kind.END, {"reason": "stop", "connected": True}))
        journal.commit()
    seal.recover(file)
    return file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return record(tmp_path / "r.h5")


def digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def lines(file: Path) -> list[str]:
    return revisions.path_of(file).read_text().splitlines(keepends=True)


def test_a_remark_afterwards_is_read_with_the_others_and_the_file_stays_as_it_was(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(file)

    words = [
        "annotate",
        str(file),
        "µ was 3",
        "--tag",
        "fix",
        "--at",
        "2s",
        "--until",
        "3s",
        "--value",
        "mu=3",
        "--by",
        "eve",
    ]
    assert main(words) == 0
    assert main(["annotate", str(file), "good run"]) == 0

    assert capsys.readouterr().out.startswith("revision 1 of r.h5, sha256 ")
    assert digest(file) == before
    with open_recording(file) as recording:
        assert recording.annotations[:2] == [
            Annotation("while it ran", T0 + 1.5, by="ada"),
            Annotation("µ was 3", T0 + 2.0, T0 + 3.0, ("fix",), {"mu": 3}, "eve", revision=1),
        ]
        last = recording.annotations[2]
        assert (last.text, last.t0, last.t1, last.revision) == ("good run", T0, T0 + 4.0, 2)
        assert last.by.partition("@")[2]
        assert recording.info()["revisions"] == 2
    report = verify(file)
    assert (report.complete, report.revisions, report.damage) == (True, 2, [])
    assert report.revisions_sha256 == json.loads(lines(file)[1])["sha256"]
    assert main(["verify", str(file)]) == 0
    assert f"revisions: 2, up to sha256 {report.revisions_sha256}" in capsys.readouterr().out


def edited(text: list[str]) -> list[str]:
    return [text[0].replace("first", "FIRST"), *text[1:]]


def forged(text: list[str]) -> list[str]:
    """Change a line and its own checksum; the next line still knows the old one."""
    content = json.loads(text[0])
    content["text"] = "never said"
    del content["sha256"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return [json.dumps({**content, "sha256": sha256(canonical).hexdigest()}) + "\n", *text[1:]]


@pytest.mark.parametrize(
    ("tamper", "kept", "named"),
    [
        (edited, 0, "r.revisions.jsonl: revision 1 is not what was written, or not of this recording"),
        (forged, 1, "r.revisions.jsonl: revision 2 is not what was written"),
        (lambda text: text[1:], 0, "revision 1 is not"),
        (lambda text: [text[0], text[2]], 1, "revision 2 is not"),
        (lambda text: [text[0], text[2], text[1]], 1, "revision 2 is not"),
        (lambda text: [*text, text[2]], 3, "revision 4 is not"),
        (lambda text: [*text[:2], "{}\n"], 2, "revision 3 is not"),
        (lambda text: [*text[:2], '["\n'], 2, "revision 3 is not"),
        (lambda text: [*text[:2], text[2][:40]], 2, "its last line is cut short"),
    ],
    ids=["edited", "forged", "first gone", "one gone", "swapped", "repeated", "emptied", "no JSON", "cut"],
)
def test_a_tampered_revision_is_told(
    tamper: Callable[[list[str]], list[str]], kept: int, named: str, file: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with open_recording(file) as recording:
        for text in ("first", "second", "third"):
            recording.annotate(text)
        revisions.path_of(file).write_text("".join(tamper(lines(file))))

        assert [each.text for each in recording.annotations[1:]] == ["first", "second", "third", "third"][:kept] or (
            tamper is forged and recording.annotations[1].text == "never said"
        )
    assert named in caplog.text
    assert [line for line in verify(file).damage if named in line]
    assert main(["verify", str(file)]) == 5
    assert "INCOMPLETE: 1 places are damaged" in capsys.readouterr().out


def test_revisions_of_another_recording_are_told(file: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "other.h5", "other")
    with open_recording(other) as recording:
        recording.annotate("about the other one")

    revisions.path_of(other).rename(revisions.path_of(file))

    assert "not of this recording" in verify(file).damage[0]


def test_nothing_is_added_to_what_was_altered_but_a_line_cut_short_by_a_crash_goes(file: Path) -> None:
    with open_recording(file) as recording:
        recording.annotate("first")
        whole = revisions.path_of(file).read_text()
        revisions.path_of(file).write_text(whole + whole[:30])
        assert recording.annotate("second").number == 2
        assert verify(file).complete

        revisions.path_of(file).write_text(whole.replace("first", "other"))
        with pytest.raises(RecordingError, match="revision 1 is not what was written.*; nothing is added to it"):
            recording.annotate("third")


def test_two_at_once_lose_nothing(file: Path) -> None:
    code = (
        "import sys\nfrom ether.recorder.reader import open_recording\n"
        "with open_recording(sys.argv[1]) as recording:\n    for n in range(20): recording.annotate(f'{sys.argv[2]} {n}')"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "ab"]

    assert [child.wait(50) for child in children] == [0, 0]

    assert (verify(file).complete, verify(file).revisions) == (True, 40)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["r.h5", "x", "--at", "3s", "--until", "2s"], "the interval ends before it begins"),
        (["r.h5", "x", "--at", "soon"], "'soon' is no time"),
        (["r.h5", "x", "y"], "quote a text with spaces"),
        (["r.h5"], "what is to be said of r.h5? Write `ether annotate FILE TEXT`"),
        (["none.h5", "x"], "none.h5: no such file"),
        (["x", "--by", "me"], "is for a finished recording"),
    ],
)
def test_what_cannot_be_added_has_one_line(
    file: Path, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["annotate", *words]) in (1, 2)

    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert os.listdir() == ["r.h5"]


def test_a_recording_that_goes_on_takes_remarks_through_its_session(file: Path) -> None:
    import h5py

    with h5py.File(file, "r+") as plain:
        del plain.attrs["content_sha256"]
    with open_recording(file) as recording, pytest.raises(RecordingError, match="not finished; while its session runs"):
        recording.annotate("x")
