"""Residual MLPs over the latents of several modalities, each with its own time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.paths import VPSDE, Path
from polyscore.spec import register
from polyscore.tokens.paths import Absorbing

__all__ = ["FourierTime", "JointDenoiser", "JointMLP", "embedder"]


class FourierTime(nn.Module):
    """Features of a time in [0, 1]: sin and cos of 2 pi f t for `size` / 2 frequencies from 1/4 to 16, geometric."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.logspace(-2, 4, size // 2, base=2.0), persistent=False)
        self.frequencies: Tensor

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, size)."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def embedder(size: int, embed: int) -> nn.Sequential:
    """Two layers that make the embedding of times out of their features, (B, size) -> (B, embed)."""
    return nn.Sequential(nn.Linear(size, embed), nn.SiLU(), nn.Linear(embed, embed), nn.SiLU())


class _Block(nn.Module):
    """x + gate * MLP(norm(x) * (1 + scale) + shift), all three from the embedding; the identity at the start."""

    def __init__(self, width: int, hidden: int, embed: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embed, 3 * width)
        self.rise, self.drop, self.fall = nn.Linear(width, hidden), nn.Dropout(dropout), nn.Linear(hidden, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(embedding).chunk(3, dim=1)
        if len(embedding) == 1:  # one time for all rows: the modulation goes into the weights
            bias = torch.addmm(self.rise.bias, shift, self.rise.weight.T)
            h = torch.addmm(bias, self.norm(x), (self.rise.weight * (1 + scale)).T)
            return torch.addmm(x + gate * self.fall.bias, self.drop(nn.functional.silu(h)), self.fall.weight.T * gate)
        h = torch.addcmul(shift, self.norm(x), 1 + scale)
        return torch.addcmul(x, gate, self.fall(self.drop(nn.functional.silu(self.rise(h)))))


class JointMLP(nn.Module):
    """Residual MLP over the concatenated latents of all modalities, modulated by every modality's time.

    network(z, t, condition) -> {modality: (B, *shape)}. A modality at t = 1 is not looked at (its input is set to 0), so its value there is
    of no consequence. The last layer starts at 0: with v-prediction on a variance-preserving path that is the exact answer for N(0, I)
    latents, and it keeps the norm of the input (a normalised trunk alone forgets it).

    Args:
        shapes: latent shape of each modality. vocabularies: number of tokens K of the token modalities; they come in one-hot (mask
            included) and go out as logits (B, *shape, K).
        width, depth, hidden: of the trunk. embed: of the time embedding. classes: > 0 adds a class condition (label -1 or None: no class).
        context: > 0 takes as condition a vector of this size (None, or all zeros: nothing is known).
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        width: int = 384,
        depth: int = 4,
        hidden: int = 768,
        embed: int = 128,
        classes: int = 0,
        dropout: float = 0.0,
        vocabularies: Mapping[str, int] | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.context_size = context
        self.context = nn.Linear(context + 1, embed, bias=False) if context else None
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.vocabularies = dict(vocabularies or {})
        self.sizes = {name: math.prod(shape) * self.vocabularies.get(name, 1) for name, shape in self.shapes.items()}
        total = sum(self.sizes.values())
        inputs = total + sum(math.prod(self.shapes[name]) for name in self.vocabularies)
        self.time = FourierTime(32)
        self.embedding = embedder(34 * len(self.sizes), embed)
        self.classes = nn.Embedding(classes + 1, embed) if classes else None
        self.stem = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList([_Block(width, hidden, embed, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, total)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Raw outputs, one of each modality's shape."""
        shown = {name: self._shown(name, z[name]) for name in self.sizes}
        present = {name: (t[name] < 1).to(shown[name].dtype) for name in self.sizes}
        x = self.stem(torch.cat([shown[n] * present[n][:, None] for n in self.sizes], 1))
        embedding = self._embed(t, present, condition)
        for block in self.blocks:
            x = block(x, embedding)
        parts = cast(Tensor, self.head(self.norm(x))).split(list(self.sizes.values()), 1)
        return {name: part.reshape(-1, *self._out(name)) for name, part in zip(self.sizes, parts, strict=True)}

    def _out(self, name: str) -> tuple[int, ...]:
        tokens = self.vocabularies.get(name)
        return self.shapes[name] if tokens is None else (*self.shapes[name], tokens)

    def _shown(self, name: str, z: Tensor) -> Tensor:
        """A state as input, (B, inputs): tokens one-hot."""
        if name not in self.vocabularies:
            return z.flatten(1)
        return nn.functional.one_hot(z, self.vocabularies[name] + 1).flatten(1).to(self.stem.weight.dtype)

    def _embed(self, t: Mapping[str, Tensor], present: Mapping[str, Tensor], condition: Any) -> Tensor:
        clocks = [torch.cat([self.time(t[n]), present[n][:, None], (t[n] <= 0).to(present[n])[:, None]], 1) for n in self.sizes]
        embedding: Tensor = self.embedding(torch.cat(clocks, 1))
        if self.context is not None and condition is not None:
            known = (condition != 0).any(1, keepdim=True).to(condition)
            return embedding + cast(Tensor, self.context(torch.cat([condition, known], 1)))
        if self.classes is not None:
            rows = len(embedding)
            label = (
                torch.full((rows,), -1, device=embedding.device)
                if condition is None
                else torch.as_tensor(condition, device=embedding.device)
            )
            embedding = embedding + self.classes(label.expand(rows) + 1)
        return embedding


@register
class JointDenoiser(Expert):
    """One denoiser over the standardised latents of several modalities, with a time for each: p(z_1, ..., z_M), all its conditionals and
    all its marginals from one network (observed: t = 0; left out: t = 1).

    A JointMLP with v-prediction; all Gaussian modalities on the same path, token modalities on absorbing ones.
    Source: Score-Based Multimodal Autoencoder, Sec. 2.2, with the per-modality times of Bounoua et al. 2024 in place of the
    paper's clamping.

    Args:
        shapes: latent shape of each modality. path: of every Gaussian modality. Others: see `JointMLP`.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        path: Path | None = None,
        width: int = 384,
        depth: int = 4,
        hidden: int = 768,
        embed: int = 128,
        classes: int = 0,
        dropout: float = 0.0,
        spaces: Mapping[str, str] | None = None,
        vocabularies: Mapping[str, int] | None = None,
        context: int = 0,
    ) -> None:
        network = JointMLP(shapes, width, depth, hidden, embed, classes, dropout, vocabularies, context)
        tokens = {name: Absorbing(size) for name, size in (vocabularies or {}).items()}
        paths = {name: tokens.get(name) or path or VPSDE() for name in shapes}
        super().__init__(network, paths, shapes, {name: "logits" if name in tokens else "v" for name in shapes}, spaces)
