"""The writer: readings of any shape become columns, and every payload is kept byte for byte."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from payloads import IMAGE, T0, TOPICS, ZOO, oven

from ether import codecs
from ether.errors import RecordingError
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import layout, seal
from ether.recorder.entries import RETAIN, Kind, head, journal_folder, note
from ether.recorder.reader import Recording, open_recording
from ether.recorder.verify import verify
from ether.recorder.writer import Writer


def record(file: Path, messages: list[tuple[str, bytes]], *, flags: int = 1, end: bool = True) -> Recording:
    """Make a recording of messages, one a second, as a recorder and its sealer would; return it opened."""
    with Journal(journal_folder(file), segment_bytes=1 << 20) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "test"}, "provenance": {}}))
        for number, (topic, payload) in enumerate(messages):
            journal.append(head(Kind.MESSAGE, flags, T0 + number * 10**9, number, topic), payload)
        if end:
            journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return open_recording(file)


@pytest.mark.parametrize("case", ZOO)
def test_payload_zoo_is_kept_byte_for_byte(case: str, tmp_path: Path) -> None:
    payloads = ZOO[case]

    with record(
        tmp_path / "zoo.h5", [("lab/zoo", payload) for payload in payloads] + [("lab/good", b'{"a": 1}')]
    ) as zoo:
        assert [message.payload for message in zoo.messages()][:-1] == payloads
        assert zoo["lab/good"]["a"].tolist() == [1]
        if "lab/zoo" in zoo:
            zoo["lab/zoo"].to_numpy()
            zoo["lab/zoo"].to_pandas()
            zoo["lab/zoo"].to_xarray()
    report = verify(tmp_path / "zoo.h5")
    assert (report.damage, report.state, report.messages) == ([], "sealed", len(payloads) + 1)


def columns(tmp_path: Path, *payloads: bytes) -> dict[str, list[Any]]:
    with record(tmp_path / "c.h5", [("t", payload) for payload in payloads]) as recording:
        return {name: values.tolist() for name, values in recording["t"].to_numpy().items() if name != "time"}


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ((b"1", b"2"), {"value": [1, 2]}),
        ((b'{"a": 1}', b'{"a": 1.5}', b'{"a": 2}'), {"a": [1.0, 1.5, 2.0]}),
        ((b'{"a": 1.5}', b'{"a": 2}'), {"a": [1.5, 2.0]}),
        ((b'{"a": 9007199254740993}', b'{"a": 1.5}'), {"a": [9007199254740993, None], "a@float": [math.nan, 1.5]}),
        ((b'{"a": 1.5}', b'{"a": "off"}'), {"a": [1.5, math.nan], "a@str": [None, "off"]}),
        ((b'{"a": true}', b'{"a": 2}'), {"a": [True, None], "a@int": [None, 2]}),
        ((b'{"a": null}', b'{"a": 3}', b"{}"), {"a": [None, 3, None]}),
        ((b'{"a": 1}', b'{"a": 2, "b": "x"}'), {"a": [1, 2], "b": [None, "x"]}),
        ((b'{"a": {"b": {"c": 1}}}', b'{"a": {"b": {"c": 2}}}'), {"a.b.c": [1, 2]}),
        ((b'{"a.b": 1, "a": {"b": 2}}',), {"a%2Eb": [1], "a.b": [2]}),
        ((b'{"time": 5}',), {"time@field": [5]}),
        ((b'{"a": [1, 2]}', b'{"a": [3, 4]}'), {"a": [[1, 2], [3, 4]]}),
        ((b'{"a": [1, "x"]}',), {"a": ['[1, "x"]']}),
        ((b'{"a": 9223372036854775808}', b'{"a": 1}'), {"a": [None, 1]}),
    ],
)
def test_columns(payloads: tuple[bytes, ...], expected: dict[str, list[Any]], tmp_path: Path) -> None:
    np.testing.assert_equal(columns(tmp_path, *payloads), expected)


def test_ragged_lists_and_images(tmp_path: Path) -> None:
    messages = [
        ("ragged", b'{"a": [1, 2]}'), ("ragged", b'{"a": [3]}'), ("ragged", b'{"a": []}'), ("ragged", b"{}"),
        ("image", oven({"i": IMAGE}, 0)), ("image", oven({"i": IMAGE[:2]}, 1)), ("blob", oven({"b": b"\0\1"}, 0)),
    ]  # fmt: skip

    with record(tmp_path / "r.h5", messages) as recording:
        assert [row if row is None else row.tolist() for row in recording["ragged"].to_numpy()["a"]] == [
            [1, 2],
            [3],
            [],
            None,
        ]
        first, second = recording["image"]["i"]
        np.testing.assert_array_equal(first, IMAGE)
        np.testing.assert_array_equal(second, IMAGE[:2])
        assert first.dtype == np.uint16
        assert recording["blob"]["b"].tolist() == [b"\0\1"]


def test_a_batch_becomes_rows(tmp_path: Path) -> None:
    messages = [
        ("t", oven({"a": [1.5, 2.5, 3.5], "s": ["x", "y", "z"]}, 0, k=3, dt=0.5)),
        ("t", oven({"a": 4, "s": "w"}, 3)),
    ]

    with record(tmp_path / "b.h5", messages) as recording:
        stream = recording["t"]
        assert stream["a"].tolist() == [1.5, 2.5, 3.5, 4.0]
        assert stream["s"].tolist() == ["x", "y", "z", "w"]
        assert stream.number.tolist() == [0, 1, 2, 3]
        assert ((stream.time - stream.time[0]) / np.timedelta64(1, "ms")).tolist() == [0, 500, 1000, 3000]
    (tally,) = verify(tmp_path / "b.h5").tallies
    assert (tally.last, tally.received, tally.holes) == (3, 4, [])


def test_a_device_without_a_clock_keeps_its_own_time_beside(tmp_path: Path) -> None:
    payload = codecs.encode({"a": 1}, Envelope("esp", "1", 0, ms=1500.5))

    with record(tmp_path / "d.h5", [("t", b'{"a": 0}'), ("t", payload)]) as recording:
        group = h5py.File(recording.path)["data/t/readings"]
        assert group["time"][:].tolist() == [T0, T0 + 10**9]
        assert group["time_device"][:].tolist() == [layout.NONE_NS, 1_500_500_000]


@pytest.mark.parametrize("topic", TOPICS)
def test_any_topic_finds_its_place(topic: str, tmp_path: Path) -> None:
    others = ["a/b/c", "a%00", "%", "readings/readings"]

    with record(
        tmp_path / "t.h5", [(each, b'{"v": "%d"}' % n) for n, each in enumerate([topic, *others])]
    ) as recording:
        assert [recording[each]["v"].tolist() for each in [topic, *others]] == [["0"], ["1"], ["2"], ["3"], ["4"]]


@given(st.lists(st.text(st.sampled_from("a./%r"), max_size=4), min_size=2, max_size=6, unique=True))
def test_group_paths_never_collide(found: list[str]) -> None:
    paths = [layout.group_path(topic) for topic in found]
    assert len(set(paths)) == len(found)
    assert not any(one.startswith(other + "/") for one in paths for other in paths)


@given(
    st.lists(
        st.lists(st.text(st.sampled_from("a./%@_"), max_size=3), min_size=1, max_size=3), min_size=2, unique_by=tuple
    )
)
def test_field_names_never_collide(fields: list[list[str]]) -> None:
    assert len({layout.link_name(tuple(keys)) for keys in fields}) == len(fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON | st.binary(max_size=20), min_size=1, max_size=6))
def test_any_sequence_of_payloads_keeps_columns_of_one_length(tmp_path: Path, found: list[Any]) -> None:
    payloads = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in found]
    file = tmp_path / f"{random.getrandbits(64):x}.h5"

    with record(file, [("t", payload) for payload in payloads]) as recording:
        assert [message.payload for message in recording.messages()] == payloads
    assert verify(file).damage == []
    file.unlink()


def test_units_declared_types_and_secrets_of_a_description(tmp_path: Path) -> None:
    about = {
        "ether": 1, "boot": "b1", "class": "lab.Oven", "host": "bench-1", "pid": 7,
        "kwargs": {"api_key": "s3cret", "port": 5},
        "publishes": {"t": {"fields": {"celsius": {"type": "number", "unit": "degC", "description": "inside"}}}},
    }  # fmt: skip
    messages = [("ether/about/oven", json.dumps(about).encode()), ("t", oven({"celsius": 21}, 0))]

    with record(tmp_path / "a.h5", messages) as recording:
        field = recording["t"].fields["celsius"]
        assert (field.kind, field.unit, field.description) == ("float", "degC", "inside")
        assert recording["t"].to_xarray()["celsius"].attrs == {"units": "degC", "description": "inside"}
        (instance,) = recording.provenance["instances"]
        assert (instance["class"], instance["kwargs"]) == ("lab.Oven", {"api_key": "***", "port": 5})


def test_runs_annotations_status_log_and_calls(tmp_path: Path) -> None:
    t = T0 / 1e9

    def sent(topic: str, content: Any) -> tuple[str, bytes]:
        return topic, json.dumps(content).encode()

    messages = [
        sent("ether/status/oven", {"state": "init", "boot": "b1", "t": t}),
        sent("ether/status/oven", {"state": "init", "boot": "b1", "t": t + 1}),
        sent("ether/run", {"id": "r1", "name": "growth", "number": 1, "started": t, "metadata": {"sample": "K12"}}),
        ("t", oven({"a": 0}, 3)),
        sent("ether/run", {"id": "r2", "name": "trial", "number": 1, "started": t + 4, "parent": "r1"}),
        sent("ether/annotation", {"text": "door open", "t": t + 5, "tags": ["door"], "values": {"n": 2}, "by": "Ada"}),
        sent("ether/annotation", {"text": "warm", "t0": t, "t1": t + 5.5}),
        ("ether/annotation", b"plain words"),
        sent("ether/run", {"id": "r2", "name": "trial", "started": t + 4, "stopped": t + 7, "outcome": "success"}),
        ("t", oven({"a": 1}, 9)),
        sent("ether/log/oven", {"level": "ERROR", "message": "hot", "logger": "lab", "t": t + 9}),
        sent("ether/call/oven/status", {"id": "c1", "reply_to": "ether/reply/me", "params": {"token": "x", "n": 1}}),
        sent("ether/reply/me", {"id": "c1", "status": "success", "result": {"ok": True}}),
        sent("ether/call/oven/status", {"id": "c2", "reply_to": "ether/reply/me"}),
        ("ether/control/start", b""), ("ether/run", b"nonsense"), ("ether/status/old", b"ready"),
    ]  # fmt: skip

    with record(tmp_path / "x.h5", messages) as recording:
        growth, trial = recording.runs
        assert (growth.metadata, growth.outcome, growth.stopped is not None) == ({"sample": "K12"}, "abandoned", True)
        assert (trial.parent, trial.outcome, trial.stopped) == ("r1", "success", t + 7)
        door, warm, plain = recording.annotations
        assert (door.text, door.t0, door.t1, door.tags, door.values, door.by) == (
            "door open",
            t + 5,
            None,
            ("door",),
            {"n": 2},
            "Ada",
        )
        assert (warm.t0, warm.t1, plain.text) == (t, t + 5.5, "plain words")
        assert [(change.name, change.status.state) for change in recording.status] == [
            ("oven", "init"),
            ("old", "ready"),
        ]
        assert [(line.name, line.level, line.message) for line in recording.log] == [("oven", "ERROR", "hot")]
        answered, open_call = recording.calls
        assert (answered["params"], answered["result"], answered["duration_ns"]) == (
            {"token": "***", "n": 1},
            {"ok": True},
            1,
        )
        assert (open_call["id"], open_call["status"]) == ("c2", "")
        assert recording["t"].during("trial")["a"].tolist() == []
        assert recording["t"].during("growth")["a"].tolist() == [0, 1]
        assert len(recording["t"].between(t + 3, t + 9)) == 1


def test_tables_of_any_length_are_sealed(tmp_path: Path) -> None:
    count = 1_000
    calls = [
        message
        for number in range(count)
        for message in (
            ("ether/call/oven/status", json.dumps({"id": f"c{number}", "reply_to": "ether/reply/me"}).encode()),
            ("ether/reply/me", json.dumps({"id": f"c{number}", "status": "success", "result": number}).encode()),
            ("ether/log/oven", json.dumps({"level": "INFO", "message": f"call {number}", "t": T0 / 1e9}).encode()),
        )
    ]

    with record(tmp_path / "long.h5", calls) as recording:
        assert len(recording.calls) == len(recording.log) == count
        assert recording.verify().complete


def test_viewers_find_something_to_plot(tmp_path: Path) -> None:
    with record(tmp_path / "n.h5", [("lab/oven", oven({"name": "x", "celsius": 1.5, "on": True}, 0))]) as recording:
        file = h5py.File(recording.path)
        place: Any = file
        while "default" in place.attrs:
            place = place[place.attrs["default"]]
        assert place.name == "/data/lab/oven/readings"
        assert (place.attrs["NX_class"], place.attrs["signal"], list(place.attrs["axes"])) == (
            "NXdata",
            "celsius",
            ["time"],
        )
        assert list(place.attrs["auxiliary_signals"]) == ["on"]


def test_a_session_that_died_is_recovered_and_says_so(tmp_path: Path) -> None:
    with record(tmp_path / "r.h5", [("t", oven({"a": 1}, 0))], end=False) as recording:
        assert recording.state == "recovered"
        assert not recording.verify().complete


def test_recovery_killed_in_the_middle_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "k.h5"
    for step in ("prove", "_rewrite", "_drop"):
        monkeypatch.setattr(seal, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            record(file, [("t", oven({"a": 1}, 0))]) if step == "prove" else seal.recover(file)
        monkeypatch.undo()

    assert seal.recover(file) is True
    assert verify(file).complete
    assert not journal_folder(file).exists()


def test_sealing_refuses_a_file_that_lacks_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = seal._rewrite

    def forgetful(source: h5py.File, final: h5py.File) -> None:
        rewrite(source, final)
        rows = final["messages"][:]
        rows["crc32"][0] ^= 1
        final["messages"][...] = rows

    monkeypatch.setattr(seal, "_rewrite", forgetful)

    with pytest.raises(RecordingError, match="differs from the journal"):
        record(tmp_path / "s.h5", [("t", b"1")])
    assert journal_folder(tmp_path / "s.h5").is_dir()


def test_a_deadly_message_is_stored_raw_only(tmp_path: Path) -> None:
    file = tmp_path / "p.h5"
    with Journal(journal_folder(file)) as journal:
        journal.append(head(Kind.MESSAGE, 1, T0, 0, "t"), b'{"a": 1}')
        journal.append(head(Kind.MESSAGE, 1, T0, 0, "t"), b'{"a": 2}')
        journal.append(*note(Kind.RAW_ONLY, {"number": 0}))
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)

    with open_recording(file) as recording:
        assert recording["t"]["a"].tolist() == [2]
        assert [message.payload for message in recording.messages()] == [b'{"a": 1}', b'{"a": 2}']
    assert verify(file).complete
    assert verify(file).undecoded == 1


def test_a_replayed_status_begins_no_account_at_zero(tmp_path: Path) -> None:
    file = tmp_path / "f.h5"
    status = json.dumps({"state": "init", "boot": "b1"}).encode()
    with Journal(journal_folder(file)) as journal:
        journal.append(head(Kind.MESSAGE, 1 | RETAIN, T0, 0, "ether/status/oven"), status)
        journal.append(head(Kind.MESSAGE, 1, T0, 0, "t"), oven({"a": 2}, 5))
        journal.commit()
    seal.recover(file)

    (tally,) = verify(file).tallies
    assert (tally.first, tally.from_start, tally.holes) == (5, False, [])


def told(topic: str, **content: Any) -> tuple[str, bytes]:
    return topic, json.dumps(content).encode()


def test_runs_of_two_processes_end_each_for_itself(tmp_path: Path) -> None:
    messages = [
        told("ether/run", id="a", name="A", number=1), told("ether/run", id="b", name="B", number=2), ("x", b"1"),
        told("ether/run", id="a", name="A", number=1, stopped=T0 / 1e9 + 3, outcome="success"), ("x", b"2"),
        told("ether/run"), ("x", b"3"),
    ]  # fmt: skip

    with record(tmp_path / "x.h5", messages) as recording:
        one, other = recording.runs
        runs = recording._file["messages"]["run"][[2, 4, 6]].tolist()

    assert (one.outcome, one.stopped) == ("success", T0 / 1e9 + 3)
    assert (other.outcome, other.stopped) == (None, T0 / 1e9 + 5)
    assert runs == [1, 1, layout.NONE_ID]


def test_a_run_whose_process_was_taken_for_lost_goes_on(tmp_path: Path) -> None:
    run = {"id": "a", "name": "A", "number": 1, "started": T0 / 1e9, "by": "guest-1"}
    messages = [
        told("ether/run", **run), told("ether/run", **run, stopped=T0 / 1e9 + 1, outcome="abandoned"),
        told("ether/run", **run), ("x", b"1"), told("ether/run", **run, stopped=T0 / 1e9 + 4, outcome="success"),
    ]  # fmt: skip

    with record(tmp_path / "x.h5", messages) as recording:
        (found,) = recording.runs
        assert recording._file["messages"]["run"][3] == 0

    assert (found.outcome, found.stopped, found.by) == ("success", T0 / 1e9 + 4, "guest-1")


def test_the_time_that_columns_took_to_make_does_not_put_off_the_next_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("ether.clock.monotonic", lambda: now[0])
    monkeypatch.setattr("ether.recorder.writer.copy_to", lambda *_: now.__setitem__(0, now[0] + 3.0))
    with Journal(tmp_path / "journal", segment_bytes=1 << 20) as journal:
        writer = Writer(tmp_path / "x.h5", tmp_path / "journal")
        waits = []
        for number, fields in enumerate([{"a": 1.0}, {"a": 2.0}, {"a": 3.0, "b": 1}]):
            journal.append(head(Kind.MESSAGE, 1, T0, number, "oven"), oven(fields, number))
            journal.commit()
            writer._take(writer._reader.read())
            writer._publish()
            waits.append(writer._publish_every)
        writer.finish()

    assert waits == [3.0, 90.0, 3.0]


def test_a_writer_that_begins_anew_never_shows_less_than_was_shown(tmp_path: Path) -> None:
    file, seen = tmp_path / "r.h5", []
    with Journal(journal_folder(file)) as journal:
        for number in range(5000):
            journal.append(head(Kind.MESSAGE, 1, T0 + number, number, "t"), oven(number, number))
        journal.commit()
        for more in range(2):
            writer = Writer(file, journal_folder(file))
            publish = writer._publish

            def published(publish: Any = publish, writer: Writer = writer, count: int = 5000 + more) -> None:
                publish()
                with h5py.File(file) as shown:
                    seen.append(len(shown["data/t/readings/value"]))
                if seen[-1] >= count:
                    writer.stopping.set()

            writer._publish = published  # type: ignore[method-assign]
            assert writer.run() is False
            writer._builder.abandon()
            writer._reader.close()
            journal.append(head(Kind.MESSAGE, 1, T0, 0, "t"), oven(0, 5000 + more))
            journal.commit()

    assert seen == sorted(seen)
    assert len(seen) > 1
