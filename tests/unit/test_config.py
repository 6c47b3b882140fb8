"""What the loader accepts, what it says when it does not, and where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ether.config import MARKS, Config, Rate, duration, json_schema, rate, size
from ether.errors import ConfigError, Problem, suggest

ROOT = Path(__file__).parents[2]
Write = Callable[[str], Path]

WHOLE = """\
session: {name: growth, data: data/}
broker: auto
record: {topics: ["#"], exclude: [], file: "{session}-{started}.h5", rotate: 2GB}
registry:
  vendor.thermo.Incubator:
    methods:
      read: {ether_pub: {topic: lab/incubator, every: 30s}}
      set_target: {ether_sub: {topic: lab/target}}
instances:
  incubator:
    class_path: vendor.thermo.Incubator
    args: []
    kwargs: {port: /dev/ttyUSB0}
    autorun: true
    restart: {policy: on-failure, max: 5, within: 5min, backoff: [1s, 30s]}
    health: {hang_after: 10s}
    params: [door]
    host: bench-2
    replicas: 1
expect:
  lab/incubator: {rate: "2/min ±10%", from: incubator, required: true}
metrics: 9100
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ETHER_BROKER", "ETHER_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("lab.yaml").write_text(text, encoding="utf-8")
        return Path("lab.yaml")

    return write


def problems(source: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.load(source, overrides=overrides)
    found = [str(problem) for problem in caught.value.problems]
    assert all("\n" not in line for line in found)
    return found


def instance(**keys: Any) -> dict[str, Any]:
    return {"instances": {"oven": {"class_path": "lab.Oven", **keys}}}


# ---------------------------------------------------------------- what is read


def test_the_whole_of_the_documented_yaml_is_read(write: Write) -> None:
    config = Config.load(write(WHOLE))

    assert config.resolved() == {
        "session": {
            "name": "growth",
            "namespace": "",
            "data": "data",
            "start_timeout": 30.0,
            "stop_timeout": 10.0,
            "reload": False,
        },
        "broker": dict.fromkeys(("url", "listen", "users", "tls", "websocket", "limits", "user", "password"))
        | {"kind": "auto"},
        "record": {
            "topics": ["#"],
            "exclude": [],
            "file": "{session}-{started}.h5",
            "rotate": {"size": 2_000_000_000, "every": None},
            "reserve": 256_000_000,
            "outbox": {"size": 64 << 20, "block": 5.0},
        },
        "registry": {
            "vendor.thermo.Incubator": {
                "methods": {
                    "read": {"ether_pub": [{"topic": "lab/incubator", "every": 30.0}]},
                    "set_target": {"ether_sub": [{"topic": "lab/target"}]},
                }
            }
        },
        "instances": {
            "incubator": {
                "class_path": "vendor.thermo.Incubator",
                "args": [],
                "kwargs": {"port": "/dev/ttyUSB0"},
                "autorun": True,
                "restart": {"policy": "on-failure", "max": 5, "within": 300.0, "backoff": [1.0, 30.0]},
                "critical": False,
                "health": {"hang_after": 10.0, "on_hang": "report", "safe_within": 10.0},
                "params": {"door": {"unit": "", "ge": None, "le": None, "description": ""}},
                "host": "bench-2",
                "replicas": 1,
            }
        },
        "expect": {
            "lab/incubator": {
                "rate": {"hz": pytest.approx(2 / 60), "tolerance": 0.1},
                "from": "incubator",
                "unit": None,
                "required": True,
            }
        },
        "metrics": 9100,
        "ingest": [],
        "bridge": None,
    }
    json.dumps(config.resolved())


@pytest.mark.parametrize(
    "source", ["", "# nothing yet\n", "instances:\n", "---\n", "instances: {}\nrecord:\nsession:\n"]
)
def test_an_empty_file_is_a_session_without_instances(write: Write, source: str) -> None:
    config = Config.load(write(source))

    assert (config.instances, config.session.name, config.session.name_given) == ({}, "session", False)
    assert config.record is not None and config.record.file == "{session}-{started}.h5"


def test_no_source_a_path_a_text_path_and_a_config_are_sources(write: Write) -> None:
    path = write(WHOLE)
    from_path = Config.load(path)

    assert Config.load().instances == {}
    assert Config.load(str(path)) == Config.load(yaml.safe_load(WHOLE)) == from_path
    assert Config.load(from_path) is from_path
    assert from_path.path == path and Config.load({}).path is None


def test_the_text_is_kept_as_given_and_a_mapping_is_dumped(write: Write) -> None:
    text = "# mine\ninstances: {}   # none\n"

    assert Config.load(write(text)).text == text
    assert yaml.safe_load(Config.load(instance(kwargs={"p": Path("x")})).text) == instance(kwargs={"p": "x"})


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfsession: {name: a}\n")

    assert Config.load(tmp_path / "a.yaml").session.name == "a"


def test_an_explicit_session_name_is_known_as_given() -> None:
    assert Config.load({"session": {"name": "session"}}).session.name_given
    assert not Config.load({"session": {"data": "x"}}).session.name_given


@pytest.mark.parametrize("off", ["off", "false", "no", '"off"'])
def test_record_off_is_no_recording(write: Write, off: str) -> None:
    assert Config.load(write(f"record: {off}\n")).record is None


def test_record_on_is_the_default_and_one_topic_needs_no_list(write: Write) -> None:
    assert Config.load(write("record: on\n")).record == Config.load().record
    record = Config.load(write("record: {topics: lab/#}\n")).record
    assert record is not None and record.topics == ["lab/#"]
    assert record.file_for("growth", "20260116-112842") == "growth-20260116-112842.h5"


@pytest.mark.parametrize(
    ("given", "kind", "url"),
    [
        ("auto", "auto", None),
        ("embedded", "embedded", None),
        ("mosquitto", "mosquitto", None),
        ("mqtt://bench", "external", "mqtt://bench:1883"),
        ("mqtts://bench", "external", "mqtts://bench:8883"),
        ("mqtt://[::1]:1884/", "external", "mqtt://[::1]:1884"),
        ({"url": "mqtt://bench:1"}, "external", "mqtt://bench:1"),
        ({"kind": "external", "url": "mqtt://bench"}, "external", "mqtt://bench:1883"),
    ],
)
def test_a_broker_is_a_word_a_url_or_a_block(given: Any, kind: str, url: str | None) -> None:
    broker = Config.load({"broker": given}).broker

    assert (broker.kind, broker.url) == (kind, url)


def test_limits_of_the_broker_are_sizes_and_durations() -> None:
    limits = Config.load(
        {"broker": {"limits": {"packet": "1MiB", "queue": "2MB", "session_expiry": "2h"}}}
    ).broker.limits

    assert limits is not None
    assert limits.model_dump() == {"packet": 1 << 20, "connections": None, "queue": 2_000_000, "session_expiry": 7200}


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"packet": 5}, "broker.limits.packet: 5 has no unit"),
        ({"packet": "1kB"}, "broker.limits.packet: at least 1024 was wanted"),
        ({"connections": 0}, "broker.limits.connections: at least 1 was wanted"),
        ({"session_expiry": "0s"}, "broker.limits.session_expiry: at least 1 was wanted"),
    ],
)
def test_a_limit_that_cannot_be_is_named(limits: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Config.load({"broker": {"limits": limits}})


def test_credentials_leave_the_url() -> None:
    broker = Config.load({"broker": "mqtt://me:p%40ss@bench"}).broker

    assert (broker.url, broker.user) == ("mqtt://bench:1883", "me")
    assert broker.password is not None and broker.password.get_secret_value() == "p@ss"


def test_listen_is_split_into_host_and_port() -> None:
    assert Config.load({"broker": {"listen": "[::1]:1883"}}).broker.listen_address == ("::1", 1883)
    assert Config.load().broker.listen_address is None


def test_marks_are_listed_with_the_keywords_given() -> None:
    methods = {
        "bare": {"ether_get": None},
        "word": "ether_start",
        "both": {
            "ether_sub": [{"topic": "a/+"}, {"topic": "b", "qos": 0}],
            "ether_pub": {"every": "100ms", "batch": "50ms", "unit": {"x": "mm"}, "retain": True},
        },
        "counted": {"ether_pub": {"batch": 100, "unit": "mm"}},
        "hooks": {"ether_start": {"background": True, "subtopic": "go"}, "ether_cleanup": {}},
    }

    marks = Config.load({"registry": {"a.B": {"methods": methods}}}).registry["a.B"].methods

    assert marks == {
        "bare": [("ether_get", {})],
        "word": [("ether_start", {})],
        "both": [
            ("ether_pub", {"every": 0.1, "batch": 0.05, "unit": {"x": "mm"}, "retain": True}),
            ("ether_sub", {"topic": "a/+"}),
            ("ether_sub", {"topic": "b", "qos": 0}),
        ],
        "counted": [("ether_pub", {"batch": 100, "unit": "mm"})],
        "hooks": [("ether_start", {"background": True, "subtopic": "go"}), ("ether_cleanup", {})],
    }


def test_every_decorator_can_be_written_in_the_registry() -> None:
    marks = Config.load({"registry": {"a.B": {"methods": {"m": dict.fromkeys(MARKS)}}}}).registry["a.B"].methods["m"]

    assert marks == [(name, {}) for name in MARKS]


def test_a_class_object_is_named_by_its_path_and_kept() -> None:
    config = Config.load({"instances": {"here": {"class_path": Rate}}, "registry": {Rate: {}}})

    assert config.instances["here"].class_path == "ether.config.values.Rate"
    assert config.classes == {"ether.config.values.Rate": Rate}


def test_ether_name_renames_and_replicas_are_numbered() -> None:
    config = Config.load(
        {
            "instances": {
                "a": {"class_path": "m.A", "kwargs": {"ether_name": "b", "x": 1}},
                "w": {"class_path": "m.A", "replicas": 2},
            }
        }
    )

    named = config.named()

    assert {name: key for name, (key, _) in named.items()} == {"b": "a", "w-1": "w", "w-2": "w"}
    assert named["b"][1].kwargs == {"x": 1}


def test_yaml_numbers_are_what_a_scientist_means(write: Write) -> None:
    config = Config.load(
        write(
            "instances: {a: {class_path: m.A, "
            "kwargs: {rate: 1e-3, at: 12:30:45, n: 0x10, m: -5, f: .5, i: .inf, s: 1_000}}}\n"
        )
    )

    assert config.instances["a"].kwargs == {
        "rate": 0.001, "at": "12:30:45", "n": 16, "m": -5, "f": 0.5, "i": float("inf"), "s": 1000,
    }  # fmt: skip


def test_names_that_yaml_reads_as_numbers_or_flags_stay_names(write: Write) -> None:
    config = Config.load(
        write("instances:\n  on: {class_path: m.A, kwargs: {no: {1: a}}}\n  1: {class_path: m.A}\n"),
        ["instances.1.replicas=1"],
    )

    assert list(config.instances) == ["on", "1"]
    assert config.instances["on"].kwargs == {"no": {1: "a"}}


def test_anchors_and_merge_keys_work(write: Write) -> None:
    config = Config.load(
        write("instances:\n  a: &a\n    class_path: m.A\n    replicas: 2\n  b:\n    <<: *a\n    replicas: 3\n")
    )

    assert (config.instances["b"].class_path, config.instances["b"].replicas) == ("m.A", 3)
    assert config.where("instances", "b", "replicas") == "lab.yaml:7:5"


# ---------------------------------------------------------------- values with units


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("5s", 5.0),
        ("100ms", 0.1),
        ("2min", 120.0),
        ("1h", 3600.0),
        (0.1, 0.1),
        ("0.1", 0.1),
        (3, 3.0),
        ("1.5 h", 5400.0),
        (0, 0.0),
    ],
)
def test_a_duration_is_seconds(given: object, seconds: float) -> None:
    assert duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("5 mins", "`mins` is no unit of time; did you mean `min`?"),
        ("soon", "a duration was wanted (`5s`, `100ms`, `2min`, `1h`), got the text 'soon'"),
        (-1, "-1 is no duration; it counts seconds from 0 up"),
        (float("nan"), "nan is no duration; it counts seconds from 0 up"),
        (None, "a duration was wanted (`5s`, `100ms`, `2min`, `1h`), got nothing"),
        ("5 Q", "`Q` is no unit of time; use ms, s, min, h or d"),
    ],
)
def test_what_is_no_duration_is_said(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        duration(given)


def test_a_size_is_bytes_and_says_its_unit() -> None:
    assert (size("2GB"), size("64MiB"), size("1.5 kB"), size("7B")) == (2 * 10**9, 2**26, 1500, 7)
    with pytest.raises(ValueError, match=re.escape("2 has no unit; did you mean `2GB` or `2MB`?")):
        size(2)
    with pytest.raises(ValueError, match=re.escape("`GiBi` is no unit of size; did you mean `GiB`?")):
        size("2GiBi")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10Hz", Rate(10)),
        ("2 kHz", Rate(2000)),
        ("100mHz", Rate(0.1)),
        (4, Rate(4)),
        ("2/min ±10%", Rate(2 / 60)),
        ("1Hz +-20%", Rate(1, 0.2)),
        ("1/h +/- 5 %", Rate(1 / 3600, 0.05)),
        ("3/s", Rate(3)),
        (0.5, Rate(0.5)),
    ],
)
def test_a_rate_is_per_second_with_a_tolerance(given: object, expected: Rate) -> None:
    found = rate(given)

    assert [found.hz, found.tolerance] == pytest.approx([expected.hz, expected.tolerance])


@pytest.mark.parametrize("given", ["fast", "10Hz ±", "0Hz", "1/fortnight", None, True])
def test_what_is_no_rate_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"rate|unit"):
        rate(given)


def test_suggest_returns_text_to_append_or_nothing() -> None:
    assert suggest("perid", ["period", "port"]) == "; did you mean `period`?"
    assert suggest("Oven", ["oven"]) == "; did you mean `oven`?"
    assert suggest("zzz", ["period"]) == ""


# ---------------------------------------------------------------- what is refused, and where


def test_all_problems_are_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    path = write(
        """\
session: {nam: growth}
broker: mosquito
registry:
  vendor.Incubator:
    methods:
      read: {ether_pub: {topc: lab/incubator}}
      two: {ether_sub: [{topic: a}, {topic: 3}]}
instances:
  oven:
    class_path: Oven
    perod: 4
    restart: {polcy: always, max: -1}
  oven: {class_path: lab.Oven}
  pump:
extra: 1
"""
    )

    assert problems(path) == [
        "lab.yaml:1:11: session.nam: unknown key; did you mean `name`?",
        "lab.yaml:2:9: broker: got 'mosquito'; auto, embedded, mosquitto, nats or mqtt://HOST:PORT was wanted;"
        " did you mean `mosquitto`?",
        "lab.yaml:6:26: registry.vendor.Incubator.methods.read.ether_pub.topc: unknown key; did you mean `topic`?",
        "lab.yaml:7:45: registry.vendor.Incubator.methods.two.ether_sub.1.topic: a text was wanted,"
        " got the number 3; quote it",
        "lab.yaml:10:17: instances.oven.class_path: 'Oven' names no module; write `module.Oven`"
        " (`__main__.Oven` in the running script)",
        "lab.yaml:11:5: instances.oven.perod: unknown key; arguments of the class go under `kwargs`",
        "lab.yaml:12:15: instances.oven.restart.polcy: unknown key; did you mean `policy`?",
        "lab.yaml:12:35: instances.oven.restart.max: at least 0 was wanted, got -1",
        "lab.yaml:13:3: instances.oven: instance given twice; first in line 9",
        "lab.yaml:14:3: instances.pump.class_path: missing; name the class, such as `class_path: package.module.Class`",
        "lab.yaml:15:1: extra: unknown key; known here: session, broker, record, registry, instances, expect, ingest, bridge, metrics",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: b: c\n",
            "lab.yaml:1:5: not valid YAML: a `:` that begins no value here; check the indentation, or quote the text",
        ),
        ("instances:\n\ta: 1\n", "lab.yaml:2:1: a tab; YAML indents by spaces only"),
        ("a: [1, 2\n", "lab.yaml:2:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("- 1\n", "lab.yaml:1:1: a mapping with `instances:` was wanted, got a list"),
        ("just text\n", "lab.yaml:1:1: a mapping with `instances:` was wanted, got the text 'just text'"),
        ("a: 1\n---\nb: 2\n", "lab.yaml:2:1: not valid YAML: a second document (`---`); a configuration is one"),
        ("a: \x01\n", "lab.yaml:1: the character U+0001 is not allowed"),
        ("session: *x\n", "lab.yaml:1:10: not valid YAML: found undefined alias 'x'; define it before with `&`"),
        ("session: {name: ${X}}\n", 'lab.yaml:1:18: a variable between braces or brackets must be quoted: `"${NAME}"`'),
        ("session: {name: a, name: b}\n", "lab.yaml:1:20: session.name: key given twice; first in line 1"),
        ("instances: 3\n", "lab.yaml:1:12: instances: a mapping was wanted, got the number 3"),
        (
            "session: {name: on}\n",
            "lab.yaml:1:17: session.name: a text was wanted, got true"
            " (YAML reads on, off, yes and no so; quote it if a text is meant)",
        ),
        ("instances: {a: {class_path: m.A, kwargs: !!python/name:os.system x}}\n", None),
        ("instances: &a {b: *a}\n", None),
        ("{[1]: 2}\n", "lab.yaml:1:2: a key must be a text or a number"),
    ],
)
def test_what_is_no_configuration_is_one_line(write: Write, text: str, said: str | None) -> None:
    found = problems(write(text))

    assert found[0].startswith("lab.yaml:1") if said is None else found == [said]


def test_a_missing_file_a_folder_and_other_encodings_are_one_line(write: Write, tmp_path: Path) -> None:
    write("")
    Path("latin.yaml").write_bytes("# ok\nname: Öfen\n".encode("latin-1"))

    assert problems("lab.yml") == ["lab.yml: no such file; did you mean `lab.yaml`?"]
    assert problems("nowhere/at/all") == ["nowhere/at/all: no such file"]
    assert problems(".") == [".: a folder; name the YAML file in it"]
    assert problems("latin.yaml") == ["latin.yaml:2: not UTF-8; save the file as UTF-8"]
    assert problems("instances:\n") == ["configuration: a path was wanted, got YAML text; pass yaml.safe_load(text)"]
    assert problems(3) == ["configuration: a path, a mapping or a Config was wanted, got the number 3"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (instance(replicas=0), "instances.oven.replicas: at least 1 was wanted, got 0"),
        (instance(replicas="2"), "instances.oven.replicas: a whole number was wanted, got the text '2'"),
        (instance(autorun=1), "instances.oven.autorun: true or false was wanted, got the number 1"),
        (
            instance(restart="sometimes"),
            "instances.oven.restart.policy: never, on-failure, always was wanted, got the text 'sometimes'",
        ),
        (instance(restart={"backoff": ["1s"]}), "instances.oven.restart.backoff: a list of 2 was wanted, got 1"),
        (instance(kwargs=[1]), "instances.oven.kwargs: a mapping was wanted, got a list"),
        (
            instance(kwargs={"ether_name": "a b"}),
            "instances.oven.kwargs.ether_name: 'a b' cannot name an instance;"
            " use letters, digits, '_', '-' and '.' only",
        ),
        (
            {"instances": {"a b": {"class_path": "m.A"}}},
            "instances.a b: 'a b' cannot name an instance; use letters, digits, '_', '-' and '.' only",
        ),
        (
            {"instances": {"recorder": {"class_path": "m.A"}}},
            "instances.recorder: `recorder` is ether's own recorder; choose another name, or set `record: off`",
        ),
        (
            {"instances": {"a": {"class_path": "m.A", "replicas": 2}, "a-1": {"class_path": "m.A"}}},
            "instances.a-1: the name `a-1` is used twice; first at instances.a",
        ),
        (
            {"session": {"namespace": "lab/"}},
            "session.namespace: 'lab/' begins or ends with `/`; the slash after a namespace is put by ether",
        ),
        (
            {"session": {"name": "a/b"}},
            "session.name: 'a/b' cannot name a session; it becomes a file name: letters, digits, `-`, `_`, `.`",
        ),
        (
            {"record": {"file": "{sesion}.h5"}},
            "record.file: `{sesion}` is unknown; {session} and {started} are filled in",
        ),
        ({"record": {"file": "{"}}, "record.file: '{': Single '{' encountered in format string"),
        ({"record": {"rotate": 2}}, "record.rotate: 2 has no unit; did you mean `2GB` or `2MB`?"),
        ({"record": {"topics": ["a#"]}}, "record.topics.0: topic filter 'a#': '#' stands alone, as the last level"),
        (
            {"broker": "bench:1883"},
            "broker: got 'bench:1883'; auto, embedded, mosquitto, nats or mqtt://HOST:PORT was wanted;"
            " did you mean `mqtt://bench:1883`?",
        ),
        (
            {"broker": "http://bench"},
            "broker: `http` is no scheme that ether speaks; write mqtt://HOST:PORT or mqtts://HOST:PORT",
        ),
        (
            {"broker": "mqtt://u:secret@bench:99999"},
            "broker: the port in 'mqtt://u:***@bench:99999' is no number from 0 to 65535",
        ),
        ({"broker": "mqtt://"}, "broker: 'mqtt://' is no broker address; write mqtt://HOST:PORT"),
        (
            {"broker": ["mqtt://u:p@a", "mqtt://v:p@b"]},
            "broker: the nodes of a cluster share scheme, user and password; write the latter two once",
        ),
        (
            {"broker": ["mqtt://a", "mqtts://b"]},
            "broker: the nodes of a cluster share scheme, user and password; write the latter two once",
        ),
        ({"broker": []}, "broker.url: a text was wanted, got a list"),
        ({"broker": {"kind": "external"}}, "broker: an external broker needs its `url: mqtt://HOST:PORT`"),
        (
            {"broker": {"kind": "mosquitto", "url": "mqtt://a"}},
            "broker: `kind: mosquitto` is started by us and takes no `url`; use `listen`, or drop `kind`",
        ),
        (
            {"broker": {"url": "mqtt://a", "listen": "a:1"}},
            "broker: `url` names a broker that runs, `listen` one that we start; keep one of them",
        ),
        (
            {"broker": {"listen": "1883"}},
            "broker.listen: '1883' is no address; write HOST:PORT, such as `127.0.0.1:1883` or `0.0.0.0:1883`",
        ),
        ({"expect": {"a": {"rate": "2/mn"}}}, "expect.a.rate: `mn` is no unit of time; did you mean `min`?"),
        (
            {"registry": {"a.B": {"methods": {"m": {"ether_pub": {"topic": "a/#"}}}}}},
            "registry.a.B.methods.m.ether_pub.topic:"
            " topic 'a/#': '+' and '#' are for subscribing; a publisher names one topic",
        ),
        (
            {"registry": {"a.B": {"methods": {"m": {"ether_pub": {"batch": 0.5}}}}}},
            "registry.a.B.methods.m.ether_pub.batch:"
            " 0.5 has no unit; a count is a whole number, a duration says its unit: `0.5s`",
        ),
        (
            {"registry": {"a.B": {"methods": {"m": "ether_gat"}}}},
            "registry.a.B.methods.m: a mapping was wanted, got the text 'ether_gat'",
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_was_got(source: dict[str, Any], said: str) -> None:
    assert problems(source) == [said]


def test_a_user_named_recorder_is_allowed_when_nothing_is_recorded() -> None:
    assert "recorder" in Config.load({"record": False, "instances": {"recorder": {"class_path": "m.A"}}}).instances


# ---------------------------------------------------------------- positions for the checks of others


def test_where_points_at_keys_also_inside_kwargs(write: Write) -> None:
    config = Config.load(
        write("instances:\n  oven:\n    class_path: m.A\n    kwargs:\n      pid:\n        gains: [1, 2]\n")
    )

    assert config.where("instances", "oven", "kwargs", "pid", "gains", 1) == "lab.yaml:6:20"
    assert config.where("instances", "oven", "kwargs", "absent") == "lab.yaml:4:5"
    assert config.where() == "lab.yaml"
    assert config.problem(("instances", "oven", "kwargs", "pid"), "too bold") == Problem(
        "lab.yaml:5:7", "instances.oven.kwargs.pid: too bold"
    )
    assert Config.load(instance()).where("instances", "oven", "kwargs") == "instances.oven.kwargs"


# ---------------------------------------------------------------- variables, overrides, environment


def test_variables_are_filled_in_with_defaults_and_escapes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "7")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    text = """\
instances:
  a:
    class_path: m.A
    replicas: ${PORT}
    kwargs:
      number: ${PORT}
      text: "${PORT}"
      path: /dev/tty${PORT}
      fallback: ${UNSET:-5s}
      blank: ${EMPTY:-b}
      money: $$5 or $5 or $${PORT}
"""

    config = Config.load(write(text))

    expected = {
        "number": 7,
        "text": "7",
        "path": "/dev/tty7",
        "fallback": "5s",
        "blank": "b",
        "money": "$5 or $5 or ${PORT}",
    }
    assert (config.instances["a"].replicas, config.instances["a"].kwargs) == (7, expected)
    assert Config.load(instance(replicas="${PORT}", kwargs={"m": "$$5"})).instances["oven"].replicas == 7
    assert "${PORT}" in config.text


def test_an_unset_variable_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)

    assert problems(write("session:\n  name: ${UNSET}\n  data: ${2}\n")) == [
        "lab.yaml:2:9: session.name: the environment variable UNSET is not set; set it, or write ${UNSET:-default}",
        "lab.yaml:3:9: session.data: write ${NAME} or ${NAME:-default}; a literal `${` is `$${`",
    ]


def test_overrides_stand_above_environment_above_yaml(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("session: {data: yaml}\nbroker: {kind: embedded, listen: 127.0.0.1:1}\n")
    monkeypatch.setenv("ETHER_BROKER", "mqtt://there:2")
    monkeypatch.setenv("ETHER_DATA", "environment")

    config, overridden = Config.load(path), Config.load(path, ["session.data=set", "broker=auto"])

    assert (config.broker.url, str(config.session.data)) == ("mqtt://there:2", "environment")
    assert (overridden.broker.kind, str(overridden.session.data)) == ("auto", "set")
    assert config.where("broker") == "ETHER_BROKER"


def test_a_wrong_environment_is_told_by_its_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETHER_BROKER", "bench")

    assert problems(write("broker: auto\n"))[0].startswith("ETHER_BROKER: broker: got 'bench'")


def test_overrides_are_yaml_and_reach_everything(write: Write) -> None:
    config = Config.load(
        write(WHOLE),
        [
            "instances.incubator.kwargs.y=4",
            "instances.incubator.args=[1, a]",
            "instances.incubator.kwargs.pid.gain=1e-3",
            "registry.vendor.thermo.Incubator.methods.read.ether_pub.every=1s",
            "expect.lab/incubator.required=false",
            "instances.extra.class_path=m.A",
            "record=off",
            "session.name=a=b",
        ],
    )

    assert config.instances["incubator"].kwargs == {"port": "/dev/ttyUSB0", "y": 4, "pid": {"gain": 0.001}}
    assert config.instances["incubator"].args == [1, "a"]
    assert config.registry["vendor.thermo.Incubator"].methods["read"] == [
        ("ether_pub", {"topic": "lab/incubator", "every": 1.0})
    ]
    assert (config.expect["lab/incubator"].required, config.record, config.session.name) == (False, None, "a=b")
    assert "extra" in config.instances
    assert config.where("instances", "incubator", "kwargs", "y") == "--set instances.incubator.kwargs.y=4"


def test_overrides_below_a_word_leave_what_the_word_said() -> None:
    oven = {"class_path": "lab.Oven", "restart": "on-failure"}
    source = {"broker": "mosquitto", "instances": {"oven": oven}}

    config = Config.load(source, ["broker.listen=127.0.0.1:1885", "instances.oven.restart.max=2"])
    elsewhere = Config.load(source, ["broker.url=mqtt://lab:1883"])

    assert (config.broker.kind, config.broker.listen) == ("mosquitto", "127.0.0.1:1885")
    assert (config.instances["oven"].restart.policy, config.instances["oven"].restart.max) == ("on-failure", 2)
    assert (elsewhere.broker.kind, elsewhere.broker.url) == ("external", "mqtt://lab:1883")


def test_overrides_apply_to_a_config_without_changing_it() -> None:
    config = Config.load(instance(args=[1, 2]))

    changed = Config.load(config, ["instances.oven.args.1=5", "instances.oven.kwargs.a=1"])

    assert (changed.instances["oven"].args, config.instances["oven"].args) == ([1, 5], [1, 2])


def test_wrong_overrides_are_told() -> None:
    source = instance(args=[1])

    assert problems(
        source, "instances.ovn.kwargs.x=1", "foo", "instances.oven.args.4=1", "instances.oven.replicas=["
    ) == [
        "--set instances.ovn.kwargs.x=1: no instance `ovn` in the configuration; did you mean `oven`?",
        "--set foo: write a.b=value, such as instances.oven.kwargs.period=2",
        "--set instances.oven.args.4=1: instances.oven.args is a list of 1; `4` is none of its places",
        "--set instances.oven.replicas=[: the value is not valid YAML:"
        " expected the node content, but found '<stream end>'",
    ]


# ---------------------------------------------------------------- secrets


def test_secrets_are_shown_nowhere_but_in_the_password(write: Write) -> None:
    config = Config.load(
        write(
            "broker: mqtt://me:hush1@bench\n"
            "instances:\n"
            "  a: {class_path: m.A, kwargs: {api_key: hush2, token: 'hush3', tokens: 5, url: 'http://u:hush4@h'}}\n"
        )
    )

    shown = json.dumps(config.resolved()) + repr(config) + str(config.broker) + config.safe_text

    assert re.findall("hush[123]", json.dumps(config.resolved()) + config.safe_text + repr(config.broker)) == []
    assert "hush4" not in config.safe_text and "hush1" not in shown
    assert yaml.safe_load(config.safe_text)["instances"]["a"]["kwargs"] == {
        "api_key": "***", "token": "***", "tokens": 5, "url": "http://u:***@h",
    }  # fmt: skip
    assert "hush" not in Config.load(instance(kwargs={"password": "hush"})).safe_text


def test_redacting_keeps_the_rest_of_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASS", "hush")
    config = Config.load(
        write(
            "instances:\n"
            "  a: &a\n"
            "    class_path: m.A\n"
            "    kwargs:\n"
            "      token: |\n"
            "        hush\n"
            "        hush\n"
            "      secret: &s hush\n"
            "      password: ${PASS}\n"
            "      api_key: ${NONE:-hush}\n"
            "      name: kept\n"
            "  b: {class_path: m.A, kwargs: {secret: *s}}\n"
        ),
        ["instances.b.kwargs.token=hush"],
    )

    assert "hush" not in config.safe_text and "hush" not in json.dumps(config.resolved())
    assert yaml.safe_load(config.safe_text)["instances"]["a"]["kwargs"] == {
        "token": "***",
        "secret": "***",
        "password": "${PASS}",
        "api_key": "***",
        "name": "kept",
    }


# ---------------------------------------------------------------- the schema


def test_the_shipped_schema_is_fresh() -> None:
    shipped = (ROOT / "configs" / "ether.schema.json").read_text(encoding="utf-8")

    assert shipped == json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", (
        "run `ether schema > configs/ether.schema.json`"
    )


def test_every_key_of_the_schema_is_described() -> None:
    schema = json_schema()
    blocks = [schema, *(form for name in schema["$defs"].values() for form in name.get("anyOf", [name]))]

    bare = [
        key
        for block in blocks
        for key, value in block.get("properties", {}).items()
        if not {"title", "description"} <= set(value)
    ]

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert bare == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_load_and_fit_the_schema(path: Path) -> None:
    Config.load(path)

    assert misfit(yaml.safe_load(path.read_text(encoding="utf-8"))) is None


@pytest.mark.parametrize(
    "source",
    [
        yaml.safe_load(WHOLE),
        None,
        {},
        {"record": "off"},
        {"record": False},
        {"record": None},
        {"record": {"rotate": "1h"}},
        {"record": {"rotate": {"size": "2GB", "every": "30min"}}},
        {"record": {"rotate": "off"}},
        {"record": {"rotate": False}},
        {"broker": "mqtts://a@b:1"},
        {"broker": {"kind": "external", "url": "mqtt://a", "tls": {"ca": "a.pem"}}},
        instance(restart="always", replicas=3),
        instance(restart=False, health=None),
        {"expect": {"a": {"rate": 3, "unit": {"x": "mm"}}}},
        {"record": {"topics": "a/#"}},
        {
            "registry": {
                "a.B": {
                    "methods": {
                        "a": "ether_get",
                        "b": {"ether_sub": None},
                        "c": {"ether_sub": [None, {"qos": 0}]},
                        "d": {"ether_pub": {"batch": 5, "every": 0.1, "unit": "mm"}},
                        "e": {"ether_pub": {"batch": "5ms"}},
                    }
                }
            }
        },
        {"session": {"start_timeout": "1.5 min", "stop_timeout": 2}},
        {"ingest": "tasmota"},
        {"ingest": {"profile": "zigbee2mqtt", "only": "a*", "ignore": ["b", "c"]}},
        {
            "ingest": [
                "shelly1",
                {"match": "a/{dev}", "topic": "x/{dev}", "unit": "V", "availability": "b/{dev}", "time": "t"},
                {
                    "match": "c/{dev}", "device": "c-{dev}", "prefix": "lab", "format": "auto",
                    "fields": {"x": "a.b", "y": {"path": "c", "words": {"ON": True, "HALF": 0.5}, "type": "number"}},
                    "time": {"path": "t", "format": "unix_ms"}, "availability": {"topic": "d/{dev}", "lost": ["gone", "off"]},
                },
            ]
        },
        {"bridge": {"homeassistant": True, "homie": False, "every": "2s"}},
    ],
)  # fmt: skip
def test_the_schema_accepts_what_the_loader_accepts(source: Any) -> None:
    Config.load(source)

    assert misfit(source) is None


def test_the_schema_accepts_variables_for_numbers_and_flags() -> None:
    assert misfit(instance(replicas="${N}", autorun="${GO:-true}", restart={"within": "${W:-5s}"})) is None


@pytest.mark.parametrize(
    "source",
    [
        {"extra": 1},
        instance(perid=1),
        {"instances": {"a": {}}},
        instance(replicas=0),
        instance(restart="sometimes"),
        {"broker": "mosquito"},
        {"record": {"rotate": "2"}},
        {"session": {"start_timeout": "soon"}},
        [],
        {"registry": {"a.B": {"methods": {"m": {"ether_pub": {"topc": "a"}}}}}},
        {"expect": {"a": {"rate": "often"}}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(source: Any) -> None:
    problems(source)

    assert misfit(source) is not None


def test_the_reference_names_every_key() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    schema = json_schema()
    blocks = [schema, *(form for name in schema["$defs"].values() for form in name.get("anyOf", [name]))]

    assert [key for block in blocks for key in block.get("properties", {}) if f"`{key}`" not in page] == []


def misfit(value: Any, schema: Any = None, path: str = "") -> str | None:
    """Return why the value does not fit the shipped schema: the part of JSON Schema that it uses, or a KeyError."""
    schema = json_schema() if schema is None else schema
    for word, argument in schema.items():
        why = _RULES[word](value, argument, schema, path)
        if why:
            return str(why)
    return None


def _properties(value: Any, known: dict[str, Any], schema: Any, path: str) -> str | None:
    items = value.items() if isinstance(value, dict) else ()
    return next(
        (why for key, item in items if key in known and (why := misfit(item, known[key], f"{path}.{key}"))), None
    )


def _additional(value: Any, rule: Any, schema: Any, path: str) -> str | None:
    extra = [key for key in value if key not in schema.get("properties", {})] if isinstance(value, dict) else []
    if rule is False:
        return f"{path}: {extra}" if extra else None
    return (
        None
        if rule is True
        else next((why for key in extra if (why := misfit(value[key], rule, f"{path}.{key}"))), None)
    )


def _type(value: Any, names: Any, schema: Any, path: str) -> str | None:
    kinds: dict[str, Any] = {"string": str, "object": dict, "array": list, "boolean": bool, "null": type(None)}
    for name in [names] if isinstance(names, str) else names:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (name == "number" and number) or (name == "integer" and number and value == int(value)):
            return None
        if name in kinds and isinstance(value, kinds[name]):
            return None
    return f"{path}: {value!r} is no {names}"


def _items(value: Any, rule: Any, schema: Any, path: str) -> str | None:
    return next((why for item in value if (why := misfit(item, rule, path))), None) if isinstance(value, list) else None


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("$schema", "$defs", "title", "description", "default", "format", "writeOnly"), lambda *_: None),
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "$ref": lambda value, ref, schema, path: misfit(value, json_schema()["$defs"][ref.removeprefix("#/$defs/")], path),
    "anyOf": lambda value, forms, schema, path: (
        f"{path}: fits none" if all(misfit(value, form, path) for form in forms) else None
    ),
    "enum": lambda value, known, schema, path: None if value in known else f"{path}: {value!r} is not in {known}",
    "pattern": lambda value, pattern, schema, path: isinstance(value, str) and not re.search(pattern, value) and path,
    "required": lambda value, keys, schema, path: (
        isinstance(value, dict) and not set(keys) <= set(value) and f"{path}: missing"
    ),
    "minimum": lambda value, least, schema, path: isinstance(value, int | float) and value < least and path,
    "maximum": lambda value, most, schema, path: isinstance(value, int | float) and value > most and path,
    "exclusiveMinimum": lambda value, least, schema, path: isinstance(value, int | float) and value <= least and path,
    "minItems": lambda value, count, schema, path: isinstance(value, list) and len(value) < count and path,
    "maxItems": lambda value, count, schema, path: isinstance(value, list) and len(value) > count and path,
}


def test_importing_it_imports_no_user_code_and_no_command_line() -> None:
    code = (
        "import sys, ether.config; print([n for n in ('typer', 'rich', 'paho', 'h5py', 'numpy') if n in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n"
