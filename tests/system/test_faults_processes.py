"""Whatever dies, hangs, is cut off or jumps: every message published is in the recording, once, and it proves so.

A short mixed schedule for each broker here; `make soak` runs each fault alone, many times.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_parts import TOPICS, FaultBench, compare

KINDS = ("recorder", "witness", "broker", "pair", "clock", "stop")
BATCH = 20
BATCHES = int(os.environ.get("SOAK_ROUNDS", "0")) // BATCH
"""A soak is made of recordings of 20 faults each; without it there is one recording with a fault of each kind."""
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


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    """Note the figures of a soak."""

    def tell(figures: dict[str, Any]) -> None:
        line = json.dumps({"test": request.node.name, **figures})
        print(line)
        if BATCHES:
            with open(os.environ.get("SOAK_FIGURES", "build/soak.jsonl"), "a") as file:
                file.write(line + "\n")

    return tell


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
