"""What one forward pass is asked to compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_GRAPH_LENGTHS = 256


def graph_length(longest: int) -> int:
    """Up to which length a graph of decoding is made for sequences of which the longest has so many tokens.

    What is launched is computed for it too where that could change a bit, so that a replay makes no difference.
    """
    return -(-longest // _GRAPH_LENGTHS) * _GRAPH_LENGTHS


@dataclass(frozen=True)
class Step:
    """The tokens of one forward pass, of several sequences, packed one after the other.

    T tokens of S sequences; tensors are on the model's device. A sequence's tokens have consecutive positions, the
    last of which is its length less one.
    """

    tokens: torch.Tensor
    """(T,) int64"""
    positions: torch.Tensor
    """(T,) int64, position in its sequence"""
    slots: torch.Tensor
    """(T,) int64, where in the paged cache the token's latent goes: page * page_size + offset"""
    starts: tuple[int, ...]
    """S + 1 offsets: sequence i has tokens starts[i]:starts[i + 1]"""
    lengths: tuple[int, ...]
    """(S,) tokens of each sequence that are in the cache after this step, context and new ones"""
    page_tables: torch.Tensor
    """(S, P) int32, pages of each sequence in order, padded with -1"""
    logit_rows: torch.Tensor
    """(R,) int64, rows of the packed tokens whose logits are wanted"""
    labels: tuple[str, ...]
    """(S,) name of each sequence, stable over runs: traces align rows by (label, position)"""
