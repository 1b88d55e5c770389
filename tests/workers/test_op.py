from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from workers.gemm.inputs import make_inputs
from workers.gemm.native import OUT_DTYPES, VARIANTS, multiply
from workers.gemm.op import SWITCH, fp8_blockwise_scaled_mm
from workers.gemm.target import GemmInputs

INPUTS = make_inputs(64, 256, 4096, seed=2, device="cpu")
OPERANDS = tuple(vars(INPUTS).values())
PRODUCT: Any = fp8_blockwise_scaled_mm


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants that the operator called, in order."""
    seen: list[str] = []

    def noted(inputs: GemmInputs, out_dtype: torch.dtype, variant: str) -> torch.Tensor:
        seen.append(variant)
        return multiply(inputs, out_dtype, variant)

    monkeypatch.setattr("workers.gemm.op.multiply", noted)
    monkeypatch.delenv(SWITCH, raising=False)
    return seen


def test_the_switch_is_read_at_every_call(variants: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    PRODUCT(*OPERANDS, torch.bfloat16)
    for value in ("1", "0", "true", "True", "", "no", "false"):
        monkeypatch.setenv(SWITCH, value)
        PRODUCT(*OPERANDS, out_dtype=torch.bfloat16)
    assert [variant == "invariant" for variant in variants] == [False, True, False, True, True, False, False, False]
    assert set(variants) == {"invariant", "streamk"}


def test_a_compiled_program_reads_the_switch_too(variants: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: Any = torch.compile(
        lambda *operands: PRODUCT(*operands, torch.float32) + 1, fullgraph=True, backend="aot_eager"
    )
    for value in ("1", "0", "1"):
        monkeypatch.setenv(SWITCH, value)
        got = compiled(*OPERANDS)
    assert variants == ["invariant", "streamk", "invariant"]
    assert torch.equal(got, multiply(INPUTS, torch.float32, "invariant") + 1)


def test_a_named_variant_goes_before_the_switch(variants: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    for variant in VARIANTS:
        torch.ops.farm.fp8_blockwise_scaled_mm(*OPERANDS, torch.float32, variant)
    assert variants == list(VARIANTS)


# Without test_schema, which compares inputs before and after in a way that torch does not have for e4m3.
CHECKS = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
def test_torchs_own_checks_of_an_operator(dtype: torch.dtype) -> None:
    small = tuple(vars(make_inputs(3, 16, 256, seed=1, device="cpu")).values())
    operator: Any = torch.ops.farm.fp8_blockwise_scaled_mm.default
    torch.library.opcheck(operator, (*small, dtype, "invariant"), test_utils=CHECKS)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("use mat_b.t().contiguous().t()")):
        PRODUCT(INPUTS.mat_a, INPUTS.mat_b.contiguous(), *OPERANDS[2:], torch.bfloat16)
    with pytest.raises(ValueError, match=r"out_dtype is torch\.float64"):
        PRODUCT(*OPERANDS, torch.float64)
    with pytest.raises(ValueError, match="variant is 'split-k'; allowed are streamk"):
        torch.ops.farm.fp8_blockwise_scaled_mm(*OPERANDS, torch.bfloat16, "split-k")
