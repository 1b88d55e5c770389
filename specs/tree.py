"""YAML text as a tree of plain values that know where they stand.

Only PyYAML's parser is used: the tree is built from its events, so that no tag can construct anything and size,
nesting and aliases are counted while reading. Plain text is resolved as YAML 1.2 does (the core schema), which is what
editors show: `on`, `1_000` and 2026-01-31 are text, 1e3 is a number. Only 010 is text too: it is 8 or 10, depending on
the version of YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn

import yaml

from specs.errors import Problem, SpecError, shown

MAX_SIZE = 1 << 20
"""Of the text, in bytes."""
MAX_DEPTH = 20
MAX_NODES = 20_000
"""After aliases are written out."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Place:
    """Lines and columns count from 1; an override has neither."""

    source: str
    line: int | None = None
    column: int | None = None

    def problem(self, path: str, message: str) -> Problem:
        return Problem(self.source, self.line, self.column, path, message)


@dataclass(frozen=True)
class Node:
    """One value: a scalar, a list or a mapping."""

    place: Place
    content: Scalar | list[Node] | dict[str, Node]
    written: str
    """As it was typed, for messages."""
    key: Place | None = None
    """Where its key stands, if it has one."""
    size: int = 1
    """Nodes in it, itself included."""

    def plain(self) -> object:
        """The value without its places, as pydantic takes it."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, node in self.content.items()}
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        return self.content


@dataclass(frozen=True)
class Tree:
    root: Node | None
    """None where the text has no value at all."""
    problems: tuple[Problem, ...]
    """Faults that did not keep the rest from being read."""


def read_tree(text: str, source: str, *, located: bool = True) -> Tree:
    """Read one YAML document. Without `located`, places name the source only.

    Raises SpecError where the text can't be read to its end: bad syntax, more than one document, over a limit.
    """

    def place(line: int, column: int) -> Place:
        return Place(source, line + 1, column + 1) if located else Place(source)

    if len(text) > MAX_SIZE:
        raise SpecError([Place(source).problem("", f"too large: allowed: up to {MAX_SIZE} bytes")])
    try:
        return _Builder(text, place).document()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line_start = before.rfind("\n") + 1
        message = f"character U+{ord(text[error.position]):04X} can't stand in YAML: take it out"
        raise SpecError([place(before.count("\n"), len(before) - line_start).problem("", message)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = place(mark.line, mark.column) if mark else Place(source)
        raise SpecError([at.problem("", _syntax_message(error))]) from None


def join(path: str, step: str | int) -> str:
    """The dotted path of an entry: `shapes[1].mkn`."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    key = step if re.fullmatch(r"[\w-]+", step) else json.dumps(shown(step), ensure_ascii=False)
    return f"{path}.{key}" if path else key


_TRUE, _FALSE, _NULL = {"true", "True", "TRUE"}, {"false", "False", "FALSE"}, {"", "~", "null", "Null", "NULL"}
# longer integers become floats: Python refuses to make an int of thousands of digits
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")
_OTHER_BASE = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def resolved(text: str) -> Scalar:
    """What unquoted text stands for in YAML 1.2."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def write_tree(values: object) -> str:
    """YAML that `read_tree` reads back to the same plain values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """PyYAML writes for YAML 1.1, and leaves text like 1e3 without the quotes that it needs in 1.2."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if isinstance(resolved(text), str) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


@dataclass
class _Builder:
    """Turns the parser's events into nodes, by recursive descent."""

    text: str
    place: Callable[[int, int], Place]
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    size: int = 0

    def document(self) -> Tree:
        self.parser = yaml.SafeLoader(self.text)
        self._next()  # the stream's start
        root = None
        if isinstance(self._next(), yaml.DocumentStartEvent):
            root = self._node(self._next(), "", 1)
            self._next()  # the document's end
            after = self._next()
            if isinstance(after, yaml.DocumentStartEvent):
                self._stop(after, "", "a second document starts here: allowed: one; give each spec a file of its own")
        return Tree(root, tuple(self.problems))

    def _next(self) -> yaml.Event:
        try:
            event: yaml.Event = self.parser.get_event()
        except (ValueError, OverflowError):  # "\U00110000": PyYAML hands it to chr() unchecked
            at = self.place(self.parser.line, self.parser.column)
            raise SpecError([at.problem("", "a \\U escape beyond U+10FFFF: no such character")]) from None
        return event

    def _place(self, event: yaml.Event) -> Place:
        assert event.start_mark is not None
        return self.place(event.start_mark.line, event.start_mark.column)

    def _stop(self, event: yaml.Event, path: str, message: str) -> NoReturn:
        raise SpecError([*self.problems, self._place(event).problem(path, message)])

    def _count(self, event: yaml.Event, path: str, nodes: int) -> None:
        self.size += nodes
        if self.size > MAX_NODES:
            self._stop(event, path, f"too much: allowed: up to {MAX_NODES} values, aliases written out")

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self._stop(event, path[:100], f"nested too deeply: allowed: up to {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        assert isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent)
        self._count(event, path, 1)
        if event.tag is not None:
            message = f"tag {shown(event.tag)}: tags have no meaning here: take it out"
            self.problems.append(self._place(event).problem(path, message))
        before = self.size
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(event, path, depth)
        else:
            node = self._mapping(event, path, depth)
        node = replace(node, size=1 + self.size - before)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, path: str) -> Node:
        name = event.anchor or ""
        node = self.anchors.get(name)
        if node is None:
            message = f"alias *{shown(name)}: allowed: anchors of values that end before it"
            self.problems.append(self._place(event).problem(path, message))
            return Node(self._place(event), None, f"*{name}")
        self._count(event, path, node.size)
        return replace(node, place=self._place(event)) if isinstance(node.content, Scalar) else node

    def _scalar(self, event: yaml.ScalarEvent, path: str) -> Node:
        quoted = event.style is not None
        try:
            # JSON writes what is beyond U+FFFF as two escapes, which PyYAML leaves apart
            value = event.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            value = "\0"
        if "\0" in value:
            message = f"{shown(json.dumps(event.value))}: text with a NUL or half a character: take it out"
            self.problems.append(self._place(event).problem(path, message))
            return Node(self._place(event), "", "")
        written = json.dumps(value, ensure_ascii=False) if quoted else value
        return Node(self._place(event), value if quoted else resolved(value), written or "nothing")

    def _list(self, start: yaml.SequenceStartEvent, path: str, depth: int) -> Node:
        entries: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            entries.append(self._node(event, join(path, len(entries)), depth + 1))
        return Node(self._place(start), entries, f"a list of {len(entries)}" if entries else "an empty list")

    def _mapping(self, start: yaml.MappingStartEvent, path: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, path, depth + 1)
            name = self._key_name(event, key, path)
            below = join(path, name or "?")
            value = self._node(self._next(), below, depth + 1)
            if name is None:
                continue
            if name in entries:
                first = entries[name].key
                where = f", first in line {first.line}" if first and first.line else ""
                self.problems.append(key.place.problem(below, f"this key is given twice{where}: leave one out"))
            else:
                entries[name] = replace(value, key=key.place)
        return Node(self._place(start), entries, "a mapping")

    def _key_name(self, event: yaml.Event, key: Node, path: str) -> str | None:
        """The key's text, even where it reads as a number; None, and a problem, where a spec can have no such key."""
        if not isinstance(event, yaml.ScalarEvent):
            message = "this key is a list, a mapping or an alias: allowed: plain names"
        elif event.value == "<<" and event.style is None:
            message = "merge keys (<<) have no meaning here: write the keys out"
        else:
            return key.content if isinstance(key.content, str) else str(event.value)
        self.problems.append(key.place.problem(path, message))
        return None


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    if "'\\t'" in problem:
        return "a tab can't start a value or indent a line: use spaces"
    context = f" {error.context}" if error.context and error.problem else ""
    return f"not YAML: {shown(problem)}{context}"
