"""The specs that the farm brings along, by name: `library/NAME.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from specs.tree import read_tree


@dataclass(frozen=True)
class LibrarySpec:
    name: str
    kind: str
    description: str
    path: str
    text: str


def library_names() -> list[str]:
    """Sorted."""
    folder = files("specs") / "library"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def library_spec(name: str) -> LibrarySpec:
    """Raises KeyError where the library has no such spec."""
    if name not in library_names():
        raise KeyError(name)
    resource = files("specs") / "library" / f"{name}.yaml"
    text = resource.read_text(encoding="utf-8")
    root = read_tree(text, name).root
    assert root is not None and isinstance(root.content, dict)
    values = {key: str(node.content) for key, node in root.content.items()}
    return LibrarySpec(name, values["kind"], values["description"].strip(), str(resource), text)
