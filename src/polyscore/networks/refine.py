"""A small convolutional network that denoises pictures beside a rough version of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.denoisers import State
from polyscore.networks.mlp import FourierTime, embedder
from polyscore.spec import register

__all__ = ["RefineNet"]


class _Block(nn.Module):
    """x + convolution(SiLU(norm(convolution(SiLU(norm(x)))) (1 + scale) + shift)), scale and shift from the time."""

    def __init__(self, width: int, embed: int, dilation: int) -> None:
        super().__init__()
        self.first, self.second = nn.GroupNorm(math.gcd(width, 8), width), nn.GroupNorm(math.gcd(width, 8), width, affine=False)
        self.rise = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.fall = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embed, 2 * width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.second(self.rise(nn.functional.silu(self.first(x)))) * (1 + scale) + shift
        out: Tensor = x + self.fall(nn.functional.silu(h))
        return out


@register
class RefineNet(nn.Module):
    """network(z, t, condition) -> {"x": (B, C, H, W)}: the noisy picture and the rough one (the condition, of the same shape) side by side.

    `patch` x `patch` pixels become channels; residual blocks with dilations 1, 2, 4, ... see far. The last layer starts at 0.
    """

    def __init__(self, shape: Sequence[int], width: int = 32, blocks: int = 3, patch: int = 2, embed: int = 64) -> None:
        super().__init__()
        channels = shape[0] * patch**2
        self.time = FourierTime(32)
        self.embedding = embedder(32, embed)
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.stem = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.blocks = nn.ModuleList([_Block(width, embed, 2**i) for i in range(blocks)])
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Raw outputs."""
        rough: Tensor = torch.zeros_like(z["x"]) if condition is None else condition
        x = self.stem(torch.cat([self.fold(z["x"]), self.fold(rough.expand_as(z["x"]))], 1))
        embedding = self.embedding(self.time(t["x"]))
        for block in self.blocks:
            x = block(x, embedding)
        return {"x": self.unfold(self.head(nn.functional.silu(x)))}
