"""The checks of this folder must turn red when the kernels are broken: here they are, in a copy of the sources."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch

from tests.kernels.canonical import canonical, problem, same_bits
from tests.kernels.cases import inputs_of, pauses, run, unique_outputs, varying_batches
from workers.build import build, kernels_folder
from workers.gemm import native
from workers.gemm.target import Conditions

# Each shows in another variant, so that one build holds them all.
MUTATIONS = [
    (
        "variants.cpp",
        "add_tile(slots + other * slot,",
        "add_tile(slots + (1 + (which + other) % (parts - 1)) * slot,",  # begins beside the part that came last
    ),
    (
        "variants.cpp",
        "const int segments = invariant_segments(args.n, args.k);",
        "const int segments = args.m > 64 ? invariant_segments(args.n, args.k) : 1;",
    ),
    ("micro_portable.cpp", "chain[k % 2]", "chain[k / 2 % 2]"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> native.NativeLibrary:
    folder = tmp_path_factory.mktemp("mutant")
    source = folder / "kernels"
    shutil.copytree(kernels_folder(), source)
    for name, old, new in MUTATIONS:
        file = source / "src" / "cpu" / name
        text = file.read_text()
        assert text.count(old) == 1, f"{name} no longer holds {old!r} once: rewrite this mutation"
        file.write_text(text.replace(old, new))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_CACHE_DIR", str(folder / "cache"))
        return native.NativeLibrary(build("cpu", source=source).path)


@pytest.fixture
def use_mutant(monkeypatch: pytest.MonkeyPatch, library: native.NativeLibrary) -> Callable[[], None]:
    """Called, it puts the mutant in the place of the kernels, with the instruction set that is broken too."""

    def use() -> None:
        monkeypatch.setenv("FARM_CPU_ISA", "portable")
        monkeypatch.setattr(native, "load", lambda backend: library)

    return use


def test_a_reduction_in_another_order_is_seen_by_run_to_run(use_mutant: Callable[[], None]) -> None:
    inputs = inputs_of(16, 128, 8192)
    assert unique_outputs("streamk-ordered", inputs, torch.float32, pauses(20)) == 1
    use_mutant()
    assert unique_outputs("streamk-ordered", inputs, torch.float32, pauses(20)) > 1


def test_segments_that_depend_on_m_are_seen_by_batch_invariance(use_mutant: Callable[[], None]) -> None:
    inputs, batches = inputs_of(100, 136, 4096), [(0, 1), (0, 64), (0, 99)]
    assert varying_batches("invariant", inputs, batches) == []
    use_mutant()
    assert varying_batches("invariant", inputs, batches) == [(0, 1), (0, 64)]


def test_other_chains_within_a_block_are_seen_by_the_canonical_order(use_mutant: Callable[[], None]) -> None:
    inputs = problem("uniform", 16, 72, 384)
    assert same_bits(run("persistent", inputs, torch.float32, Conditions(threads=1)), canonical(inputs))
    use_mutant()
    assert not same_bits(run("persistent", inputs, torch.float32, Conditions(threads=1)), canonical(inputs))
