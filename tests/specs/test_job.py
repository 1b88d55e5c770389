from __future__ import annotations

import pytest
from pydantic import ValidationError

from specs.job import Property
from specs.kernel_job import KernelJob, ShapeEntry, Variant
from specs.shapes import FIXED_SETS, Shape
from tests.specs.examples import VALID, changed, parsed


def test_short_forms_are_their_long_forms() -> None:
    short = parsed(changed("[64, 4096, 128]", "sensitive").replace("{set: sensitive, required: false}", "[1, 128, 8]"))
    assert short.variants[1] == Variant(name="invariant")
    assert short.shapes == [ShapeEntry(set="sensitive"), ShapeEntry(mkn=[1, 128, 8])]


def test_a_property_that_expect_leaves_out_expects_anything() -> None:
    variant = Variant.model_validate({"name": "streamk", "expect": {"run_to_run": "deterministic"}})
    assert variant.expectation(Property.RUN_TO_RUN) == "deterministic"
    assert variant.expectation(Property.CROSS_DEVICE) == "any"


@pytest.mark.parametrize("name", ["python:a:b", "python:a.b_1:c", "deep-gemm"])
def test_names_of_variants(name: str) -> None:
    assert Variant(name=name).name == name


@pytest.mark.parametrize(
    "name", ["python:a", "python:a:b\n", "python:a:b:c", "python:é:b", "python:1:b", "", "StreamK"]
)
def test_what_is_no_name_of_a_variant(name: str) -> None:
    with pytest.raises(ValidationError):
        Variant(name=name)


def test_a_shape_is_required_if_any_entry_requires_it() -> None:
    first = FIXED_SETS["sensitive"][0]
    job = parsed(VALID, f"shapes[0]=[{first.m}, {first.k}, {first.n}]")
    assert job.expanded_shapes() == {shape: shape == first for shape in FIXED_SETS["sensitive"]}


def test_weights_are_tested_at_each_number_of_tokens() -> None:
    shapes = ShapeEntry(set="deepseek-v3-tp8", m=[1, 64]).shapes()
    assert shapes[:2] == (Shape(1, 7168, 2112), Shape(64, 7168, 2112)) and len(shapes) == 16


def test_every_repeat_is_told_with_its_index() -> None:
    values = parsed(VALID).model_dump(mode="json") | {"dtypes": ["bf16", "fp32", "bf16", "fp32"]}
    with pytest.raises(ValidationError) as caught:
        KernelJob.model_validate(values)
    assert [error["loc"] for error in caught.value.errors()] == [("dtypes", 2), ("dtypes", 3)]


def test_summary() -> None:
    assert parsed(VALID).summary() == (
        "fp8_blockwise_gemm, 2 variants x 4 shapes x 1 dtype x 1 property x 1 kind of stress, 50 trials of each"
    )
