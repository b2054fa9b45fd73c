"""Fully connected encoders and decoders: the cheapest for small pictures, and the natural ones for attribute vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from polyscore.spec import register

__all__ = ["DenseDecoder", "DenseEncoder"]


@register
class DenseEncoder(nn.Module):
    """(B, *shape) -> (B, out): linear layers of `widths` with SiLU between them, and a linear layer."""

    def __init__(self, shape: Sequence[int], out: int, widths: Sequence[int] = (512, 512), dropout: float = 0.0) -> None:
        super().__init__()
        self.body = _layers([math.prod(shape), *widths, out], dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, out)."""
        y: Tensor = self.body(x.flatten(1))
        return y


@register
class DenseDecoder(nn.Module):
    """(B, latent) -> (B, *shape): `DenseEncoder` mirrored; `widths` are given in the encoder's order."""

    def __init__(self, shape: Sequence[int], latent: int, widths: Sequence[int] = (512, 512), dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.body = _layers([latent, *reversed(widths), math.prod(shape)], dropout)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, *shape)."""
        y: Tensor = self.body(z)
        return y.reshape(-1, *self.shape)


def _layers(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers.extend([nn.Linear(a, b), nn.SiLU(), nn.Dropout(dropout)])
    layers.append(nn.Linear(sizes[-2], sizes[-1]))
    return nn.Sequential(*layers)
