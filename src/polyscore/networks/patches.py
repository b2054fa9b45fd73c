"""A small convolutional denoiser of pictures cut into patches, given maps (masks, sketches) or a vector, any of which may be unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.networks.mlp import FourierTime
from polyscore.paths import VPSDE, Path
from polyscore.spec import register

__all__ = ["UNKNOWN", "PatchDenoiser", "PatchNet", "known"]

UNKNOWN = -1.0
"""What stands in a condition for "not given": a whole map, or one entry of a vector."""


def known(condition: Tensor) -> Tensor:
    """The condition with its unknown entries 0, and beside each, on dimension 1, whether it is known: (B, M, ...) -> (B, 2 M, ...)."""
    seen = (condition >= 0).to(condition.dtype)
    return torch.cat([condition.clamp(min=0), seen], 1)


class _Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift)), scale and shift from the embedding."""

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        groups = math.gcd(width, 8)
        self.before, self.first = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.after, self.second = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embed, 2 * width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.first(nn.functional.silu(self.before(x)))
        h = torch.addcmul(shift, self.after(h), 1 + scale)
        return x + cast(Tensor, self.second(nn.functional.silu(h)))


class PatchNet(nn.Module):
    """network(z, t, condition) -> {name: (B, C, H, W)}: pictures as a grid of `patch` x `patch` patches, and blocks of 3x3 convolutions.

    Beside them goes one linear 3x3 convolution with a gain by the time: fine noise, most of what a v-prediction says, need not pass
    through the blocks.

    Args:
        name, shape: of the one modality, (C, H, W). maps: M > 0 takes as condition (B, M, H, W), maps in [0, 1] or -1 where not given.
        context: K > 0 takes as condition (B, K) instead, entries in [0, 1] or -1. None: nothing is given.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        patch: int = 4,
        width: int = 64,
        blocks: int = 4,
        embed: int = 96,
        maps: int = 0,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.maps, self.context = name, maps, context
        cells = patch * patch
        self.cut, self.join = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.time = nn.Sequential(FourierTime(32), nn.Linear(32, embed), nn.SiLU(), nn.Linear(embed, embed), nn.SiLU())
        self.vector = nn.Linear(2 * context, embed) if context else None
        self.stem = nn.Conv2d((shape[0] + 2 * maps) * cells, width, 3, padding=1)
        self.blocks = nn.ModuleList([_Block(width, embed) for _ in range(blocks)])
        self.norm, self.head = nn.GroupNorm(math.gcd(width, 8), width), nn.Conv2d(width, shape[0] * cells, 3, padding=1)
        self.copy = nn.Conv2d(shape[0] * cells, shape[0] * cells, 3, padding=1, bias=False)
        self.gain = nn.Linear(embed, shape[0] * cells)
        nn.init.dirac_(self.copy.weight)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """The raw output."""
        x, embedding = z[self.name], self.time(t[self.name])
        copy = self.gain(embedding)[:, :, None, None] * self.copy(self.cut(x))
        if self.maps:
            given = x.new_full((1, self.maps, *x.shape[2:]), UNKNOWN) if condition is None else condition.to(x)
            x = torch.cat([x, known(given).expand(len(x), -1, -1, -1)], 1)
        elif self.vector is not None:
            given = x.new_full((1, self.context), UNKNOWN) if condition is None else condition.to(x)
            embedding = embedding + self.vector(known(given))
        h = self.stem(self.cut(x))
        for block in self.blocks:
            h = block(h, embedding)
        return {self.name: self.join(self.head(nn.functional.silu(self.norm(h))) + copy)}


@register
class PatchDenoiser(Expert):
    """A `PatchNet` with v-prediction as an expert on one modality of pictures; arguments as there."""

    def __init__(
        self,
        shape: Sequence[int],
        name: str = "image",
        path: Path | None = None,
        space: str | None = None,
        patch: int = 4,
        width: int = 64,
        blocks: int = 4,
        embed: int = 96,
        maps: int = 0,
        context: int = 0,
    ) -> None:
        network = PatchNet(name, shape, patch, width, blocks, embed, maps, context)
        super().__init__(network, {name: path or VPSDE()}, {name: tuple(shape)}, "v", {name: space} if space else None)
