"""Where a model's weights come from: a Hugging Face folder, of which only slices are read, or a seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import torch

from specs.errors import UsageError
from workers.model.config import ModelConfig
from workers.model.tensors import TensorSpec, tensor_specs

INDEX = "model.safetensors.index.json"
WHOLE = slice(None)
_ELEMENTS_AT_ONCE = 2**26


class WeightSource(Protocol):
    """Slices of the tensors of one checkpoint, by their Hugging Face names."""

    def read(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> torch.Tensor:
        """``tensor[rows, columns]``, contiguous, on the source's device; vectors take ``rows`` alone.

        Raises UsageError where the checkpoint has no such tensor.
        """


class HuggingFaceFolder:
    """A folder of safetensors files, one or with an index. Files are mapped, and only what is asked for is read."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._files: dict[str, Any] = {}
        index = folder / INDEX
        if index.exists():
            self._file_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
            return
        single = folder / "model.safetensors"
        if not single.exists():
            raise UsageError(f"{folder} has neither {INDEX} nor {single.name}; a model's path is a Hugging Face folder")
        self._file_of = dict.fromkeys(self._open(single.name).keys(), single.name)

    def read(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> torch.Tensor:
        if name not in self._file_of:
            raise UsageError(f"{self._folder} has no tensor {name}; is it a DeepSeek-V3 checkpoint, and whole?")
        lazy = self._open(self._file_of[name]).get_slice(name)
        read: torch.Tensor = lazy[rows] if len(lazy.get_shape()) == 1 else lazy[rows, columns]
        return read.contiguous()

    def _open(self, file: str) -> Any:
        from safetensors import safe_open

        if file not in self._files:
            self._files[file] = safe_open(self._folder / file, framework="pt", device=str(self._device))
        return self._files[file]


class RandomWeights:
    """Weights made from a seed, element by element: the same on every device, whatever slices are read."""

    def __init__(self, config: ModelConfig, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device
        self._specs = {spec.name: spec for spec in tensor_specs(config)}

    def read(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> torch.Tensor:
        if name not in self._specs:
            raise UsageError(f"a random model of these sizes has no tensor {name}")
        spec = self._specs[name]
        width = spec.shape[1] if len(spec.shape) > 1 else 1
        down = torch.arange(spec.shape[0], dtype=torch.int32, device=self._device)[rows]
        across = torch.arange(width, dtype=torch.int32, device=self._device)[columns]
        some = max(_ELEMENTS_AT_ONCE // width, 1)
        parts = [self._made(spec, part[:, None] * width + across) for part in down.split(some)]
        made = parts[0] if len(parts) == 1 else torch.cat(parts)
        return made if len(spec.shape) > 1 else made[:, 0]

    def _made(self, spec: TensorSpec, places: torch.Tensor) -> torch.Tensor:
        """Elements by their places in the whole tensor, int32, which may wrap around."""
        uniform = _hash(places, *_keys(self._seed, spec.name)).float() * 2.0**-31
        return uniform.mul_(spec.spread).add_(spec.centre).to(spec.dtype)


def export_random(config: ModelConfig, seed: int, folder: Path, *, tensors_per_file: int = 200) -> None:
    """Writes the random model as a Hugging Face folder, in files of at most ``tensors_per_file`` tensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_hf(), indent=2))
    source = RandomWeights(config, seed, torch.device("cpu"))
    names = [spec.name for spec in tensor_specs(config)]
    groups = [names[i : i + tensors_per_file] for i in range(0, len(names), tensors_per_file)]
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        save_file({name: source.read(name) for name in group}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _keys(seed: int, name: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little", signed=True), int.from_bytes(digest[4:], "little", signed=True)


def _hash(x: torch.Tensor, first: int, second: int) -> torch.Tensor:
    """int32 to int32: MurmurHash3's finalizer (Appleby, 2011) twice, with a key before each."""
    for key in (first, second):
        x = x ^ key
        x ^= _shifted(x, 16)
        x *= -0x7A143595  # 0x85EBCA6B
        x ^= _shifted(x, 13)
        x *= -0x3D4D51CB  # 0xC2B2AE35
        x ^= _shifted(x, 16)
    return x


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros from the left: torch's own shift copies the sign."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)
