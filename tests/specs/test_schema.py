from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings

import specs
from specs.kinds import KINDS
from specs.library import library_names, library_spec
from specs.schema import job_schema, schema_text
from tests.specs.examples import VALID
from tests.specs.strategies import job_values, model_job_values

COMMITTED = Path(specs.__file__).parent / "schema.json"


def accepts(values: Any) -> bool:
    validator = jsonschema.Draft202012Validator(job_schema())
    return bool(validator.is_valid(values))


def valid(**changes: object) -> dict[str, Any]:
    return {**yaml.safe_load(VALID), **changes}


def test_the_committed_schema_is_what_the_models_say() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == schema_text(), "run: farm schema > specs/schema.json"


def test_it_is_a_schema_of_2020_12_without_an_address() -> None:
    jsonschema.Draft202012Validator.check_schema(job_schema())
    assert job_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "$id" not in job_schema() and job_schema()["title"]


def test_kinds_are_told_apart_by_kind() -> None:
    discriminator = job_schema()["discriminator"]
    assert discriminator["propertyName"] == "kind" and list(discriminator["mapping"]) == list(KINDS)
    assert not accepts(valid(kind="kernal"))


@pytest.mark.parametrize("name", library_names())
def test_it_accepts_the_library(name: str) -> None:
    assert accepts(yaml.safe_load(library_spec(name).text))


@given(job_values())
@settings(max_examples=50)
def test_it_accepts_every_valid_spec(values: dict[str, Any]) -> None:
    assert accepts(json.loads(json.dumps(values)))


@given(model_job_values())
@settings(max_examples=50)
def test_it_accepts_every_valid_spec_of_a_model(values: dict[str, Any]) -> None:
    assert accepts(json.loads(json.dumps(values)))


@pytest.mark.parametrize(
    "changes",
    [
        {"variants": ["streamkk"]},
        {"variants": [{"name": "streamkk"}]},
        {"variants": [{"name": "streamk", "expect": {"run": "any"}}]},
        {"variants": []},
        {"shapes": ["sensitiv"]},
        {"shapes": [[1, 129, 8]]},
        {"shapes": [[1, 128, 7]]},
        {"shapes": [[1, 128]]},
        {"shapes": [{"set": "sensitiv"}]},
        {"dtypes": ["bf17"]},
        {"trials": 0},
        {"trails": 1},
        {"version": 2},
        {"name": "a b"},
    ],
)
def test_it_refuses_what_the_farm_refuses(changes: dict[str, object]) -> None:
    assert accepts(valid())
    assert not accepts(valid(**changes))
