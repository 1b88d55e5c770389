"""What a DeepSeek-V3 model is: its sizes, under the names that Hugging Face's config.json gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from specs.errors import UsageError

FP8_BLOCK = 128


@dataclass(frozen=True)
class YarnScaling:
    """YaRN's parameters (Peng et al., 2023, arXiv 2309.00071) as DeepSeek's ``rope_scaling`` has them."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a DeepSeek-V3 model; ``fp8`` where its linears have e4m3 weights scaled by 128x128 blocks."""

    hidden_size: int
    num_hidden_layers: int
    first_k_dense_replace: int
    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    routed_scaling_factor: float
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    norm_topk_prob: bool = True
    rope_scaling: YarnScaling | None = None
    fp8: bool = True

    @property
    def latent_size(self) -> int:
        """What the cache keeps of one token in one layer: the compressed keys and values, then the rotated key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def shared_intermediate_size(self) -> int:
        return self.n_shared_experts * self.moe_intermediate_size

    def is_moe(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> ModelConfig:
        """From the contents of a config.json. Raises UsageError for what is missing or not DeepSeek-V3's."""
        _check_architecture(config)
        plain = {f.name for f in fields(cls)} - {"rope_scaling", "fp8"}
        required = plain - {"rms_norm_eps", "rope_theta", "norm_topk_prob"}
        missing = sorted(name for name in required if config.get(name) is None)
        if missing:
            raise UsageError(f"config.json has no {', '.join(missing)}; all are needed for a DeepSeek-V3 model")
        values = {name: config[name] for name in plain if name in config}
        # transformers 5 writes rope_theta and rope_scaling into one table.
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if "rope_theta" in rope:
            values["rope_theta"] = rope["rope_theta"]
        return cls(**values, rope_scaling=_yarn(rope), fp8=_is_fp8(config.get("quantization_config")))

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """From ``folder``/config.json. Raises UsageError where it can't be read."""
        file = folder / "config.json"
        try:
            config = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} can't be read: {error}; a model's path is a Hugging Face folder") from error
        return cls.from_hf(config)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that ``from_hf`` reads back, and that transformers takes."""
        config: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rope_scaling", "fp8")
        }
        config |= {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "hidden_act": "silu",
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "num_key_value_heads": self.num_attention_heads,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "rope_interleave": True,
        }
        if self.rope_scaling is not None:
            config["rope_scaling"] = {"type": "yarn", **vars(self.rope_scaling)}
        if self.fp8:
            config["quantization_config"] = {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
            }
        return config

    def check_shards(self, shards: int) -> None:
        """Raises UsageError where ``shards`` equal parts, of whole blocks for FP8, can't be made of every size."""
        block = FP8_BLOCK if self.fp8 else 1
        # Name, total, and what a part must be a multiple of.
        sizes = [
            ("num_attention_heads", self.num_attention_heads, 1),
            ("num_attention_heads * qk_head_dim", self.num_attention_heads * self.qk_head_dim, block),
            (
                "num_attention_heads * (qk_nope_head_dim + v_head_dim)",
                self.num_attention_heads * (self.qk_nope_head_dim + self.v_head_dim),
                block,
            ),
            ("num_attention_heads * v_head_dim", self.num_attention_heads * self.v_head_dim, block),
            ("intermediate_size", self.intermediate_size, block),
            ("n_shared_experts * moe_intermediate_size", self.shared_intermediate_size, block),
            ("n_routed_experts", self.n_routed_experts, 1),
            ("vocab_size", self.vocab_size, 1),
        ]
        for name, size, unit in sizes:
            if size % (shards * unit):
                allowed = [n for n in range(1, shards) if all(s % (n * u) == 0 for _, s, u in sizes)]
                of = f" of whole blocks of {unit}" if unit > 1 else ""
                raise UsageError(
                    f"{name} = {size} can't be cut into {shards} equal parts{of}; "
                    f"smaller numbers that fit this model: {', '.join(map(str, allowed)) or 'none'}"
                )


def _check_architecture(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind != "deepseek_v3":
        raise UsageError(f"model_type is {kind!r}; allowed is 'deepseek_v3' (DeepSeek-V3, R1 and those made like them)")
    fixed = {"hidden_act": "silu", "scoring_func": "sigmoid", "topk_method": "noaux_tc", "attention_bias": False}
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise UsageError(f"{name} is {config[name]!r}; this model has {value!r}")
    if config.get("tie_word_embeddings"):
        raise UsageError("tie_word_embeddings is true; DeepSeek-V3 has an lm_head of its own")


def _yarn(rope: Mapping[str, Any]) -> YarnScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise UsageError(f"rope_scaling has type {kind!r}; allowed are 'yarn' and 'default'")
    names = {f.name for f in fields(YarnScaling)}
    return YarnScaling(**{name: value for name, value in rope.items() if name in names and value is not None})


def _is_fp8(quantisation: Mapping[str, Any] | None) -> bool:
    if quantisation is None:
        return False
    method, block = quantisation.get("quant_method"), quantisation.get("weight_block_size")
    if method != "fp8" or list(block or ()) != [FP8_BLOCK, FP8_BLOCK]:
        raise UsageError(
            f"quantization_config has quant_method {method!r} and weight_block_size {block}; "
            f"allowed are 'fp8' with [{FP8_BLOCK}, {FP8_BLOCK}], or no quantization_config"
        )
    return True


_R1 = ModelConfig(
    hidden_size=7168,
    num_hidden_layers=61,
    first_k_dense_replace=3,
    num_attention_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    n_group=8,
    topk_group=4,
    routed_scaling_factor=2.5,
    vocab_size=129280,
    max_position_embeddings=163840,
    rope_scaling=YarnScaling(factor=40.0, original_max_position_embeddings=4096, mscale_all_dim=1.0),
)

PRESETS: dict[str, ModelConfig] = {
    # For CPUs. Weights of 1024 columns and at most 320 rows, those of attention's first product and of the experts, are
    # what stream-K splits into parts that are added in any order.
    "deepseek-v3-nano": ModelConfig(
        hidden_size=1024,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        num_attention_heads=8,
        q_lora_rank=128,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=64,
        v_head_dim=64,
        intermediate_size=1024,
        moe_intermediate_size=128,
        n_routed_experts=8,
        n_shared_experts=4,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
        vocab_size=320,
        max_position_embeddings=40960,
        rope_scaling=YarnScaling(factor=10.0, original_max_position_embeddings=4096, mscale_all_dim=1.0),
    ),
    # For one GPU: half of R1's width, 8 layers, about 5 GB.
    "deepseek-v3-mini": replace(
        _R1,
        hidden_size=3584,
        num_hidden_layers=8,
        first_k_dense_replace=1,
        num_attention_heads=32,
        q_lora_rank=768,
        intermediate_size=9216,
        moe_intermediate_size=1024,
        n_routed_experts=64,
        vocab_size=32768,
    ),
    # R1's own widths in 4 layers, one of them dense: about 38 GB.
    "deepseek-v3-layer": replace(_R1, num_hidden_layers=4, first_k_dense_replace=1),
}
