from __future__ import annotations

import math

import pytest

from specs.errors import SpecError
from specs.tree import MAX_DEPTH, MAX_NODES, MAX_SIZE, Place, read_tree, write_tree


def plain(text: str) -> object:
    tree = read_tree(text, "f.yaml")
    assert tree.root is not None and not tree.problems
    return tree.root.plain()


def faults(text: str) -> list[str]:
    return [str(problem) for problem in read_tree(text, "f.yaml").problems]


def fatal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        read_tree(text, "f.yaml")
    return str(caught.value.problems[-1])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("10", 10),
        ("-7", -7),
        ("010", "010"),
        ("0", 0),
        ("0x10", 16),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("'10'", "10"),
        ('"true"', "true"),
        ("=", "="),
    ],
)
def test_plain_text_is_read_as_yaml_1_2(written: str, value: object) -> None:
    result = plain(f"a: {written}")
    assert result == {"a": value}
    assert isinstance(result, dict) and type(result["a"]) is type(value)


def test_nan_and_thousands_of_digits_are_floats() -> None:
    result = plain(f"[.nan, {'9' * 5000}]")
    assert isinstance(result, list)
    assert math.isnan(result[0]) and result[1] == math.inf


def test_two_escapes_that_json_writes_for_one_character_are_one() -> None:
    assert plain('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "text", ["1e3", "08", "010", "0o17", "on", "1_000", "~", "", "2026-01-31", "a: b", "\x1b\n é😀"]
)
def test_text_that_is_written_is_read_back_as_text(text: str) -> None:
    values = {"a": text, "b": [1, 1e-7, True, None]}
    assert plain(write_tree(values)) == values


def test_places_are_those_of_keys_and_values() -> None:
    root = read_tree("a: 1\nb:\n  - x\n  -   y\n", "f.yaml").root
    assert root is not None and isinstance(root.content, dict)
    b = root.content["b"]
    assert b.key == Place("f.yaml", 2, 1)
    assert isinstance(b.content, list) and b.content[1].place == Place("f.yaml", 4, 7)


def test_keys_are_text_whatever_they_read_as() -> None:
    assert plain("{1: a, on: b, null: c, 1.5: d}") == {"1": "a", "on": "b", "null": "c", "1.5": "d"}


def test_text_without_a_value_has_no_root() -> None:
    assert read_tree("", "f.yaml").root is None
    assert read_tree("# nothing\n", "f.yaml").root is None


def test_aliases_repeat_values() -> None:
    assert plain("a: &x [1, 2]\nb: *x\nc: [*x, *x]") == {"a": [1, 2], "b": [1, 2], "c": [[1, 2], [1, 2]]}


def test_keys_given_twice_are_all_reported_and_the_first_is_kept() -> None:
    tree = read_tree("a: 1\nb: {c: 1, c: 2}\na: 2\n", "f.yaml")
    assert [str(problem) for problem in tree.problems] == [
        "f.yaml:2:11: b.c: this key is given twice, first in line 2: leave one out",
        "f.yaml:3:1: a: this key is given twice, first in line 1: leave one out",
    ]
    assert tree.root is not None and tree.root.plain() == {"a": 1, "b": {"c": 1}}


def test_two_spellings_of_a_key_are_the_same_key() -> None:
    assert len(faults("1: a\n'1': b\n")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: !!python/object/apply:os.system [ls]",
            "f.yaml:1:4: a: tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a: !secret x", "f.yaml:1:4: a: tag !secret: tags have no meaning here"),
        ("<<: {a: 1}", "f.yaml:1:1: merge keys (<<) have no meaning here: write the keys out"),
        ("[a]: 1", "f.yaml:1:1: this key is a list, a mapping or an alias: allowed: plain names"),
        ("a: *x", "f.yaml:1:4: a: alias *x: allowed: anchors of values that end before it"),
        ("a: &x [*x]", "f.yaml:1:8: a[0]: alias *x: allowed: anchors of values that end before it"),
        (r'a: "\0"', r'f.yaml:1:4: a: "\u0000": text with a NUL or half a character'),
        (r'a: "\ud800"', r'f.yaml:1:4: a: "\ud800": text with a NUL or half a character'),
        (r'"\ud800": 1', r'f.yaml:1:1: "\ud800": text with a NUL or half a character'),
    ],
)
def test_what_specs_have_no_use_for_is_refused_and_reading_goes_on(text: str, message: str) -> None:
    (only,) = faults(text)
    assert only.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document starts here: allowed: one"),
        ("---\na: 1\n---\n", "f.yaml:3:1: a second document starts here"),
        ("a:\n\t- b\n", "f.yaml:2:1: a tab can't start a value or indent a line: use spaces"),
        ("a: 1\nb: \x00\n", "f.yaml:2:4: character U+0000 can't stand in YAML"),
        ("a: \x1b[31m", "f.yaml:1:4: character U+001B can't stand in YAML"),
        ("a: [1, 2", "f.yaml:1:9: not YAML: "),
        ("a: b: c", "f.yaml:1:5: not YAML: mapping values are not allowed"),
        ("%YAML 3.0\n---\na: 1", "f.yaml:1:1: not YAML: found incompatible YAML document"),
        ('a: "\\U00110000"', "a \\U escape beyond U+10FFFF: no such character"),
        ('a: "\\Uffffffff"', "a \\U escape beyond U+10FFFF: no such character"),
    ],
)
def test_text_that_is_not_one_yaml_document(text: str, message: str) -> None:
    assert message in fatal(text)


def test_limit_on_size() -> None:
    assert fatal("#" * (MAX_SIZE + 1)) == f"f.yaml: too large: allowed: up to {MAX_SIZE} bytes"


def test_limit_on_nesting() -> None:
    assert plain("[" * (MAX_DEPTH - 1) + "x" + "]" * (MAX_DEPTH - 1))
    assert f"nested too deeply: allowed: up to {MAX_DEPTH} levels" in fatal("[" * 100_000)
    assert "nested too deeply" in fatal("- " * 100_000)
    assert "nested too deeply" in fatal("? " * 100_000)


def test_limit_on_values_counts_what_aliases_stand_for() -> None:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    assert f"too much: allowed: up to {MAX_NODES} values, aliases written out" in fatal("\n".join(laughs))
    assert "too much" in fatal("[" + "1, " * MAX_NODES + "]")
