"""How a discriminator fuses the features of its streams: by an MLP, one transformer over all slots, or one over aligned slots.

Attention is written out as matrix products: the fused kernels have no second derivative, which the denoising loss needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError

__all__ = ["FUSIONS", "AlignedFusion", "Attention", "MeanFusion", "TransformerFusion"]

WIDTH, HEADS, HEAD, LONGEST = 256, 8, 64, 128


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over (B, n, width), with plain matrix products; queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int = HEADS, head: int = HEAD) -> None:
        super().__init__()
        self.heads, self.head = heads, head
        self.q, self.k, self.v = (nn.Linear(width, heads * head, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, width) -> the same shape."""
        q, k, v = (cast(Tensor, f(x)).unflatten(2, (self.heads, self.head)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weight = (q @ k.transpose(-1, -2) / math.sqrt(self.head)).softmax(-1)
        return cast(Tensor, self.out((weight @ v).transpose(1, 2).flatten(2)))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with a GELU and four times the width."""

    def __init__(self, width: int, activation: nn.Module | None = None, heads: int = HEADS, head: int = HEAD) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, head)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), activation or nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, width) -> the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + cast(Tensor, self.mlp(self.norm2(x)))


class MeanFusion(nn.Module):
    """Every stream's mean over time, concatenated."""

    def __init__(self, streams: int, features: int, embed: int, depth: int) -> None:
        super().__init__()
        self.out = streams * features

    def forward(self, features: Sequence[Tensor], time: Tensor) -> Tensor:
        """Streams (B, slots, features) -> (B, out)."""
        return torch.cat([f.mean(1) for f in features], 1)


class TransformerFusion(nn.Module):
    """[class token, time token, slots of the first stream, slots of the second, ...] through a pre-norm transformer; the class token."""

    def __init__(self, streams: int, features: int, embed: int, depth: int) -> None:
        super().__init__()
        self.out = WIDTH
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) / math.sqrt(WIDTH))
        self.inputs = nn.ModuleList([nn.Linear(features, width) for width in self._widths(streams)])
        self.time = nn.Linear(embed, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(LONGEST, WIDTH))
        self.layers = nn.ModuleList([Layer(WIDTH) for _ in range(depth)])
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def _widths(self, streams: int) -> list[int]:
        return [WIDTH] * streams

    def _sequence(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([layer(f) for layer, f in zip(self.inputs, features, strict=True)], 1)

    def forward(self, features: Sequence[Tensor], time: Tensor) -> Tensor:
        """Streams (B, slots, features) and (B, embed) -> (B, 256).

        Raises:
            PolyscoreError: more slots than positions.
        """
        tokens = self._sequence(features)
        x = torch.cat([self.token.expand(len(tokens), -1, -1), self.time(time)[:, None], tokens], 1)
        if x.shape[1] > LONGEST:
            raise PolyscoreError(
                f"discriminator: {x.shape[1]} slots of time: a transformer fusion has {LONGEST}; pool more, or fuse by mlp"
            )
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return cast(Tensor, self.last(self.norm(x[:, 0])))


class AlignedFusion(TransformerFusion):
    """As `TransformerFusion`, but the slots of all streams at one instant are one token; shorter streams are repeated (nearest).

    A token is shared out evenly: of N streams the first 256 mod N have one entry more.
    """

    def _widths(self, streams: int) -> list[int]:
        if streams > WIDTH:
            raise PolyscoreError(f"discriminator: aligned fusion of {streams} streams: expected at most {WIDTH}")
        return [WIDTH // streams + (place < WIDTH % streams) for place in range(streams)]

    def _sequence(self, features: Sequence[Tensor]) -> Tensor:
        longest = max(f.shape[1] for f in features)
        return torch.cat([layer(_stretched(f, longest)) for layer, f in zip(self.inputs, features, strict=True)], 2)


def _stretched(f: Tensor, slots: int) -> Tensor:
    place = torch.arange(slots, device=f.device) * f.shape[1] // slots
    return f if f.shape[1] == slots else f[:, place]


FUSIONS: dict[str, Any] = {"mlp": MeanFusion, "transformer": TransformerFusion, "aligned": AlignedFusion}
