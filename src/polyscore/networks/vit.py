"""A vision transformer as a stream of a discriminator (MMDisCo, Table 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError
from polyscore.networks.fusion import Layer

__all__ = ["PatchStream", "QuickGELU"]


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class PatchStream(nn.Module):
    """Patches (no bias), class and time tokens, learned positions, pre-norm layers, a projection; averages of the patches of one slot.

    The time axis is cut to patches of `step`, others to `side` (at most their size); an axis that they don't divide is filled with zeros.
    Kinds: waveform, spectrogram, image, video. Depth counts the layers; each has 4 heads.

    Raises:
        PolyscoreError: a vector, a width that 4 doesn't divide, or sizes below 1.
    """

    def __init__(
        self, kind: str, shape: Sequence[int], out: int, embed: int, width: int = 256, depth: int = 4, side: int = 4, step: int = 2
    ) -> None:
        super().__init__()
        if kind == "vector":
            raise PolyscoreError("discriminator: a vector has no patches, expected a modality with positions")
        if width % 4 or min(width, depth, side, step) < 1:
            found = f"width {width}, depth {depth}, side {side}, step {step}"
            raise PolyscoreError(f"discriminator: vit with {found}: expected a multiple of 4 as width, and sizes of 1 or more")
        self.kind = kind
        channels, *extent = _moved(kind, shape)
        if kind == "video":
            extent = [channels, *extent]
            channels = shape[1]
        sides = [side] * len(extent)
        if kind != "image":
            sides[0] = step
        self.patch = [min(size, length) for size, length in zip(sides, extent, strict=True)]
        self.grid = [-(-length // size) for size, length in zip(self.patch, extent, strict=True)]
        missing = [count * size - length for count, size, length in zip(self.grid, self.patch, extent, strict=True)]
        self.padding = [side for after in reversed(missing) for side in (0, after)]
        self.embed = nn.Linear(channels * math.prod(self.patch), width, bias=False)
        self.token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.time = nn.Linear(embed, width)
        self.positions = nn.Parameter(0.02 * torch.randn(2 + math.prod(self.grid), width))
        self.layers = nn.ModuleList([Layer(width, QuickGELU(), 4, width // 4) for _ in range(depth)])
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, *shape) -> (B, slots, out)."""
        y = self.embed(self._patches(x))
        y = torch.cat([self.token.expand(len(y), -1, -1), self.time(embedding)[:, None], y], 1) + self.positions
        for layer in self.layers:
            y = layer(y)
        features = cast(Tensor, self.last(self.norm(y[:, 2:])))
        return features.mean(1, keepdim=True) if self.kind == "image" else features.unflatten(1, (self.grid[0], -1)).mean(2)

    def _patches(self, x: Tensor) -> Tensor:
        """(B, patches, channels * patch)."""
        if self.kind == "video":
            x = x.transpose(1, 2)
        x = nn.functional.pad(x, self.padding)
        for axis, (count, size) in enumerate(zip(self.grid, self.patch, strict=True)):
            x = x.unflatten(2 + 2 * axis, (count, size))
        rank = len(self.grid)
        order = [0, *[2 + 2 * i for i in range(rank)], 1, *[3 + 2 * i for i in range(rank)]]
        return x.permute(order).flatten(1 + rank).flatten(1, rank)


def _moved(kind: str, shape: Sequence[int]) -> list[int]:
    """Channels (video: frames) and the other extents."""
    return [shape[0], shape[2], shape[3]] if kind == "video" else list(shape)
