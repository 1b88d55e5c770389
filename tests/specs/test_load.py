from __future__ import annotations

import copy
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from specs.errors import SpecError
from specs.job import JobBase
from specs.kernel_job import KernelJob
from specs.library import library_names, library_spec
from specs.load import dump_job, load_job, parse_job
from specs.model_job import ModelJob
from specs.tree import MAX_SIZE, write_tree
from tests.specs.examples import VALID, changed, complaint, complaints, parsed
from tests.specs.strategies import job_values, model_job_values


def refused(source: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_job(source)
    (problem,) = caught.value.problems
    return str(problem)


class TestSources:
    def test_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a'; echo b.yaml"
        file.write_text(VALID, encoding="utf-8-sig")  # some editors on Windows begin a file with this mark
        assert load_job(str(file)) == parsed(VALID)

    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(VALID.encode())))
        assert load_job("-", ["trials=3"]).trials == 3
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"trials: 1")))
        with pytest.raises(SpecError, match="standard input:1:1: kind: missing"):
            load_job("-")

    def test_a_file_goes_before_the_library_and_a_folder_does_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("quick").mkdir()
        assert load_job("quick").name == "quick"
        Path("quick").rmdir()
        Path("quick").write_text(VALID, encoding="utf-8")
        assert load_job("quick").name == "example"

    def test_an_error_in_an_override_of_the_library_has_the_override(self) -> None:
        with pytest.raises(SpecError, match="--set trials=x: trials: x: allowed"):
            load_job("quick", ["trials=x"])

    def test_what_is_neither_file_nor_library(self, tmp_path: Path) -> None:
        assert refused("quik").startswith("quik: No such file or directory, and no spec of the library: ")
        assert refused("quik").endswith("; the nearest is quick")
        assert refused(f"{tmp_path}/no.yaml") == f"{tmp_path}/no.yaml: No such file or directory"
        assert refused(str(tmp_path)) == f"{tmp_path}: Is a directory"
        assert refused("") == refused("").strip() and "No such file" in refused("")

    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\udcff\x1b[2J.yaml", "quick/x"])
    def test_names_that_no_file_has(self, name: str) -> None:
        assert refused(name).isprintable() and refused(name).isascii()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
    def test_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.touch(mode=0)
        assert refused(str(file)) == f"{file}: Permission denied"

    def test_bytes_that_are_not_utf_8(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"version: 1\nname: caf\xe9\n")
        assert refused(str(file)) == f"{file}:2:10: byte 0xe9 is not UTF-8: save the file as UTF-8"

    def test_too_much(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"#" * (MAX_SIZE + 1))
        assert refused(str(file)) == f"{file}: too large: allowed: up to {MAX_SIZE} bytes"
        assert refused("/dev/zero") == f"/dev/zero: too large: allowed: up to {MAX_SIZE} bytes"


class TestWhole:
    def test_empty(self) -> None:
        assert complaint("") == "job.yaml: empty: allowed: a spec; `farm specs` lists examples"
        assert complaint("# nothing\n---\n").startswith("job.yaml:3:1: nothing: allowed: a mapping")

    @pytest.mark.parametrize(
        ("text", "given"), [("- 1", "a list of 1"), ("hello", "hello"), ("5", "5"), ("[]", "an empty")]
    )
    def test_not_a_mapping(self, text: str, given: str) -> None:
        assert complaint(text).startswith(f"job.yaml:1:1: {given}")

    def test_an_unknown_kind_is_told_beside_the_rest(self) -> None:
        found = complaints(changed("kind: kernel", "kind: kernal").replace("trials: 50", "trials: no"))
        assert found == [
            "job.yaml:2:7: kind: kernal: allowed: kernel or model; the nearest is kernel",
            "job.yaml:11:9: trials: no: allowed: a whole number from 1 to 10000000",
        ]

    @pytest.mark.parametrize("given", ["[kernel]", "{}", "1", "~"])
    def test_a_kind_that_is_no_name(self, given: str) -> None:
        assert complaint(changed("kind: kernel", f"kind: {given}")).startswith("job.yaml:2:7: kind: ")

    def test_a_missing_kind(self) -> None:
        assert complaint(changed("kind: kernel\n", "")) == "job.yaml:1:1: kind: missing: allowed: kernel or model"

    def test_a_duplicate_key_is_refused_though_the_rest_is_valid(self) -> None:
        assert "given twice" in complaint(VALID + "trials: 50\n")


@given(job_values())
@settings(max_examples=50)
def test_a_job_comes_back_from_yaml_and_json(values: dict[str, Any]) -> None:
    job = parsed(write_tree(values))
    assert parsed(dump_job(job)) == job
    assert parsed(json.dumps(job.model_dump(mode="json"))) == job
    assert KernelJob.model_validate_json(job.model_dump_json()) == job


@given(model_job_values())
@settings(max_examples=50)
def test_a_model_job_comes_back_from_yaml_and_json(values: dict[str, Any]) -> None:
    job = parse_job(write_tree(values), "job.yaml")
    assert parse_job(dump_job(job), "job.yaml") == job
    assert ModelJob.model_validate_json(job.model_dump_json()) == job


def job_or_spec_error(text: str, *overrides: str) -> None:
    try:
        assert isinstance(parse_job(text, "job.yaml", overrides), JobBase)
    except SpecError as error:
        assert error.problems
        for problem in error.problems:
            assert str(problem).encode() and "\n" not in str(problem)
            assert "Traceback" not in str(problem) and "Input should" not in str(problem)


_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**30, 10**60),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["on", "1_000", "1e3", "2026-01-31", "streamk", "sensitive", "[key]", "\x1b", "\ud800", "\0"]),
)
_anything = st.recursive(
    _odd,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["name", "set", "mkn", "[key]", "expect"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def _mutated(data: st.DataObject, value: Any) -> Any:
    """The value with one place in it replaced, removed or added to."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 4)):
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.integers(0, 5)) == 0:
            del value[key]
        else:
            value[key] = _mutated(data, value[key])
        return value
    if isinstance(value, dict) and data.draw(st.booleans()):
        return {**value, data.draw(st.text(max_size=5)): data.draw(_anything)}
    return data.draw(_anything)


@given(data=st.data(), name=st.sampled_from(library_names()))
@settings(max_examples=150)
def test_a_mutated_spec_is_a_job_or_a_spec_error(data: st.DataObject, name: str) -> None:
    values = copy.deepcopy(yaml.safe_load(library_spec(name).text))
    for _ in range(data.draw(st.integers(1, 4))):
        values = _mutated(data, values)
    job_or_spec_error(json.dumps(values))  # ASCII with escapes, so that every character gets past YAML's reader


@given(st.text() | st.text("{}[]&*!|>'\"%@`#:-?,\n\t \\ab01<").filter(bool))
@settings(max_examples=200)
def test_random_text_is_a_job_or_a_spec_error(text: str) -> None:
    job_or_spec_error(text)
    job_or_spec_error(VALID + text)


@given(st.integers(0, len(VALID)), st.integers(0, 8), st.text("{}[]&*!|>'\":-?,\n\t ab01", max_size=4))
@settings(max_examples=150)
def test_edited_text_is_a_job_or_a_spec_error(at: int, cut: int, new: str) -> None:
    job_or_spec_error(VALID[:at] + new + VALID[at + cut :])


@given(
    st.sampled_from(["", "trials", "shapes[0]", "shapes[1].m", "variants[1].expect", "gates.speed", "x.y.z", "a["]),
    st.text() | _anything.map(json.dumps),
)
@settings(max_examples=200)
def test_any_override_gives_a_job_or_a_spec_error(path: str, value: str) -> None:
    job_or_spec_error(VALID, f"{path}={value}")
    job_or_spec_error(VALID, path + value)
