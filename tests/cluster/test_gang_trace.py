"""A gang of two ranks that traces what flips: real processes, real gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.cluster import Cluster
from orchestrator.run_folder import RunFolder
from orchestrator.store import Store
from specs.result import Outcome
from tests.cluster.test_gang import run
from tests.orchestrator.builders import model_job

# Its split of K depends on the rows: another one for two prompts of 400 tokens in a step than for one, every time.
TARGET = {"name": "ordered", "gemm": "streamk-ordered", "collective": "ordered", "deterministic": True, "tp": 2}


def test_what_flips_is_traced_on_all_ranks_and_kept_with_the_run(
    cluster: Cluster, store: Store, folder: RunFolder
) -> None:
    long: dict[str, Any] = {"prefix_lengths": [400], "long_prompt_tokens": 400, "pages": 256}
    targets = [TARGET | {"expect": "nondeterministic"}]
    job = model_job(targets=targets, modes=["prefix"], trials=2, trace=True, **long)
    record, _ = run(cluster, store, folder, job)
    assert record.judgement is not None
    (verdict,) = record.judgement.verdicts
    assert verdict.outcome is Outcome.NONDETERMINISTIC
    found = verdict.divergence
    assert found is not None and found.artefact is not None
    assert (found.rank, found.op) == (0, "layers.0.self_attn.qkv_a_proj")  # both ranks compute it whole
    assert found.gemm_shapes == ((400, 320, 1024), (800, 320, 1024)) and found.inputs_equal
    assert Path(folder.operation(found.artefact)).stat().st_size > 400 * 1024
    reduced = {one.implementation: one.operations for one in record.judgement.coverage if one.kind == "all_reduce"}
    assert list(reduced) == ["all_gather+ordered_sum"] and reduced["all_gather+ordered_sum"] % 2 == 0
    assert [one.implementation for one in record.judgement.coverage if one.outside] == ["farm:streamk-ordered"]
    assert store.results(record.id)[0].divergences == [found]
