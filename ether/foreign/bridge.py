"""Bridge: our components, announced to dashboards that speak Home Assistant's discovery or Homie 5.

A process of its own, begun by a session with `bridge:`. Home Assistant reads our messages themselves, by templates;
Homie wants each value on a topic of its own, which is told at a slower pace. What is retained is cleared at the end.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import ether
from ether import clock, codecs, topics
from ether.client import Client
from ether.config import Bridge as Options
from ether.errors import EtherError, PayloadError
from ether.foreign import homeassistant, homie
from ether.foreign.conveyor import live
from ether.foreign.facts import as_type
from ether.foreign.ingest import NAME as INGEST
from ether.foreign.ingest import is_device
from ether.foreign.outline import Kind, Outline, Shown, kinds_in, outline
from ether.member import Member
from ether.model import About, Envelope, Message, State
from ether.mqtt import BrokerLimits, Connection, Receipt, Tls

__all__ = ["NAME", "Bridge", "main"]

logger = logging.getLogger(__name__)

NAME = "bridge"
_LOOK_S = 0.1
_CALL_S = 5.0
_SILENT = (NAME, INGEST)
"""Members that have nothing to show."""
_LIVE = (State.READY, State.ALERT, State.SLEEPING)
_HOMIE_STATES = {State.ALERT: "ready"}
"""Homie 5 has no such state, but alerts beside it."""


@dataclass(slots=True)
class _Announced:
    """A component as it was announced last."""

    about: About
    context: tuple[int, frozenset[str]]
    """What else its outline follows from: how much was learned, and which of its subscriptions others publish."""
    outlined: Outline
    device: homie.Device | None = None
    state: tuple[str, str] = ("", "")
    """Homie's state, and the alert."""
    topics: set[str] = field(default_factory=set)
    """Foreign topics that hold something retained of it."""


class Bridge:
    """Announces components. `hear` and `commanded` are for network threads, everything else for one other."""

    def __init__(self, orders: dict[str, Any]) -> None:
        """Prepare; orders: see `Host`."""
        self.options = Options.model_validate(orders["bridge"])
        self._orders = orders
        self._namespace: str = orders["namespace"]
        tls = Tls(**orders["tls"]) if orders["tls"] else None
        self.member = Member(orders["url"], NAME, namespace=self._namespace, tls=tls)
        self.member.connection.limits = BrokerLimits(**orders["limits"])
        self.client = Client(self.member.connection, self.member.publisher)
        self.member.on_message = self.hear
        self._root = homie.identity(f"ether/{self._namespace}")
        self._ids: dict[str, str] = {}
        self._domain = f"{self.options.homie_domain}/5"
        will = (f"{self._domain}/{self._root}/$state", b"lost") if self.options.homie else None
        self._foreign = Connection(orders["url"], f"{NAME}-foreign-{self.member.boot}", will=will, tls=tls)
        self._foreign.on_message = self.commanded
        self._foreign.on_up = lambda present: self._renewed.set()
        self._retained: dict[str, bytes] = {}
        """What the foreign side holds of us."""
        self._announced: dict[str, _Announced] = {}
        self._learned: dict[str, dict[tuple[str, ...], Kind]] = {}
        self._learnings: dict[str, int] = {}
        self._latest: dict[str, bytes] = {}
        """By topic, what came since we looked."""
        self._latest_lock = threading.Lock()
        self._subscribed: set[str] = set()
        self._commands: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._children: list[str] = []
        self._renewed = threading.Event()
        self._stopping = threading.Event()
        self._told_at = 0.0

    # --- life

    def open(self) -> None:
        """Connect and announce what there is."""
        timeout = self._orders["start_timeout"]
        member, options = self.member, self.options
        member.open(timeout)
        member.log_to_topic()
        member.connection.subscribe([topics.command(NAME, "+")])
        host, pid = socket.gethostname(), os.getpid()
        member.set_about(About(NAME, class_name="ether.bridge", host=host, pid=pid, version=ether.__version__))
        self.client.watch()
        self._foreign.open(timeout)
        self._renewed.clear()
        self._look()
        if options.homeassistant:
            self._foreign.subscribe([f"{options.homeassistant_prefix}/device/+/config"])
        if options.homie:
            self._foreign.subscribe([f"{self._domain}/+/$description", f"{self._domain}/+/+/+/set"])
        member.set_status(State.READY)

    def run(self) -> None:
        """Do the work until told to stop."""
        while not self._stopping.wait(_LOOK_S):
            if not self._foreign.connected:
                continue
            if self._renewed.is_set():  # a broker that restarts may have forgotten
                self._renewed.clear()
                for topic, payload in list(self._retained.items()):
                    self._foreign.publish(topic, payload, 1, retain=True)
            while not self._commands.empty():
                self._obey(self._commands.get())
            self._look()
            if clock.monotonic() - self._told_at >= self.options.every:
                self._told_at = clock.monotonic()
                self._tell_values()

    def stop(self, reason: str) -> None:
        if not self._stopping.is_set():
            logger.info("%s: stopping: %s", NAME, reason)
            self._stopping.set()

    def close(self) -> None:
        """Clear what we left on the broker, and go."""
        for topic in sorted(self._retained, key=_states_first):
            self._foreign.publish(topic, b"", 1, retain=True)
        self._foreign.close()
        self.member.leave()
        self.member.close()

    # --- incoming, in the network threads

    def hear(self, message: Message, _receipt: Receipt | None) -> None:
        reserved = topics.parse(message.topic)
        if reserved is None:
            with self._latest_lock:
                self._latest[message.topic] = message.payload
        elif reserved.kind == "command" and reserved.name == NAME and reserved.verb == "stop":
            self.stop("told to stop")
        else:
            self.client.take(message)

    def commanded(self, message: Message, _receipt: Receipt | None = None) -> None:
        """Take a command, or what an earlier bridge of this name, which was killed, left on the broker."""
        if message.payload and (message.retain or message.topic.endswith("/set")):
            self._commands.put(message)

    # --- announcing

    def _look(self) -> None:
        """Announce what is new or has changed, and clear what is gone."""
        abouts, statuses = dict(self.client.abouts), dict(self.client.statuses)
        shown = {name: about for name, about in abouts.items() if self._shows(name, about)}
        published = {topic for about in shown.values() for topic in about.publishes}
        gone = [name for name in self._announced if name not in shown]
        for name in gone:
            self._withdraw(name)
        changed = bool(gone)
        for name, about in shown.items():
            learned = sum(self._learnings.get(topic, 0) for topic in about.publishes)
            context = (learned, frozenset(published & about.subscribes.keys()))
            before = self._announced.get(name)
            if before is None or (before.about, before.context) != (about, context):
                self._announce(about, context, before)
                changed = True
        if changed:
            self._listen()  # whoever sees one ready finds its values told
        if self.options.homie:
            for name in shown:
                status = statuses.get(name)
                detail = status.detail.partition("\n")[0] if status is not None and status.state is State.ALERT else ""
                self._set_homie_state(name, status.state if status is not None else State.INIT, detail)
            if sorted(shown) != self._children:
                self._describe_root(sorted(shown))

    def _shows(self, name: str, about: About) -> bool:
        sound = all(isinstance(each, dict) for each in (about.publishes, about.subscribes, about.params))
        ours = self.options.foreign or not is_device(about)
        return sound and ours and name not in _SILENT

    def _announce(self, about: About, context: tuple[int, frozenset[str]], before: _Announced | None) -> None:
        outlined = outline(about, self._learned, context[1], self.options.commands)
        now = _Announced(about, context, outlined, topics=set() if before is None else before.topics)
        self._announced[about.name] = now
        if self.options.homeassistant:
            place = homeassistant.identity(about.name, self._namespace)
            content = homeassistant.document(outlined, self._namespace, ether.__version__)
            topic = f"{self.options.homeassistant_prefix}/device/{place}/config"
            self._retain(now, topic, codecs.to_json(content))
        if self.options.homie:
            now.device = homie.device(outlined, self._root)
            known = before.device if before is not None else None
            now.state = before.state if before is not None else ("", "")
            if known is None or known.description != now.device.description:
                self._describe(now, known)
            self._tell_params(now)

    def _describe(self, now: _Announced, known: homie.Device | None) -> None:
        """Publish a Homie description; meanwhile the device is `init`."""
        assert now.device is not None
        base = self._device(now.about.name)
        self._retain(now, f"{base}/$state", b"init")
        now.state = ("init", "")
        content = {**now.device.description, "version": clock.now_ns() // 1_000_000}
        self._retain(now, f"{base}/$description", codecs.to_json(content))
        for node, name in (known.places.keys() - now.device.places.keys()) if known is not None else ():
            self._clear(now, f"{base}/{node}/{name}")

    def _describe_root(self, names: list[str]) -> None:
        self._children = names
        base = f"{self._domain}/{self._root}"
        title = f"ether {self._namespace}".strip()
        children = [self._device(name).rpartition("/")[2] for name in names]
        content = {**homie.root(title, children), "version": clock.now_ns() // 1_000_000}
        self._publish(f"{base}/$state", b"init")
        self._publish(f"{base}/$description", codecs.to_json(content))
        self._publish(f"{base}/$state", b"ready")

    def _set_homie_state(self, name: str, state: State, alert: str) -> None:
        now = self._announced[name]
        wanted = (_HOMIE_STATES.get(state, str(state)), alert)
        if now.state == wanted:
            return
        base = self._device(name)
        self._retain(now, f"{base}/$state", wanted[0].encode())
        if alert:
            self._retain(now, f"{base}/$alert/ether", alert.encode())
        elif now.state[1]:
            self._clear(now, f"{base}/$alert/ether")
        now.state = wanted

    def _withdraw(self, name: str) -> None:
        """A component is gone for good: its description was cleared."""
        gone = self._announced.pop(name)
        for topic in sorted(gone.topics, key=_states_first):
            self._clear(gone, topic)

    def _device(self, name: str) -> str:
        """Return the topic of a component's Homie device."""
        if name not in self._ids:
            self._ids[name] = homie.identity(f"{self._root}/{name}", self._ids.values())
        return f"{self._domain}/{self._ids[name]}"

    def _retain(self, owner: _Announced, topic: str, payload: bytes) -> None:
        owner.topics.add(topic)
        self._publish(topic, payload)

    def _publish(self, topic: str, payload: bytes) -> None:
        """Publish what is retained, where it has changed."""
        if self._retained.get(topic) != payload:
            self._retained[topic] = payload
            self._foreign.publish(topic, payload, 1, retain=True)

    def _clear(self, owner: _Announced, topic: str) -> None:
        owner.topics.discard(topic)
        if self._retained.pop(topic, None) is not None:
            self._foreign.publish(topic, b"", 1, retain=True)

    # --- values

    def _listen(self) -> None:
        """Hear what has to be told on, and what has to be seen to be known."""
        wanted = {topic for each in self._announced.values() for topic in each.outlined.unknown}
        if self.options.homie:
            told = (shown for each in self._announced.values() for shown in each.outlined.shown)
            wanted |= {shown.topic for shown in told if shown.topic and shown.told}
        self.member.connection.subscribe(sorted(wanted - self._subscribed))
        self.member.connection.unsubscribe(sorted(self._subscribed - wanted))
        self._subscribed = wanted

    def _tell_values(self) -> None:
        """Look at the latest message of each topic: learn what it holds, and tell it on."""
        with self._latest_lock:
            latest, self._latest = self._latest, {}
        for topic, payload in latest.items():
            try:
                fields, envelope = codecs.decode(payload)
            except PayloadError:
                continue  # whoever handles it says so
            fields = _last_of(fields, envelope)
            self._learn(topic, fields)
            if self.options.homie:
                for each in self._publishers(topic, envelope):
                    self._tell(each, topic, fields)

    def _learn(self, topic: str, fields: dict[str, Any]) -> None:
        if any(topic in each.outlined.unknown for each in self._announced.values()) or topic in self._learned:
            known = self._learned.setdefault(topic, {})
            new = {keys: kind for keys, kind in kinds_in(fields).items() if keys not in known}
            known |= new
            self._learnings[topic] = self._learnings.get(topic, 0) + bool(new or topic not in self._learnings)

    def _publishers(self, topic: str, envelope: Envelope | None) -> list[_Announced]:
        found = [each for each in self._announced.values() if topic in each.about.publishes]
        return [each for each in found if envelope is None or each.about.name == envelope.by] or found[:1]

    def _tell(self, now: _Announced, topic: str, fields: dict[str, Any]) -> None:
        assert now.device is not None
        for place, shown in now.device.places.items():
            if shown.topic == topic:
                value: Any = fields
                for key in shown.keys:
                    value = value.get(key) if isinstance(value, dict) else None
                self._tell_one(now, place, shown, value)

    def _tell_params(self, now: _Announced) -> None:
        assert now.device is not None
        for place, shown in now.device.places.items():
            if not shown.topic:
                self._tell_one(now, place, shown, now.about.params.get(shown.keys[0], {}).get("value"))

    def _tell_one(self, now: _Announced, place: tuple[str, str], shown: Shown, value: Any) -> None:
        text = homie.text_of(value, shown.kind)
        if text is not None:
            self._retain(now, f"{self._device(now.about.name)}/{'/'.join(place)}", text)

    # --- commands

    def _obey(self, message: Message) -> None:
        if not message.topic.endswith("/set"):
            self._clean(message)
            return
        *_, device, node, name, _ = topics.levels(message.topic)
        owners = {self._device(each.about.name): each for each in self._announced.values()}
        owner = owners.get(f"{self._domain}/{device}")
        shown = owner.device.places.get((node, name)) if owner is not None and owner.device is not None else None
        if owner is None or shown is None or message.retain:
            return
        try:
            if not shown.settable:
                raise PayloadError("it is only to be read")
            value = as_type(message.payload.decode(errors="replace"), shown.kind)
            self._set(owner, (node, name), shown, value)
        except (EtherError, TimeoutError) as exc:
            logger.warning("%s: %s: not set to %r: %s", NAME, message.topic, message.payload[:40], exc or "no answer")

    def _set(self, owner: _Announced, place: tuple[str, str], shown: Shown, value: Any) -> None:
        """Set a value as Homie asked; what it is then comes back by its topic, or is told here where it has none."""
        if not shown.topic:
            asked = {"param": shown.keys[0], "value": value, "by": "homie"}
            self.client.call(owner.about.name, topics.PARAM_SET, asked, _CALL_S).result(_CALL_S)
        else:
            self.client.pub({shown.keys[0]: value}, shown.topic)
            if not shown.told:
                self._tell_one(owner, place, shown, value)

    def _clean(self, message: Message) -> None:
        """Clear what a bridge of our own left when it was killed, of components that are no more."""
        if message.topic in self._retained:
            return
        try:
            content = json.loads(message.payload)
        except ValueError:
            return
        if not isinstance(content, dict):
            return
        if message.topic.endswith("/config"):
            origin = content.get("origin")
            ours = topics.join(self._namespace, topics.status(""))
            if isinstance(origin, dict) and origin.get("name") == homeassistant.ORIGIN:
                if str(content.get("availability_topic", "")).startswith(ours):
                    self._foreign.publish(message.topic, b"", 1, retain=True)
        elif content.get("type") == homie.TYPE and content.get("root") == self._root:
            base = message.topic.removesuffix("/$description")
            nodes = content.get("nodes") or {}
            places = [f"{node}/{name}" for node, each in nodes.items() for name in each.get("properties", {})]
            for rest in ("$state", "$description", "$alert/ether", *places):
                self._foreign.publish(f"{base}/{rest}", b"", 1, retain=True)


def _states_first(topic: str) -> bool:
    """Sort what is to be cleared: Homie wants a device's state to go before the rest."""
    return not topic.endswith("/$state")


def _last_of(fields: dict[str, Any], envelope: Envelope | None) -> dict[str, Any]:
    """Return the last reading of a message that may be a batch."""
    if envelope is None or envelope.k is None:
        return fields
    return {name: _plain(items[-1]) for name, items in fields.items() if hasattr(items, "__len__") and len(items)}


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def main() -> None:
    """Run as the bridge process, until told to stop."""
    live(NAME, Bridge)
