"""YAML, or a mapping of the same shape, -> Tree: values with their places, ``${VARIABLES}`` filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ether.config.redaction import jsonable, redacted
from ether.config.tree import KeyPath, Place, Tree, dotted
from ether.config.values import path_of
from ether.errors import ConfigError, Problem, suggest

__all__ = ["YamlReader", "read_file", "read_mapping", "read_value"]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-3` is a number (as in YAML 1.2) and `12:30:45` is not 45045."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, found) for tag, found in resolvers if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+|0[0-7_]+)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)


def read_value(text: str) -> Any:
    """Return what a text means as a value of the configuration; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _tag(text: str) -> str:
    """Return the YAML tag of an unquoted text: number, flag, text."""
    tag: str = _Loader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # untyped stub
    return tag


class YamlReader:
    """Builds a Tree from YAML text: values with their places, ${VARIABLES} filled in."""

    def __init__(self, tree: Tree, where: Callable[[yaml.Mark], str], base: KeyPath = ()) -> None:
        self.tree, self.where, self.base = tree, where, base
        self.loader = _Loader("")
        self.open: set[int] = set()

    def read(self, text: str) -> Any:
        """Return the value; raises yaml.YAMLError."""
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else self.value(node, self.base)

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            self.tree.report(path, "an alias that contains itself", at_value=True)
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            return [self.item(child, (*path, index)) for index, child in enumerate(node.value)]
        finally:
            self.open.remove(id(node))

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.note(path, node.start_mark, node.start_mark)
        return self.value(node, path)

    def note(self, path: KeyPath, key: yaml.Mark, value: yaml.Mark) -> None:
        self.tree.places[path] = Place(self.where(key), self.where(value), key.index)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        self.drop_twins(node, path)
        self.loader.flatten_mapping(node)  # `<<: *defaults`
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                mark = key_node.start_mark
                self.tree.problems.append((mark.index, Problem(self.where(mark), "a key must be a text or a number")))
                continue
            # `on:` or `1:` is a name everywhere but inside the user's own arguments
            key = self.scalar(key_node, path, expand=False) if _is_argument(path) else key_node.value
            # keys merged from `<<` come first, so the last one is what holds
            self.note((*path, key), key_node.start_mark, value_node.start_mark)
            values[key] = self.value(value_node, (*path, key))
        return values

    def drop_twins(self, node: yaml.MappingNode, path: KeyPath) -> None:
        """Report keys given twice; the first stays, so that its own problems are found too."""
        seen: dict[str, yaml.Mark] = {}
        kept = []
        for key_node, value_node in node.value:
            plain = isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge"
            if not plain or key_node.value not in seen:
                kept.append((key_node, value_node))
                seen[key_node.value if plain else ""] = key_node.start_mark
                continue
            mark, noun = key_node.start_mark, "instance" if path == ("instances",) else "key"
            what = (
                f"{dotted((*path, key_node.value))}: {noun} given twice; first in line {seen[key_node.value].line + 1}"
            )
            self.tree.problems.append((mark.index, Problem(self.where(mark), what)))
        node.value = kept

    def note_secret(self, node: yaml.ScalarNode, path: KeyPath) -> None:
        """Remember where the file's text has a secret; the bare name of a variable is none."""
        shown = redacted(path, node.value)
        if shown != node.value and not re.fullmatch(r"\$\{\w+\}", node.value):
            self.tree.secrets.add((node.start_mark.index, node.end_mark.index, shown))

    def scalar(self, node: yaml.ScalarNode, path: KeyPath, *, expand: bool = True) -> Any:
        text, tag = node.value, node.tag
        if expand and not self.base:
            self.note_secret(node, path)
        if expand and "$" in text:
            try:
                text = _expand(text)
            except ValueError as exc:
                self.tree.report(path, str(exc), at_value=True)
                return None
            if node.style is None and tag == "tag:yaml.org,2002:str":  # unquoted: `${PORT}` may become a number
                tag = _tag(text)
        try:
            return self.loader.construct_object(yaml.ScalarNode(tag, text, node.start_mark, node.end_mark, node.style))
        except (yaml.YAMLError, ValueError) as exc:
            reason = getattr(exc, "problem", None) or exc
            self.tree.report(path, f"{text!r} cannot be read: {reason}", at_value=True)
            return None


_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|(\$\{)")


def _expand(text: str) -> str:
    """Return the text with ``${VAR}`` and ``${VAR:-default}`` filled in and ``$$`` as ``$``; ValueError if unset."""

    def fill(found: re.Match[str]) -> str:
        name, default, broken = found.groups()
        if found.group() == "$$":
            return "$"
        if broken:
            raise ValueError("write ${NAME} or ${NAME:-default}; a literal `${` is `$${`")
        given = os.environ.get(name, "")
        if not given and default is None and name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return given or default or ""

    return _VARIABLE.sub(fill, text)


def _is_argument(path: KeyPath) -> bool:
    """Return whether the mapping at this path is part of an argument's value, so that its keys keep their type."""
    return len(path) > 3 and path[0] == "instances" and path[2] in ("kwargs", "args")


def read_file(path: Path) -> Tree:
    tree = Tree(str(path))
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        near = suggest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        raise ConfigError([Problem(str(path), f"no such file{near}")]) from None
    except IsADirectoryError:
        raise ConfigError([Problem(str(path), "a folder; name the YAML file in it")]) from None
    except OSError as exc:
        raise ConfigError([Problem(str(path), f"cannot be read: {exc.strerror or exc}")]) from None
    try:
        tree.text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError([Problem(f"{path}:{line}", "not UTF-8; save the file as UTF-8")]) from None

    def where(mark: yaml.Mark) -> str:
        return f"{path}:{mark.line + 1}:{mark.column + 1}"

    try:
        tree.data = YamlReader(tree, where).read(tree.text)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise ConfigError([Problem(where(mark) if mark else str(path), _syntax(exc, tree.text))]) from None
    except yaml.reader.ReaderError as exc:
        line, what = tree.text.count("\n", 0, exc.position) + 1, f"the character U+{exc.character:04X} is not allowed"
        raise ConfigError([Problem(f"{path}:{line}", what)]) from None
    except RecursionError:
        raise ConfigError([Problem(str(path), "nested too deeply")]) from None
    return tree


def _syntax(exc: yaml.MarkedYAMLError, text: str) -> str:
    mark, problem = exc.problem_mark, exc.problem or "cannot be read"
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return "a tab; YAML indents by spaces only"
    if mark is not None and text[max(mark.index - 1, 0) : mark.index + 1] == "${":
        return 'a variable between braces or brackets must be quoted: `"${NAME}"`'
    if "could not find expected ':'" in problem:
        problem = "no `:` after this key"
    elif "mapping values are not allowed" in problem:
        problem = "a `:` that begins no value here; check the indentation, or quote the text"
    elif "expected a single document" in (exc.context or ""):
        problem = "a second document (`---`); a configuration is one"
    elif "undefined alias" in problem:
        problem += "; define it before with `&`"
    return f"not valid YAML: {problem}"


def read_mapping(source: Mapping[str, Any]) -> tuple[Tree, dict[str, type]]:
    tree, classes = Tree(), {}
    loader = _Loader("")

    def name(key: Any, path: KeyPath) -> Any:
        return path_of(key) if isinstance(key, type) else key if _is_argument(path) else str(key)

    def copy(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {name(key, path): copy(item, (*path, name(key, path))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, type) and path[-1:] == ("class_path",):
            classes[path_of(value)] = value
        if not isinstance(value, str) or "$" not in value:
            return value
        try:
            text = _expand(value)
        except ValueError as exc:
            tree.report(path, str(exc))
            return None
        if "${" not in value:
            return text
        return loader.construct_object(yaml.ScalarNode(_tag(text), text))

    tree.data = copy(source, ())
    tree.text = yaml.safe_dump(jsonable(source, (), redact=False), sort_keys=False, allow_unicode=True)
    return tree, classes
