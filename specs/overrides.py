"""`--set PATH=VALUE`: values that replace or add to those of a spec's file before it is validated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from specs.errors import Problem, SpecError, shown
from specs.kinds import SHORT_FORMS
from specs.tree import Node, Place, Tree, join, read_tree

_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]{1,9})\]")
_EXAMPLES = "for example trials=10 or shapes[0]=[1, 128, 8]"


class _Misplaced(Exception):
    """The path of an override leads nowhere; the message says from where on."""


def overridden(tree: Tree, overrides: Sequence[str]) -> Tree:
    """The tree with every override applied, in order. Those that can't be are among its problems."""
    root, problems = tree.root, list(tree.problems)
    for override in overrides:
        source = f"--set {shown(override)}"
        path, equals, text = override.partition("=")
        try:
            if not equals:
                raise _Misplaced(f"no '=': allowed: PATH=VALUE, {_EXAMPLES}")
            value = read_tree(text, source, located=False)
            problems.extend(value.problems)
            nothing = Node(Place(source), None, "nothing")
            root = _placed(root or nothing, _steps(path.strip()), value.root or nothing)
        except _Misplaced as error:
            problems.append(Problem(source, None, None, "", str(error)))
        except SpecError as error:
            problems.extend(error.problems)
    return Tree(root, tuple(problems))


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    position = 0
    while match := _STEP.match(path, position):
        if bool(steps) != (match[0][0] in ".["):  # a separator stands before every step but the first
            break
        steps.append(int(match[2]) if match[1] is None else match[1])
        position = match.end()
    if not steps or position < len(path):
        raise _Misplaced(f"{shown(path)!r} is no path: allowed: names, with . and [index] between, {_EXAMPLES}")
    return steps


def _placed(node: Node, steps: Sequence[str | int], value: Node, path: str = "", key: str = "") -> Node:
    """`node`, which stands under `key`, with the value at the end of the steps; mappings on the way are made."""
    if not steps:
        return replace(value, key=node.key or value.place)
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if node.content is None:
            node = replace(node, place=value.place, content={})
        if not isinstance(node.content, dict):
            raise _Misplaced(f"{path or 'the spec'} is {shown(node.written)}, not a mapping: it has no {step}")
        old = node.content.get(step, Node(value.place, None, "nothing"))
        return replace(node, content={**node.content, step: _placed(old, rest, value, join(path, step), step)})
    if not isinstance(node.content, list):
        raise _Misplaced(f"{path} is {shown(node.written)}, not a list: it has no [{step}]")
    if step >= len(node.content):
        allowed = f"[0] to [{len(node.content) - 1}]" if node.content else "none, it is empty"
        raise _Misplaced(f"{path} has no [{step}]: allowed: {allowed}")
    entries = list(node.content)
    into_keys = bool(rest) and isinstance(rest[0], str)
    entry = _long(entries[step], key) if into_keys and key in SHORT_FORMS else entries[step]
    entries[step] = _placed(entry, rest, value, join(path, step))
    # [m, k, n] is judged as a whole: where an override put one of them, it is the override that is wrong
    return replace(node, content=entries, place=node.place if rest else value.place)


def _long(entry: Node, key: str) -> Node:
    """The entry of a list in its long form, so that a path can go on into it."""
    long = SHORT_FORMS[key](entry.plain())
    if isinstance(entry.content, dict) or not isinstance(long, dict):
        return entry
    (name,) = long
    return replace(entry, content={name: entry}, written="a mapping")
