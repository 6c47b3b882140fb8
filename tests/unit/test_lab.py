"""The lab: a whole session in this process, on a clock of the test's."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ether import ether, ether_get, ether_init, ether_pub, ether_safe, ether_shutdown, ether_start, ether_sub
from ether.errors import CallError, CallTimeout, PayloadError, SessionError, StartError
from ether.testing import Lab, Stuck

pytestmark = pytest.mark.usefixtures("nothing_left")


class Oven:
    """Warms up by a tenth of what is missing, once a second."""

    def __init__(self, target: float = 20.0) -> None:
        self.temperature, self.target = 20.0, target

    @ether_pub(topic="oven/temperature", every=1.0)
    def measure(self) -> float:
        self.temperature += (self.target - self.temperature) / 10
        return self.temperature

    @ether_sub(topic="oven/target")
    def aim(self, target: float) -> None:
        self.target = target

    @ether_get
    def where(self) -> float:
        return self.target


class Slow:
    """Takes its time, in each of the ways there are."""

    @ether_get
    def sleeps(self, seconds: float) -> float:
        time.sleep(seconds)
        return time.time()

    @ether_get
    async def awaits(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return time.time()

    @ether_get
    def waits(self, seconds: float) -> bool:
        return threading.Event().wait(seconds)


def _lab(**instances: Any) -> Lab:
    return Lab(
        {
            "instances": {
                name: each if isinstance(each, dict) else {"class_path": each} for name, each in instances.items()
            }
        }
    )


@pytest.fixture
def oven() -> Iterator[Lab]:
    with _lab(
        oven={"class_path": Oven, "restart": {"policy": "on-failure", "max": 2, "backoff": ["1s", "10s"]}}
    ) as lab:
        lab.start()
        yield lab


# --- time


def test_samples_come_at_their_times_and_at_no_other(oven):
    begun = oven.now

    oven.publish("oven/target", 120.0)
    oven.advance(3.5)

    found = oven.messages("oven/temperature")
    assert [(each.value, each.time - begun, each.number) for each in found] == [
        (20.0, 0.0, 0), (30.0, 1.0, 1), (39.0, 2.0, 2), (47.1, 3.0, 3),
    ]  # fmt: skip


def test_half_an_hour_passes_and_no_sample_is_missed(oven):
    oven.advance(1800)

    assert len(oven.messages("oven/temperature")) == 1801
    assert oven.state("oven") == "ready"


def test_nothing_happens_while_no_time_passes(oven):
    time.sleep(0.05)

    assert len(oven.messages("oven/temperature")) == 1


@pytest.mark.parametrize("method", ["sleeps", "awaits"])
def test_a_method_that_waits_lets_the_time_of_the_lab_pass(method):
    with _lab(slow=Slow) as lab:
        before = lab.now

        assert lab.call("slow", method, seconds=8) == before + 8
        assert lab.now == before + 8


def test_waiting_for_an_event_with_a_timeout_lets_time_pass_too():
    with _lab(slow=Slow) as lab:
        before = lab.now

        assert lab.call("slow", "waits", seconds=2.5) is False
        assert lab.now == before + 2.5


def test_a_call_that_takes_too_long_is_a_timeout_after_ten_seconds_of_the_lab():
    with _lab(slow=Slow) as lab:
        before = lab.now

        with pytest.raises(CallTimeout, match="did not answer within 10 s"):
            lab.call("slow", "sleeps", seconds=60)

        assert lab.now == before + 10


def test_while_one_instance_waits_the_others_go_on():
    class Asks:
        @ether_get
        def ask(self) -> float:
            return ether.get("slow", "sleeps", seconds=5)

    with _lab(slow=Slow, asks=Asks, oven=Oven) as lab:
        lab.start()

        assert lab.call("asks", "ask") == lab.now
        lab.settle()
        assert len(lab.messages("oven/temperature")) == 6


def test_background_methods_have_the_time_of_the_lab():
    class Stream:
        @ether_start(background=True)
        @ether_pub(topic="stream")
        def run(self) -> Iterator[int]:
            number = 0
            while True:
                yield number
                number += 1
                time.sleep(0.25)

    with _lab(stream=Stream) as lab:
        lab.start()
        lab.advance(1.0)

        assert [each.value for each in lab.messages("stream")] == [0, 1, 2, 3, 4]


def test_the_same_test_gives_the_same_each_time():
    class Noisy:
        def __init__(self, seed: int) -> None:
            self.random = random.Random(seed)

        @ether_start(background=True)
        @ether_pub(topic="noise")
        def run(self) -> Iterator[int]:
            while True:
                time.sleep(self.random.uniform(0.0, 0.3))
                yield self.random.randrange(100)

        @ether_sub(topic="noise")
        @ether_pub(topic="echo")
        def hear(self, value: int) -> int:
            time.sleep(self.random.uniform(0.0, 0.1))
            return value

    def run() -> list[Any]:
        with _lab(**{f"n{n}": {"class_path": Noisy, "args": [n]} for n in range(3)}) as lab:
            lab.start()
            lab.advance(20)
            return [(each.topic, each.publisher, each.value, each.time) for each in lab.messages()]

    first = run()

    assert len(first) > 500
    assert run() == first


def test_a_generator_that_never_waits_is_told():
    class Endless:
        @ether_start
        @ether_pub(topic="endless", keep="none")
        def run(self) -> Iterator[int]:
            while True:
                yield 1

    with _lab(endless=Endless) as lab, pytest.raises(Stuck, match="no time has passed"):
        lab.start()


def test_a_method_that_does_not_come_back_is_told_with_where_it_stands():
    gate = threading.Event()

    class Blocks:
        @ether_get
        def hold(self) -> None:
            gate.wait()

    with Lab({"instances": {"blocks": {"class_path": Blocks}}}, patience_s=0.2) as lab:
        try:
            with pytest.raises(Stuck, match=r"instance blocks has not come back(.|\n)*gate.wait\(\)"):
                lab.call("blocks", "hold")
        finally:
            gate.set()


# --- what dies


def test_a_crash_is_lost_at_once_and_started_again_after_its_backoff(oven):
    oven.advance(5)

    oven.crash("oven")

    lost = oven.instances()["oven"]
    assert (lost.state, lost.process, lost.detail) == ("lost", "backoff", "killed by SIGKILL")
    oven.advance(0.9)
    assert oven.state("oven") == "lost"
    oven.advance(0.2)
    again = oven.instances()["oven"]
    assert (again.state, again.process) == ("ready", "running")
    assert again.boot != lost.boot
    assert oven.messages("oven/temperature")[-1].number == 0  # it samples again, as the session has started
    assert oven.messages("oven/temperature")[-1].time == pytest.approx(oven.now, abs=0.2)


def test_too_many_crashes_are_fatal_and_leave_the_session_alone(oven):
    for _ in range(3):
        oven.wait_for(lambda: oven.state("oven") == "ready")
        oven.crash("oven", code=3)

    found = oven.instances()["oven"]
    assert (found.state, found.process) == ("lost", "fatal")
    assert found.detail == "exit code 3; ended 3 times within 300 s, and is not started again"
    oven.advance(600)
    assert oven.instances()["oven"].process == "fatal"
    assert oven.shutdown().instances == {"oven": found.detail}


def test_a_critical_instance_that_crashes_ends_the_session():
    with _lab(oven={"class_path": Oven, "critical": True}) as lab:
        lab.crash("oven")
        lab.wait_for(lambda: not ether.tapped)

        assert lab.summary.problems == ("oven is critical and failed (killed by SIGKILL): the session was ended",)


def test_a_crash_ends_whatever_it_was_doing_and_nothing_more_comes_of_it():
    with _lab(slow=Slow, oven=Oven) as lab:
        call = ether.get_later("slow", "sleeps", seconds=5)
        lab.advance(1)

        lab.crash("slow")

        with pytest.raises(CallError, match="slow is gone"):
            ether.collect(call)
        lab.advance(60)
        assert lab.state("slow") == "lost"


def test_hardware_of_a_crashed_instance_is_made_safe_by_another_object():
    made: list[Heater] = []

    class Heater:
        def __init__(self) -> None:
            self.safe = False
            made.append(self)

        @ether_safe
        def off(self) -> None:
            self.safe = True

    with _lab(heater=Heater) as lab:
        lab.crash("heater")
        lab.advance(1)

        assert [each.safe for each in made] == [False, True]


def test_what_hangs_is_started_again_where_that_is_wanted():
    health = {"hang_after": "5s", "on_hang": "restart"}
    with _lab(slow={"class_path": Slow, "health": health}) as lab:
        lab.advance(2.5)  # a heartbeat has gone by
        before = lab.instances()["slow"].boot
        ether.get_later("slow", "sleeps", seconds=1e6)
        lab.advance(8)

        told = [str(each.fields.get("detail", "")) for each in lab.messages("ether/status/slow")]
        assert any(each.startswith("Slow.sleeps has not returned for 5") for each in told)
        lab.wait_for(lambda: lab.state("slow") == "ready" and lab.instances()["slow"].boot != before)


def test_a_constructor_that_raises_is_named_and_nothing_is_left():
    class Broken:
        def __init__(self) -> None:
            raise OSError("no such port: /dev/ttyUSB7")

    with pytest.raises(StartError, match="broken: OSError: no such port: /dev/ttyUSB7"), _lab(broken=Broken, oven=Oven):
        pass
    assert not ether.tapped


def test_what_is_stopped_stays_so_until_it_is_launched(oven):
    assert ether.stop("oven") == {"oven": "stopped"}
    oven.advance(60)
    assert oven.instances()["oven"].process == "stopped"

    ether.launch("oven")

    assert oven.state("oven") == "ready"


# --- the network


def test_what_was_published_without_a_network_comes_when_it_is_back_each_once(oven):
    oven.advance(1)

    oven.cut_network("oven")

    assert oven.state("oven") == "reconnecting"
    oven.advance(30)
    assert oven.state("oven") == "lost"
    assert len(oven.messages("oven/temperature")) == 2
    oven.restore_network("oven")
    oven.wait_for(lambda: oven.state("oven") == "ready", 10)
    assert [each.number for each in oven.messages("oven/temperature")] == list(range(int(oven.now % 86_400) + 1))


def test_the_session_itself_may_lose_its_network(oven):
    oven.cut_network("session")
    oven.advance(10)
    oven.restore_network("session")

    oven.wait_for(lambda: oven.state("session") == "ready", 10)
    assert oven.call("oven", "where") == 20.0


def test_an_instance_that_is_started_again_without_a_network_comes_when_it_is_back(oven):
    oven.cut_network("oven")
    oven.crash("oven")
    oven.advance(8)
    assert oven.state("oven") == "lost"

    oven.restore_network("oven")

    oven.wait_for(lambda: oven.state("oven") == "ready", 30)


# --- the rest of a session


def test_objects_of_the_test_take_part_and_can_be_looked_at(oven):
    class Probe:
        def __init__(self) -> None:
            self.seen: list[float] = []

        @ether_sub(topic="oven/temperature")
        def see(self, value: float) -> None:
            self.seen.append(value)

    probe = oven.add(Probe())
    oven.publish("oven/target", 120.0)
    oven.advance(2)

    assert probe.seen == [30.0, 39.0]
    assert oven["probe"] is probe
    assert oven["oven"].target == 120.0
    assert isinstance(oven["oven"], Oven)


def test_arguments_are_the_very_objects_of_the_test():
    class Reader:
        def __init__(self, port: Any) -> None:
            self.port = port

        @ether_pub(topic="read", every=1.0)
        def read(self) -> int:
            return self.port.number()

    class Port:
        def __init__(self) -> None:
            self.asked = 0

        def number(self) -> int:
            self.asked += 1
            return self.asked

    port = Port()
    with _lab(reader={"class_path": Reader, "kwargs": {"port": port}}) as lab:
        lab.start()
        lab.advance(1)

        assert [each.value for each in lab.messages()] == [1, 2]
        assert port.asked == 2
        assert lab["reader"].port is port


def test_a_device_that_knows_nothing_of_ether_is_heard_and_nonsense_is_rejected(oven):
    oven.publish("oven/target", b"80", raw=True)
    assert oven["oven"].target == 80.0

    oven.publish("oven/target", b'{"value": "hot"}', raw=True)

    assert oven["oven"].target == 80.0
    oven.advance(2)  # counts come with the heartbeat
    assert oven.instances()["oven"].counts["rejected"] == 1


def test_an_instance_publishes_by_hand_in_its_own_name():
    class Speaker:
        @ether_init
        def hello(self) -> None:
            ether.pub("here", "hello")

        @ether_shutdown
        def bye(self) -> None:
            ether.pub("gone", "bye")

    with _lab(one=Speaker, two=Speaker) as lab:
        lab.shutdown()

        assert sorted((each.topic, each.publisher) for each in lab.messages()) == [
            ("bye", "one"), ("bye", "two"), ("hello", "one"), ("hello", "two"),
        ]  # fmt: skip


def test_a_stream_that_does_not_come_as_expected_is_an_alarm():
    config = {
        "instances": {"oven": {"class_path": Oven}},
        "expect": {"oven/temperature": {"rate": "1Hz"}},
    }
    with Lab(config) as lab:
        lab.start()
        ether.preflight()
        lab.crash("oven")
        lab.advance(10)

        (alarm,) = ether.info()["alarms"]
        assert (alarm["topic"], alarm["kind"]) == ("oven/temperature", "silent")
        assert "oven is lost (killed by SIGKILL)" in alarm["detail"]


def test_parameters_that_were_set_outlive_a_crash():
    oven = {"class_path": Oven, "restart": "on-failure", "params": {"target": {"unit": "degC"}}}
    with _lab(oven=oven) as lab:
        ether.set_param("oven", "target", 90.0)
        lab.crash("oven")
        lab.wait_for(lambda: lab.state("oven") == "ready")

        assert lab["oven"].target == 90.0


def test_a_session_needs_nothing_of_the_machine(oven, monkeypatch, machine):
    assert machine.files() == []
    assert {thread.name for thread in threading.enumerate()} >= {"instance oven"}


def test_a_second_lab_at_once_is_refused(oven):
    with pytest.raises(SessionError, match="in a session already"), _lab(oven=Oven):
        pass


def test_a_name_that_does_not_exist_is_told_with_the_nearest(oven):
    for ask in (oven.state, oven.crash, oven.cut_network):
        with pytest.raises(SessionError, match=r"did you mean `oven`\?"):
            ask("ovne")


def test_what_needs_a_process_of_its_own_is_left_out():
    config = {
        "broker": {"url": "mqtts://production:8883"}, "record": "on", "metrics": 9100,
        "ingest": ["tasmota"],
        "instances": {"oven": {"class_path": Oven}},
    }  # fmt: skip
    with Lab(config) as lab:
        lab.start()

        assert lab.instances().keys() == {"oven", "session"}


def test_whoever_has_nothing_new_to_tell_repeats_its_status_less_often(oven):
    with_news = len(oven.messages("ether/status/oven"))
    oven.advance(60)
    assert len(oven.messages("ether/status/oven")) - with_news == 30  # it counts what it publishes

    oven.call("oven", "where")
    idle = len(oven.messages("ether/status/session"))
    oven.advance(60)
    assert len(oven.messages("ether/status/session")) - idle == 10


def test_a_status_tells_for_how_long_a_method_has_been_running():
    with _lab(slow=Slow) as lab:
        ether.get_later("slow", "sleeps", seconds=30)
        lab.advance(15)

        assert 13 <= lab.instances()["slow"].counts["busy_s"] <= 15
        lab.advance(25)
        assert "busy_s" not in lab.instances()["slow"].counts


def test_arrays_in_metadata_and_remarks_are_recorded_as_lists_and_what_cannot_be_begins_nothing(oven, tmp_path):
    with pytest.raises(PayloadError, match="cannot be recorded as JSON"), ether.run("first", camera=object()):
        pass
    with ether.run("second", doses=np.array([0.5, 1.0]), sample=np.int64(7)) as run:
        run.annotate("fitted", values={"slope": np.arange(2), "error": np.float32(0.5)})
        with pytest.raises(PayloadError, match="cannot be recorded as JSON"):
            run.annotate("raw", values={"frame": b"\xff"})
    oven.shutdown()

    with oven.record(tmp_path / "growth.h5") as recording:
        assert [(each.name, each.number, each.parent, each.metadata) for each in recording.runs] == [
            ("second", 1, None, {"doses": [0.5, 1.0], "sample": 7})
        ]
        (note,) = recording.annotations
        assert note.values == {"run": recording.runs[0].id, "slope": [0, 1], "error": 0.5}


def test_the_change_of_a_parameter_that_was_an_array_is_recorded(ether_lab, tmp_path):
    class Camera:
        def __init__(self) -> None:
            self.region = np.zeros(2)

        @ether_get
        def look(self) -> None: ...

    ether_lab.tap({"instances": {"camera": {"class_path": Camera, "params": ["region"]}}}).start()

    ether.set_param("camera", "region", [1, 2])
    ether_lab.shutdown()

    with ether_lab.record(tmp_path / "camera.h5") as recording:
        (note,) = recording.annotations
        assert note.tags == ("param",)
        assert note.values == {"instance": "camera", "param": "region", "before": [0.0, 0.0], "value": [1, 2]}


def test_what_was_published_makes_a_recording_that_is_complete(oven, tmp_path):
    begun = oven.now
    with ether.run("growth", operator="Ada"):
        oven.publish("oven/target", 120.0)
        oven.cut_network("oven")
        oven.advance(3)
        oven.restore_network("oven")
        oven.advance(7)
        ether.annotate("door opened")
        with pytest.raises(ValueError, match="ends before it begins"):
            ether.annotate("door open", at=oven.now, until=oven.now - 1)
    oven.shutdown()

    with oven.record(tmp_path / "growth.h5") as recording:
        assert recording.verify().complete
        stream = recording["oven/temperature"]
        assert stream.to_numpy()["value"].tolist() == [each.value for each in oven.messages("oven/temperature")]
        assert [(run.name, run.outcome, run.metadata) for run in recording.runs] == [
            ("growth", "success", {"operator": "Ada"})
        ]
        assert [(each.text, each.t0 - begun) for each in recording.annotations] == [("door opened", 10.0)]
    with pytest.raises(SessionError, match="is there already"):
        oven.record(tmp_path / "growth.h5")


def test_a_lab_that_was_not_entered_says_how():
    with pytest.raises(SessionError, match="use the lab in a `with` block"):
        Lab().tap({"instances": {"oven": {"class_path": Oven}}})


def test_answers_that_are_collected_later_come_by_the_clock_of_the_lab():
    with _lab(slow=Slow) as lab:
        begun = lab.now
        first = ether.get_later("slow", "sleeps", seconds=3)
        second = ether.get_later("slow", "sleeps", seconds=4)

        assert first.result() == begun + 3
        assert ether.collect(second.id) == begun + 7
        with pytest.raises(CallTimeout):
            ether.collect(ether.get_later("slow", "sleeps", seconds=100), timeout=5)
        assert lab.now == begun + 12
        assert ether.wait(timeout=8) is False
        assert lab.now == begun + 20
