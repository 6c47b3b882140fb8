"""Builder: one part of a recording, an HDF5 file, out of the entries of a journal; what the layout says, in code."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ether import codecs, topics
from ether.checksum import crc32
from ether.journal import JournalReader, Record
from ether.model import Envelope
from ether.recorder import layout
from ether.recorder.account import NOBODY, Account
from ether.recorder.columns import Block, Group, flatten, new_dataset, write_rows
from ether.recorder.device_clock import DeviceClock, Sample
from ether.recorder.entries import ANSWERS_KEPT, DUP, QOS, RESENT, RETAIN, Entry, Kind, unpack
from ether.recorder.hollow import Columns, hollowed
from ether.recorder.layout import NONE_ID, NONE_NS
from ether.recorder.marker import Marker
from ether.recorder.parts import Part, Resume, part_path
from ether.recorder.redact import redacted, redacted_text

__all__ = ["LIBVER", "Builder"]

logger = logging.getLogger(__name__)

LIBVER = ("earliest", "v110")
_CACHE = {"rdcc_nbytes": 1 << 20, "rdcc_nslots": 127}
"""Of each dataset. By default HDF5 2 takes 65 KB for the table of a cache alone; there are thousands of datasets."""
_FLUSH_MESSAGES = 20_000
_FLUSH_BYTES = 8 << 20
_MOST_TOPICS = 5000
_MANY = 1000
"""A stream that begins with so many readings together gets larger chunks."""
_LEAST_HOLLOW = 256
"""Of smaller payloads nothing is left out."""
_LAST_SAMPLES = 400
_RECORDER_FACTS = ("name", "confirms", "file", "topics", "exclude", "boot", "host", "pid")
_JSON_STARTS = frozenset(bytes([letter]) for letter in b'{["-0123456789tfn')
_DECLARED = {"number": "float", "integer": "int", "boolean": "bool", "string": "str"}


class _Stream:
    """One topic: its group, and the messages that wait to be written into it."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.path = layout.group_path(topic)
        self.columns: Group | None = None
        self.schema = NONE_ID
        self.schema_version = -1
        self.with_device_time = False
        self.corrected = 0
        """Rows whose device time has been mapped for good."""
        self.fixed: dict[str, h5py.Dataset] = {}
        self.rows: list[dict[tuple[str, ...], Any]] = []
        self._holder: tuple[int, Columns] | None = None
        self.names: list[Any] = []
        """What the columns of the parts before were called."""
        self.waiting: list[tuple[int, Block | None, Any, Any, int, int, int]] = []
        """Place in the ledger's buffer, block (None: the next of `rows`), times, device times, n, publisher, rows.

        Times are arrays of a block's, or one number.
        """

    def holder(self) -> Columns:
        """Return the columns as what payloads may leave bytes to, as they are now."""
        assert self.columns is not None
        if self._holder is None or self._holder[0] != self.columns.version:
            self._holder = self.columns.version, Columns(self.columns.group)
        self._holder[1].forget()
        return self._holder[1]


class Builder:
    """Builds one part of a recording out of journal entries, in order, in a private file.

    Args:
        path: the work file; replaced if it exists.
        resume: which part it is, and what it takes over from the one before.
        raw_only: record numbers of messages that must not be decoded.
        marker: told what is being worked on.
    """

    def __init__(
        self,
        path: Path,
        resume: Resume = Resume(),  # noqa: B008 - frozen
        *,
        raw_only: Iterable[int] = (),
        marker: Marker | None = None,
    ) -> None:
        self.path = path
        self.part = resume.part
        self._start = resume.start
        self._next = resume.start
        self.rolled = False
        """The last entry was the end of this part, not of the recording."""
        self.raw_only = set(raw_only)
        self.marker = marker
        self.account = Account()
        self.messages = 0
        self.ended: dict[str, Any] | None = None
        """What the last entry said, if it was an orderly end."""
        self.dirty = False
        self._raw_bytes = 0
        self._sessions = 0
        self._session: dict[str, Any] = {}
        self._counts = {"recorded": 0, "bytes": 0}
        self._answered: dict[str, None] = {}
        self._first_ns = NONE_NS
        self._last_ns = NONE_NS
        self._before_ns = NONE_NS
        self._streams: dict[str, _Stream] = {}
        self._topic_ids: dict[str, int] = {}
        self._publishers: dict[tuple[str, str], int] = {}
        self._abouts: dict[str, tuple[int, dict[str, Any]]] = {}
        self._states: dict[str, tuple[str, str, str]] = {}
        self._runs: dict[str, int] = {}
        self._run_rows: list[list[Any]] = []
        self._run_facts: list[dict[str, Any]] = []
        self._open_runs: list[int] = []
        self.schemas = 0
        """How often the columns of a topic were made or changed."""
        self._samples: dict[tuple[str, str], list[Sample]] = {}
        self._clocks: dict[tuple[str, str], DeviceClock] = {}
        self._wall: list[tuple[int, int]] = []
        """The recorder's monotonic clock and its wall clock at the same moments, ns."""
        self._calls: dict[str, tuple[list[Any], int]] = {}
        self._tables: dict[str, list[tuple[Any, ...]]] = {name: [] for name in layout.TABLES}
        self._ledger: list[list[Any]] = []
        self._payloads: list[bytes] = []
        self._payload_bytes = 0
        self._runs_dirty = False
        path.unlink(missing_ok=True)
        self.file = h5py.File(path, "w-", libver=LIBVER, **_CACHE)
        self._prepare()
        if resume.carry:
            self._take_over(resume.carry)

    # From part to part

    def carry(self) -> dict[str, Any]:
        """Return what the next part takes over, fit for JSON, so that it is a recording in itself."""
        names = {
            topic: stream.names if stream.columns is None else stream.columns.names()
            for topic, stream in self._streams.items()
        }
        return {
            "account": self.account.state(),
            "counts": self._counts,
            "answered": [*self._answered],
            "raw_only": sorted(self.raw_only),
            "sessions": self._sessions,
            "session": self._session,
            "abouts": [[t, name, content] for name, (t, content) in self._abouts.items()],
            "states": self._states,
            "run_rows": self._run_rows,
            "run_facts": self._run_facts,
            "open_runs": self._open_runs,
            "samples": [[*key, samples[-_LAST_SAMPLES:]] for key, samples in self._samples.items()],
            "wall": self._wall[-_LAST_SAMPLES:],
            "last_ns": self._before_ns if self._last_ns == NONE_NS else self._last_ns,
            "calls": self._calls,
            "columns": names,
        }

    def _take_over(self, carry: dict[str, Any]) -> None:
        self.account = Account.restored(carry["account"])
        self._counts = dict(carry["counts"])
        self._answered = dict.fromkeys(carry["answered"])
        self.raw_only.update(carry["raw_only"])
        self._sessions = carry["sessions"]
        if carry["session"]:
            self._provenance(carry["session"])
        for t, name, content in carry["abouts"]:
            self._note_about(t, name, content)
        self._states = {name: tuple(state) for name, state in carry["states"].items()}
        self._run_rows, self._run_facts = carry["run_rows"], carry["run_facts"]
        self._runs = {str(row[0]): place for place, row in enumerate(self._run_rows)}
        self._open_runs = carry["open_runs"]
        self._runs_dirty = bool(self._run_rows)
        self._samples = {(name, boot): [Sample(*each) for each in samples] for name, boot, samples in carry["samples"]}
        self._wall = [tuple(moment) for moment in carry["wall"]]
        self._before_ns = carry["last_ns"]
        self._calls = {identity: (row, asked) for identity, (row, asked) in carry["calls"].items()}
        for topic, names in carry["columns"].items():
            stream = self._stream(topic)
            assert stream is not None
            stream.names = [(tuple(keys), kinds) for keys, kinds in names]

    # Taking entries

    def take(self, record: Record) -> None:
        """Add one journal record; nothing a message holds can make this fail."""
        entry = unpack(record)
        self.dirty = True
        self._next = record.number + 1
        self.ended = None
        self.rolled = entry.kind == Kind.ROLL
        if entry.kind == Kind.MESSAGE:
            if self._first_ns == NONE_NS:
                self._first_ns = entry.t_recv
            self._last_ns = entry.t_recv
            self._take_message(entry)
            if len(self._ledger) >= _FLUSH_MESSAGES or self._payload_bytes >= _FLUSH_BYTES:
                self.flush()
            return
        with contextlib.suppress(
            ValueError, TypeError, KeyError, AttributeError
        ):  # our own JSON: cannot be, must not stop
            self._take_note(entry, json.loads(entry.payload))

    def _take_message(self, entry: Entry) -> None:
        payload = entry.payload
        reserved = topics.parse(entry.topic)
        flags = (
            (layout.FLAG_RETAIN if entry.flags & RETAIN else 0)
            | (layout.FLAG_DUP if entry.flags & DUP else 0)
            | (layout.FLAG_RESENT if entry.flags & RESENT else 0)
        )
        encoding = 2 if payload.startswith(codecs.CBOR_MAGIC) else int(payload[:1] in _JSON_STARTS)
        raw_only = entry.number in self.raw_only
        if self.marker is not None and not raw_only:
            self.marker.set(self._ledger[0][0] if self._ledger else entry.number, entry.number)
        fields: dict[str, Any] | None = None
        envelope: Envelope | None = None
        if reserved is None:
            fields, envelope = (None, codecs.numbering(payload)) if raw_only else codecs.parsed(payload)
        publisher = NONE_ID
        number, readings = -1, 1
        if envelope is not None:
            publisher = self._publisher(envelope.by, envelope.b)
            number, readings = envelope.n, codecs.readings_in(envelope)
            track = self.account.tracks.get((envelope.by, envelope.b, entry.topic))
            if track is not None and track.spans and number < track.spans[-1][1]:
                flags |= layout.FLAG_OUT_OF_ORDER
            if envelope.replay is not None:
                flags |= layout.FLAG_REPLAYED
        else:
            flags |= layout.FLAG_NO_NUMBER
        if reserved is None:
            self.account.take(entry.topic, envelope, entry.flags & QOS)
        device = _device_ns(envelope)
        row = [
            entry.number, entry.t_recv, entry.t_mono, device, number, readings, self._topic(entry.topic), publisher,
            NONE_ID, self._run, -1, 0, 0, crc32(payload), entry.flags & QOS, encoding, flags,
        ]  # fmt: skip
        self._ledger.append(row)
        self._payloads.append(payload)
        self._payload_bytes += len(payload) + 500
        self.messages += 1
        self._counts["recorded"] += 1
        self._counts["bytes"] += len(payload)
        if raw_only:
            row[16] |= layout.FLAG_RAW_ONLY
            return
        try:
            if reserved is None:
                self._take_reading(entry, codecs.decode(payload)[0] if fields is None else fields, envelope, row)
            else:
                self._take_reserved(entry, reserved)
        except MemoryError:
            raise
        except Exception:
            row[16] |= layout.FLAG_UNDECODED
            logger.debug("message %d on %r stays raw", entry.number, entry.topic, exc_info=True)

    def _take_reading(self, entry: Entry, fields: dict[str, Any], envelope: Envelope | None, row: list[Any]) -> None:
        stream = self._stream(entry.topic)
        if stream is None:
            raise ValueError("too many topics")
        place, publisher = len(self._ledger) - 1, row[7]
        if envelope is not None and type(envelope.k) is int:
            block = _batch(fields, envelope)
            times, device = _batch_times(envelope, block.rows, entry.t_recv)
            times = self._mapped(entry, envelope, times, device)
            row[16] |= layout.FLAG_BATCH
            stream.waiting.append((place, block, times, device, envelope.n, publisher, block.rows))
            return
        t = _ns(envelope.t, 1e6, 1000) if envelope is not None else None
        stamp, since_boot = entry.t_recv if t is None else t, NONE_NS
        if envelope is not None and (ms := _ns(envelope.ms, 1e3, 1000)) is not None:
            since_boot = ms
            stamp = int(self._mapped(entry, envelope, np.array([stamp], "<i8"), np.array([ms], "<i8"))[0])
        stream.rows.append(flatten(fields))
        stream.waiting.append((place, None, stamp, since_boot, row[4], publisher, 1))

    def _mapped(self, entry: Entry, envelope: Envelope, times: np.ndarray, device: np.ndarray) -> np.ndarray:
        """Return the times of readings stamped by a device's own clock, as well as is known by now."""
        clock_of = None if envelope.ms is None else self._clock(envelope.by, envelope.b)
        if clock_of is None or (device == NONE_NS).any():
            return times
        return np.asarray(np.minimum(clock_of.host(device)[0] + entry.t_recv - entry.t_mono, entry.t_recv))

    def _clock(self, name: str, boot: str) -> DeviceClock | None:
        """Return a device's clock, fitted to the last samples so far."""
        found = self._clocks.get((name, boot))
        if found is None and (name, boot) in self._samples:
            found = self._clocks[name, boot] = DeviceClock(self._samples[name, boot][-_LAST_SAMPLES:])
        return found

    def _take_sample(self, content: dict[str, Any]) -> None:
        name, boot, device = content["name"], content["boot"], round(content["ms"] * 1e6)
        sent, t_recv, t_mono = content["sent_mono"], content["t_recv"], content["t_mono"]
        self._tables["clocks"].append(
            (t_recv, t_mono, "device asked", layout.text(name), layout.text(boot), device, t_mono - sent)
        )
        self._wall.append((t_mono, t_recv))
        self._samples.setdefault((name, boot), []).append(Sample(device, sent, t_mono))
        self._clocks.pop((name, boot), None)

    def _correct_times(self) -> None:
        """Map device times once more, now that the samples before and after them are known, and note the error."""
        clocks = {
            self._publishers[key]: DeviceClock(samples)
            for key, samples in self._samples.items()
            if key in self._publishers
        }
        for stream in self._streams.values():
            if not stream.with_device_time or not self._wall:
                continue
            group = self.file[stream.path]
            rows = slice(stream.corrected, len(group["time"]))
            if rows.start == rows.stop:
                continue
            stream.corrected = rows.stop
            device, publisher, times = (group[name][rows] for name in ("time_device", "publisher", "time"))
            error = np.full(len(times), NONE_NS, "<i8")
            for number, found in clocks.items():
                chosen = (publisher == number) & (device != NONE_NS)
                if chosen.any():
                    host, error[chosen] = found.host(device[chosen])
                    times[chosen] = host + self._wall_at(host)
            group["time"][rows] = times
            if "time_error" not in group:
                dataset = new_dataset(group, "time_error", (rows.start,), np.dtype("<i8"), NONE_NS)
                dataset.attrs["units"] = "ns"
            write_rows(group["time_error"], rows.start, error)

    def _wall_at(self, mono: np.ndarray) -> np.ndarray:
        """Return what to add to the monotonic clock for the wall clock, by the nearest moment that has both."""
        known = np.array(sorted(self._wall), "<i8")
        places = np.searchsorted((known[1:, 0] + known[:-1, 0]) // 2, mono)
        return np.asarray((known[:, 1] - known[:, 0])[places])

    def _take_note(self, entry: Entry, content: Any) -> None:
        if entry.kind == Kind.SESSION:
            self._sessions += 1
            self._tables["clocks"].append((entry.t_recv, entry.t_mono, "recorder started", "", "", NONE_NS, -1))
            if self._wall and entry.t_mono < self._wall[-1][0]:  # the machine was started again, and its clock with it
                self.flush()
                self._correct_times()
                self._samples, self._clocks, self._wall = {}, {}, []
            if self._sessions == 1:
                self._session = content
                self._provenance(content)
            else:
                self._say(entry.t_recv, "WARNING", "the recorder was restarted and went on where it had stopped")
        elif entry.kind == Kind.EVENT:
            self._say(entry.t_recv, str(content.get("level", "INFO")), str(content.get("message", "")))
        elif entry.kind == Kind.DUPLICATES:
            for by, boot, topic, count in content:
                self.account.again(by, boot, topic, count)
        elif entry.kind == Kind.RAW_ONLY:
            self.raw_only.add(int(content["number"]))
        elif entry.kind == Kind.CLOCK:
            self._take_sample(content)
        elif entry.kind == Kind.END:
            self.ended = content

    def _say(self, t: int, level: str, message: str) -> None:
        self._tables["log"].append((t, "recorder", level, "ether.recorder", layout.text(message)))

    # The reserved tree

    def _take_reserved(self, entry: Entry, reserved: topics.Reserved) -> None:
        if reserved.kind == "session" or not entry.payload:
            return
        handler = {
            "status": self._take_status, "about": self._take_about, "run": self._take_run,
            "annotation": self._take_annotation, "log": self._take_log, "call": self._take_call,
            "reply": self._take_reply,
        }.get(reserved.kind)  # fmt: skip
        if handler is None:
            return
        try:
            content = json.loads(entry.payload)
        except ValueError:
            content = entry.payload.decode(errors="backslashreplace")
        if not isinstance(content, dict):
            key = {"status": "state", "annotation": "text", "log": "message"}.get(reserved.kind)
            if key is None:
                raise ValueError(f"not an object on {entry.topic}")
            content = {key: content}
        handler(entry, reserved, content)

    def _take_status(self, entry: Entry, reserved: topics.Reserved, content: dict[str, Any]) -> None:
        replay = bool(entry.flags & RETAIN)
        self.account.heard(reserved.name, content, replay)
        state, boot = str(content.get("state", "")), str(content.get("boot", ""))
        detail = str(content.get("detail", ""))
        if self._states.get(reserved.name) == (state, boot, detail):
            return  # a heartbeat
        self._states[reserved.name] = (state, boot, detail)
        t = _ns(content.get("t"), 1e6, 1000)
        self._tables["status"].append(
            (
                entry.t_recv if t is None else t,
                entry.t_recv,
                *map(layout.text, (reserved.name, boot, state, detail)),
                replay,
            )
        )

    def _take_about(self, entry: Entry, reserved: topics.Reserved, content: dict[str, Any]) -> None:
        known = self._abouts.get(reserved.name)
        if known is None or known[1] != content:
            self._note_about(entry.t_recv, reserved.name, content)

    def _note_about(self, t: int, name: str, content: dict[str, Any]) -> None:
        self._abouts[name] = (t, content)
        self.account.described(name, content)
        content = redacted(content)
        pid = content.get("pid")
        words = [str(content.get(key, "")) for key in ("boot", "class", "source", "host")]
        self._tables["provenance/instances"].append(
            (
                t, name, *map(layout.text, words), pid if type(pid) is int else -1,
                layout.text(content.get("version", "")), layout.text(content.get("file", "")),
                *(layout.text(json.dumps(content.get(key, {}))) for key in ("args", "kwargs")),
                layout.text(json.dumps(content)),
            )
        )  # fmt: skip
        publishes = content.get("publishes")
        for topic in publishes if isinstance(publishes, dict) else ():
            stream = self._streams.get(topic)
            if stream is not None and stream.columns is not None:
                stream.columns.declared = self._declared(topic)
                stream.schema_version = -1

    def _take_run(self, entry: Entry, _reserved: topics.Reserved, content: dict[str, Any]) -> None:
        identity = content.get("id")
        if not identity:
            if not entry.flags & RETAIN:
                self._close_run(self._run, entry.t_recv, "")
            return
        place = self._runs.get(str(identity))
        if place is not None:  # what a later message does not repeat stays
            told = {key: value for key, value in content.items() if value is not None}
            known = {key: value for key, value in self._run_facts[place].items() if key not in ("stopped", "outcome")}
            content = {**known, **told}  # without an end it goes on: whoever was lost has come back
        started, stopped = _ns(content.get("started"), 1e6, 1000), _ns(content.get("stopped"), 1e6, 1000)
        number = content.get("number")
        row: list[Any] = [
            layout.text(identity), layout.text(content.get("name") or ""), number if type(number) is int else -1,
            layout.text(content.get("parent") or ""), entry.t_recv if started is None else started,
            NONE_NS if stopped is None else stopped, layout.text(content.get("outcome") or ""),
            layout.text(json.dumps(content.get("metadata") or {})), layout.text(content.get("by") or ""),
        ]  # fmt: skip
        if stopped is None and content.get("outcome"):
            row[5] = entry.t_recv
        if place is None:
            place = self._runs[str(identity)] = len(self._run_rows)
            self._run_rows.append(row)
            self._run_facts.append(content)
        else:
            self._run_rows[place] = row
            self._run_facts[place] = content
        self._runs_dirty = True
        if row[5] != NONE_NS:
            self._open_runs = [each for each in self._open_runs if each != place]
        elif place not in self._open_runs:
            self._open_runs.append(place)

    @property
    def _run(self) -> int:
        """The run that began last of those that are on."""
        return self._open_runs[-1] if self._open_runs else NONE_ID

    def _close_run(self, place: int, t: int, outcome: str) -> None:
        """End a run, and those that it is a trial of."""
        while place in self._open_runs:
            self._open_runs.remove(place)
            row = self._run_rows[place]
            row[5], row[6] = t, row[6] or outcome
            self._runs_dirty = True
            place = self._runs.get(str(row[3]), NONE_ID)

    def _close_runs(self, t: int, outcome: str) -> None:
        while self._open_runs:
            self._close_run(self._run, t, outcome)

    def _take_annotation(self, entry: Entry, _reserved: topics.Reserved, content: dict[str, Any]) -> None:
        t = content.get("t")
        t0, t1 = (t[0], t[-1]) if isinstance(t, list) and t else (content.get("t0", t), content.get("t1"))
        start, end = _ns(t0, 1e6, 1000), _ns(t1, 1e6, 1000)
        tags, values = content.get("tags") or [], content.get("values") or {}
        if "reply_to" in content and isinstance(content.get("id"), str):
            self._answered[content["id"]] = None
            if len(self._answered) > ANSWERS_KEPT:
                self._answered.pop(next(iter(self._answered)))
        self._tables["annotations"].append(
            (
                entry.t_recv if start is None else start, NONE_NS if end is None else end, entry.t_recv,
                layout.text(content.get("text", "")), layout.text(content.get("by", "")),
                layout.text(json.dumps(tags)), layout.text(json.dumps(values)), self._run,
            )
        )  # fmt: skip

    def _take_log(self, entry: Entry, reserved: topics.Reserved, content: dict[str, Any]) -> None:
        t = _ns(content.get("t"), 1e6, 1000)
        words = [str(content.get(key, "")) for key in ("level", "logger", "message")]
        self._tables["log"].append((entry.t_recv if t is None else t, *map(layout.text, (reserved.name, *words))))

    def _take_call(self, entry: Entry, reserved: topics.Reserved, content: dict[str, Any]) -> None:
        identity = str(content.get("id", ""))
        params = json.dumps(redacted(content.get("params")))
        words = (identity, reserved.name, reserved.verb, str(content.get("reply_to", "")), params)
        if len(self._calls) > 10_000:  # nobody answers: what has no answer by now is written without
            self._close_calls()
        self._calls[identity] = ([entry.t_recv, *map(layout.text, words), "", "", -1], entry.t_mono)

    def _take_reply(self, entry: Entry, _reserved: topics.Reserved, content: dict[str, Any]) -> None:
        known = self._calls.pop(str(content.get("id", "")), None)
        if known is None:
            return
        row, asked = known
        answer = content.get("result") if content.get("status") == "success" else content.get("error")
        row[6:] = [layout.text(content.get("status", "")), layout.text(json.dumps(answer)), entry.t_mono - asked]
        self._tables["calls"].append(tuple(row))

    def _close_calls(self) -> None:
        self._tables["calls"].extend(tuple(row) for row, _ in self._calls.values())
        self._calls.clear()

    # Names

    def _topic(self, topic: str) -> int:
        number = self._topic_ids.get(topic)
        if number is None:
            number = self._topic_ids[topic] = len(self._topic_ids)
            self._tables["topics"].append((number, layout.text(topic)))
        return number

    def _publisher(self, name: str, boot: str) -> int:
        number = self._publishers.get((name, boot))
        if number is None:
            number = self._publishers[name, boot] = len(self._publishers)
            _, about = self._abouts.get(name, (0, {}))
            about = about if about.get("boot") == boot else {}
            pid = about.get("pid")
            words = [layout.text(word) for word in (name, boot, about.get("class", ""), about.get("host", ""))]
            self._tables["publishers"].append((number, *words, pid if type(pid) is int else -1, "", 0, 0, 0))
        return number

    def _stream(self, topic: str) -> _Stream | None:
        stream = self._streams.get(topic)
        if stream is None and len(self._streams) < _MOST_TOPICS:
            stream = self._streams[topic] = _Stream(topic, self._topic(topic))
        return stream

    def _declared(self, topic: str) -> dict[str, str]:
        """Return field path to the kind of column its publisher declares."""
        return {
            path: kind
            for path, schema in self._schemas_of(topic).items()
            if isinstance(schema.get("type"), str) and (kind := _DECLARED.get(schema["type"]))
        }

    def _schemas_of(self, topic: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for _, about in self._abouts.values():
            publishes = about.get("publishes")
            declared = publishes.get(topic) if isinstance(publishes, dict) else None
            fields = declared.get("fields") if isinstance(declared, dict) else None
            if isinstance(fields, dict):
                _collect_schemas(found, "", fields)
        return found

    # Writing

    def _prepare(self) -> None:
        root = self.file.attrs
        root["NX_class"] = "NXroot"
        root["format"] = layout.FORMAT
        root["format_version"] = layout.FORMAT_VERSION
        root["creator"] = "ether"
        root["part"] = self.part
        root["state"] = "open"
        root["continued"] = False
        root["previous_sha256"] = ""
        self.file.create_group("data").attrs["NX_class"] = "NXentry"
        self.file.create_group("provenance").attrs["NX_class"] = "NXcollection"
        new_dataset(self.file, "messages", (0,), layout.LEDGER, None)
        new_dataset(self.file, "raw", (0,), np.dtype("u1"), None, many=True)

    def flush(self) -> None:
        """Write what is buffered into the work file."""
        if self._ledger:
            if self.marker is not None:
                self.marker.set(self._ledger[0][0], self._ledger[-1][0])
            for stream in self._streams.values():
                if stream.waiting:
                    self._hollow_out(stream, self._flush_stream(stream))
            raw_bytes = self._raw_bytes
            for row, payload in zip(self._ledger, self._payloads, strict=True):
                row[11], row[12] = self._raw_bytes, len(payload)
                self._raw_bytes += len(payload)
            rows = np.empty(len(self._ledger), layout.LEDGER)
            for name, column in zip(layout.LEDGER.names or (), zip(*self._ledger, strict=True), strict=True):
                rows[name] = column
            write_rows(self.file["messages"], self.messages - len(rows), rows)
            pool = np.frombuffer(b"".join(self._payloads), "u1")
            if len(pool):
                write_rows(self.file["raw"], raw_bytes, pool)
            self._ledger, self._payloads, self._payload_bytes = [], [], 0
        for name, rows_of in self._tables.items():
            if rows_of:
                self._append_table(name, rows_of)
        if self._runs_dirty:
            self._replace_table("runs", [tuple(row) for row in self._run_rows])
            self._runs_dirty = False
        if self.marker is not None:
            self.marker.clear()

    def _flush_stream(self, stream: _Stream) -> list[int]:
        """Write the waiting messages of one topic: runs of single readings together, and of batches of one form.

        Return their places in the ledger's buffer.
        """
        waiting, rows = stream.waiting, iter(stream.rows)
        stream.waiting, stream.rows = [], []
        start = 0
        while start < len(waiting):
            end, block = start + 1, waiting[start][1]
            if block is None:
                while end < len(waiting) and waiting[end][1] is None:
                    end += 1
                flat = [next(rows) for _ in range(end - start)]
                self._write_rows(stream, waiting[start:end], flat)
            else:
                while end < len(waiting) and (following := waiting[end][1]) is not None and block.like(following):
                    end += 1
                self._write_batches(stream, waiting[start:end])
            start = end
        return [each[0] for each in waiting]

    def _hollow_out(self, stream: _Stream, places: list[int]) -> None:
        """Leave out of payloads what the columns hold, where they give it back byte for byte."""
        holder: Columns | None = None
        for place in places:
            row, payload = self._ledger[place], self._payloads[place]
            if row[10] < 0 or len(payload) < _LEAST_HOLLOW or (less := hollowed(payload)) is None:
                continue
            holder = holder or stream.holder()
            with contextlib.suppress(ValueError):
                if holder.filled(less, row[10], row[5]) == payload:
                    self._payloads[place] = less
                    row[16] |= layout.FLAG_HOLLOW
        if holder is not None:
            holder.forget()

    def _write_rows(self, stream: _Stream, waiting: list[Any], flat: list[dict[tuple[str, ...], Any]]) -> None:
        if self._write_block(stream, waiting, Block.of_rows(flat)):
            return
        # One of them is at fault: each for itself, so that only that one stays raw.
        for one, row in zip(waiting, flat, strict=True):
            if not self._write_block(stream, [one], Block.of_rows([row])):
                self._ledger[one[0]][16] |= layout.FLAG_UNDECODED

    def _write_batches(self, stream: _Stream, waiting: list[Any]) -> None:
        if len(waiting) > 1 and self._write_block(stream, waiting, Block.joined([each[1] for each in waiting])):
            return
        for one in waiting:
            if not self._write_block(stream, [one], one[1]):
                self._ledger[one[0]][16] |= layout.FLAG_UNDECODED

    def _write_block(self, stream: _Stream, waiting: list[Any], block: Block) -> bool:
        """Write one block and its fixed columns; False, with nothing written, where its values do not go."""
        try:
            columns = self._columns(stream, block)
            before = columns.rows
            columns.append(block)
        except OSError as exc:
            if exc.errno is not None:  # the disk's doing, not the message's
                raise
            logger.debug("%r: a block stays raw", stream.topic, exc_info=True)
            return False
        except MemoryError:
            raise
        except Exception:
            logger.debug("%r: a block stays raw", stream.topic, exc_info=True)
            return False
        self._write_fixed(stream, waiting, before)
        if stream.schema_version != columns.version:
            self._note_schema(stream, columns)
        row = before
        for place, _, _, _, _, _, count in waiting:
            self._ledger[place][10] = row
            self._ledger[place][8] = stream.schema
            row += count
        return True

    def _columns(self, stream: _Stream, block: Block) -> Group:
        if stream.columns is None:
            group = self.file.require_group(stream.path)
            group.attrs["NX_class"] = "NXdata"
            group.attrs["topic"] = layout.text(stream.topic)
            group.attrs["axes"] = ["time"]
            group.attrs["time_indices"] = 0
            many = block.rows >= _MANY
            stream.columns = Group(group, self._declared(stream.topic), stream.names, many)
            for name, dtype in (("time", "<i8"), ("message", "<u8"), ("number", "<i8"), ("publisher", "<u4")):
                stream.fixed[name] = new_dataset(group, name, (0,), np.dtype(dtype), None, many=many)
            stream.fixed["time"].attrs["units"] = "ns"
            stream.fixed["time"].attrs["start"] = "1970-01-01T00:00:00+00:00"
            self._make_default(stream.path)
        return stream.columns

    def _make_default(self, path: str) -> None:
        """Let viewers that follow NeXus' `default` attributes begin with the first stream."""
        parts = path.strip("/").split("/")
        group: h5py.Group = self.file
        for depth, part in enumerate(parts):
            if "default" not in group.attrs and (depth or "default" not in self.file.attrs):
                group.attrs["default"] = part
            group = group[part]
            if "NX_class" not in group.attrs:
                group.attrs["NX_class"] = "NXcollection"

    def _write_fixed(self, stream: _Stream, waiting: list[Any], start: int) -> None:
        places, blocks, times_of, device_of, numbers, publishers, counts = zip(*waiting, strict=True)
        message = np.array(places, "<u8") + np.uint64(self.messages - len(self._ledger))
        number, publisher = np.array(numbers, "<i8"), np.array(publishers, "<u4")
        if blocks[0] is None:
            times, device = np.array(times_of, "<i8"), np.array(device_of, "<i8")
        else:
            times, device = np.concatenate(times_of), np.concatenate(device_of)
            number, publisher, message = (np.repeat(each, counts) for each in (number, publisher, message))
            number = np.where(number >= 0, number + np.concatenate([np.arange(count) for count in counts]), number)
        written = {"time": times, "message": message, "number": number, "publisher": publisher}
        if stream.with_device_time or (device != NONE_NS).any():
            written["time_device"] = device
            if not stream.with_device_time:
                self._add_device_time(stream, start)
        for name, values in written.items():
            dataset = stream.fixed[name]
            write_rows(dataset, start, values.astype(dataset.dtype, copy=False))

    def _add_device_time(self, stream: _Stream, start: int) -> None:
        assert stream.columns is not None
        stream.with_device_time = True
        dataset = new_dataset(stream.columns.group, "time_device", (start,), np.dtype("<i8"), NONE_NS)
        dataset.attrs["units"] = "ns"
        dataset.attrs["meaning"] = "since the device's boot"
        stream.fixed["time_device"] = dataset

    def _note_schema(self, stream: _Stream, columns: Group) -> None:
        """Give a changed set of columns a row in /schemas, units to columns, and viewers something to plot."""
        kinds = columns.describe()
        schemas = self._schemas_of(stream.topic)
        changed = stream.schema_version < columns.version
        group = columns.group
        plottable = [
            name for name, kind in kinds.items() if kind in ("float", "int", "bool") or kind.startswith("array:")
        ]
        if plottable:
            group.attrs["signal"] = plottable[0]
            group.attrs["auxiliary_signals"] = [name for name in plottable[1:] if "array" not in kinds[name]]
        for family in columns.families.values():
            schema = schemas.get(".".join(family.keys), {})
            for column in family.columns.values():
                attributes = column.dataset().attrs
                if unit := schema.get("unit"):
                    attributes["units"] = layout.text(unit)
                if description := schema.get("description"):
                    attributes["description"] = layout.text(description)
        stream.schema_version = columns.version
        if not changed:
            return
        text = json.dumps({name: {"kind": kind, **schemas.get(name, {})} for name, kind in kinds.items()})
        if stream.schema != NONE_ID:
            self._say(self._last_ns, "INFO", f"{stream.topic}: columns are now {', '.join(kinds)}")
        stream.schema = self.schemas
        self.schemas += 1
        origin = "declared" if schemas else "inferred"
        row = (stream.schema, stream.number, columns.version, self._last_ns, origin, layout.text(text))
        self._tables["schemas"].append(row)

    def _append_table(self, name: str, rows: list[tuple[Any, ...]]) -> None:
        dataset = self._table(name)
        values = np.array(rows, layout.TABLES[name])
        write_rows(dataset, dataset.shape[0], values)
        rows.clear()

    def _replace_table(self, name: str, rows: list[tuple[Any, ...]]) -> None:
        dataset = self._table(name)
        dataset.id.set_extent((0,))
        if rows:
            write_rows(dataset, 0, np.array(rows, layout.TABLES[name]))

    def _table(self, name: str) -> h5py.Dataset:
        if name not in self.file:
            dtype = layout.TABLES[name]
            self.file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(64,))
        return self.file[name]

    def _provenance(self, content: dict[str, Any]) -> None:
        self.account.confirms = content.get("confirms", True) is True
        group = self.file["provenance"]
        provenance = content.get("provenance")
        facts = dict(provenance) if isinstance(provenance, dict) else {}
        facts["session"] = content.get("session")
        facts["recorder"] = {key: content.get(key) for key in _RECORDER_FACTS if key in content}
        for name, value in facts.items():
            if isinstance(value, str):
                value = redacted_text(value)
            elif value is not None:
                value = json.dumps(redacted(value), indent=1, default=str)
            if value is not None and (link := layout.link_name(str(name))) not in group:
                group.create_dataset(link, data=layout.text(value), dtype=h5py.string_dtype())
        session = content.get("session")
        if isinstance(session, dict):
            self.file.attrs["session"] = layout.text(session.get("name") or session.get("id") or "")

    def _write_accounts(self) -> None:
        """Write what is known of every publisher: the account, and every hole in it."""
        accounts, gaps = [], []
        totals: dict[int, list[int]] = {}
        levels: dict[int, str] = {}
        for (by, boot, topic), track in self.account.tracks.items():
            publisher = NONE_ID if (by, boot) == NOBODY else self._publisher(by, boot)
            number, level = self._topic(topic), self.account.level((by, boot, topic))
            holes = track.holes()
            first = track.spans[0][0] if track.spans else -1
            last = track.spans[-1][1] if track.spans else -1
            announced = -1 if track.last is None else track.last
            missing = track.missing()
            row = (publisher, number, first, last, announced, track.received, missing, track.duplicates, track.fresh)
            accounts.append((*row, level))
            if publisher == NONE_ID:
                continue
            levels[publisher] = min(level, levels.get(publisher, level))
            for hole in holes:
                reason = "tail" if hole[0] > last else "never received"
                gaps.append((publisher, number, hole[0], hole[1], reason))
            total = totals.setdefault(publisher, [0, 0, 0])
            for place, count in enumerate((track.received, missing, track.duplicates)):
                total[place] += count
        for name in ("topics", "publishers"):
            if self._tables[name]:
                self._append_table(name, self._tables[name])
        self._replace_table("accounts", accounts)
        if gaps or "gaps" in self.file:
            self._replace_table("gaps", gaps)
        if totals:
            table = self.file["publishers"]
            counts = np.array([totals.get(row, [0, 0, 0]) for row in range(len(table))], "<i8").reshape(-1, 3)
            for place, field in enumerate(("received", "missing", "duplicates")):
                table[field] = counts[:, place]
            table["level"] = np.array([levels.get(row, "") for row in range(len(table))], "S2")

    def finish(self, file: Path, reader: JournalReader) -> Part:
        """Write all that is left, for good; the recorder has died where the last entry is no end. Return what to seal.

        Args:
            file: the first file of the recording.
            reader: where the entries came from; told its damage, as far as it concerns this part.
        """
        state = "sealed" if self.rolled or self.ended is not None else "recovered"
        if not self.rolled:
            self._close_calls()
            last_ns = self._before_ns if self._last_ns == NONE_NS else self._last_ns
            self._close_runs(last_ns, "abandoned")  # nobody is left to end them
        self.flush()
        self._correct_times()
        self.file.attrs["continued"] = self.rolled
        self.close()
        damage = [each for each in reader.damage if not self.rolled or each.first < self._next]
        reader.damage = [each for each in reader.damage if each not in damage]
        told = [str(each) for each in damage if each.proven]
        return Part(
            self.part, self.path, part_path(file, self.part), self._start, self._next if self.rolled else None,
            self.messages, told, self.carry() if self.rolled else None, state,
        )  # fmt: skip

    def checkpoint(self) -> None:
        """Bring everything taken so far into the work file, such that a copy of it can be opened.

        It stays open: closing and opening it again costs a millisecond for each topic.
        """
        self.flush()
        self._write_accounts()
        root = self.file.attrs
        root["ended"] = _ending(self.ended)
        root["messages"] = self.messages
        root["first_ns"] = self._first_ns
        root["last_ns"] = self._last_ns
        self.file.flush()
        self.dirty = False

    def close(self) -> None:
        """Finish the work file."""
        self.checkpoint()
        self.file.close()

    def abandon(self) -> None:
        """Let go of the file without writing what is buffered."""
        with contextlib.suppress(Exception):
            self.file.close()


def _ending(ended: dict[str, Any] | None) -> str:
    """Return what the root attribute ``ended`` says: ``stop`` for an end on command with the broker at hand."""
    if ended is None:
        return ""
    reason = str(ended.get("reason", "stop"))
    return reason if ended.get("connected", True) else f"{reason}, cut off from the broker"


def _batch(fields: dict[str, Any], envelope: Envelope) -> Block:
    """Return a batch as a block; ValueError where its fields are not all of length `k`."""
    rows = codecs.readings_in(envelope)
    if envelope.k != rows:
        raise ValueError("the batch says no usable number of readings")
    flat = flatten(fields)
    for keys, values in flat.items():
        if not isinstance(values, (list, np.ndarray)) or np.ndim(values) == 0 or len(values) != rows:
            raise ValueError(f"{'.'.join(keys)}: not {rows} values")
    return Block(rows, flat)


def _batch_times(envelope: Envelope, rows: int, t_recv: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the readings' times, and their device times where the publisher has no clock, ns."""
    device = np.full(rows, NONE_NS, "<i8")
    if envelope.t is not None:
        return _spread(envelope.t, envelope.dt, rows, 1e6), device
    if envelope.ms is not None:
        device = _spread(envelope.ms, envelope.dt, rows, 1e3)
        return device - device[-1] + t_recv, device
    return np.full(rows, t_recv, "<i8"), device


def _spread(t: Any, dt: Any, rows: int, scale: float) -> np.ndarray:
    """Return `rows` stamps in ns: given one by one, or evenly spaced from the first. `scale`: units in a us or ns."""
    if isinstance(t, (list, np.ndarray)):
        stamps = np.asarray(t, "<f8")
    else:
        stamps = float(t) + np.arange(rows) * float(dt or 0.0)
    if stamps.shape != (rows,) or not np.isfinite(stamps).all() or np.abs(stamps).max(initial=0) > 9.2e18 / scale / 1e3:
        raise ValueError("the batch's times do not fit its readings")
    return np.round(stamps * scale).astype("<i8") * 1000


def _ns(t: Any, scale: float, factor: int) -> int | None:
    """Return a stamp in ns at the resolution of the wire, a microsecond; None for what is no time."""
    if type(t) not in (int, float) or not abs(t) < 1e30:  # NaN fails the comparison too
        return None
    found: int = round(t * scale) * factor
    return found if abs(found) < 1 << 63 else None


def _device_ns(envelope: Envelope | None) -> int:
    """Return the publisher's own stamp: Unix time, or since its boot where it has no clock; NONE_NS for none."""
    if envelope is None:
        return NONE_NS
    t, scale = (envelope.t, 1e6) if envelope.t is not None else (envelope.ms, 1e3)
    if isinstance(t, (list, np.ndarray)):
        t = t[0] if len(t) else None
    found = _ns(t, scale, 1000)
    return NONE_NS if found is None else found


def _collect_schemas(found: dict[str, dict[str, Any]], above: str, fields: dict[str, Any]) -> None:
    for name, schema in fields.items():
        if isinstance(schema, dict):
            found[above + str(name)] = schema
            if isinstance(schema.get("properties"), dict):
                _collect_schemas(found, f"{above}{name}.", schema["properties"])
