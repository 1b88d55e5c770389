"""From YAML to a validated job: the only way a spec comes in.

A source is a file, `-` for standard input, or the name of a spec of the library, in this order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from pydantic import ValidationError

from specs.errors import Problem, SpecError, nearest, printable, shown
from specs.explain import problems_of
from specs.job import JobBase
from specs.kinds import KINDS, Job
from specs.library import library_names, library_spec
from specs.overrides import overridden
from specs.tree import MAX_SIZE, Node, Place, read_tree, write_tree


def load_job(source: str, overrides: Sequence[str] = ()) -> Job:
    """The job that a source describes, with `PATH=VALUE` overrides applied before it is validated.

    Raises SpecError with everything that is wrong.
    """
    name, text = read_source(source)
    return parse_job(text, name, overrides)


def dump_job(job: JobBase) -> str:
    """The YAML that `parse_job` makes the same job of, with every default written out."""
    return write_tree(job.model_dump(mode="json"))


def parse_job(text: str, source: str, overrides: Sequence[str] = ()) -> Job:
    """As `load_job`, of text that comes from `source`."""
    tree = overridden(read_tree(text, printable(source)), overrides)
    root, problems = tree.root, list(tree.problems)
    if root is None:
        problems.append(Place(printable(source)).problem("", "empty: allowed: a spec; `farm specs` lists examples"))
    elif not isinstance(root.content, dict):
        message = f"{shown(root.written)}: allowed: a mapping, which begins with version: 1 and kind: {_kinds()}"
        problems.append(root.place.problem("", message))
    else:
        result = _validated(root, root.content)
        if isinstance(result, JobBase) and not problems:
            return cast(Job, result)
        problems += [] if isinstance(result, JobBase) else result
    # problems of overrides have no line: they come last
    raise SpecError(sorted(problems, key=lambda it: (it.line is None, it.line or 0, it.column or 0)))


def _kinds() -> str:
    return " or ".join(KINDS)


def _validated(root: Node, entries: dict[str, Node]) -> JobBase | list[Problem]:
    kind, problems = _kind(root, entries)
    given = {**entries, "kind": replace(entries.get("kind", root), content=kind)}
    try:
        job = KINDS[kind].model_validate({key: node.plain() for key, node in given.items()})
    except ValidationError as error:
        from specs.schema import schema_of

        return problems + problems_of(error, replace(root, content=given), schema_of(kind))
    return problems or job


def _kind(root: Node, entries: dict[str, Node]) -> tuple[str, list[Problem]]:
    """The kind to validate as. Where it isn't known, that is a problem, and the kind whose keys fit best is taken."""
    node = entries.get("kind")
    if node is not None and isinstance(node.content, str) and node.content in KINDS:
        return node.content, []
    likely = max(KINDS, key=lambda kind: len(KINDS[kind].model_fields.keys() & entries.keys()))
    if node is None:
        return likely, [root.place.problem("kind", f"missing: allowed: {_kinds()}")]
    message = f"{shown(node.written)}: allowed: {_kinds()}{nearest(node.written, KINDS)}"
    return likely, [node.place.problem("kind", message)]


def read_source(source: str) -> tuple[str, str]:
    """The name of a source for messages, and its text. Raises SpecError where it can't be read."""
    if source == "-":
        return "standard input", _decoded(sys.stdin.buffer.read(MAX_SIZE + 1), "standard input")
    try:
        with open(source, "rb") as file:
            return source, _decoded(file.read(MAX_SIZE + 1), source)
    except (FileNotFoundError, IsADirectoryError) as error:
        if source in library_names():
            spec = library_spec(source)
            return spec.path, spec.text
        raise _unreadable(source, f"{error.strerror}{_suggestion(source)}") from None
    except OSError as error:
        raise _unreadable(source, str(error.strerror)) from None
    except ValueError:  # a NUL in the name
        raise _unreadable(source, "this can't be the name of a file") from None


def _suggestion(source: str) -> str:
    if "/" in source:
        return ""
    names = library_names()
    return f", and no spec of the library: {', '.join(names)}{nearest(source, names)}"


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_SIZE:
        raise _unreadable(source, f"too large: allowed: up to {MAX_SIZE} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        raise SpecError([Problem(printable(source), line, column, "", message)]) from None


def _unreadable(source: str, message: str) -> SpecError:
    return SpecError([Problem(printable(source), None, None, "", message)])
