"""Rotary position embedding with YaRN's scaling, on interleaved pairs as DeepSeek has them."""

from __future__ import annotations

import math

import torch

from workers.model.config import ModelConfig, YarnScaling

Tables = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of a step's tokens, (T, 1, rope / 2) float32; the last dimension is contiguous."""


class RotaryEmbedding:
    """Tables of cosines and sines, float32, made on the CPU so that all devices have the same."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
        angles = torch.outer(positions, _frequencies(config))
        scale = _table_scale(config.rope_scaling)
        self._both = (torch.stack((angles.cos(), angles.sin()), dim=1) * scale).to(device)

    def tables(self, positions: torch.Tensor) -> Tables:
        """Of tokens at ``positions`` (T,)."""
        cos, sin = self._both[positions].split(1, dim=1)
        return cos, sin


def rotate(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """(T, heads, rope): each pair x[2i], x[2i+1] turned by its angle, in float32."""
    cos, sin = tables
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def softmax_scale(config: ModelConfig) -> float:
    """1 / sqrt(d), times YaRN's mscale squared, which DeepSeek takes out of the tables."""
    scaling, scale = config.rope_scaling, 1 / math.sqrt(config.qk_head_dim)
    if scaling is None or not scaling.mscale_all_dim:
        return scale
    return scale * _mscale(scaling.factor, scaling.mscale_all_dim) ** 2


def _frequencies(config: ModelConfig) -> torch.Tensor:
    """(rope / 2,) radians a token. Equation 23 of YaRN: slow ones are divided by the factor, fast ones are kept."""
    half = config.qk_rope_head_dim // 2
    frequencies = 1.0 / config.rope_theta ** (torch.arange(half, dtype=torch.float32) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    low = max(math.floor(_dimension_of(config, scaling, scaling.beta_fast)), 0)
    high = min(math.ceil(_dimension_of(config, scaling, scaling.beta_slow)), config.qk_rope_head_dim - 1)
    ramp = ((torch.arange(half, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _dimension_of(config: ModelConfig, scaling: YarnScaling, turns: float) -> float:
    """The pair that makes ``turns`` full turns within the original context."""
    wavelengths = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
    return config.qk_rope_head_dim * math.log(wavelengths) / (2 * math.log(config.rope_theta))


def _table_scale(scaling: YarnScaling | None) -> float:
    if scaling is None:
        return 1.0
    return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dim)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
