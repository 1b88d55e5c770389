from __future__ import annotations

import pytest
import torch

from specs.errors import UsageError
from specs.job import OWN_VARIANTS, PEER_VARIANTS
from workers.gemm.inputs import make_inputs
from workers.gemm.op import SWITCH
from workers.gemm.target import QUIET
from workers.gemm.targets import find_target

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", PEER_VARIANTS)
def test_a_peer_says_what_it_lacks_here(name: str) -> None:
    reason = find_target(name).unsupported(128, 1024, 1024, torch.bfloat16, CPU)
    assert reason is not None and "Hopper" in reason


@pytest.mark.parametrize("name", OWN_VARIANTS)
def test_own_variants_run_here(name: str) -> None:
    assert find_target(name).unsupported(128, 1024, 1024, torch.bfloat16, CPU) is None


def test_a_python_function_is_called_as_sgl_kernels_op_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    inputs = make_inputs(5, 16, 256, seed=3, device=CPU)
    out = torch.empty(5, 16, dtype=torch.bfloat16)
    target = find_target("python:workers.gemm.op:fp8_blockwise_scaled_mm")
    target.bind(inputs, out)(QUIET)
    own = find_target("invariant").call(inputs, torch.bfloat16)()
    assert torch.equal(out, own)
    assert torch.equal(target.call(inputs, torch.bfloat16)(), own)


@pytest.mark.parametrize(("name", "why"), [("python:nowhere.at_all:f", "No module"), ("python:math:nope", "nope")])
def test_a_function_that_can_not_be_imported_is_told(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        find_target(name)
