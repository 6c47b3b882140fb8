"""Reading back: slices, tables for pandas and xarray, and one clear line where something is wrong."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ether import codecs
from ether.cli import main
from ether.errors import RecordingError
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.reader import Recording, open_recording

T0 = 1_795_374_229


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Return ten readings, one a second, with an int that is missing once, and a run over the middle."""
    file = tmp_path_factory.mktemp("reader") / "growth.h5"
    run = {"id": "r1", "name": "growth", "number": 1, "started": T0 + 3, "stopped": T0 + 6, "outcome": "success"}
    with Journal(journal_folder(file)) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "s"}, "provenance": {"argv": ["ether", "up"]}}))
        journal.append(head(Kind.MESSAGE, 1, T0 * 10**9, 0, "ether/run"), json.dumps(run).encode())
        for number in range(10):
            fields = {"celsius": 20.5 + number, "door": number % 2 == 0, "spectrum": [number, 1, 2], "who": "Ada"}
            payload = codecs.encode(
                fields | ({"count": number} if number != 4 else {}), Envelope("oven", "b", number, T0 + number)
            )
            journal.append(head(Kind.MESSAGE, 1, (T0 + number) * 10**9 + 5000, number, "lab/oven"), payload)
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return open_recording(file)


def test_a_recording_is_a_mapping_of_topics(recording: Recording) -> None:
    assert list(recording) == ["lab/oven"]
    assert len(recording["lab/oven"]) == 10
    assert {name: field.kind for name, field in recording["lab/oven"].fields.items()} == {
        "celsius": "float", "door": "bool", "spectrum": "array", "who": "str", "count": "int",
    }  # fmt: skip


def test_a_run_that_a_button_ended_without_an_outcome_is_told_as_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "growth.h5"
    with Journal(journal_folder(file)) as journal:
        for number, payload in enumerate((b'{"id": "r1", "name": "growth"}', b"{}")):
            journal.append(head(Kind.MESSAGE, 1, (T0 + number) * 10**9, 0, "ether/run"), payload)
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)

    assert main(["info", str(file)]) == 0

    assert capsys.readouterr().out.splitlines()[-1].split() == ["growth", "ended"]


def test_an_unknown_topic_or_field_names_the_nearest(recording: Recording) -> None:
    with pytest.raises(KeyError, match=r"no topic 'lab/ovn' in growth\.h5; nearest: 'lab/oven'"):
        recording["lab/ovn"]
    with pytest.raises(KeyError, match="no field 'celcius' in 'lab/oven'"):
        recording["lab/oven"]["celcius"]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (T0 + 2, T0 + 4),
        (datetime.fromtimestamp(T0 + 2, UTC), datetime.fromtimestamp(T0 + 4, UTC)),
        (datetime.fromtimestamp(T0 + 2, UTC).isoformat(), datetime.fromtimestamp(T0 + 4, UTC).replace(tzinfo=None)),
        (np.datetime64(T0 + 2, "s"), np.datetime64(T0 + 4, "s")),
    ],
)
def test_slices_by_time(recording: Recording, start: object, end: object) -> None:
    assert recording["lab/oven"][start:end]["celsius"].tolist() == [22.5, 23.5]  # type: ignore[misc]
    assert recording["lab/oven"].between(T0 + 1)[:end]["celsius"].tolist() == [21.5, 22.5, 23.5]  # type: ignore[misc]


def test_slices_by_run(recording: Recording) -> None:
    assert recording["lab/oven"].during("growth").number.tolist() == [3, 4, 5]
    assert recording["lab/oven"].during("1").number.tolist() == [3, 4, 5]
    assert recording["lab/oven"].during(recording.runs[0])["spectrum"].tolist() == [[3, 1, 2], [4, 1, 2], [5, 1, 2]]
    with pytest.raises(KeyError, match="no run 'x'; there are: 'growth'"):
        recording["lab/oven"].during("x")


def test_pieces_are_together_the_whole(recording: Recording) -> None:
    stream = recording["lab/oven"]

    pieces = list(stream.chunks(size_bytes=300))

    assert 1 < len(pieces) <= len(stream)
    for name in stream.fields:
        assert np.concatenate([piece[name] for piece in pieces]).tolist() == stream[name].tolist()
    assert np.concatenate([piece.number for piece in stream.during("growth").chunks(1)]).tolist() == [3, 4, 5]


def journaled(file: Path, topics: dict[str, list[tuple[float, dict[str, object]]]], **facts: object) -> Recording:
    """Return a recording of readings, given as seconds after T0 and fields."""
    with Journal(journal_folder(file)) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "s"}, "provenance": facts}))
        for topic, readings in topics.items():
            for number, (after, fields) in enumerate(readings):
                payload = codecs.encode(fields, Envelope("oven", "b", number, T0 + after))
                journal.append(head(Kind.MESSAGE, 1, round((T0 + after) * 1e9), number, topic), payload)
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return open_recording(file)


def test_ragged_columns_come_in_pieces_too(tmp_path: Path) -> None:
    lists = [list(map(float, range(length))) for length in (3, 0, 2, 5, 1)]
    readings = [(number, {"v": values, "blob": bytes(len(values))}) for number, values in enumerate(lists)]
    with journaled(tmp_path / "r.h5", {"a": readings}) as recording:
        pieces = list(recording["a"].chunks(1))

        assert [piece["v"][0].tolist() for piece in pieces] == lists
        assert [piece["blob"][0] for piece in pieces] == [bytes(len(values)) for values in lists]
        assert [v.tolist() for v in recording["a"].take(np.array([4, 0, 0]))["v"]] == [lists[4], lists[0], lists[0]]


def test_topics_are_joined_on_nearest_time(tmp_path: Path) -> None:
    topics = {
        "fast": [(0.00, {"v": 0}), (0.20, {"v": 2}), (0.10, {"v": 1}), (5.0, {"v": 50})],
        "slow": [(0.04, {"w": 1.5, "on": True}), (0.19, {"w": 2.5, "on": False})],
        "text": [(0.09, {"s": "a"})],
    }
    with journaled(tmp_path / "r.h5", topics) as recording:
        joined = recording.align("fast", "slow", recording["text"].between(T0), tolerance="50ms")
        found = joined.to_numpy()

        assert found["fast:v"].tolist() == [0, 1, 2, 50]
        assert found["time"].tolist() == sorted(recording["fast"].time.tolist())
        np.testing.assert_array_equal(found["slow:w"], [1.5, np.nan, 2.5, np.nan])
        assert found["slow:on"].tolist() == [True, None, False, None]
        assert found["text:s"].tolist() == [None, "a", None, None]
        assert np.round(joined.offset["slow"] / np.timedelta64(1, "ms")).tolist()[::2] == [40, -10]
        assert np.isnat(joined.offset["slow"]).tolist() == [False, True, False, True]

        table = joined.to_pandas()
        assert [str(kind) for kind in table.dtypes[["fast:v", "slow:w", "slow:on"]]] == ["int64", "float64", "boolean"]
        assert joined.to_xarray()["slow:w"].attrs == {}
        assert recording.align("slow", "fast", tolerance=0.05)["fast:v"].tolist() == [0, 2]


def test_joining_with_a_topic_that_has_nothing_near_leaves_it_empty(tmp_path: Path) -> None:
    with journaled(tmp_path / "r.h5", {"a": [(0, {"v": 1})], "b": [(9, {"w": 1})]}) as recording:
        nothing = recording["b"].between(T0 + 100)

        assert recording.align("a", "b", tolerance=1).to_numpy()["b:w"].tolist() == [None]
        np.testing.assert_array_equal(recording.align("a", nothing, tolerance=1).to_numpy()["b:w"], [np.nan])
        assert len(recording.align(nothing, "a", tolerance=1)) == 0
        with pytest.raises(ValueError, match="align wants different topics, got 'a', 'a'"):
            recording.align("a", "a", tolerance=1)
        with pytest.raises(ValueError, match="`parsec` is no unit of time"):
            recording.align("a", "b", tolerance="1parsec")


def test_pandas(recording: Recording) -> None:
    table = recording["lab/oven"].to_pandas()

    assert [str(dtype) for dtype in table.dtypes[["celsius", "door", "count"]]] == ["float64", "bool", "Int64"]
    assert table["count"].isna().sum() == 1
    assert table.index[1].isoformat() == datetime.fromtimestamp(T0 + 1, UTC).isoformat()
    assert table["spectrum"].iloc[2].tolist() == [2, 1, 2]
    assert set(table["who"]) == {"Ada"}


def test_xarray(recording: Recording) -> None:
    dataset = recording["lab/oven"].during("growth").to_xarray()

    assert dict(dataset.sizes) == {"time": 3, "spectrum_1": 3}
    assert dataset["celsius"].sel(time=np.datetime64(T0 + 4, "s")).item() == 24.5


def test_numpy_and_publisher(recording: Recording) -> None:
    found = recording["lab/oven"].to_numpy()

    assert found["count"].tolist() == [0, 1, 2, 3, None, 5, 6, 7, 8, 9]
    assert found["time"].dtype == np.dtype("datetime64[ns]")
    assert set(recording["lab/oven"].publisher) == {"oven"}


def test_messages_are_yielded_in_order_with_both_times(recording: Recording) -> None:
    found = [message for message in recording.messages() if message.topic == "lab/oven"]

    assert [message.number for message in found] == list(range(10))
    assert [message.received_ns - (message.time_ns or 0) for message in found] == [5000] * 10
    assert (found[0].publisher, found[0].boot, found[0].qos, found[0].retain) == ("oven", "b", 1, False)


def test_info_is_plain_json(recording: Recording) -> None:
    info = json.loads(json.dumps(recording.info()))

    assert (info["state"], info["session"], info["messages"], info["missing"]) == ("sealed", "s", 11, 0)
    assert info["topics"]["lab/oven"]["readings"] == 10
    assert recording.provenance["argv"] == ["ether", "up"]


def test_a_missing_library_names_the_extra(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(RecordingError, match=r"pandas is not installed; try `pip install 'ether\[data\]'`"):
        recording["lab/oven"].to_pandas()


def test_what_is_no_recording_has_one_clear_line(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "text.h5").write_text("no recording")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    (tmp_path / ".left.journal").mkdir()

    for name, line in {
        "none.h5": "no such file$",
        "left.h5": "no such file; a journal of it is left: ether recover",
        "text.h5": r"not a recording \(no HDF5 file\)",
        "foreign.h5": "an HDF5 file, but not a recording of ether's",
        ".": "a folder; name one recording in it",
    }.items():
        with pytest.raises(RecordingError, match=line) as raised:
            open_recording(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_fields_named_like_ours_come_back_under_their_own_names(tmp_path: Path) -> None:
    file = tmp_path / "r.h5"
    with Journal(journal_folder(file)) as journal:
        for number in range(2):
            payload = codecs.encode(
                {"number": number * 10, "publisher": "Penguin", "time": 5}, Envelope("a", "b", number, T0 + 0.0)
            )
            journal.append(head(Kind.MESSAGE, 1, T0 * 10**9, number, "books"), payload)
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)

    with open_recording(file) as recording:
        books = recording["books"]
        columns = {name: values.tolist() for name, values in books.to_numpy().items() if name != "time"}

        assert columns == {"number": [0, 10], "publisher": ["Penguin", "Penguin"], "time@field": [5, 5]}
        assert books.number.tolist() == [0, 1]
        assert books.to_pandas()["number"].tolist() == [0, 10]
