from __future__ import annotations

from pathlib import Path

import pytest

from specs.device import Device
from specs.job import STRESS_ON, Dtype, Expectation, Property
from specs.kernel_job import KernelJob
from specs.library import library_names, library_spec
from specs.load import load_job
from specs.shapes import FIXED_SETS


def test_names_are_sorted_and_unknown_ones_are_refused() -> None:
    assert library_names() == sorted(library_names())
    assert {"quick", "seed-pr"} <= set(library_names())
    with pytest.raises(KeyError):
        library_spec("../schema")


@pytest.mark.parametrize("name", library_names())
def test_every_spec_is_valid_carries_its_file_name_and_says_what_it_shows(name: str) -> None:
    spec, job = library_spec(name), load_job(name)
    assert (job.name, job.kind, job.description) == (spec.name, spec.kind, spec.description)
    assert spec.description and Path(spec.path).read_text(encoding="utf-8") == spec.text
    first, second, third = spec.text.splitlines()[:3]
    assert first == "# yaml-language-server: $schema=../schema.json"
    assert second == "#" and third.startswith("# Shows ")


def kernel_job(name: str) -> KernelJob:
    job = load_job(name)
    assert isinstance(job, KernelJob)
    return job


@pytest.mark.parametrize("name", ["quick", "seed-pr"])
def test_a_control_runs_beside_the_variants_that_have_to_repeat(name: str) -> None:
    streamk, ordered, persistent, invariant = kernel_job(name).variants
    assert streamk.expect is Expectation.NONDETERMINISTIC
    assert ordered.expectation(Property.RUN_TO_RUN) is Expectation.DETERMINISTIC
    assert ordered.expectation(Property.BATCH_INVARIANCE) is Expectation.NONDETERMINISTIC
    assert persistent.expect is invariant.expect is Expectation.DETERMINISTIC


def test_quick_has_only_shapes_on_which_the_control_can_flip() -> None:
    assert all(shape.k > 3 * shape.n for shape in kernel_job("quick").expanded_shapes())


def test_seed_pr_does_not_depend_on_the_shapes_that_may_never_flip() -> None:
    shapes = kernel_job("seed-pr").expanded_shapes()
    assert shapes == {
        **dict.fromkeys(FIXED_SETS["seed-pr"], False),
        **dict.fromkeys(FIXED_SETS["sensitive"], True),
    }


@pytest.mark.parametrize("name", ["h200-determinism", "h200-deepseek"])
def test_the_invariant_kernel_is_launched_ten_thousand_times_under_all_a_gpu_s_stress(name: str) -> None:
    job = kernel_job(name)
    assert set(job.stress) == set(STRESS_ON[Device.CUDA]) and set(job.dtypes) == set(Dtype)
    assert job.trials * len(job.stress) >= 10_000
