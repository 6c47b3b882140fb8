"""Calls: results, errors, timeouts, and what they never do."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
from pydantic import BaseModel

from ether import ether_get, ether_pub, ether_save, ether_sub
from ether.errors import CallError, CallTimeout, SessionError
from ether.host import Host


class Settings(BaseModel):
    gain: float
    mode: str = "auto"


class Desk:
    def __init__(self) -> None:
        self.release = threading.Event()
        self.saved: list[Any] = []

    @ether_get
    def add(self, a: int, b: int = 1) -> int:
        return a + b

    @ether_get
    def nothing(self) -> None:
        return None

    @ether_get
    def echo(self, value: Any) -> Any:
        return value

    @ether_get
    def ping(self) -> str:
        return "pong"

    @ether_get
    def settings(self, settings: Settings) -> Settings:
        return settings

    @ether_get
    def doubled(self, image: numpy.ndarray) -> dict[str, Any]:
        return {"image": image * 2, "mean": image.mean()}

    @ether_get
    def failing(self) -> None:
        raise FileNotFoundError("no such file: lamp.cfg")

    @ether_get
    def unserialisable(self) -> Any:
        return object()

    @ether_get
    def leaving(self) -> None:
        raise SystemExit("enough")

    @ether_get
    def slow(self) -> str:
        self.release.wait(10)
        return "late"

    @ether_get
    def numbers(self, to: int) -> Any:
        yield from range(to)

    @ether_get
    async def later(self) -> str:
        return "awaited"

    @ether_save
    def save(self, x: int) -> int:
        if x < 0:
            raise ValueError("x is negative")
        self.saved.append(x)
        return len(self.saved)

    @ether_get
    @ether_pub(topic="desk/published")
    def published(self) -> int:
        return 5


@pytest.fixture
def desk(add):
    desk = add(Desk(), "desk")
    yield desk
    desk.release.set()


def test_a_call_returns_the_result(shared, desk):
    results = (
        shared.get("desk", "add", a=1, b=2),
        shared.get("desk", "add", {"a": 1}),
        shared.request("desk", "nothing"),
    )

    assert results == (3, 2, None)


@pytest.mark.parametrize(
    "value", [1, 1.5, "ä", None, True, [1, None], {"a": {"b": [1]}}, b"\x00", {"value": 1}, {}, {"_x": 1}], ids=repr
)
def test_params_and_results_of_every_kind_travel(shared, desk, value):
    assert shared.get("desk", "echo", value=value) == value


def test_arrays_are_params_and_results(shared, desk):
    result = shared.get("desk", "doubled", image=numpy.arange(6, dtype="u1").reshape(2, 3))

    assert (result["image"].tolist(), result["image"].dtype, result["mean"]) == ([[0, 2, 4], [6, 8, 10]], "u1", 2.5)


def test_a_model_is_param_and_result(shared, desk):
    assert shared.get("desk", "settings", gain="2") == {"gain": 2.0, "mode": "auto"}


def test_generators_and_coroutines_answer(shared, desk):
    assert (shared.get("desk", "numbers", to=3), shared.get("desk", "later")) == ([0, 1, 2], "awaited")


def test_a_service_may_be_called_ping(shared, desk):
    assert shared.get("desk", "ping") == "pong"


def test_a_remote_exception_comes_with_type_message_and_traceback(shared, desk):
    with pytest.raises(CallError) as caught:
        shared.get("desk", "failing")

    assert (str(caught.value), caught.value.type) == ("no such file: lamp.cfg", "FileNotFoundError")
    assert 'raise FileNotFoundError("no such file: lamp.cfg")' in caught.value.traceback


@pytest.mark.parametrize(
    ("method", "params", "type_", "message"),
    [
        ("unserialisable", {}, "PayloadError", "a object cannot travel"),
        ("leaving", {}, "SystemExit", "enough"),
        ("add", {}, "FieldError", "Desk.add: field `a` is missing"),
        ("add", {"a": "many"}, "FieldError", "Desk.add: field `a`: Input should be a valid integer"),
    ],
)
def test_every_failure_is_an_error_and_the_next_call_is_answered(shared, desk, method, params, type_, message):
    with pytest.raises(CallError) as caught:
        shared.get("desk", method, params, timeout=2)

    assert (caught.value.type, message in str(caught.value)) == (type_, True)
    assert shared.get("desk", "add", a=1) == 2


def test_parameters_that_cannot_travel_are_an_error_at_the_caller_and_leave_nothing_pending(shared, desk):
    with pytest.raises(ValueError, match="cannot travel"):
        shared.get("desk", "echo", value=object())

    assert shared._need()._pending == {}


def test_save_reports_success_or_error(shared, desk):
    good, bad = shared.save("desk", "save", x=5), shared.save("desk", "save", x=-1)

    trace = bad.pop("traceback")
    assert good == {"status": "success", "result": 1}
    assert bad == {"status": "error", "error": "x is negative", "type": "ValueError"}
    assert "x is negative" in trace


def test_a_save_method_called_by_hand_returns_and_raises_raw(desk):
    assert desk.save(1) == 1
    with pytest.raises(ValueError, match="x is negative"):
        desk.save(-1)


def test_the_result_of_a_publishing_method_that_is_called_is_published_once(shared, desk, wire, until):
    out = wire(shared, "desk/published")

    results = shared.get("desk", "published"), desk.published()

    until(lambda: len(out) >= 2)
    assert (results, out.fields) == ((5, 5), [{"value": 5}, {"value": 5}])


@pytest.mark.parametrize(("target", "method"), [("nobody", "add"), ("desk", "nothing_such"), ("Nobody", "add")])
def test_an_unknown_service_fails_at_once(shared, desk, target, method):
    shared.get("desk", "nothing")
    started = time.monotonic()

    with pytest.raises(CallError) as caught:
        shared.get(target, method, timeout=5)

    assert (caught.value.type, time.monotonic() - started < 0.1) == ("Unreachable", True)


def test_a_timeout_names_whom_and_how_long(shared, desk):
    with pytest.raises(CallTimeout, match=r"desk.slow did not answer within 0.05 s") as caught:
        shared.get("desk", "slow", timeout=0.05)

    assert isinstance(caught.value, TimeoutError)


def test_a_late_reply_never_answers_the_next_call(shared, desk):
    with pytest.raises(CallTimeout):
        shared.get("desk", "slow", timeout=0.05)

    desk.release.set()

    assert [shared.get("desk", "echo", value=n) for n in range(20)] == list(range(20))


def test_concurrent_callers_each_get_their_own_answer(shared, desk):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: shared.get("desk", "echo", value=n), range(200)))

    assert results == list(range(200))


def test_one_slow_call_delays_no_call_of_another_instance(shared, desk, add):
    add(Desk(), "other-desk")
    waiting = shared.get_later("desk", "slow")
    started = time.monotonic()

    result = shared.get("other-desk", "ping")

    assert (result, time.monotonic() - started < 1.0, waiting.done()) == ("pong", True, False)


def test_get_later_and_collect(shared, desk):
    first, second = shared.get_later("desk", "echo", value=1), shared.get_later("desk", "echo", value=2)

    assert (shared.collect(second), shared.collect(first.id)) == (2, 1)
    with pytest.raises(SessionError, match="or it has been collected"):
        shared.collect(first.id)


def test_collect_raises_what_the_call_raised(shared, desk):
    call = shared.get_later("desk", "failing")

    with pytest.raises(CallError, match=r"lamp.cfg"):
        shared.collect(call.id)


def test_collect_that_ran_out_of_time_may_be_tried_again(shared, desk):
    call = shared.get_later("desk", "slow")
    with pytest.raises(CallTimeout):
        shared.collect(call.id, timeout=0.05)

    desk.release.set()

    assert shared.collect(call.id) == "late"


def test_a_class_name_asks_its_instances_in_turn(shared, add):
    class Twin:
        def __init__(self, number: int) -> None:
            self.number = number

        @ether_get
        def which(self) -> int:
            return self.number

    for number in range(3):
        add(Twin(number), f"twin-{number}")

    asked = [shared.get("Twin", "which") for _ in range(6)]

    assert sorted(asked[:3]) == [0, 1, 2]
    assert asked[3:] == asked[:3]


def test_a_callee_that_leaves_mid_call_fails_the_call_at_once(shared, add, raw, until):
    class Doomed(Desk):
        @ether_get
        def hang(self) -> None:
            self.saved.append("called")
            self.release.wait(10)

    doomed = add(Doomed(), "doomed")
    call = shared.get_later("doomed", "hang", timeout=8)
    until(lambda: doomed.saved)
    boot = shared.instances()["doomed"].boot
    started = time.monotonic()

    raw(shared.info()["broker"]["url"]).publish(
        "ether/status/doomed", json.dumps({"state": "lost", "boot": boot, "detail": "connection lost"}), retain=True
    )

    with pytest.raises(CallError, match=r"doomed is gone \(lost\) and did not answer"):
        shared.collect(call)
    assert time.monotonic() - started < 1.0
    doomed.release.set()


def test_a_handler_may_call(shared, desk, add, until):
    class Caller:
        def __init__(self) -> None:
            self.got: list[Any] = []

        @ether_sub(topic="caller/in")
        def take(self, a: int) -> None:
            self.got.append(shared.get("desk", "add", a=a))

    caller = add(Caller())

    shared.pub({"a": 1}, "caller/in")

    until(lambda: caller.got == [2])


# --- as the wire says


@pytest.fixture
def caller(shared, raw):
    client = raw(shared.info()["broker"]["url"])
    client.subscribe("ether/reply/raw")

    def call(method: str, **content: Any) -> None:
        request = {"id": "1", "reply_to": "ether/reply/raw", "params": {}, **content}
        client.publish(f"ether/call/desk/{method}", json.dumps(request))

    call.next = lambda: json.loads(client.next().payload)
    return call


def test_a_repeated_id_is_answered_from_memory(desk, caller):
    caller("save", id="a", params={"x": 1})
    caller("save", id="a", params={"x": 1})
    replies = [caller.next(), caller.next()]

    assert (replies, desk.saved) == ([{"id": "a", "status": "success", "result": 1}] * 2, [1])


def test_an_expired_deadline_is_dropped_and_not_executed(desk, caller):
    caller("save", id="a", params={"x": 1}, deadline=time.time() - 1)
    caller("ping", id="b")

    assert (caller.next(), desk.saved) == ({"id": "b", "status": "success", "result": "pong"}, [])


def test_an_error_that_nobody_expected_is_answered_by_the_session_too(shared, raw, monkeypatch):
    def processes(_: object) -> None:
        raise RuntimeError("the table is gone")

    monkeypatch.setattr(Host, "processes", processes)
    client = raw(shared.info()["broker"]["url"])
    client.subscribe("ether/reply/raw")

    client.publish("ether/call/session/processes", json.dumps({"id": "1", "reply_to": "ether/reply/raw"}))

    reply = json.loads(client.next().payload)
    assert (reply["id"], reply["type"], reply["error"]) == ("1", "RuntimeError", "the table is gone")


@pytest.mark.parametrize(
    "reply_to", ["ether/reply/raw/+", "somewhere/else", "ether/reply/" + 1000 * "x", "ether/reply/\0"]
)
def test_an_answer_goes_to_no_topic_but_of_replies(shared, desk, caller, reply_to):
    caller("save", id="a", params={"x": 1}, reply_to=reply_to)
    caller("ping", id="b")

    assert (caller.next()["id"], desk.saved) == ("b", [])


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"id": 1}', b'{"id": 1, "reply_to": 5}', b"\xd9\xd9\xf7\xff",
                b'{"id": 1, "reply_to": "#", "params": {}}', b'{"id": 1, "reply_to": "", "params": {}}',
                b'{"id": 1, "reply_to": "x", "params": [1]}', b'{"id": 1, "reply_to": "x", "deadline": "soon"}'],
)  # fmt: skip
def test_damaged_requests_disturb_nobody(shared, desk, raw, payload):
    raw(shared.info()["broker"]["url"]).publish("ether/call/desk/ping", payload)

    assert shared.get("desk", "ping", timeout=2) == "pong"


def test_only_marked_methods_are_called(desk, caller):
    caller("__init__")

    assert caller.next()["type"] == "LookupError"


# --- sync


class Preparer:
    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.got: list[Any] = []

    @ether_sub(topic="prepare")
    def prepare(self, trial: int = 0) -> str:
        if self.fails:
            raise RuntimeError("the shutter is stuck")
        self.got.append(trial)
        return f"prepared {trial}"


def test_sync_returns_when_all_have_finished(shared, add):
    preparers = [add(Preparer(), f"p{n}") for n in range(2)]

    results = shared.sync("prepare", {"trial": 7})

    assert results == {"p0.prepare": "prepared 7", "p1.prepare": "prepared 7"}
    assert [each.got for each in preparers] == [[7], [7]]


def test_sync_raises_if_one_failed_after_all_have_finished(shared, add):
    good = add(Preparer(), "good")
    add(Preparer(fails=True), "bad")

    with pytest.raises(CallError, match=r"bad.prepare: the shutter is stuck") as caught:
        shared.sync("prepare")

    assert (caught.value.type, good.got) == ("RuntimeError", [0])


def test_sync_without_subscribers_is_an_error(shared):
    with pytest.raises(CallError, match="nobody subscribes to 'nobodys/topic'"):
        shared.sync("nobodys/topic")
