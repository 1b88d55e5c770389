from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from workers.bench_model import PAGE_SIZE, DecodeTime, ModelBench, PrefillTime, _bytes_read
from workers.model.config import PRESETS
from workers.model.numerics import Numerics
from workers.model.recorder import KINDS
from workers.model.tensors import tensor_specs

NANO = PRESETS["deepseek-v3-nano"]
CONTEXT = 70


@pytest.fixture(scope="module", params=[("invariant", True), ("streamk", False)], ids=["deterministic", "ordinary"])
def bench(request: pytest.FixtureRequest) -> Iterator[ModelBench]:
    gemm, deterministic = request.param
    numerics = Numerics(gemm, torch.bfloat16, deterministic)
    yield ModelBench(NANO, numerics, torch.device("cpu"), batch=3, context=CONTEXT)


def test_decoding_reads_the_weights_of_the_experts_that_were_chosen(bench: ModelBench) -> None:
    for batch in (1, 3):
        timed = bench.decode(batch)
        assert isinstance(timed, DecodeTime)
        assert timed.seconds > 0 and not timed.captured and timed.engine is None
        fewest, most = NANO.num_experts_per_tok, min(NANO.num_experts_per_tok * batch, NANO.n_routed_experts)
        assert _bytes_read(NANO, fewest) <= timed.weight_bytes <= _bytes_read(NANO, most)
    assert bench.decode(1).weight_bytes == _bytes_read(NANO, fewest)


def test_with_all_experts_all_is_read_but_the_embedding() -> None:
    sizes = {spec.name: torch.Size(spec.shape).numel() * spec.dtype.itemsize for spec in tensor_specs(NANO)}
    everything = sum(sizes.values()) - sizes["model.embed_tokens.weight"]
    assert _bytes_read(NANO, NANO.n_routed_experts * (NANO.num_hidden_layers - 1)) == everything


def test_the_time_of_a_prefill_is_that_of_its_operations(bench: ModelBench) -> None:
    timed = bench.prefill(CONTEXT)
    assert isinstance(timed, PrefillTime)
    assert timed.seconds == pytest.approx(sum(timed.seconds_by_kind.values()))
    assert set(timed.seconds_by_kind) <= set(KINDS)
    assert min(timed.seconds_by_kind.values()) > 0
    products = sum(timed.seconds_by_kind[kind] for kind in ("fp8_gemm", "matmul", "head_matmul"))
    assert timed.gemm_share == pytest.approx(products / timed.seconds) and 0 < timed.gemm_share < 1


def test_sequences_have_pages_of_their_own(bench: ModelBench) -> None:
    step = bench._step(3, PAGE_SIZE - 1, 2)
    assert step.starts == (0, 2, 4, 6) and step.lengths == (PAGE_SIZE + 1,) * 3
    assert step.logit_rows.tolist() == [1, 3, 5]
    assert step.page_tables.tolist() == [[0, 1], [2, 3], [4, 5]]
    wanted = [page * PAGE_SIZE + offset for i in range(3) for page, offset in ((2 * i, PAGE_SIZE - 1), (2 * i + 1, 0))]
    assert step.slots.tolist() == wanted
