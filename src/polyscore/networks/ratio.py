"""Discriminator networks over latent vectors, and the choice of a network for any shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import State
from polyscore.networks.mlp import FourierTime, _Block
from polyscore.spec import register

__all__ = ["RatioMLP", "default_network"]


@register
class RatioMLP(nn.Module):
    """network(z, t, condition) -> (B,) logits of the flattened latents of several modalities, each with its own time.

    Residual blocks modulated by the times; the head starts at 0. Conditions: labels (B,) of `classes` classes (-1: none).

    Args:
        shapes: latent shape of each modality. width, depth, hidden, embed: of the trunk.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        width: int = 256,
        depth: int = 3,
        hidden: int = 256,
        embed: int = 64,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.time = FourierTime(32)
        self.embedding = nn.Sequential(nn.Linear(32 * len(self.sizes), embed), nn.SiLU(), nn.Linear(embed, embed), nn.SiLU())
        self.classes = nn.Embedding(classes + 1, embed) if classes else None
        self.stem = nn.Linear(sum(self.sizes.values()), width)
        self.blocks = nn.ModuleList([_Block(width, hidden, embed, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> Tensor:
        """Logits (B,)."""
        x = self.stem(torch.cat([z[name].flatten(1) for name in self.sizes], 1))
        embedding = cast(Tensor, self.embedding(_times(self.time, t, list(self.sizes))))
        if self.classes is not None:
            label = torch.full((len(x),), -1, device=x.device) if condition is None else torch.as_tensor(condition, device=x.device)
            embedding = embedding + self.classes(label.expand(len(x)) + 1)
        for block in self.blocks:
            x = block(x, embedding)
        return cast(Tensor, self.head(self.norm(x))[:, 0])


def _times(features: nn.Module, t: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Features of all times, (B, ...), or (1, ...) where the rows of a run have equal times: one row then serves all."""
    times = torch.stack([t[name] for name in names], 1)
    if len(times) > 1 and bool((times == times[:1]).all()):
        times = times[:1]
    return torch.cat([features(now) for now in times.unbind(1)], 1)


def default_network(shapes: Mapping[str, Sequence[int]], **options: Any) -> nn.Module:
    """A discriminator network for these shapes: an MLP for vectors, two-stream residual convolutions where a modality has a higher rank."""
    if all(len(shape) <= 1 for shape in shapes.values()):
        return RatioMLP(shapes, **options)
    from polyscore.networks.streams import StreamNetwork

    return StreamNetwork(shapes, **{"width": 32, "blocks": 1, **options})
