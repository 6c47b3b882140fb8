"""What marked methods do in a session: which fire, how often, with what; and what they publish."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from ether import (
    Reading,
    ether_cleanup,
    ether_get,
    ether_init,
    ether_pub,
    ether_save_all,
    ether_shutdown,
    ether_start,
    ether_sub,
)
from ether.errors import StartError


class Base:
    def __init__(self) -> None:
        self.got: list[Any] = []


# --- subscribers


def test_the_three_spellings_of_a_subscriber_listen_alike(shared, add, until):
    class Listener(Base):
        @ether_sub
        def bare(self, x: int) -> None:
            self.got.append(("bare", x))

        @ether_sub()
        def called(self, x: int) -> None:
            self.got.append(("called", x))

        @ether_sub(topic="spellings/keyword")
        def keyword(self, x: int) -> None:
            self.got.append(("keyword", x))

    listener = add(Listener())

    for topic in ("Listener.bare", "Listener.called", "spellings/keyword"):
        shared.pub({"x": 1}, topic)

    until(lambda: len(listener.got) == 3)
    assert listener.got == [("bare", 1), ("called", 1), ("keyword", 1)]


@pytest.mark.parametrize("sub_first", [True, False])
def test_a_processor_works_in_either_order_of_its_marks(shared, add, until, wire, sub_first):
    sub, pub = ether_sub(topic="process/in"), ether_pub(topic="process/out")

    class Doubler:
        def double(self, x: int) -> dict[str, int]:
            return {"x": 2 * x}

    Doubler.double = sub(pub(Doubler.double)) if sub_first else pub(sub(Doubler.double))
    add(Doubler())
    out = wire(shared, "process/out")

    shared.pub({"x": 1}, "process/in")
    shared.pub({"x": 2}, "process/in")

    until(lambda: len(out) == 2)
    assert out.fields == [{"x": 2}, {"x": 4}]


def test_several_subscriptions_of_one_method_fire_once_each(shared, add, until):
    class Ears(Base):
        @ether_sub(topic="ears/left")
        @ether_sub(topic="ears/right")
        def hear(self, x: str) -> None:
            self.got.append(x)

    ears = add(Ears())

    shared.pub({"x": "l"}, "ears/left")
    shared.pub({"x": "r"}, "ears/right")
    shared.pub({"x": "end"}, "ears/left")

    until(lambda: "end" in ears.got)
    assert ears.got == ["l", "r", "end"]


def test_several_publications_of_one_method_go_to_each_topic(shared, add, until, wire):
    class Mouths:
        @ether_pub(topic="mouths/one")
        @ether_pub(topic="mouths/two")
        def speak(self) -> dict[str, int]:
            return {"x": 1}

    mouths = add(Mouths())
    out = wire(shared, "mouths/+")

    mouths.speak()

    until(lambda: len(out) == 2)
    assert sorted((r.topic, r.number) for r in out.readings) == [("mouths/one", 0), ("mouths/two", 0)]


def test_several_methods_on_one_topic_all_fire_once_in_the_order_of_the_class(shared, add, until):
    class Pair(Base):
        @ether_sub(topic="pair")
        def first(self, x: int) -> None:
            self.got.append(("first", x))

        @ether_sub(topic="pair")
        def second(self, x: int) -> None:
            self.got.append(("second", x))

    pair = add(Pair())

    shared.pub({"x": 1}, "pair")
    shared.pub({"x": 2}, "pair")

    until(lambda: ("second", 2) in pair.got)
    assert pair.got == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


def test_overlapping_filters_on_one_method_deliver_a_message_once(shared, add, until):
    class Overlap(Base):
        @ether_sub(topic="overlap/#")
        @ether_sub(topic="overlap/+/t")
        @ether_sub(topic="overlap/a/t")
        def take(self, x: int) -> None:
            self.got.append(x)

    overlap = add(Overlap())

    shared.pub({"x": 1}, "overlap/a/t")
    shared.pub({"x": 2}, "overlap/end")

    until(lambda: 2 in overlap.got)
    assert overlap.got == [1, 2]


def test_filters_that_overlap_without_covering_each_other_deliver_a_message_once(shared, add, until):
    class Cross(Base):
        @ether_sub(topic="cross/+/t")
        def rows(self, x: int) -> None:
            self.got.append(("rows", x))

        @ether_sub(topic="cross/a/+")
        def columns(self, x: int) -> None:
            self.got.append(("columns", x))

    cross = add(Cross())

    shared.pub({"x": 1}, "cross/a/t")
    shared.pub({"x": 2}, "cross/a/end")

    until(lambda: ("columns", 2) in cross.got)
    assert cross.got == [("rows", 1), ("columns", 1), ("columns", 2)]


def test_wildcards_match_what_mqtt_says(shared, add, until):
    class Wild(Base):
        @ether_sub(topic="wild/+/t")
        def one(self, reading: Reading) -> None:
            self.got.append(("+", reading.topic))

        @ether_sub(topic="wild/#")
        def rest(self, reading: Reading) -> None:
            self.got.append(("#", reading.topic))

    wild = add(Wild())

    for topic in ("wild/a/t", "wild/a/b/t", "wild", "wilder/a/t", "wild/end"):
        shared.pub(None, topic)

    until(lambda: ("#", "wild/end") in wild.got)
    assert wild.got == [("+", "wild/a/t"), ("#", "wild/a/t"), ("#", "wild/a/b/t"), ("#", "wild"), ("#", "wild/end")]


def test_a_longer_topic_with_the_same_prefix_does_not_fire(shared, add, until):
    class Prefix(Base):
        @ether_sub(topic="prefix")
        def take(self, x: int) -> None:
            self.got.append(x)

        @ether_sub(topic="prefix/end")
        def end(self) -> None:
            self.got.append("end")

    prefix = add(Prefix())

    for topic in ("prefix/more", "prefixed", "prefix/", "prefix", "prefix/end"):
        shared.pub({"x": 1}, topic)

    until(lambda: "end" in prefix.got)
    assert prefix.got == [1, "end"]


def test_a_subtopic_names_class_dot_subtopic(shared, add, until, wire):
    class Sub(Base):
        @ether_sub(subtopic="hear")
        def any_name(self, x: int) -> None:
            self.got.append(x)

        @ether_pub(subtopic="say")
        def other_name(self) -> int:
            return 7

    sub = add(Sub())
    said = wire(shared, "Sub.say")

    shared.pub({"x": 1}, "Sub.hear")
    sub.other_name()

    until(lambda: sub.got and said.readings)
    assert (sub.got, said.fields) == ([1], [{"value": 7}])


def test_a_reading_parameter_gets_topic_time_number_and_publisher(shared, add, until):
    class Reader(Base):
        @ether_sub(topic="reader/+")
        def take(self, x: int, reading: Reading) -> None:
            self.got.append((x, reading))

    reader = add(Reader())

    shared.pub({"x": 1}, "reader/a")

    until(lambda: reader.got)
    x, reading = reader.got[0]
    assert (x, reading.topic, reading.fields, reading.number, reading.publisher) == (
        1, "reader/a", {"x": 1}, 0, "session",
    )  # fmt: skip
    assert abs(reading.time - time.time()) < 5


# --- inheritance


def test_handlers_in_base_classes_fire_exactly_once(shared, add, until):
    class Grand(Base):
        @ether_sub(topic="heirs/grand")
        def grand(self, x: int) -> None:
            self.got.append(("grand", x))

    class Left(Grand):
        @ether_sub(topic="heirs/left")
        def left(self, x: int) -> None:
            self.got.append(("left", x))

    class Right(Grand):
        pass

    class Heir(Left, Right):
        pass

    heir = add(Heir())

    shared.pub({"x": 1}, "heirs/grand")
    shared.pub({"x": 2}, "heirs/left")

    until(lambda: len(heir.got) >= 2)
    assert heir.got == [("grand", 1), ("left", 2)]


def test_an_override_without_marks_takes_the_place_of_what_it_overrides(shared, add, until):
    class Parent(Base):
        @ether_sub(topic="override")
        def take(self, x: int) -> None:
            self.got.append(("parent", x))

    class Child(Parent):
        def take(self, x: int) -> None:
            super().take(x)
            self.got.append(("child", x))

    child = add(Child())

    shared.pub({"x": 1}, "override")
    shared.pub({"x": 2}, "override")

    until(lambda: ("child", 2) in child.got)
    assert child.got == [("parent", 1), ("child", 1), ("parent", 2), ("child", 2)]


def test_an_override_that_calls_super_publishes_once(shared, add, until, wire):
    class Source:
        @ether_pub(topic="super/out")
        def read(self) -> dict[str, int]:
            return {"x": 1}

    class Better(Source):
        @ether_pub(topic="super/out")
        def read(self) -> dict[str, int]:
            return {"x": super().read()["x"] + 1}

    better = add(Better())
    out = wire(shared, "super/out")

    better.read()
    better.read()

    until(lambda: len(out) >= 2)
    assert out.fields == [{"x": 2}, {"x": 2}]


# --- kinds of classes


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    got: list[Any]

    @ether_sub(topic="frozen/in")
    @ether_pub(topic="frozen/out")
    def take(self, x: int) -> dict[str, int]:
        self.got.append(x)
        return {"x": x}


@dataclass(frozen=True)
class Frozen:
    got: list[Any]

    @ether_sub(topic="frozen/in")
    @ether_pub(topic="frozen/out")
    def take(self, x: int) -> dict[str, int]:
        self.got.append(x)
        return {"x": x}


class Model(BaseModel):
    got: list[Any]

    @ether_sub(topic="frozen/in")
    @ether_pub(topic="frozen/out")
    def take(self, x: int) -> dict[str, int]:
        self.got.append(x)
        return {"x": x}


class FrozenModel(Model, frozen=True):
    pass


@pytest.mark.parametrize("cls", [FrozenSlots, Frozen, Model, FrozenModel])
def test_dataclasses_and_models_are_components(shared, add, until, wire, cls):
    target = add(cls(got=[]))
    out = wire(shared, "frozen/out")

    shared.pub({"x": 1}, "frozen/in")

    until(lambda: len(out) == 1)
    assert (target.got, out.fields) == ([1], [{"x": 1}])


@pytest.mark.parametrize("cls", [Frozen, Model, FrozenModel])
def test_a_call_by_hand_of_any_kind_of_component_publishes_and_returns(shared, add, until, wire, cls):
    target = add(cls(got=[]))
    out = wire(shared, "frozen/out")

    result = target.take(5)

    until(lambda: len(out) == 1, 2.0)
    assert (result, out.fields, target.model_dump() if cls is Model else None) == (
        {"x": 5}, [{"x": 5}], {"got": [5]} if cls is Model else None,
    )  # fmt: skip


def test_an_object_with_slots_that_only_a_call_by_hand_could_publish_is_warned_of(add, caplog):
    class Slotted:
        __slots__ = ()

        @ether_pub(topic="slotted")
        def read(self) -> int:
            return 1

    slotted = add(Slotted(), "slotted")

    assert slotted.read() == 1
    assert "slotted: nothing triggers Slotted.read, and calls by hand do not publish" in caplog.text


def test_a_call_by_hand_of_another_object_is_the_plain_method(shared, add, until, wire):
    class Twin:
        @ether_pub(topic="twin")
        def read(self) -> int:
            return 1

    mine, other = add(Twin()), Twin()
    out = wire(shared, "twin")

    results = other.read(), mine.read()

    until(lambda: len(out) >= 1)
    assert (results, out.fields) == ((1, 1), [{"value": 1}])


def test_attributes_of_any_name_are_the_users(shared, add, until):
    class Odd(Base):
        run = "run"
        id = 42
        status = "mine"

        def __init__(self) -> None:
            super().__init__()
            self.name = "mine"

        def cleanup(self) -> None:
            self.got.append("cleanup by hand")

        def start(self) -> str:
            return "start"

        @ether_sub(topic="odd")
        def take(self) -> None:
            self.got.append((self.run, self.id, self.name, self.status, self.start()))

    odd = add(Odd())
    before = set(vars(odd))

    shared.pub(None, "odd")

    until(lambda: odd.got)
    assert odd.got == [("run", 42, "mine", "mine", "start")]
    assert (set(vars(odd)), before) == ({"got", "name"}, {"got", "name"})


# --- generators and coroutines


def test_a_generator_publishes_each_item(shared, add, until, wire):
    class Steps:
        @ether_sub(topic="steps/in")
        @ether_pub(topic="steps/out")
        def count(self, to: int) -> Iterator[int]:
            yield from range(to)

    add(Steps())
    out = wire(shared, "steps/out")

    shared.pub({"to": 3}, "steps/in")
    shared.pub({"to": 1}, "steps/in")

    until(lambda: len(out) == 4)
    assert [r.value for r in out.readings] == [0, 1, 2, 0]


def test_an_asynchronous_generator_publishes_each_item(shared, add, until, wire):
    class Steps:
        @ether_sub(topic="asteps/in")
        @ether_pub(topic="asteps/out")
        async def count(self, to: int) -> AsyncIterator[int]:
            for number in range(to):
                await asyncio.sleep(0)
                yield number

    add(Steps())
    out = wire(shared, "asteps/out")

    shared.pub({"to": 3}, "asteps/in")

    until(lambda: len(out) == 3)
    assert [r.value for r in out.readings] == [0, 1, 2]


def test_a_generator_in_a_start_hook_publishes_each_item_between_messages(shared, add, until, wire):
    class Endless(Base):
        @ether_start
        @ether_pub(topic="endless/out")
        def count(self) -> Iterator[int]:
            number = 0
            while True:
                yield number
                number += 1

        @ether_sub(topic="endless/in")
        def take(self, x: int) -> None:
            self.got.append(x)

    endless = add(Endless())
    out = wire(shared, "endless/out")

    until(lambda: len(out) > 3)
    shared.pub({"x": 1}, "endless/in")

    until(lambda: endless.got == [1])
    numbers = [r.value for r in out.readings]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_generator_called_by_hand_publishes_as_it_is_pulled(shared, add, until, wire, kind):
    class Steps:
        @ether_pub(topic="pulled")
        def sync(self) -> Iterator[int]:
            yield 1
            yield 2

        @ether_pub(topic="pulled")
        async def later(self) -> AsyncIterator[int]:
            yield 1
            yield 2

    steps = add(Steps())
    out = wire(shared, "pulled")

    async def pull() -> list[int]:
        return [item async for item in steps.later()]

    items = list(steps.sync()) if kind == "sync" else asyncio.run(pull())

    until(lambda: len(out) == 2)
    assert (items, [r.value for r in out.readings]) == ([1, 2], [1, 2])


def test_coroutines_are_awaited_and_their_results_published(shared, add, until, wire):
    class Async(Base):
        @ether_sub(topic="async/in")
        @ether_pub(topic="async/out")
        async def take(self, x: int) -> dict[str, int]:
            await asyncio.sleep(0)
            return {"x": x}

    target = add(Async())
    out = wire(shared, "async/out")

    shared.pub({"x": 1}, "async/in")
    by_hand = asyncio.run(target.take(2))

    until(lambda: len(out) == 2)
    assert (by_hand, sorted(r.fields["x"] for r in out.readings)) == ({"x": 2}, [1, 2])


# --- sampling


def test_samples_keep_to_their_schedule(shared, add, until):
    class Clocked(Base):
        @ether_pub(topic="clocked", every=0.05)
        def sample(self) -> int:
            self.got.append(time.monotonic())
            time.sleep(0.02)  # work; a naive loop would drift by as much each time
            return len(self.got)

    clocked = add(Clocked())

    until(lambda: len(clocked.got) >= 21)
    elapsed = clocked.got[20] - clocked.got[0]
    assert elapsed == pytest.approx(1.0, abs=0.1)


def test_a_late_sample_is_late_once_and_missed_ones_are_counted_and_reported(shared, add, until, wire, caplog):
    class Late(Base):
        @ether_pub(topic="late", every=0.1)
        def sample(self) -> int:
            self.got.append(time.monotonic())
            if len(self.got) == 2:
                time.sleep(0.45)  # due meanwhile: 0.2, 0.3 and 0.4 s, which are missed, and 0.5 s, which is late
            return len(self.got)

    late = add(Late(), "late-one")

    until(lambda: len(late.got) >= 6)
    taken = [instant - late.got[0] for instant in late.got]
    until(lambda: shared.instances()["late-one"].counts.get("missed") == 3)
    assert taken[:6] == pytest.approx([0, 0.1, 0.55, 0.6, 0.7, 0.8], abs=0.045)
    assert "missed 3 samples" in caplog.text


def test_the_command_every_changes_the_rate(shared, add, until, wire):
    class Slow(Base):
        @ether_pub(topic="slow", every=60.0)
        def sample(self) -> int:
            self.got.append(time.monotonic())
            return 1

    slow = add(Slow(), "slow")
    until(lambda: len(slow.got) == 1)

    shared._need().command("slow", "every", topic="slow", every="20ms")

    until(lambda: len(slow.got) > 5)


def test_a_batch_of_a_count_packs_so_many_readings(shared, add, until, wire):
    class Packed:
        @ether_pub(topic="packed", batch=3)
        def read(self, x: int) -> dict[str, int]:
            return {"x": x}

    class Unpacker(Base):
        @ether_sub(topic="packed")
        def take(self, x: int, reading: Reading) -> None:
            self.got.append((x, reading.number))

    packed, unpacker = add(Packed()), add(Unpacker())
    out = wire(shared, "packed")

    for x in range(6):
        packed.read(x)

    until(lambda: len(unpacker.got) == 6 and len(out) == 2)
    assert out.fields == [{"x": [0, 1, 2]}, {"x": [3, 4, 5]}]
    assert unpacker.got == [(x, x) for x in range(6)]


def test_a_batch_of_a_duration_is_sent_when_it_is_due(shared, add, until, wire):
    class Packed:
        @ether_pub(topic="packed/time", batch="50ms")
        def read(self, x: int) -> dict[str, int]:
            return {"x": x}

    packed = add(Packed())
    out = wire(shared, "packed/time")

    packed.read(1)
    packed.read(2)

    until(lambda: len(out) == 1, 2.0)
    assert out.fields == [{"x": [1, 2]}]


# --- hooks


def test_hooks_run_once_each_in_the_order_of_life(shared, add, until):
    class Life(Base):
        @ether_init
        def init(self) -> None:
            self.got.append("init")

        @ether_start()
        def start(self) -> None:
            self.got.append("start")

        @ether_shutdown
        def shutdown(self) -> None:
            self.got.append("shutdown")

        @ether_cleanup
        def cleanup(self) -> None:
            self.got.append("cleanup")

        @ether_save_all
        def save(self) -> None:
            self.got.append("save_all")

    life = add(Life(), "life")
    until(lambda: "start" in life.got)

    shared._need().command("life", "stop")

    until(lambda: "shutdown" in life.got)
    assert life.got == ["init", "start", "save_all", "cleanup", "shutdown"]


def test_two_start_methods_both_run(shared, add, until):
    class Two(Base):
        @ether_start
        def one(self) -> None:
            self.got.append("one")

        @ether_start
        def two(self) -> None:
            self.got.append("two")

    two = add(Two())

    until(lambda: len(two.got) >= 2)
    assert two.got == ["one", "two"]


def test_a_start_method_with_a_subtopic_also_runs_at_its_message(shared, add, until):
    class Again(Base):
        @ether_start(subtopic="again")
        def begin(self) -> None:
            self.got.append("begin")

    again = add(Again())
    until(lambda: again.got == ["begin"])

    shared.pub(None, "Again.again")

    until(lambda: again.got == ["begin", "begin"])


def test_a_background_start_method_runs_beside_the_handlers(shared, add, until):
    release = threading.Event()

    class Loop(Base):
        @ether_start(background=True)
        def loop(self) -> None:
            self.got.append("loop")
            release.wait(10)

        @ether_sub(topic="background/in")
        def take(self, x: int) -> None:
            self.got.append(x)
            release.set()

    loop = add(Loop())
    until(lambda: loop.got == ["loop"])

    shared.pub({"x": 1}, "background/in")

    until(lambda: loop.got == ["loop", 1])


@pytest.mark.parametrize("kind", ["sync", "async", "async generator"])
def test_a_background_start_method_may_be_of_any_kind(shared, add, until, wire, kind):
    class Plain:
        @ether_start(background=True)
        @ether_pub(topic="background/out")
        def loop(self) -> Iterator[int]:
            yield 1
            yield 2

    class Async:
        @ether_start(background=True)
        @ether_pub(topic="background/out")
        async def loop(self) -> list[int]:
            return [1, 2]

    class AsyncGenerator:
        @ether_start(background=True)
        @ether_pub(topic="background/out")
        async def loop(self) -> AsyncIterator[int]:
            yield 1
            yield 2

    out = wire(shared, "background/out")

    add({"sync": Plain, "async": Async, "async generator": AsyncGenerator}[kind]())

    until(lambda: out.readings and out.readings[-1].value in (2, [1, 2]))
    assert [r.value for r in out.readings] == ([[1, 2]] if kind == "async" else [1, 2])


def test_a_call_of_a_get_method_by_hand_is_the_plain_method(shared, add):
    class Plain:
        @ether_get
        def status(self) -> object:
            return object

    plain = add(Plain())

    assert plain.status() is object


def test_an_instance_added_by_hand_is_known_at_once(shared, add):
    class Known:
        pass

    add(Known(), "known")

    assert shared.instances()["known"].state == "ready"


def test_an_instance_added_by_hand_whose_init_fails_is_an_error_and_leaves_the_object_plain(shared):
    class Broken:
        @ether_init
        def prepare(self) -> None:
            raise OSError("no such port")

        @ether_pub
        def read(self) -> int:
            return 1

    broken = Broken()

    with pytest.raises(StartError, match="broken: Broken.prepare raised OSError: no such port"):
        shared.add(broken, "broken")

    assert vars(broken) == {}
