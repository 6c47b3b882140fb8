"""ether_broker.store: what was committed comes back, whatever happened to the rest."""

import logging
from pathlib import Path

import pytest

from ether_broker import store as store_module
from ether_broker.limits import Limits
from ether_broker.packets import Message
from ether_broker.sessions import Counters, Session
from ether_broker.store import FolderInUse, Store


def message(payload: bytes, qos: int = 1) -> Message:
    return Message(b"\x00\x01t", payload, qos)


def opened(folder: Path) -> Store:
    return Store(folder, Limits(), Counters())


def with_session(store: Store, name: str = "recorder") -> Session:
    session = Session(name, True, Limits(), Counters(), store)
    store.sessions[name] = session
    store.session(session)
    return session


def queued(store: Store, session: Session, payloads: list[bytes]) -> None:
    for payload in payloads:
        each = message(payload)
        store.message(each, [(session.number, 1)])
        session.queue.append((each, 1, False))
    store.commit()


def waiting(store: Store, name: str = "recorder") -> list[bytes]:
    """Payloads in flight, then those that wait."""
    session = store.sessions[name]
    in_flight = [entry[0].payload for entry in session.inflight.values() if entry is not None]
    read = [store.read(location, session.number) for location in session.spilled]
    return in_flight + [found[0].payload for found in read if found is not None]


def crash(store: Store) -> None:
    """Let go of the folder as the end of a process does: nothing more is written."""
    store._lock.close()
    assert store._file is not None
    store._file.close()
    for file in store._retired:
        file.close()
    store._close_reader()


def test_committed_messages_come_back_in_order(tmp_path: Path) -> None:
    store = opened(tmp_path)
    queued(store, with_session(store), [b"%d" % n for n in range(100)])
    crash(store)

    again = opened(tmp_path)

    assert waiting(again) == [b"%d" % n for n in range(100)]
    again.close()


def test_uncommitted_messages_do_not(tmp_path: Path) -> None:
    store = opened(tmp_path)
    session = with_session(store)
    queued(store, session, [b"in"])
    store.message(message(b"out"), [(session.number, 1)])
    crash(store)

    again = opened(tmp_path)

    assert waiting(again) == [b"in"]
    again.close()


def test_sent_confirmed_and_subscriptions_come_back(tmp_path: Path) -> None:
    store = opened(tmp_path)
    session = with_session(store)
    session.subscriptions = {"a/ü/#": 2}
    store.session(session)
    queued(store, session, [b"done", b"sent", b"confirmed", b"waits"])
    done, sent, confirmed, _ = (entry[0] for entry in session.queue)
    for packet_id, each in ((7, done), (8, sent), (9, confirmed)):
        store.sent(session.number, each.mid, packet_id)
    store.confirmed(session.number, done, 7, 1)
    store.confirmed(session.number, confirmed, 9, 2)
    store.received(session.number, 5)
    store.received(session.number, 6)
    store.released(session.number, 5)
    store.commit()
    crash(store)

    again = opened(tmp_path)
    found = again.sessions["recorder"]

    assert {i: entry and entry[0].payload for i, entry in found.inflight.items()} == {9: None, 8: b"sent"}
    assert (found.received, found.subscriptions, len(found.spilled)) == ({6}, {"a/ü/#": 2}, 1)
    again.close()


def test_retained_is_replaced_and_cleared(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for topic, payload in (("t", b"one"), ("t", b"two"), ("u", b"gone"), ("u", b"")):
        store.retain(topic, Message(b"\x00\x01" + topic.encode(), payload, 1))
    store.commit()
    crash(store)

    again = opened(tmp_path)

    assert {topic: each.payload for topic, each in again.retained.items()} == {"t": b"two"}
    again.close()


def test_forgotten_session_stays_forgotten(tmp_path: Path) -> None:
    store = opened(tmp_path)
    session = with_session(store)
    queued(store, session, [b"x"])
    store.forget(store.sessions.pop("recorder"))
    store.close()

    again = opened(tmp_path)

    assert again.sessions == {}
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 12, 40])
def test_torn_end_costs_the_torn_record_only(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    store = opened(tmp_path)
    queued(store, with_session(store), [b"%030d" % n for n in range(10)])
    crash(store)
    (log,) = tmp_path.glob("*.log")
    log.write_bytes(log.read_bytes()[:-cut])

    with caplog.at_level(logging.WARNING):
        again = opened(tmp_path)

    assert waiting(again) == [b"%030d" % n for n in range(9)]
    assert len(caplog.records) == 1
    again.close()
    caplog.clear()
    opened(tmp_path).close()
    assert caplog.records == []


def test_damage_in_the_middle_costs_the_damaged_record_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(tmp_path)
    queued(store, with_session(store), [b"%030d" % n for n in range(10)])
    crash(store)
    (log,) = tmp_path.glob("*.log")
    data = bytearray(log.read_bytes())
    data[data.index(b"%030d" % 4) + 3] ^= 0xFF
    log.write_bytes(data)

    with caplog.at_level(logging.WARNING):
        again = opened(tmp_path)

    assert waiting(again) == [b"%030d" % n for n in range(10) if n != 4]
    assert len(caplog.records) == 1
    again.close()


@pytest.mark.parametrize("junk", [b"", b"\0" * 5000, b"\xe7\x8b" * 2500, bytes(range(256)) * 20])
def test_file_of_junk_is_survived(tmp_path: Path, junk: bytes) -> None:
    tmp_path.joinpath("00000001.log").write_bytes(junk)

    store = opened(tmp_path)
    queued(store, with_session(store), [b"good"])
    crash(store)
    again = opened(tmp_path)

    assert waiting(again) == [b"good"]
    again.close()


def test_folder_belongs_to_one_broker(tmp_path: Path) -> None:
    store = opened(tmp_path)

    with pytest.raises(FolderInUse):
        opened(tmp_path)

    store.close()
    opened(tmp_path).close()


def test_log_does_not_grow_with_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_SEGMENT_BYTES", 50_000)
    monkeypatch.setattr(store_module, "_CLEAN_FROM_BYTES", 200_000)
    store = opened(tmp_path)
    slow, quick = with_session(store, "slow"), with_session(store, "quick")
    store.retain("t", message(b"retained"))
    largest = 0
    for n in range(5000):
        each = message(b"%01000d" % n)
        targets = [(quick.number, 1)]
        if n % 100 == 0:  # pins its segment until it is moved
            targets.append((slow.number, 1))
            slow.queue.append((each, 1, False))
        store.message(each, targets)
        store.sent(quick.number, each.mid, n % 1000 + 1)
        store.confirmed(quick.number, each, n % 1000 + 1, 1)
        store.commit()
        if n % 50 == 0:
            store.sync()
        largest = max(largest, sum(path.stat().st_size for path in tmp_path.glob("*.log")))
    crash(store)

    again = opened(tmp_path)

    assert largest < 500_000
    assert waiting(again, "slow") == [b"%01000d" % n for n in range(0, 5000, 100)]
    assert waiting(again, "quick") == []
    assert again.retained["t"].payload == b"retained"
    again.close()


def test_many_restarts_leave_few_files(tmp_path: Path) -> None:
    for n in range(40):
        store = opened(tmp_path)
        session = store.sessions.get("recorder") or with_session(store)
        each = message(b"%d" % n)
        store.message(each, [(session.number, 1)])
        session.spilled.append(each.location)
        store.close()

    store = opened(tmp_path)

    assert waiting(store) == [b"%d" % n for n in range(40)]
    assert len(list(tmp_path.glob("*.log"))) < 15
    store.close()


def test_segments_go_when_nothing_in_them_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_SEGMENT_BYTES", 10_000)
    store = opened(tmp_path)
    session = with_session(store)
    for _ in range(100):
        queued(store, session, [bytes(1000)])
    for each, *_ in session.queue:
        store.confirmed(session.number, each, 1, 1)
    session.queue.clear()
    store.commit()

    store.drop_unwanted()
    store.sync()

    assert len(list(tmp_path.glob("*.log"))) == 1
    crash(store)
    again = opened(tmp_path)
    assert (list(again.sessions), waiting(again)) == (["recorder"], [])
    again.close()
