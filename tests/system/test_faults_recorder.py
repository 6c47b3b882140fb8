"""The recorder under load: killed, read while it writes, without room on its disk, at the turn of its parts.

A short form of each here; `make soak` has the long ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest
from fault_parts import wait_until
from recorder_bench import Bench, Load

from ether import clock
from ether.cli import main
from ether.journal import MAGIC, JournalReader
from ether.recorder.parts import part_path, parts_of
from ether.recorder.reader import open_recording
from ether.recorder.verify import Report, verify

SOAK = bool(os.environ.get("SOAK_ROUNDS"))
KILLS, MESSAGES = (50, 20_000) if SOAK else (4, 2400)
WRITER_KILLS = 100 if SOAK else 3
PARTS, ROLL_KILLS = (100, 33) if SOAK else (5, 3)
LOAD_S = 600 if SOAK else 3
SEED = int(os.environ.get("SOAK_SEED", "4"))

pytestmark = pytest.mark.timeout(1800 if SOAK else 120)


@pytest.fixture
def broker_kind(mosquitto: str) -> str:
    return "mosquitto"


@pytest.fixture
def bench(nothing_left: None, broker: Any, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(broker.url, tmp_path)
    yield bench
    bench.close()


def proven(bench: Bench, load: Load) -> Report:
    """Assert that all that was sent is in the file, each once, and that it says so; return the report."""
    report = verify(bench.file)
    each = load.each
    assert report.damage == []
    assert sorted((tally.topic, tally.stored, tally.received, tally.holes) for tally in report.tallies) == sorted(
        (topic, each, each, []) for name in load.names for topic in load.topics(name)
    )
    assert report.complete
    with open_recording(bench.file) as recording:
        for name in load.names:
            for topic in load.topics(name):
                assert sorted(recording[topic].number.tolist()) == list(range(each))
    return report


def test_kill_9_at_random_moments_loses_nothing_and_stores_everything_once(bench: Bench, tell: Any) -> None:
    rng = random.Random(SEED)
    bench.start()
    with Load(bench, 500, ["oven", "scale", "camera"]) as load:
        for _ in range(KILLS):
            load.more(rng.randint(50, 750))  # 0.1 to 1.5 s
            bench.kill()
            bench.start(ready=rng.random() < 0.7)  # otherwise it is killed while it starts, or shortly after
        load.upto(MESSAGES)

    assert bench.stop() == 0
    report = proven(bench, load)
    tell({"kills": KILLS, "sent": load.sent, "stored": sum(tally.stored for tally in report.tallies)})


def test_kill_9_around_the_roll_of_parts_loses_nothing(bench: Bench, tell: Any) -> None:
    rotate = {"size": 30_000 if SOAK else 100_000}
    bench.start(rotate=rotate)

    def rolled(part: int) -> bool:
        return any(int(path.stem.partition("-")[2]) >= part for path in bench.journal.glob("work-*.h5"))

    def sealing(part: int) -> bool:
        return part_path(bench.file, part).exists() and (bench.journal / "sealed.h5").exists()

    def sealed(part: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return int(json.loads((bench.journal / "resume.json").read_text())["part"]) > part
        return False

    with Load(bench, 200 if SOAK else 600, spread=3) as load:
        for number, part in enumerate(range(2, PARTS, max(1, PARTS // ROLL_KILLS))):
            at = (rolled, sealing, sealed)[number % 3]
            wait_until(partial(at, part), f"part {part}: {at.__name__}")
            bench.kill()
            bench.start(rotate=rotate)
        wait_until(lambda: part_path(bench.file, PARTS).exists(), f"{PARTS} parts", 600)

    assert bench.stop(within=120) == 0
    report = proven(bench, load)
    assert report.parts >= PARTS
    assert {path.name for path in bench.file.parent.iterdir()} == {path.name for path in parts_of(bench.file).values()}
    tell({"parts": report.parts, "kills": number + 1, "sent": load.sent})


def test_a_torn_end_of_the_journal_costs_nothing(bench: Bench) -> None:
    """What a power cut leaves of a write that was under way was never confirmed, and comes again."""
    bench.start()
    with Load(bench, 1000) as load:
        wait_until(lambda: load.stored() > 300, "storing")
        bench.kill()
        segment = max(bench.journal.glob("*.etj"))
        with JournalReader(bench.journal) as reader:
            for _ in reader:
                pass
            end = reader.end[1]
        with open(segment, "r+b") as file:
            whole = file.read(end)
            file.seek(end)
            file.write(whole[whole.rindex(MAGIC) :][:-7])  # a record again, but for its last bytes
        bench.start()
        assert list(bench.journal.glob("torn-*"))

    assert bench.stop() == 0
    assert main(["verify", str(bench.file)]) == 0
    proven(bench, load)


# --- read while it is written

POLL = """
import json, os, subprocess, sys, time
import h5py, xarray
file, folder, h5dump = sys.argv[1:]
path = "data/lab/oven/readings"
seen, opened = 0, {"h5py": 0, "xarray": 0, "h5dump": 0}
while not os.path.exists(folder + "/enough"):
    with h5py.File(file) as opening:
        lengths = {name: len(column) for name, column in opening[path].items()}
        assert len(set(lengths.values())) == 1, lengths
        count = lengths["value"]
        assert opening[path + "/number"][:].tolist() == list(range(count))
    assert count >= seen, (count, seen)
    seen = count
    opened["h5py"] += 1
    if opened["h5py"] % 5 == 1:
        with xarray.open_dataset(file, group=path, engine="h5netcdf", phony_dims="sort") as dataset:
            lengths = {name: len(column) for name, column in dataset.variables.items()}
            assert len(set(lengths.values())) == 1 and lengths["value"] >= seen, lengths
        opened["xarray"] += 1
        dumped = subprocess.run([h5dump, "-d", path + "/value", file], capture_output=True, text=True)
        assert dumped.returncode == 0 and "DATASET" in dumped.stdout, dumped.stderr
        opened["h5dump"] += 1
    open(folder + "/looking", "w").close()
    time.sleep(0.05)
print(json.dumps({"rows": seen, **opened}))
"""


def test_whatever_reads_the_file_finds_it_whole_though_its_writer_is_killed(
    bench: Bench, tmp_path: Path, missing: Callable[[str], None], tell: Any
) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    h5dump = shutil.which("h5dump")
    if h5dump is None:
        missing("h5dump")
    bench.start()
    with Load(bench, 100 if SOAK else 500) as load:

        def readable() -> bool:
            with contextlib.suppress(OSError, KeyError), h5py.File(bench.file) as file:
                return len(file["data/lab/oven/readings/value"]) > 0
            return False

        def changed() -> None:
            so_far = bench.file.stat().st_ino
            wait_until(lambda: bench.file.stat().st_ino != so_far, "a further look at the file")

        wait_until(readable, "the first rows")
        words = [sys.executable, "-c", POLL, str(bench.file), str(tmp_path), str(h5dump)]
        poll = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: (tmp_path / "looking").exists() or poll.poll() is not None, "a first look")
        with h5py.File(bench.file) as held:  # who does not let go keeps nobody waiting
            rows = len(held["data/lab/oven/readings/value"])
            bench.longest_wait_s = 0.0
            for number in range(WRITER_KILLS):
                (writer,) = wait_until(bench.writers, "a writer")
                for _ in range(number % 3):  # it dies before it has shown anything, after its first rows, and later
                    changed()
                os.kill(writer, signal.SIGKILL)
                wait_until(lambda old=writer: old not in bench.writers(), "its end")
                (tmp_path / "looking").unlink(missing_ok=True)
                wait_until(lambda: (tmp_path / "looking").exists() or poll.poll() is not None, "a look")
            changed()
            (tmp_path / "looking").unlink(missing_ok=True)
            wait_until(lambda: (tmp_path / "looking").exists() or poll.poll() is not None, "a last look")
            assert len(held["data/lab/oven/readings/value"]) == rows
        waited_s = bench.longest_wait_s
        (tmp_path / "enough").touch()
        said, complaints = poll.communicate(timeout=30)

    assert poll.returncode == 0, complaints
    found = json.loads(said)
    assert found["rows"] > rows
    assert min(found["h5py"], found["xarray"], found["h5dump"]) > WRITER_KILLS // 5
    assert 0 < waited_s < 5.0  # for confirmations, which come every 0.1 s
    assert bench.stop() == 0
    report = proven(bench, load)
    assert report.undecoded <= load.each // 100
    assert bench.status["counts"]["writer_deaths"] == WRITER_KILLS
    tell({"kills": WRITER_KILLS, "opened": found, "sent": load.sent, "longest wait s": round(waited_s, 3)})


# --- no room


def test_a_disk_filled_three_times_loses_nothing_and_recording_resumes_each_time(
    nothing_left: None, broker: Any, mount_disk: Callable[[str], Path], capfd: pytest.CaptureFixture[str], tell: Any
) -> None:
    disk = mount_disk("24m")
    bench = Bench(broker.url, disk)
    ballast = disk / "ballast"
    told_s, resumed_s = [], []
    try:
        bench.start(max_segment_bytes=1 << 20)
        with Load(bench, 200, frame=bytes(4000)) as load:
            for _ in range(3):
                sent = load.each
                wait_until(lambda at=sent: load.stored() > at + 50, "storing")
                with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                    while file.write(b"\0" * 65_536) == 65_536:
                        pass
                wait_until(lambda: "nothing can be stored" in bench.status.get("detail", ""), "the alarm")
                told_s.append(clock.monotonic() - bench.confirmed_at)
                stuck = dict(bench.stored["oven"])
                load.more(100)
                assert bench.stored["oven"] == stuck
                ballast.unlink()
                freed = clock.monotonic()
                wait_until(lambda before=stuck: bench.stored["oven"] != before, "storing")
                resumed_s.append(clock.monotonic() - freed)
                wait_until(
                    lambda: "nothing can be stored" not in bench.status.get("detail", ""), "the alarm being over"
                )
        assert bench.stop() == 0
        proven(bench, load)
        assert main(["verify", str(bench.file)]) == 0
        assert "SIGSEGV" not in "".join(capfd.readouterr())
        assert max(told_s) < 5.0
        assert max(resumed_s) < 10.0
        tell({"told s": [round(each, 2) for each in told_s], "resumed s": [round(each, 2) for each in resumed_s]})
    finally:
        bench.close()


# --- much to do


def _pss(process: psutil.Process) -> int:
    """Return what a process takes of the memory, with its share of what it shares; 0 of one that has just ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def test_a_steady_load_is_recorded_with_little_lag_and_memory(bench: Bench, tell: Any) -> None:
    """5,000 messages a second on a hundred topics."""
    bench.start(rotate={"size": 256_000_000})
    assert bench.child is not None
    recorder = psutil.Process(bench.child.pid)
    memory: list[int] = []
    lags: list[float] = []
    waits: list[float] = []
    with Load(bench, 5000, spread=100) as load:
        for _ in range(LOAD_S):
            load.more(5000)
            memory.append(sum(map(_pss, [recorder, *recorder.children(recursive=True)])))
            sent, began = load.each - 1, clock.monotonic()
            wait_until(lambda at=sent: load.stored() >= at, "storing")
            lags.append(clock.monotonic() - began)
            waits.append(bench.status["counts"].get("commit_ms", 0.0))
    assert bench.stop() == 0
    proven(bench, load)
    assert max(lags) < (2.0 if SOAK else 5.0)
    assert max(memory) < (300 << 20)
    quarter = LOAD_S // 4
    if SOAK:
        grown = statistics.median(memory[-quarter:]) - statistics.median(memory[quarter : 2 * quarter])
        assert grown < (5 << 20) * LOAD_S / 120  # 5 MB a minute
    tell(
        {
            "sent": load.sent, "seconds": LOAD_S, "lag s": round(max(lags), 2), "commit ms": max(waits),
            "MB": [round(each / 1e6) for each in memory[:: quarter or 1]],
        }
    )  # fmt: skip
