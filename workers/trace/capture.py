"""The tensors of one operation that parted: the row that did, and a file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from workers.model.recorder import Tensors
from workers.trace.digests import flat_bytes
from workers.trace.recorder import Captured

LARGEST = 512 * 1024 * 1024
"""Bytes of tensors that are kept for ``farm repro``."""


@dataclass(frozen=True, eq=False)
class Row:
    """What one token was given, and what came of it."""

    place: int
    """Of its first row in the output."""
    count: int
    """Rows of the output that it has."""
    inputs: Tensors
    """Of attention also the latents that the row may read, in order."""
    output: torch.Tensor


def row_of(captured: Captured | None, token: int) -> Row | None:
    """A token's row of the step; None where the operation did not run, or did not see the token."""
    if captured is None:
        return None
    if captured.tokens is None:
        place, rows = token, captured.step_tokens
    else:
        found = (captured.tokens == token).nonzero()
        if len(found) == 0:
            return None
        place, rows = int(found[0]), len(captured.tokens)
    if place >= rows:
        return None

    def of(tensor: torch.Tensor) -> torch.Tensor:
        each = tensor.shape[0] // rows
        return tensor[place * each : (place + 1) * each]

    count = captured.output.shape[0] // rows
    inputs = tuple(map(of, captured.inputs))
    if captured.beside:
        inputs = (*inputs, _latents_before(captured.beside, token))
    return Row(place * count, count, inputs, of(captured.output))


def _latents_before(beside: Mapping[str, torch.Tensor], token: int) -> torch.Tensor:
    """(tokens, latent): of the token's sequence, up to and with its own."""
    sequence = int((beside["starts"][1:] <= token).sum())
    latents = beside["latents"]
    count = int(beside["positions"][token]) + 1
    pages = beside["page_tables"][sequence, : -(-count // latents.shape[1])].long()
    return latents[pages].flatten(0, 1)[:count]


def same_bits(first: Tensors, second: Tensors) -> bool:
    return all(
        a.shape == b.shape and torch.equal(flat_bytes(a.contiguous()), flat_bytes(b.contiguous()))
        for a, b in zip(first, second, strict=True)
    )


def pack(captured: tuple[Captured, Captured], rows: tuple[Row, Row], about: dict[str, object]) -> bytes | None:
    """A safetensors file with the inputs and outputs of both and the weights; None if it would be too large.

    Names are ``first.inputs.0``, ``second.output``, ``weights.1``, ``first.beside.latents``. The metadata's ``farm`` is
    JSON: ``about``, the operation's ``numbers``, of both the ``rows`` of the output that parted, [first, behind the
    last], and which tensors were ``turned`` to be contiguous: of these the transpose is what was used.
    """
    from safetensors.torch import save

    if "first_expert" in captured[0].numbers:
        captured = _of_chosen(captured[0], rows[0]), _of_chosen(captured[1], rows[1])
    tensors: dict[str, torch.Tensor] = {}
    for name, one in zip(("first", "second"), captured, strict=True):
        tensors |= {f"{name}.inputs.{i}": tensor for i, tensor in enumerate(one.inputs)}
        tensors[f"{name}.output"] = one.output
        tensors |= {f"{name}.beside.{key}": tensor for key, tensor in one.beside.items()}
    tensors |= {f"weights.{i}": tensor for i, tensor in enumerate(captured[0].weights)}
    if sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
        return None
    turned = [
        name
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and not tensor.is_contiguous() and tensor.t().is_contiguous()
    ]
    kept = {name: (tensor.t() if name in turned else tensor).contiguous().cpu() for name, tensor in tensors.items()}
    places = [[row.place, row.place + row.count] for row in rows]
    told = {**about, "numbers": dict(captured[0].numbers), "rows": places, "turned": turned}
    return save(kept, {"farm": json.dumps(told)})


def _of_chosen(captured: Captured, row: Row) -> Captured:
    """A product of many experts with those alone that the row's token goes to, numbered anew; -1 for the others."""
    *operands, experts = captured.inputs
    first, count = int(captured.numbers["first_expert"]), len(captured.weights[0])
    chosen = row.inputs[-1].unique()
    chosen = chosen[(chosen >= first) & (chosen < first + count)]
    here = experts[..., None] == chosen
    numbered = torch.where(here.any(dim=-1), here.int().argmax(dim=-1), -1)
    places = (chosen - first).to(captured.weights[0].device)
    weights = tuple([weight.view(torch.uint8)[places].view(weight.dtype) for weight in captured.weights])
    return replace(captured, inputs=(*operands, numbered), weights=weights)
