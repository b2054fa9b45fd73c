"""Marginals of several modalities in one call: a small residual MLP for each, side by side in batched products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.networks.mlp import FourierTime
from polyscore.paths import VPSDE, Path
from polyscore.spec import register

__all__ = ["AloneMLP", "MarginalDenoiser"]


class _Linears(nn.Module):
    """M linear layers side by side: (M, B, a) -> (M, B, b)."""

    def __init__(self, count: int, a: int, b: int, zero: bool = False) -> None:
        super().__init__()
        bound = 0.0 if zero else 1 / math.sqrt(a)
        self.weight = nn.Parameter(torch.empty(count, a, b).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(count, 1, b))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class AloneMLP(nn.Module):
    """M residual MLPs that never see each other's modality; latents are padded to the largest.

    network(z, t, condition) -> {modality: (B, *shape)}. The last layer starts at 0, as in `JointMLP`.

    Args:
        shapes: latent shape of each modality. width, depth: of each trunk; its hidden layers are twice as wide.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], width: int = 192, depth: int = 3) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        count, largest = len(self.sizes), max(self.sizes.values())
        self.time = FourierTime(32)
        self.stem, self.head = _Linears(count, largest, width), _Linears(count, width, largest, zero=True)
        self.rise = nn.ModuleList([_Linears(count, width, 2 * width) for _ in range(depth)])
        self.fall = nn.ModuleList([_Linears(count, 2 * width, width) for _ in range(depth)])
        self.clock = nn.ModuleList([_Linears(count, 32, 2 * width) for _ in range(depth)])

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Raw outputs, one of each modality's shape."""
        largest = max(self.sizes.values())
        x = torch.stack([nn.functional.pad(z[n].flatten(1), (0, largest - size)) for n, size in self.sizes.items()])
        clock = torch.stack([self.time(t[n]) for n in self.sizes])
        x = self.stem(x)
        for rise, fall, when in zip(self.rise, self.fall, self.clock, strict=True):
            x = x + fall(nn.functional.silu(rise(nn.functional.layer_norm(x, x.shape[-1:])) + when(clock)))
        out = self.head(nn.functional.layer_norm(x, x.shape[-1:]))
        return {n: out[place, :, :size].reshape(-1, *self.shapes[n]) for place, (n, size) in enumerate(self.sizes.items())}


@register
class MarginalDenoiser(Expert):
    """Density: prod_m p(z_m), each modality by its own network, all in one call (v-prediction, one path).

    Trained by `JointObjective(joint=1)`. The base of `SubsetGuided(joint, marginals=...)`.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], path: Path | None = None, width: int = 192, depth: int = 3) -> None:
        super().__init__(AloneMLP(shapes, width, depth), dict.fromkeys(shapes, path or VPSDE()), shapes, "v")
