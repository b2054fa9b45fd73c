"""Contrastive encoders of all modalities, and a denoiser that is told the mean embedding of what is observed (the "-T" variant)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.denoisers import Denoiser, Expert, State, Times
from polyscore.errors import PolyscoreError
from polyscore.spec import register

__all__ = ["Contextual", "ContrastiveEncoder"]


@register
class ContrastiveEncoder(nn.Module):
    """Clean latents (B, *shape) of each modality -> unit vectors (B, dim) that agree within a sample; trained by InfoNCE.

    Two hidden layers a modality. `log_scale` is the logarithm of the inverse temperature, learned with the rest.

    Args:
        shapes: latent shape of each modality. dim: of the embedding. width: of the hidden layers. dropout: on them.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], dim: int = 64, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.shapes, self.dim = {name: tuple(shape) for name, shape in shapes.items()}, dim
        self.towers = nn.ModuleDict({name: _tower(math.prod(shape), width, dim, dropout) for name, shape in self.shapes.items()})
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, z: State) -> State:
        """Embeddings of the modalities in z."""
        return {name: nn.functional.normalize(self.towers[name](z[name].flatten(1)), dim=1) for name in self.shapes if name in z}

    def mean(self, z: State, seen: Mapping[str, Tensor]) -> Tensor:
        """Mean embedding of the modalities with seen = 1, (B, dim); zeros in rows that see none."""
        parts = self({name: z[name] for name in seen})
        weights = {name: seen[name].to(parts[name])[:, None] for name in parts}
        total = torch.stack([parts[name] * weights[name] for name in parts]).sum(0)
        return total / torch.stack(list(weights.values())).sum(0).clamp(min=1)


def _tower(size: int, width: int, dim: int, dropout: float) -> nn.Sequential:
    hidden = [nn.Linear(size, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*hidden, nn.Linear(width, dim))


@register
class Contextual(Denoiser):
    """Density: p(z_u | z_o, e(z_o)), e the mean embedding of the observed modalities (those at t = 0), zeros where there are none.

    The network takes the embedding as its condition (`JointDenoiser(context=dim)`); the encoder is frozen. Train it as the
    module of `JointObjective`: the subsets drawn there, the empty one among them, are the subsets it will meet.
    Source: Score-Based Multimodal Autoencoder, "-T"; the authors never train the empty subset.

    Raises:
        PolyscoreError: a denoiser whose network takes no context of the encoder's size.
    """

    def __init__(self, denoiser: Expert, encoder: ContrastiveEncoder) -> None:
        super().__init__()
        found = getattr(denoiser.network, "context_size", 0)
        if found != encoder.dim:
            raise PolyscoreError(f"Contextual: expected a network with a context of {encoder.dim} numbers, found {found}")
        self.denoiser, self.encoder = denoiser, encoder.requires_grad_(False)
        self.paths, self.shapes, self.spaces = denoiser.paths, denoiser.shapes, denoiser.spaces

    @property
    def network(self) -> nn.Module:
        """The denoiser's network."""
        return self.denoiser.network

    def train(self, mode: bool = True) -> Contextual:
        """The encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def context(self, z: State, t: Times) -> Tensor:
        """What the network is told, (B, dim)."""
        return self.encoder.mean(z, {name: _seen(t[name], z[name]) for name in self.encoder.shapes})

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, Any]:
        """The denoiser's predictions, given the context."""
        found: dict[str, Any] = self.denoiser(z, t, self.context(z, t))
        return found


def _seen(t: Any, like: Tensor) -> Tensor:
    if isinstance(t, Tensor):
        return (t <= 0).to(like).expand(len(like))
    return torch.full((len(like),), float(t <= 0), device=like.device, dtype=like.dtype)
