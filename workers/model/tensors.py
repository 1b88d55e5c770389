"""Every tensor of a DeepSeek-V3 checkpoint: its Hugging Face name, shape, type, and spread in a random model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from workers.model.config import FP8_BLOCK, ModelConfig

SCALES = "_scale_inv"
"""What the name of an FP8 weight's scales has after the weight's own."""

ROUTER_BIAS = "mlp.gate.e_score_correction_bias"


@dataclass(frozen=True)
class TensorSpec:
    """A random model has ``centre`` + ``spread`` * u, with u uniform over -1..1."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    centre: float
    spread: float


def tensor_specs(config: ModelConfig) -> Iterator[TensorSpec]:
    """All tensors of the checkpoint. Spreads keep activations near 1: the variance of a weight is 1 / its inputs."""
    yield _plain("model.embed_tokens.weight", (config.vocab_size, config.hidden_size), math.sqrt(3))
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, layer)
    yield _norm("model.norm.weight", config.hidden_size)
    yield _plain("lm_head.weight", (config.vocab_size, config.hidden_size), 2 * math.sqrt(3 / config.hidden_size))


def _layer(config: ModelConfig, layer: int) -> Iterator[TensorSpec]:
    prefix, heads = f"model.layers.{layer}", config.num_attention_heads
    attention = f"{prefix}.self_attn"
    yield _norm(f"{prefix}.input_layernorm.weight", config.hidden_size)
    yield from _linear(config, f"{attention}.q_a_proj", config.q_lora_rank, config.hidden_size)
    yield _norm(f"{attention}.q_a_layernorm.weight", config.q_lora_rank)
    yield from _linear(config, f"{attention}.q_b_proj", heads * config.qk_head_dim, config.q_lora_rank)
    yield from _linear(config, f"{attention}.kv_a_proj_with_mqa", config.latent_size, config.hidden_size)
    yield _norm(f"{attention}.kv_a_layernorm.weight", config.kv_lora_rank)
    rows = heads * (config.qk_nope_head_dim + config.v_head_dim)
    yield from _linear(config, f"{attention}.kv_b_proj", rows, config.kv_lora_rank)
    yield from _linear(config, f"{attention}.o_proj", config.hidden_size, heads * config.v_head_dim)
    yield _norm(f"{prefix}.post_attention_layernorm.weight", config.hidden_size)
    if not config.is_moe(layer):
        yield from _mlp(config, f"{prefix}.mlp", config.intermediate_size)
        return
    shape = (config.n_routed_experts, config.hidden_size)
    yield _plain(f"{prefix}.mlp.gate.weight", shape, math.sqrt(3 / config.hidden_size))
    yield TensorSpec(f"{prefix}.{ROUTER_BIAS}", (config.n_routed_experts,), torch.float32, 0.0, 0.1)
    for expert in range(config.n_routed_experts):
        yield from _mlp(config, f"{prefix}.mlp.experts.{expert}", config.moe_intermediate_size)
    yield from _mlp(config, f"{prefix}.mlp.shared_experts", config.shared_intermediate_size)


def _mlp(config: ModelConfig, name: str, width: int) -> Iterator[TensorSpec]:
    yield from _linear(config, f"{name}.gate_proj", width, config.hidden_size)
    yield from _linear(config, f"{name}.up_proj", width, config.hidden_size)
    yield from _linear(config, f"{name}.down_proj", config.hidden_size, width)


def _linear(config: ModelConfig, name: str, rows: int, columns: int) -> Iterator[TensorSpec]:
    spread = math.sqrt(3 / columns)
    if not config.fp8:
        yield _plain(f"{name}.weight", (rows, columns), spread)
        return
    # Codes fill e4m3's range; scales vary by half from block to block, so that a wrong one is seen.
    yield TensorSpec(f"{name}.weight", (rows, columns), torch.float8_e4m3fn, 0.0, 448.0)
    blocks = (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))
    yield TensorSpec(f"{name}.weight{SCALES}", blocks, torch.float32, spread / 448, spread / 448 / 2)


def _plain(name: str, shape: tuple[int, ...], spread: float) -> TensorSpec:
    return TensorSpec(name, shape, torch.bfloat16, 0.0, spread)


def _norm(name: str, size: int) -> TensorSpec:
    return TensorSpec(name, (size,), torch.bfloat16, 1.0, 0.1)
