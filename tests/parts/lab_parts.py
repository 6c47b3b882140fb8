"""Components that run in processes of their own."""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ether import (
    ether_cleanup,
    ether_get,
    ether_init,
    ether_pub,
    ether_safe,
    ether_save_all,
    ether_shutdown,
    ether_start,
    ether_sub,
)


class Echo:
    """Answers questions about its process."""

    def __init__(self, word: str = "hello", **more: Any) -> None:
        self.word = word
        self.more = more
        self.got: list[Any] = []

    @ether_get
    def where(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(), "cwd": str(Path.cwd()), "path": sys.path, "word": self.word, "more": self.more,
            "thread": threading.current_thread() is threading.main_thread(), "got": self.got,
        }  # fmt: skip

    @ether_sub(topic="echo/in")
    @ether_pub(topic="echo/out")
    def echo(self, x: Any = None) -> dict[str, Any]:
        self.got.append(x)
        return {"x": x}

    @ether_get
    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    @ether_get
    def die(self) -> None:
        os._exit(7)


class Diary:
    """Writes a line into a file at each point of its life."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.write("constructed")

    def write(self, line: str) -> None:
        with Path(self.file).open("a") as file:
            file.write(f"{line}\n")

    @ether_init
    def init(self) -> None:
        self.write("init")

    @ether_start
    def start(self) -> None:
        self.write("start")

    @ether_save_all
    def save(self) -> None:
        self.write("save_all")

    @ether_cleanup
    def clean(self) -> None:
        self.write("cleanup")

    @ether_shutdown
    def end(self) -> None:
        self.write("shutdown")


class Collector:
    """Collects slowly, and saves how much it has collected."""

    def __init__(self, file: str, seconds_each: float = 0.0) -> None:
        self.file = Path(file)
        self.seconds_each = seconds_each
        self.rows: list[int] = []

    @ether_sub(topic="rows")
    def collect(self, row: int) -> None:
        if self.seconds_each:
            time.sleep(self.seconds_each)
        self.rows.append(row)

    @ether_save_all
    def save(self) -> None:
        self.file.write_text(f"{len(self.rows)} rows, {len(set(self.rows))} different, last {self.rows[-1]}")

    @ether_get
    def count(self) -> int:
        return len(self.rows)


class Producer:
    """Sends rows when told, and one more as it ends."""

    @ether_sub(topic="produce")
    @ether_pub(topic="rows")
    def produce(self, count: int) -> Any:
        for row in range(count):
            yield {"row": row}

    @ether_shutdown
    @ether_pub(topic="rows")
    def last(self) -> dict[str, int]:
        return {"row": 1_000_000}


class Hanging:
    """Has a handler, or a hook, that takes for ever."""

    def __init__(self, where: str = "handler") -> None:
        self.where = where

    @ether_sub(topic="hang")
    def handle(self) -> None:
        print("hanging", flush=True)
        time.sleep(60)

    @ether_pub(topic="hung")
    def say(self) -> str:
        return self.where

    @ether_cleanup
    def clean(self) -> None:
        if self.where == "cleanup":
            self.say()
            time.sleep(60)


class Ticker:
    @ether_pub(topic="tick", every=0.05)
    def tick(self) -> int:
        return time.monotonic_ns()


class RaisingConstructor:
    tries = 0

    def __init__(self, file: str, word: str = "") -> None:
        with Path(file).open("a") as out:
            out.write("tried\n")
        raise OSError("no device at /dev/ttyUSB7")


class ExitingConstructor:
    def __init__(self) -> None:
        raise SystemExit("cannot go on")


class DyingConstructor:
    def __init__(self) -> None:
        os._exit(9)


class StuckConstructor:
    def __init__(self) -> None:
        time.sleep(60)


class RaisingInit:
    @ether_init
    def prepare(self) -> None:
        raise OSError("the valve is stuck")


class Needy:
    def __init__(self, port: str, baud: int) -> None: ...


class Sketch(ABC):
    @abstractmethod
    def draw(self) -> None: ...


class Acquisition:
    """A long loop in a start hook."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @ether_start
    def acquire(self) -> None:
        time.sleep(self.seconds)


class Talker:
    """Prints and logs."""

    def __init__(self) -> None:
        print("printed in the constructor")

    @ether_sub(topic="say")
    def say(self, text: str) -> None:
        print(f"said {text}")
        print(f"complained {text}", file=sys.stderr)

    @ether_sub(topic="log")
    def log(self, text: str) -> None:
        import logging

        logging.getLogger("talker.own").warning("logged %s", text)


class Fragile:
    """Dies when told."""

    @ether_sub(topic="die")
    def die(self, code: int = 7) -> None:
        print(f"I die of {code}", file=sys.stderr)
        os._exit(code)

    @ether_get
    def pid(self) -> int:
        return os.getpid()


class Heater:
    """Hangs or dies when told; its hardware is a file."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    @ether_sub(topic="heat")
    def heat(self, seconds: float, die: bool = False) -> None:
        self.file.write_text("on")
        if die:
            os._exit(1)
        released.wait(seconds)

    @ether_safe
    def off(self) -> None:
        self.file.write_text("off")

    @ether_get
    def pid(self) -> int:
        return os.getpid()


released = threading.Event()


class DiesAtStart:
    """Dies whenever it is started."""

    @ether_start
    def begin(self) -> None:
        print("I die at start", file=sys.stderr)
        os._exit(1)


class Counting:
    """Publishes numbers, and counts them in a file of each start's own, before each is published."""

    def __init__(self, folder: str, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.number = 0
        self.file = os.open(Path(folder) / f"counted-{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    @ether_start(background=True)
    @ether_pub(topic="count")
    def count(self) -> Iterator[int]:
        while not self.stop_at or self.number < self.stop_at:
            os.write(self.file, b".")
            yield self.number
            self.number += 1
            if self.number % 3 == 0:
                time.sleep(0.001)


class TwoVoices:
    """Publishes on one topic by hand and by a method."""

    @ether_start
    @ether_pub(topic="voices")
    def speak(self) -> dict[str, str]:
        from ether import ether

        ether.pub({"by": "hand"}, "voices")
        return {"by": "method"}
