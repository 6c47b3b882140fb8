"""Config: one session's configuration, read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError

from ether import topics
from ether.config.bridge import Bridge
from ether.config.broker import Broker
from ether.config.expect import Expect
from ether.config.ingest import Ingest
from ether.config.instance import Instance
from ether.config.marks import ClassMarks
from ether.config.overrides import environment, override
from ether.config.problems import report
from ether.config.reader import read_file, read_mapping
from ether.config.record import Record, as_record
from ether.config.redaction import hidden, jsonable
from ether.config.section import Section
from ether.config.session import Session
from ether.config.sources import Source, sources_of
from ether.config.tree import KeyPath, PathPart, Tree
from ether.config.values import ClassPath, Filter, Name
from ether.errors import ConfigError, Problem, TopicError, named

__all__ = ["Config"]


def _one_entry(value: object) -> object:
    return [value] if isinstance(value, dict | str) else value


class Config(Section):
    """One session's configuration, checked. Make it with `Config.load`."""

    session: Session = Field(default_factory=Session, description="What the session is called, and its limits.")
    broker: Broker = Field(
        default_factory=Broker, description="auto, embedded, mosquitto, nats, mqtt(s)://user@host:port, or a block."
    )
    record: Annotated[Record | None, BeforeValidator(as_record)] = Field(
        default_factory=Record, description="What is recorded; `off` for nothing."
    )
    registry: dict[ClassPath, ClassMarks] = Field(
        default={},
        description="Marks for classes that you cannot or will not edit: class path to methods to decorators.",
    )
    instances: dict[Name, Instance] = Field(default={}, description="What runs: instance name to class and arguments.")
    expect: dict[Filter, Expect] = Field(default={}, description="What must come by: topic to rate, publisher, unit.")
    ingest: Annotated[list[Ingest], BeforeValidator(_one_entry, json_schema_input_type=Ingest | list[Ingest])] = Field(
        default=[], description="Foreign devices: ready profiles, and rules of your own."
    )
    bridge: Bridge | None = Field(default=None, description="Announce all components to other dashboards.")
    metrics: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        default=None, description="Port for Prometheus, on loopback; 0 takes a free one."
    )

    _tree: Tree = PrivateAttr(default_factory=Tree)
    _classes: dict[str, type] = PrivateAttr(default_factory=dict)
    _sources: list[Source] = PrivateAttr(default_factory=list)

    @classmethod
    def load(
        cls, source: str | Path | Mapping[str, Any] | Config | None = None, overrides: Sequence[str] = ()
    ) -> Config:
        """Return the configuration, or raise with everything that is wrong with it.

        Args:
            source: path of a YAML file (a str is a path), a mapping of the same shape (where `class_path` may be a
                class), a Config, or None for an empty configuration.
            overrides: ``a.b=value`` as after ``--set``; values are parsed as YAML.

        Raises:
            ConfigError: `problems` in the order of the file.
        """
        if isinstance(source, Config) and not overrides:
            return source
        tree, classes = _read(source)
        if tree.data is None:
            tree.data = {}
        if not isinstance(tree.data, dict):
            what = f"a mapping with `instances:` was wanted, got {named(tree.data)}"
            raise ConfigError([Problem(f"{tree.file}:1:1" if tree.file else "configuration", what)])
        if not isinstance(source, Config):  # else it was taken account of already, and the overrides stand above it
            environment(tree)
        for text in overrides:
            override(tree, text)
        config: Config | None = None
        try:
            config = cls.model_validate(tree.data)
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                report(tree, error, cls)
        _check_names(tree)
        sources = sources_of(tree, config.ingest) if config is not None else []
        if tree.problems or config is None:
            raise ConfigError(tree.sorted_problems())
        config._tree, config._classes, config._sources = tree, classes, sources
        return config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and dict(self) == dict(other)  # whatever file or mapping they came from

    @property
    def path(self) -> Path | None:
        """The file this was read from."""
        return Path(self._tree.file) if self._tree.file else None

    @property
    def text(self) -> str:
        """The YAML as it was given; for a mapping, the mapping as YAML."""
        return self._tree.text

    @property
    def safe_text(self) -> str:
        """`text` with passwords and the like written as ``***``: what may be stored or shown."""
        if not self._tree.file:
            return yaml.safe_dump(jsonable(yaml.safe_load(self.text) or {}, ()), sort_keys=False, allow_unicode=True)
        text = self.text
        for start, end, shown in sorted(self._tree.secrets, reverse=True):
            text = f"{text[:start]}{hidden(text[start:end], shown)}{text[end:]}"
        return text

    @property
    def classes(self) -> dict[str, type]:
        """The classes that a mapping gave as objects, by their class path."""
        return self._classes

    @property
    def starts(self) -> bool:
        """Whether it has something to run; otherwise who taps in is a guest of a session that runs."""
        return bool(self.instances or self.ingest or self.bridge)

    @property
    def sources(self) -> list[Source]:
        """What the entries of `ingest` come to, profiles read."""
        return self._sources

    def resolved(self) -> dict[str, Any]:
        """Return everything that holds, defaults included, JSON-able, secrets as ``***``."""
        found: dict[str, Any] = jsonable(self.model_dump(by_alias=True), ())
        return found

    def named(self) -> dict[str, tuple[str, Instance]]:
        """Return what runs under which name: name -> (key in the configuration, instance).

        An `ether_name` in the kwargs has renamed it and is gone from them; replicas are ``name-1``, ``name-2``, …
        """
        found: dict[str, tuple[str, Instance]] = {}
        for key, instance in self.instances.items():
            kwargs = {name: value for name, value in instance.kwargs.items() if name != "ether_name"}
            plain = instance.model_copy(update={"kwargs": kwargs})
            found |= dict.fromkeys(_names(key, instance.kwargs, instance.replicas), (key, plain))
        return found

    def where(self, *path: PathPart) -> str:
        """Return ``file:line:column`` of this key or its nearest ancestor; the dotted path where there is no file."""
        return self._tree.problem(path, "").where

    def problem(self, path: Sequence[PathPart], what: str) -> Problem:
        """Return a Problem at this key, worded as the loader's own."""
        return self._tree.problem(tuple(path), what)


def _read(source: str | Path | Mapping[str, Any] | Config | None) -> tuple[Tree, dict[str, type]]:
    if isinstance(source, Config):
        tree = Tree(source._tree.file)
        tree.text, tree.places, tree.secrets = source.text, dict(source._tree.places), source._tree.secrets
        tree.data = _copied(source._tree.data)
        return tree, dict(source._classes)
    if isinstance(source, Mapping):
        return read_mapping(source)
    if source is None:
        return Tree(), {}
    if not isinstance(source, str | os.PathLike):
        what = f"a path, a mapping or a Config was wanted, got {named(source)}"
        raise ConfigError([Problem("configuration", what)])
    if "\n" in str(source):
        raise ConfigError([Problem("configuration", "a path was wanted, got YAML text; pass yaml.safe_load(text)")])
    return read_file(Path(source)), {}


def _copied(value: Any) -> Any:
    """Return the mappings and lists copied, what they hold as it is."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _names(key: str, kwargs: Mapping[str, Any], replicas: int) -> list[str]:
    name = kwargs.get("ether_name") or key
    return [name] if replicas == 1 else [f"{name}-{number}" for number in range(1, replicas + 1)]


def _check_names(tree: Tree) -> None:
    """Report names used twice after renaming and replicas, and the recorder's."""
    instances = tree.data.get("instances")
    taken: dict[str, KeyPath] = {}
    for key, block in instances.items() if isinstance(instances, dict) else ():
        block = block if isinstance(block, dict) else {}
        given = block.get("kwargs")
        kwargs: dict[str, Any] = given if isinstance(given, dict) else {}
        path: KeyPath = ("instances", key, "kwargs", "ether_name") if kwargs.get("ether_name") else ("instances", key)
        try:
            if kwargs.get("ether_name"):
                topics.check_name(kwargs["ether_name"])
        except TopicError as exc:
            tree.report(path, str(exc), at_value=True)
            continue
        replicas = block.get("replicas")
        for name in _names(str(key), kwargs, replicas if isinstance(replicas, int) and replicas > 0 else 1):
            if name in taken:
                tree.report(path, f"the name `{name}` is used twice; first at {tree.problem(taken[name], '').where}")
            elif name == "recorder" and as_record(tree.data.get("record")) is not None:
                tree.report(path, "`recorder` is ether's own recorder; choose another name, or set `record: off`")
            elif name in ("ingest", "bridge") and tree.data.get(name):
                tree.report(path, f"`{name}` is what runs `{name}:`; choose another name")
            taken.setdefault(name, path)
