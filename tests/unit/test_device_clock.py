"""Device clocks: whatever a board's clock does and the network adds, mapped times are right within their bound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ether import codecs
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import layout, seal
from ether.recorder.device_clock import DeviceClock, Sample
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.pings import Pings
from ether.recorder.reader import open_recording

S = 10**9
MS = 10**6
BOOT_AT = 5_000 * S
"""When the device was started, on the recorder's monotonic clock."""


def shown(host: np.ndarray, rate: float) -> np.ndarray:
    """What the device's clock shows: milliseconds, cut off."""
    return np.floor((np.asarray(host) - BOOT_AT) / rate / MS).astype("<i8") * MS


def samples(at: np.ndarray, rate: float, there: np.ndarray, back: np.ndarray) -> list[Sample]:
    """Pings sent at `at`, with their delays both ways."""
    return [
        Sample(int(device), int(sent), int(received))
        for device, sent, received in zip(shown(at + there, rate), at, at + there + back, strict=True)
    ]


def times(seconds: float, every: float) -> np.ndarray:
    return BOOT_AT + (np.arange(0, seconds, every) * S).astype("<i8")


@pytest.mark.parametrize("rate", [0.9, 1.0, 1.1, 1.15])
@pytest.mark.parametrize("seconds", [2.0, 60.0, 4000.0])
def test_jitter_and_drift_leave_times_within_20_ms_and_within_the_bound(rate: float, seconds: float) -> None:
    dice = np.random.default_rng(7)
    at = times(seconds, max(0.25, seconds / 800))
    delays = dice.exponential(15 * MS, (2, len(at))) + MS
    host = times(seconds, seconds / 500)

    found, bound = DeviceClock(samples(at, rate, *delays)).host(shown(host, rate))

    assert (np.abs(found - host) <= bound).all()
    assert np.abs(found - host).max() < 20 * MS


def test_delays_that_are_all_on_one_way_stay_within_the_bound() -> None:
    at = times(30, 0.25)
    host = times(60, 0.5)  # half of it after the last answer

    clock = DeviceClock(samples(at, 1.1, np.full(len(at), 40 * MS), np.zeros(len(at))))
    found, bound = clock.host(shown(host, 1.1))

    assert (np.abs(found - host) <= bound).all()
    assert bound.max() < 120 * MS
    assert clock.rate == pytest.approx(1.1, abs=0.001)


def test_readings_from_before_the_first_answer_and_after_the_last_are_bounded_more_widely() -> None:
    at = times(120, 1.0)[60:70]
    host = times(120, 1.0)

    found, bound = DeviceClock(samples(at, 1.1, np.full(10, 2 * MS), np.full(10, 3 * MS))).host(shown(host, 1.1))

    assert (np.abs(found - host) <= bound).all()
    assert bound[65] < bound[0] and bound[65] < bound[-1]


def test_one_answer_gives_a_time_and_an_honest_bound() -> None:
    at = times(1, 1)

    found, bound = DeviceClock(samples(at, 1.1, np.array([MS]), np.array([MS]))).host(shown(times(11, 1), 1.1))

    assert (np.abs(found - times(11, 1)) <= bound).all()
    assert bound[10] > S


def test_a_rate_that_changes_slowly_is_followed() -> None:
    at = times(7200, 5)
    along = (at - BOOT_AT) / S
    host_to_device = along - 1e-8 * along**2  # from 0 to 144 ppm within two hours
    device = np.floor(host_to_device * 1000).astype("<i8") * MS
    given = [Sample(int(d), int(a - 2 * MS), int(a + 2 * MS)) for d, a in zip(device, at, strict=True)]

    found, _ = DeviceClock(given).host(device)

    assert np.abs(found - at).max() < 10 * MS


def test_an_answer_of_a_later_boot_is_left_out() -> None:
    at = times(30, 1)
    given = samples(at, 1.1, np.full(30, MS), np.full(30, MS))
    given.append(Sample(200 * MS, int(at[-1]) + S, int(at[-1]) + S + 2 * MS))

    found, _ = DeviceClock(given).host(shown(at, 1.1))

    assert np.abs(found - at).max() < 5 * MS


def test_a_recording_maps_device_times_keeps_the_answers_and_can_be_fitted_again(tmp_path: Path) -> None:
    wall = 1_795_374_229 * S - BOOT_AT
    at = times(20, 0.5)
    pings = samples(at, 1.1, np.full(len(at), 3 * MS), np.full(len(at), 5 * MS))
    file = tmp_path / "x.h5"
    with Journal(journal_folder(file), segment_bytes=1 << 20) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "test"}, "provenance": {}}))
        for number, (moment, ping) in enumerate(zip(at, pings, strict=True)):
            device = shown(moment, 1.1) // MS
            batch = Envelope("board", "b1", 2 * number, ms=[int(device), int(device) + 100], k=2)
            # What was held back for two seconds is received late; its time must not be.
            late = int(moment) + 2 * S
            journal.append(head(Kind.MESSAGE, 1, late + wall, late, "t"), codecs.encode({"a": [1, 2]}, batch))
            sample = {"name": "board", "boot": "b1", "ms": ping.device // MS, "sent_mono": ping.sent}
            journal.append(*note(Kind.CLOCK, {**sample, "t_recv": ping.received + wall, "t_mono": ping.received}))
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)

    with open_recording(file) as recording:
        assert recording.verify().damage == []
        stream = recording["t"]
        assert stream.time_device is not None and stream.time_error is not None
        off = stream.time.view("<i8")[::2] - (at + wall)
        assert np.abs(off).max() < 10 * MS
        assert (np.abs(off) <= stream.time_error[::2]).all()
        again, bound = recording.device_clock("board", "b1").host(stream.time_device)
        assert np.abs(again + wall - stream.time.view("<i8")).max() <= 1
        assert (bound == stream.time_error).all()
        assert len(recording.clocks) == 1 + len(pings)
        assert "time_error" not in stream.fields
        with pytest.raises(KeyError, match=r"no clock of 'board', boot 'b2'; there are: \[\('board', 'b1'\)\]"):
            recording.device_clock("board", "b2")


def test_a_device_is_asked_often_at_first_and_strangers_answers_are_not_kept() -> None:
    sent: list[tuple[str, bytes]] = []
    kept: list[dict[str, object]] = []
    pings = Pings(lambda topic, payload: bool(sent.append((topic, payload))) or True, kept.append)

    pings.send_due()
    pings.heard("board", "b1")
    pings.send_due()
    (topic, payload), identity = sent[0], json.loads(sent[0][1])["id"]
    for answer in (b"", b"[]", b'{"id": 1}', b'{"id": -5, "ms": 1}', b'{"id": %d, "ms": "x"}' % identity):
        pings.answered("board", answer, 0, 0)
    pings.send_due()  # not due yet
    pings.answered("stranger", payload, 0, 0)

    assert (topic, len(sent), kept) == ("ether/command/board/ping", 1, [])


def test_an_answer_is_kept_once_with_the_boot_that_it_belongs_to() -> None:
    sent: list[bytes] = []
    kept: list[dict[str, object]] = []
    pings = Pings(lambda topic, payload: bool(sent.append(payload)) or True, kept.append)
    pings.heard("board", "b1")
    pings.send_due()
    answer = json.dumps({**json.loads(sent[0]), "ms": 1500}).encode()

    pings.answered("board", answer, 7, 8)
    pings.answered("board", answer, 9, 10)
    pings.heard("board", "b2")  # started again: what was asked before means nothing now
    pings.answered("board", answer, 11, 12)

    (sample,) = kept
    assert (sample["name"], sample["boot"], sample["ms"], sample["t_recv"], sample["t_mono"]) == (
        "board", "b1", 1500, 7, 8,
    )  # fmt: skip


def test_the_layout_has_a_place_for_the_error() -> None:
    assert layout.link_name("time_error") == "time_error@field"
