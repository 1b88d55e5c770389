from __future__ import annotations

import json

from specs.errors import ExitCode
from specs.library import library_names, library_spec
from tests.orchestrator.cli.farm import farm


def test_the_table_has_a_line_for_each_spec_and_says_what_to_type_next() -> None:
    code, out, _ = farm("specs")
    assert code == ExitCode.MET
    for name in library_names():
        (line,) = [line for line in out.splitlines() if line.split()[:2] == [name, library_spec(name).kind]]
        assert library_spec(name).description in line
    assert "farm submit NAME" in out


def test_a_name_prints_the_yaml_as_it_is() -> None:
    assert farm("specs", "seed-pr") == (ExitCode.MET, library_spec("seed-pr").text, "")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    code, out, err = farm("specs", "seedpr")
    assert (code, out) == (ExitCode.USAGE, "")
    assert err == f"farm: no spec seedpr: allowed: {', '.join(library_names())}; the nearest is seed-pr\n"


def test_json() -> None:
    _, out, _ = farm("specs", "--json")
    answer = json.loads(out)
    assert answer["format"] == "farm.specs/1"
    assert [spec["name"] for spec in answer["specs"]] == library_names()
    assert set(answer["specs"][0]) == {"name", "kind", "description", "path", "text"}
