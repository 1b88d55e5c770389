"""The checks of this folder must turn red when the kernels are broken: here they are, in copies of the sources."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.kernels.canonical import canonical, problem, same_bits
from tests.kernels.cases import inputs_of, pauses, run, unique_outputs, varying_batches
from workers.build import build, kernels_folder
from workers.gemm import native
from workers.gemm.target import Conditions


def use_mutant(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str, old: str, new: str) -> None:
    source = folder / "kernels"
    shutil.copytree(kernels_folder(), source)
    text = (source / file).read_text()
    assert text.count(old) == 1, f"{file} no longer holds {old!r} once: rewrite this mutant"
    (source / file).write_text(text.replace(old, new))
    monkeypatch.setenv("FARM_CACHE_DIR", str(folder / "cache"))
    library = native.NativeLibrary(build("cpu", source=source).path)
    monkeypatch.setattr(native, "load", lambda backend: library)


def test_a_reduction_in_another_order_is_seen_by_run_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs = inputs_of(16, 128, 8192)
    assert unique_outputs("streamk-ordered", inputs, torch.float32, pauses(20)) == 1
    use_mutant(
        monkeypatch,
        tmp_path,
        "src/cpu/variants.cpp",
        "add_tile(slots + other * slot,",
        "add_tile(slots + (1 + (which + other) % (parts - 1)) * slot,",  # begins beside the part that came last
    )
    assert unique_outputs("streamk-ordered", inputs, torch.float32, pauses(20)) > 1


def test_segments_that_depend_on_m_are_seen_by_batch_invariance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs, batches = inputs_of(100, 136, 4096), [(0, 1), (0, 64), (0, 99)]
    assert varying_batches("invariant", inputs, batches) == []
    use_mutant(
        monkeypatch,
        tmp_path,
        "src/cpu/variants.cpp",
        "const int segments = invariant_segments(args.n, args.k);",
        "const int segments = args.m > 64 ? invariant_segments(args.n, args.k) : 1;",
    )
    assert varying_batches("invariant", inputs, batches) == [(0, 1), (0, 64)]


def test_other_chains_within_a_block_are_seen_by_the_canonical_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs = problem("uniform", 16, 72, 384)
    assert same_bits(run("persistent", inputs, torch.float32, Conditions(threads=1)), canonical(inputs))
    monkeypatch.setenv("FARM_CPU_ISA", "portable")
    use_mutant(monkeypatch, tmp_path, "src/cpu/micro_portable.cpp", "chain[k % 2]", "chain[k / 2 % 2]")
    assert not same_bits(run("persistent", inputs, torch.float32, Conditions(threads=1)), canonical(inputs))
