"""Sources: what the entries of `ingest` come to, profiles read, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ether import topics
from ether.config.ingest import Ingest, Profile, Rule
from ether.config.problems import report
from ether.config.reader import read_file
from ether.config.section import Section
from ether.config.tree import KeyPath, Tree
from ether.errors import ConfigError, TopicError, suggest
from ether.jsonpath import Path as JsonPath

__all__ = ["Source", "profile_files", "sources_of"]


class Source(Section):
    """What one entry of `ingest` comes to: rules, or a reader of devices that describe themselves."""

    name: str = ""
    """Of the profile; empty for a rule."""
    file: Path | None = None
    """Of the profile."""
    reader: str | None = None
    base: str = ""
    only: list[str] = Field(default=[])
    ignore: list[str] = Field(default=[])
    prefix: str = ""
    rules: list[Rule] = Field(default=[])

    def goes_to(self) -> list[str]:
        """Return filters of the topics that its readings may go to."""
        prefix = [self.prefix] if self.prefix else []
        if self.reader is not None:
            return ["/".join([*prefix, "#"])]
        found = [topics.levels(rule.goes_to) for rule in self.rules]
        return ["/".join([*prefix, *("+" if "{" in level else level for level in each)]) for each in found]


_PROFILES = (Path(__file__).parents[1] / "profiles", Path(__file__).parents[2] / "hardware" / "profiles")
"""In an installed package; in a source tree."""


def profile_files() -> dict[str, Path]:
    """Return the ready profiles, name to file."""
    folder = next((each for each in _PROFILES if each.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _read_profile(tree: Tree, path: KeyPath, name: str, base: str | None) -> Profile | None:
    """Return a profile; what is wrong with it is reported where it stands in its own file."""
    known = profile_files()
    file = known.get(name, Path(name))
    if name not in known and not file.is_file():
        there = f"; there are {', '.join(known)}, or name a file"
        tree.report((*path, "profile"), f"no profile {name!r}{suggest(name, known) or there}", at_value=True)
        return None
    try:
        theirs = read_file(file)
    except ConfigError as exc:
        tree.problems += [(tree.rank(path), problem) for problem in exc.problems]
        return None
    found: Profile | None = None
    data = theirs.data if isinstance(theirs.data, dict) else {"rules": theirs.data}
    given = data.get("base") if base is None else base
    if base is not None:
        if "base" not in data and "{base}" not in repr(data):
            tree.report((*path, "base"), f"{name} has no root that could be moved; drop this, or write a profile")
        _check_name(tree, (*path, "base"), base)
    theirs.data = _with_base(data, str(given or "").strip("/"))
    try:
        found = Profile.model_validate(theirs.data)
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            report(theirs, error, Profile)
    if found is not None:
        for number, rule in enumerate(found.rules):
            _check_rule(theirs, ("rules", number), rule)
    tree.problems += [(tree.rank(path), problem) for problem in theirs.sorted_problems()]
    return None if theirs.problems else found


def _with_base(value: Any, base: str) -> Any:
    """Return a profile with `{base}` filled in."""
    if isinstance(value, dict):
        return {key: _with_base(item, base) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_base(item, base) for item in value]
    return value.replace("{base}", base) if isinstance(value, str) else value


def sources_of(tree: Tree, entries: Sequence[Ingest]) -> list[Source]:
    """Return what the entries of `ingest` come to; what is wrong with them is reported."""
    found = []
    for number, entry in enumerate(entries):
        path: KeyPath = ("ingest", number)
        if entry.prefix:
            _check_name(tree, (*path, "prefix"), entry.prefix)
        source = Source(only=entry.only, ignore=entry.ignore, prefix=entry.prefix.strip("/"))
        if entry.profile is None:
            keys = {key: getattr(entry, key) for key in Rule.model_fields}
            source.rules = [Rule.model_construct(**keys)]
            _check_rule(tree, path, source.rules[0])
        elif (profile := _read_profile(tree, path, entry.profile, entry.base)) is not None:
            source.name = Path(entry.profile).stem
            source.file = profile_files().get(entry.profile, Path(entry.profile))
            source.base = (profile.base if entry.base is None else entry.base).strip("/")
            source.reader, source.rules = profile.reader, profile.rules
            source.only = entry.only or profile.only
        found.append(source)
    _check_loops(tree, found)
    return found


def _check_name(tree: Tree, path: KeyPath, given: str) -> None:
    """Report what cannot be the first levels of a topic."""
    try:
        topics.check_topic(given.strip("/"))
    except TopicError as exc:
        tree.report(path, str(exc), at_value=True)


def _check_rule(tree: Tree, path: KeyPath, rule: Rule) -> None:
    """Report templates that name what the rule does not know."""
    known = set(topics.Pattern.parse(rule.match).names)
    if rule.device is None and "dev" not in known:
        what = "name the device: a level `{dev}` of `match`, or `device: NAME`"
        tree.report((*path, "match"), what, at_value=True)
    if rule.device is not None and not topics.Pattern.names_in(rule.device):
        _try(tree, (*path, "device"), topics.check_name, rule.device)
    templates: dict[KeyPath, str] = {("device",): rule.device or "", ("topic",): rule.topic or ""}
    if rule.availability is not None:
        templates["availability", "topic"] = rule.availability.topic
    for key, template in templates.items():
        _check_names_in(tree, (*path, *key), template, {*known, *(["dev"] if key == ("topic",) else [])})
    for name, each in rule.fields.items():
        further = JsonPath.parse(each.path).names if each.path else ()
        _check_names_in(tree, (*path, "fields", name), name, {*known, *further})
        if name.startswith("_"):
            tree.report((*path, "fields", name), "names starting with `_` belong to ether; choose another")
    if rule.topic is not None:
        _try(tree, (*path, "topic"), topics.check_topic, re.sub(r"\{\w+\}", "x", rule.topic))
    if rule.fields and rule.unit is not None:
        tree.report((*path, "unit"), "each of `fields` has its own `unit`; drop this one")


def _check_names_in(tree: Tree, path: KeyPath, template: str, known: set[str]) -> None:
    for name in topics.Pattern.names_in(template):
        if name not in known:
            there = f"; there are {', '.join(sorted(known)) or 'none'}"
            what = f"`{{{name}}}` is no named level of `match`{suggest(name, known) or there}"
            tree.report(path, what, at_value=path[-1] in ("topic", "device"))


def _try(tree: Tree, path: KeyPath, check: Callable[[str], str], text: str) -> None:
    try:
        check(text)
    except TopicError as exc:
        tree.report(path, str(exc), at_value=True)


def _check_loops(tree: Tree, sources: Sequence[Source]) -> None:
    """Report readings that would lie on the topics of foreign messages, where nobody could tell them apart."""
    patterns = [(number, rule) for number, source in enumerate(sources) for rule in source.rules]
    for number, rule in patterns:
        prefix = f"{sources[number].prefix}/" if sources[number].prefix else ""
        template = prefix + rule.goes_to
        for other, taken in patterns:
            if _lands_on(topics.levels(template), topics.levels(taken.match)):
                whose = "itself" if taken is rule else f"ingest.{other}"
                what = f"readings go to `{template}`, where {whose} takes in foreign messages (`{taken.match}`)"
                tree.report(("ingest", number), f"{what}; set `prefix: lab`, or another `topic`")
                break
    _check_shared(tree, sources)


def _check_shared(tree: Tree, sources: Sequence[Source]) -> None:
    """Report rules of the user's own that put different things into one field."""
    seen: dict[tuple[str, str, str], int] = {}
    for number, source in enumerate(sources):
        for rule in source.rules if not source.name else ():
            template = "/".join(filter(None, (source.prefix, rule.goes_to)))
            for field in rule.fields or ("value",):
                first = seen.setdefault((rule.device or "{dev}", template, field), number)
                if first != number:
                    what = f"puts the field `{field}` of `{template}` where ingest.{first} does; name another `topic`"
                    tree.report(("ingest", number), what)


def _lands_on(template: list[str], pattern: list[str]) -> bool:
    """Return whether a pattern covers a template of topics; a named level of the template is no certain word."""
    for place, level in enumerate(pattern):
        if level == "#":
            return True
        if place >= len(template) or not (level == "+" or "{" in level or level == template[place]):
            return False
    return len(pattern) == len(template)
