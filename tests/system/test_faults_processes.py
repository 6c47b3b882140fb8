"""Whatever dies, hangs, is cut off or jumps: every message published is in the recording, once, and it proves so.

A short mixed schedule for each broker here; `make soak` runs each fault alone, many times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_parts import TOPICS, FaultBench, Sieve, compare, wait_until

from ether.recorder.reader import open_recording

KINDS = ("recorder", "witness", "broker", "pair", "clock", "stop")
BATCH = 20
BATCHES = int(os.environ.get("SOAK_ROUNDS", "0")) // BATCH
"""A soak is made of recordings of 20 faults each; without it there is one recording with a fault of each kind."""
KILLS = ["recorder"] * 50 + ["broker"] * 5 if BATCHES else ["recorder", "broker"] * 2
PILED = 100_000 if BATCHES else 1500
"""So many messages come while there is no recorder."""
UNACKNOWLEDGED = 500
WITHHELD = 137
SEED = int(os.environ.get("SOAK_SEED", "4"))
SCHEDULES = {
    f"{kind}-{batch}": [kind] * (BATCH // 10 if kind == "stop" else BATCH) for batch in range(BATCHES) for kind in KINDS
} or {"mixed-0": list(KINDS)}

pytestmark = pytest.mark.timeout(900 if BATCHES else 120)


@pytest.fixture
def bench(nothing_left: None, plain_broker: Any, tmp_path: Path) -> Iterator[FaultBench]:
    bench = FaultBench(plain_broker, tmp_path, seed=SEED)
    yield bench
    bench.close()


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_whatever_dies_every_message_is_recorded_once(bench: FaultBench, schedule: str, tell) -> None:
    bench.rng.seed(SEED + int(schedule.rpartition("-")[2]))
    bench.start("witness")
    bench.more_sent(200)
    bench.start("recorder")  # late: it has everything from the first number on all the same
    faults = list(SCHEDULES[schedule])
    bench.rng.shuffle(faults)
    for fault in faults:
        bench.round(fault)

    tell(bench.figures(bench.end()))


def test_two_recorders_in_one_namespace_have_everything_each(bench: FaultBench, tmp_path: Path, capfd, tell) -> None:
    """Publishers wait for the one that is called `recorder`; the other listens."""
    other = tmp_path / "other.h5"
    bench.start("recorder")
    bench.start("second-recorder", other)
    bench.start("witness")
    bench.more_sent(200)
    bench.start("third-recorder", bench.file)  # one file is for one of them
    assert bench.bury("third-recorder") == 1
    bench.kill("recorder")
    confirmed = bench.confirmations
    bench.more_sent(200)
    assert bench.confirmations == confirmed
    bench.start("recorder")
    bench.more_sent(200)

    report = bench.end()

    assert bench.stop("second-recorder") == 0
    second = bench.verify(other)
    compare(bench.folder, other, second)
    assert {tally["level"] for tally in report["tallies"] if tally["topic"] in TOPICS} == {"L3"}
    assert {tally["level"] for tally in second["tallies"] if tally["topic"] in TOPICS} == {"L1"}
    assert "another process writes this journal" in capfd.readouterr().err
    tell(bench.figures(report))


def test_connections_cut_at_any_byte_cost_nothing(bench: FaultBench, tell) -> None:
    cuts = BATCH * BATCHES or 12
    bench.cut_connections(cuts)
    bench.start("recorder")
    bench.start("witness")
    while bench.cutter.cuts < cuts:
        bench.more_sent(50)

    tell(bench.figures(bench.end()))


@pytest.mark.parametrize(
    "broker_kind", ["forgetful", "mosquitto", "embedded"] if BATCHES else ["forgetful"], indirect=True
)
def test_kills_of_recorder_and_broker_cost_few_repeats_and_little_time(bench: FaultBench, tell) -> None:
    """Brokers that forget all they have when they are killed; repeats and time are bounded where a recording ends."""
    bench.start("recorder")
    bench.start("witness")
    bench.rng.shuffle(faults := list(KILLS))
    for fault in faults:
        bench.round(fault)

    tell(bench.figures(bench.end()))  # the bounds hold for every recording here


@pytest.mark.parametrize("broker_kind", ["mosquitto"], indirect=True)  # as delivered it keeps 1,000, and drops the rest
def test_what_piled_up_while_there_was_no_recorder_is_recorded_without_a_gap(bench: FaultBench, tell) -> None:
    bench.start("recorder")
    bench.start("witness", outbox={"folder": str(bench.outbox), "topics": ["#"], "exclude": [], "size": 1 << 30})
    bench.more_sent(200)
    bench.kill("recorder")
    bench.more_sent(PILED)
    bench.start("recorder")

    report = bench.end(drain_s=30 + PILED / 500)

    assert sum(bench.resent.values()) > PILED // 10
    tell(bench.figures(report))


@pytest.mark.parametrize("broker_kind", ["mosquitto"], indirect=True)
def test_numbers_withheld_on_the_way_are_listed_exactly(bench: FaultBench, tell) -> None:
    """A publisher that sends nothing again, behind a network that lies: the recording says what it lacks."""
    numbers = sorted(bench.rng.sample(range(500), WITHHELD))
    sieve = Sieve(bench.broker.port, {TOPICS[0]: set(numbers)})
    bench.start("recorder")
    bench.url = sieve.url
    bench.start("witness", outbox=None)
    wait_until(lambda: not sieve.withheld[TOPICS[0]], "all being withheld")
    bench.more_sent(20)
    (bench.folder / "halt").touch()
    bench.stop("witness")
    sieve.close()
    assert bench.stop("recorder") == 0

    report = bench.verify()  # looks at the exit code, too

    tallies = {tally["topic"]: tally for tally in report["tallies"]}
    holes = tallies[TOPICS[0]]["holes"]
    assert [number for first, last in holes for number in range(first, last + 1)] == numbers
    assert (tallies[TOPICS[1]]["missing"], tallies[TOPICS[0]]["missing"]) == (0, WITHHELD)
    assert (report["complete"], report["damage"]) == (False, [])
    tell({"withheld": WITHHELD, "listed": tallies[TOPICS[0]]["missing"]})


@pytest.mark.parametrize("broker_kind", ["mosquitto"], indirect=True)
def test_nothing_of_a_connection_is_acknowledged_on_the_next_one(
    nothing_left, broker, mount_disk, tmp_path, tell
) -> None:
    """The broker is killed, and forgets, while the recorder holds hundreds of messages that its disk does not take."""
    disk = mount_disk("64m")
    bench = FaultBench(broker, tmp_path, seed=SEED, data=disk)
    sieve = Sieve(broker.port)
    try:
        bench.start("witness")
        bench.url = sieve.url
        bench.start("recorder", reserve=16 << 20)
        wait_until(bench.ready, "the recorder being ready")
        bench.more_sent(100)
        (disk / "ballast").write_bytes(bytes(46 << 20))
        wait_until(lambda: bench.status["state"] == "alert", "the disk being too full")
        wait_until(lambda: len(sieve.unacknowledged[1]) >= UNACKNOWLEDGED, "messages that are not acknowledged")
        held = len(sieve.unacknowledged[1])
        bench.kill("broker")
        bench.start("broker")
        wait_until(lambda: len(sieve.unacknowledged.get(2, ())) > 20, "messages over the next connection")
        (disk / "ballast").unlink()

        report = bench.end()

        assert (sieve.connections, sieve.stale) == (2, [])
        assert sieve.acknowledged > 200
        with open_recording(bench.file) as recording:
            told = [line.message for line in recording.log if "no session of ours" in line.message]
        assert len(told) == 2  # at the start, and by the broker that forgot
        tell({**bench.figures(report), "unacknowledged": held})
    finally:
        bench.close()
        sieve.close()
