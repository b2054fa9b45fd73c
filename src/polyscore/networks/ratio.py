"""Discriminator networks over latent vectors, and the choice of a network for any shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import State
from polyscore.networks.conditioned import Conditioned, condition_options, refuse_condition
from polyscore.networks.mlp import FourierTime, _Block, embedder
from polyscore.spec import register

__all__ = ["RatioMLP", "RatioTwins", "default_network"]


@register
class RatioMLP(Conditioned):
    """network(z, t, condition) -> (B,) logits of the flattened latents of several modalities, each with its own time.

    Residual blocks modulated by the times; the head starts at 0. Conditions as in `Conditioned`; others are refused.

    Args:
        shapes: latent shape of each modality. width, depth, hidden, embed: of the trunk.
        classes: of labels (B,) for all, or {modality: classes} of each one's. text: size of each modality's vector (B, dim).
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        width: int = 256,
        depth: int = 3,
        hidden: int = 256,
        embed: int = 64,
        classes: int | Mapping[str, int] = 0,
        dropout: float = 0.0,
        text: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.time = FourierTime(32)
        self.embedding = embedder(32 * len(self.sizes), embed)
        self.embed_conditions(classes, text, embed)
        self.stem = nn.Linear(sum(self.sizes.values()), width)
        self.blocks = nn.ModuleList([_Block(width, hidden, embed, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> Tensor:
        """Logits (B,)."""
        x = self.stem(torch.cat([z[name].flatten(1) for name in self.sizes], 1))
        embedding = cast(Tensor, self.embedding(_times(self.time, [t[name] for name in self.sizes])))
        told = self.told(condition, embedding.expand(len(x), -1))
        embedding = sum(told.values(), embedding)
        for block in self.blocks:
            x = block(x, embedding)
        return cast(Tensor, self.head(self.norm(x))[:, 0])


class _Stream(nn.Module):
    """One modality alone: residual blocks modulated by its own time, (B, size) -> (B, features + 1)."""

    def __init__(self, size: int, width: int, depth: int, hidden: int, embed: int, features: int) -> None:
        super().__init__()
        self.time = FourierTime(32)
        self.embedding = embedder(32, embed)
        self.stem = nn.Linear(size, width)
        self.blocks = nn.ModuleList([_Block(width, hidden, embed, 0.0) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, features + 1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        x, embedding = self.stem(z.flatten(1)), self.embedding(_times(self.time, [t]))
        for block in self.blocks:
            x = block(x, embedding)
        return cast(Tensor, self.head(self.norm(x)))


@register
class RatioTwins(nn.Module):
    """network(z, t, condition) -> (B,) logits of latent vectors: a stream for each modality, and inner products of what they say.

        r = sum_m b_m + 4 / sqrt(K) sum_{m < m'} <e_m, e_m'>,   (e_m, b_m) = stream_m(z_m, t_m)

    That two things show the same is an inner product of what each shows, and b_m corrects each expert's own law. As nothing else mixes the
    modalities, one pass gives the logits of all pairings of a batch (`DiscriminatorObjective.pairings`). r starts at 0.

    It takes no condition.

    Args:
        shapes: latent shape of each modality. width, depth, hidden, embed: of a stream. features: K.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], width: int = 192, depth: int = 2, hidden: int = 192, embed: int = 64, features: int = 64
    ) -> None:
        super().__init__()
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.streams = nn.ModuleDict({name: _Stream(size, width, depth, hidden, embed, features) for name, size in sizes.items()})
        for place, stream in enumerate(self.streams.values()):
            head = cast(nn.Linear, stream.head)
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.weight[0 if place else -1 :] = 0  # all of the later streams', b of the first's

    def features(self, z: State, t: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(e_m, b_m) of every modality, (B, K + 1)."""
        return {name: stream(z[name], t[name]) for name, stream in self.streams.items()}

    @staticmethod
    def combine(features: Mapping[str, Tensor], groups: int = 1, turns: int = 1) -> Tensor:
        """Logits (turns, B) of features {modality: (B, K + 1)}, whose modalities are paired anew at every turn but the first.

        Rows i and i + `groups` belong to one group, and partners stay in it: at turn k the m-th modality is moved on by m k of its rows.
        """
        parts = [value.unflatten(0, (-1, groups)).transpose(0, 1) for value in features.values()]
        rows, size = parts[0].shape[1], parts[0].shape[2] - 1
        turn, row = torch.arange(turns)[:, None], torch.arange(rows)
        places = [(row + number * turn) % rows for number in range(len(parts))]
        logits = torch.stack([part[:, place, -1] for part, place in zip(parts, places, strict=True)]).sum(0)
        for (one, i), (other, j) in itertools.combinations(list(zip(parts, places, strict=True)), 2):
            products = one[..., :-1] @ other[..., :-1].transpose(1, 2)
            logits = logits + 4 / math.sqrt(size) * products[:, i, j]
        return logits.permute(1, 2, 0).flatten(1)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> Tensor:
        """Logits (B,)."""
        refuse_condition(self, condition)
        said = list(self.features(z, t).values())
        products = torch.stack([(a[:, :-1] * b[:, :-1]).sum(1) for a, b in itertools.combinations(said, 2)]).sum(0)
        return torch.stack([value[:, -1] for value in said]).sum(0) + 4 / math.sqrt(said[0].shape[1] - 1) * products


def _times(features: nn.Module, clocks: Sequence[Tensor]) -> Tensor:
    """Features of all times, (B, ...), or (1, ...) where the rows of a run have equal times: one row then serves all."""
    times = torch.stack(list(clocks), 1)
    if len(times) > 1 and bool((times == times[:1]).all()):
        times = times[:1]
    return torch.cat([features(now) for now in times.unbind(1)], 1)


def default_network(shapes: Mapping[str, Sequence[int]], *conditions: Any, **options: Any) -> nn.Module:
    """A discriminator network for these shapes: an MLP for vectors, two-stream residual convolutions where a modality has a higher rank.

    Args:
        shapes: of each modality without the batch. options: of the network.
        conditions: examples of what it is told, tensors (N, ...) or mappings {modality: tensor}: integers are labels, as many classes as
            the largest says; real numbers are vectors.
    """
    options = condition_options(list(shapes), *conditions) | options
    if all(len(shape) <= 1 for shape in shapes.values()):
        return RatioMLP(shapes, **options)
    from polyscore.networks.streams import StreamNetwork

    return StreamNetwork(shapes, **{"width": 32, "blocks": 1, **options})
