from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specs.errors import UsageError
from tests.workers.model.packing import CPU, DETERMINISTIC, NANO
from workers.model.collectives import make_collective
from workers.model.model import DeepseekV3
from workers.model.sharding import Ranks
from workers.model.tensors import tensor_specs
from workers.model.weights import WHOLE, HuggingFaceFolder, RandomWeights, WeightSource, export_random

RANDOM = RandomWeights(NANO, 7, CPU)
SHARED = ("embed_tokens", "lm_head", "q_b_proj", "kv_b_proj", "o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class Counting:
    """A source that keeps how many bytes of each tensor were read."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self.bytes: dict[str, int] = {}

    def read(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> torch.Tensor:
        tensor = self._source.read(name, rows, columns)
        assert tensor.is_contiguous()
        self.bytes[name] = self.bytes.get(name, 0) + tensor.numel() * tensor.element_size()
        return tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export_random(NANO, 7, folder, tensors_per_file=30)
    return folder


def test_a_folder_gives_back_what_the_seed_made(folder: Path) -> None:
    read = HuggingFaceFolder(folder, CPU)
    assert len(list(folder.glob("*.safetensors"))) > 2
    for spec in tensor_specs(NANO):
        wanted, got = RANDOM.read(spec.name), read.read(spec.name)
        assert got.dtype == wanted.dtype == spec.dtype and got.shape == spec.shape
        assert torch.equal(_bytes(got), _bytes(wanted)), spec.name


def test_slices_are_cut_from_the_whole(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_b_proj.weight"
    rows, columns = slice(256, 512), slice(0, 128)
    wanted = _bytes(RANDOM.read(name))[rows, columns]
    for source in (RANDOM, HuggingFaceFolder(folder, CPU)):
        assert torch.equal(_bytes(source.read(name, rows, columns)), wanted)
    assert torch.equal(RANDOM.read("model.norm.weight", slice(3, 9)), RANDOM.read("model.norm.weight")[3:9])


def test_random_weights_are_spread_as_said() -> None:
    for spec in tensor_specs(NANO):
        values = RANDOM.read(spec.name).float()
        if values.numel() > 10_000:
            assert values.mean() == pytest.approx(spec.centre, abs=spec.spread / 30)
            assert values.std() == pytest.approx(spec.spread / 3**0.5, rel=0.03)
        assert (values - spec.centre).abs().max() <= spec.spread * 1.05


def test_seeds_and_names_differ() -> None:
    name, other = "model.layers.0.self_attn.o_proj.weight", "model.layers.1.self_attn.o_proj.weight"
    here = _bytes(RANDOM.read(name))
    for there in (RandomWeights(NANO, 8, CPU).read(name), RANDOM.read(other)):
        assert (here == _bytes(there)).float().mean() < 0.05


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_rank_reads_its_slices_and_nothing_else(folder: Path, size: int) -> None:
    sources = [Counting(HuggingFaceFolder(folder, CPU)) for _ in range(size)]
    for rank, source in enumerate(sources):
        ranks = Ranks(rank, size, CPU)
        DeepseekV3(NANO, source, ranks, make_collective("ordered", ranks), DETERMINISTIC)
    for spec in tensor_specs(NANO):
        read = [source.bytes.get(spec.name, 0) for source in sources]
        whole = spec.dtype.itemsize * torch.Size(spec.shape).numel()
        if ".experts." in spec.name:
            assert sorted(read) == [0] * (size - 1) + [whole]
        elif any(part in spec.name for part in (*SHARED, "shared_experts")):
            assert read == [whole // size] * size, spec.name
        else:
            assert read == [whole] * size


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    for source in (RANDOM, HuggingFaceFolder(folder, CPU)):
        with pytest.raises(UsageError, match=r"has no tensor model\.layers\.9"):
            source.read("model.layers.9.mlp.gate.weight")
    with pytest.raises(UsageError, match="has neither model"):
        HuggingFaceFolder(tmp_path, CPU)


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x if x.element_size() != 1 else x.view(torch.uint8)
