"""The paged latent cache: of each token and layer the compressed keys and values, and the rotated key."""

from __future__ import annotations

import torch

from workers.model.config import ModelConfig


class LatentCache:
    """Memory for ``pages`` pages of ``page_size`` tokens, in every layer.

    ``layers[i]`` is (pages * page_size, kv_lora_rank + qk_rope_head_dim): a slot is page * page_size + offset. Every
    rank of a tensor-parallel group has the whole of it. Slots that were never written hold zeros, since a product of
    a masked probability of 0 and a stray infinity would be NaN.
    """

    def __init__(
        self, config: ModelConfig, *, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        if pages < 1 or page_size < 1:
            raise ValueError(f"pages = {pages}, page_size = {page_size}; both must be at least 1")
        self.pages, self.page_size, self.dtype = pages, page_size, dtype
        shape = (pages * page_size, config.latent_size)
        self.layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
