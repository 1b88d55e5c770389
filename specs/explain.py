"""What pydantic found wrong, told with the place in the file, the value given, what is allowed and the nearest of it.

What is allowed is read from the JSON Schema, the same that completes specs in an editor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specs.errors import Problem, nearest, shown
from specs.tree import Node, join, resolved

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Schema = dict[str, Any]

_KEY = "[key]"
"""Pydantic's last step where the key of a mapping is wrong, not the value under it."""


def problems_of(error: ValidationError, root: Node, schema: Schema) -> list[Problem]:
    """One problem for each place that is wrong. `schema` has the model's, and those it refers to in `$defs`."""
    faults = [_fault(details, root, schema) for details in error.errors(include_url=False)]
    parents = {fault.steps[:end] for fault in faults for end in range(len(fault.steps))}
    first: dict[object, Problem] = {}
    for fault in faults:
        # every member of a union says why the value isn't one; where a fault lies deeper, that member was meant
        if not (fault.about_a_member and fault.steps in parents):
            first.setdefault((fault.steps, fault.about_key), fault.problem)
    return list(first.values())


@dataclass(frozen=True)
class _Fault:
    steps: tuple[str | int, ...]
    about_key: bool
    about_a_member: bool
    """Pydantic's location ends in the name of a union's member, or of a long form's key."""
    problem: Problem


@dataclass(frozen=True)
class _Site:
    """Where a location of pydantic's leads in the tree and in the schema."""

    node: Node
    steps: tuple[str | int, ...]
    """Those of the location's steps that lead on in the tree."""
    schemas: tuple[Schema, ...]
    """One for each member, where the place takes a union."""
    around: tuple[Schema, ...]
    """Of what the node is in."""


def _fault(details: ErrorDetails, root: Node, schema: Schema) -> _Fault:
    kind, location = details["type"], details["loc"]
    site = _site(location, root, schema)
    about_key = location[-1:] == (_KEY,) or kind == "extra_forbidden"
    steps = (*site.steps, location[-1]) if kind == "missing" else site.steps
    path = ""
    for step in steps:
        path = join(path, step)
    place = site.node.key if about_key and site.node.key else site.node.place
    about_a_member = location[-1:] != steps[-1:] and not about_key
    return _Fault(steps, about_key, about_a_member, place.problem(path, _message(details, site, schema)))


def _site(location: Sequence[str | int], root: Node, schema: Schema) -> _Site:
    node, steps = root, []
    around: tuple[Schema, ...] = ()
    schemas = tuple(_members(schema, schema))
    for step in location:
        child = _child(node, step)
        entries = [entry for parent in schemas for entry in _entries(parent, step, child is not None)]
        if child is not None:
            node, around = child, schemas
            steps.append(step)
        if entries:
            schemas = tuple(member for entry in entries for member in _members(entry, schema))
    return _Site(node, tuple(steps), schemas, around)


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node.content, dict):
        return node.content.get(str(step))
    return node.content[step] if isinstance(node.content, list) and isinstance(step, int) else None


def _members(entry: Schema, schema: Schema) -> Iterator[Schema]:
    if "$ref" in entry:
        yield from _members(schema["$defs"][entry["$ref"].rpartition("/")[2]], schema)
    elif "anyOf" in entry:
        for member in entry["anyOf"]:
            yield from _members(member, schema)
    else:
        yield entry


def _entries(parent: Schema, step: str | int, given: bool) -> Iterator[Schema]:
    """What the schema has for a step. Only a key that is given in the tree can be one of `additionalProperties`."""
    if isinstance(step, int):
        prefix = parent.get("prefixItems", [])
        yield from prefix[step : step + 1] or ([parent["items"]] if "items" in parent else [])
    elif step in parent.get("properties", {}):
        yield parent["properties"][step]
    elif given and isinstance(parent.get("additionalProperties"), dict):
        yield parent["additionalProperties"]


def _message(details: ErrorDetails, site: _Site, schema: Schema) -> str:
    kind = details["type"]
    if kind == "missing":
        return f"missing: allowed: {_allowed(site.schemas, schema)}"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "extra_forbidden" or details["loc"][-1:] == (_KEY,):
        keys = [key for parent in site.around for key in _keys(parent, schema)]
        return f"unknown key: allowed: {', '.join(keys)}{nearest(str(site.steps[-1]), keys)}"
    names = [str(name) for member in site.schemas for name in member.get("enum", [])]
    near = nearest(site.node.content, names) if isinstance(site.node.content, str) else ""
    return f"{shown(site.node.written)}: allowed: {_allowed(site.schemas, schema)}{near or _hint(site, names)}"


def _keys(parent: Schema, schema: Schema) -> list[str]:
    names = [name for member in _members(parent.get("propertyNames", {}), schema) for name in member.get("enum", [])]
    return [*parent.get("properties", {}), *names]


def _allowed(schemas: Sequence[Schema], schema: Schema) -> str:
    each = [words for member in schemas for words in _words(member, schema)]
    return each[0] if len(each) == 1 else ", ".join(each[:-1]) + f" or {each[-1]}"


def _words(member: Schema, schema: Schema) -> list[str]:
    """What one member of a schema takes. Where its keywords would say little to people, its description does."""
    if "const" in member:
        return [json.dumps(member["const"]).strip('"')]
    if "enum" in member:
        return list(member["enum"])
    if "pattern" in member or "prefixItems" in member:
        return [member["description"]]
    kind = member.get("type")
    if kind == "null":
        return []
    if kind == "object":
        return [f"a mapping with the keys {', '.join(_keys(member, schema))}"]
    if kind == "array":
        entries = _allowed(list(_members(member["items"], schema)), schema)
        return [f"a list of {entries}" if "minItems" not in member else f"a list, not empty, of {entries}"]
    if kind == "string":
        return [f"text of up to {member['maxLength']} characters" if "maxLength" in member else "text"]
    if kind == "boolean":
        return ["true or false"]
    return [("a whole number" if kind == "integer" else "a number") + _range(member)]


def _range(member: Schema) -> str:
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "multipleOf": "in steps of"}
    return "".join(f" {word} {member[keyword]:.15g}" for keyword, word in bounds.items() if keyword in member)


def _hint(site: _Site, names: Sequence[str]) -> str:
    """How to write what was probably meant, where YAML reads it as another type."""
    types = {member.get("type") for member in site.schemas}
    value = site.node.content
    if isinstance(value, str) and "boolean" in types:
        meant = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
        return f"; write {meant[value.lower()]}" if value.lower() in meant else ""
    if isinstance(value, int | float) and "string" in types and not names:
        return f'; if text is meant, write "{shown(site.node.written)}"'
    if isinstance(value, str | float) and types & {"integer", "number"}:
        number = resolved(value.replace("_", "").replace(",", "").lstrip("0")) if isinstance(value, str) else value
        if isinstance(number, float) and number.is_integer() and abs(number) < 1e15:
            number = int(number)
        if isinstance(number, int) or (isinstance(number, float) and "number" in types):
            return f"; write {number}"
    return ""
