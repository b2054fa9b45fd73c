"""Networks over the latents of several modalities, each with its own time: a residual MLP, and a small transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.errors import PolyscoreError
from polyscore.networks.fusion import Layer
from polyscore.paths import VPSDE, Path
from polyscore.spec import register
from polyscore.tokens.paths import Absorbing

__all__ = ["FourierTime", "JointDenoiser", "JointMLP", "JointNetwork", "JointTransformer", "embedder"]


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


class JointNetwork(nn.Module):
    """What networks of all modalities share: states as inputs, clocks, conditions, and the shapes of outputs.

    A modality at t = 1 is not looked at (its input is set to 0), so its value there is of no consequence.

    Args:
        shapes: latent shape of each modality. vocabularies: number of tokens K of the token modalities; they come in one-hot (mask
            included) and go out as logits (B, *shape, K).
        clocks: modalities whose times make one embedding. embed: its size.
        classes: > 0 adds a class condition (label -1 or None: no class).
        context: > 0 takes as condition a vector of this size (None, or all zeros: nothing is known).
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        clocks: int,
        embed: int,
        classes: int = 0,
        vocabularies: Mapping[str, int] | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.context_size = context
        self.context = nn.Linear(context + 1, embed, bias=False) if context else None
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.vocabularies = dict(vocabularies or {})
        self.sizes = {name: math.prod(shape) * self.vocabularies.get(name, 1) for name, shape in self.shapes.items()}
        self.time = FourierTime(32)
        self.embedding = embedder(34 * clocks, embed)
        self.classes = nn.Embedding(classes + 1, embed) if classes else None

    def inputs(self, name: str) -> int:
        """Numbers that a modality's state comes in as."""
        return self.sizes[name] + (math.prod(self.shapes[name]) if name in self.vocabularies else 0)

    def shown(self, z: State, t: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Each modality's state as input (B, inputs), tokens one-hot; and clocks (B, M, 34): time, there at all?, observed?"""
        dtype = cast(Tensor, self.embedding[0].weight).dtype
        states, clocks = [], []
        for name in self.sizes:
            state = z[name].flatten(1)
            if name in self.vocabularies:
                state = nn.functional.one_hot(z[name], self.vocabularies[name] + 1).flatten(1).to(dtype)
            present = (t[name] < 1).to(state.dtype)[:, None]
            states.append(state * present)
            clocks.append(torch.cat([self.time(t[name]), present, (t[name] <= 0).to(present)[:, None]], 1))
        return states, torch.stack(clocks, 1)

    def told(self, condition: Any, rows: int) -> Tensor | None:
        """The embedding of a condition, (B, embed)."""
        if self.context is not None and condition is not None:
            known = (condition != 0).any(1, keepdim=True).to(condition)
            return cast(Tensor, self.context(torch.cat([condition, known], 1)))
        if self.classes is None:
            return None
        label = torch.as_tensor(-1 if condition is None else condition, device=self.classes.weight.device)
        return cast(Tensor, self.classes(label.expand(rows) + 1))

    def outputs(self, parts: Sequence[Tensor]) -> State:
        """Raw outputs in each modality's own shape."""
        found = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            tokens = self.vocabularies.get(name)
            found[name] = part.reshape(-1, *shape) if tokens is None else part.reshape(-1, *shape, tokens)
        return found


class JointMLP(JointNetwork):
    """Residual MLP over the concatenated latents of all modalities, modulated by every modality's time.

    network(z, t, condition) -> {modality: (B, *shape)}. The last layer starts at 0: with v-prediction on a variance-preserving path that is
    the exact answer for N(0, I) latents, and it keeps the norm of the input (a normalised trunk alone forgets it).

    Args:
        width, depth, hidden: of the trunk. embed: of the time embedding. Others: see `JointNetwork`.
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
        super().__init__(shapes, len(shapes), embed, classes, vocabularies, context)
        self.stem = nn.Linear(sum(map(self.inputs, self.sizes)), width)
        self.blocks = nn.ModuleList([_Block(width, hidden, embed, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = _zero(nn.Linear(width, sum(self.sizes.values())))

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Raw outputs, one of each modality's shape."""
        states, clocks = self.shown(z, t)
        x, embedding = self.stem(torch.cat(states, 1)), self.embedding(clocks.flatten(1))
        told = self.told(condition, len(x))
        embedding = embedding if told is None else embedding + told
        for block in self.blocks:
            x = block(x, embedding)
        return self.outputs(cast(Tensor, self.head(self.norm(x))).split(list(self.sizes.values()), 1))


class JointTransformer(JointNetwork):
    """A small transformer with one token for each modality: its state, its own time, and the condition; every token attends to all.

    network(z, t, condition) -> {modality: (B, *shape)}, with heads of their own that start at 0. A layer's weights do not grow with the
    number of modalities.

    Args:
        width: of a token. depth: layers. heads: of attention, `width` / `heads` wide. Others: see `JointNetwork`.

    Raises:
        PolyscoreError: a width that the heads do not divide.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        width: int = 192,
        depth: int = 4,
        heads: int = 4,
        classes: int = 0,
        vocabularies: Mapping[str, int] | None = None,
        context: int = 0,
    ) -> None:
        super().__init__(shapes, 1, width, classes, vocabularies, context)
        if width % heads:
            raise PolyscoreError(f"joint transformer: width {width}, expected a multiple of its {heads} heads")
        self.stems = nn.ModuleDict({name: nn.Linear(self.inputs(name), width) for name in self.sizes})
        self.layers = nn.Sequential(*(Layer(width, None, heads, width // heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: _zero(nn.Linear(width, size)) for name, size in self.sizes.items()})

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Raw outputs, one of each modality's shape."""
        states, clocks = self.shown(z, t)
        x = torch.stack([stem(state) for stem, state in zip(self.stems.values(), states, strict=True)], 1) + self.embedding(clocks)
        told = self.told(condition, len(x))
        x = self.norm(self.layers(x if told is None else x + told[:, None]))
        return self.outputs([head(token) for head, token in zip(self.heads.values(), x.unbind(1), strict=True)])


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@register
class JointDenoiser(Expert):
    """One denoiser over the standardised latents of several modalities, with a time for each: p(z_1, ..., z_M), all its conditionals and
    all its marginals from one network (observed: t = 0; left out: t = 1).

    A JointMLP, or with `heads` a JointTransformer, with v-prediction; all Gaussian modalities on one path, token modalities on absorbing
    ones.
    Source: Score-Based Multimodal Autoencoder, Sec. 2.2, with the per-modality times of Bounoua et al. 2024 in place of the
    paper's clamping.

    Args:
        shapes: latent shape of each modality. path: of every Gaussian modality. heads: > 0 for the transformer (which has no use for
            `hidden`, `embed` and `dropout`). Others: see `JointMLP`.
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
        heads: int = 0,
    ) -> None:
        network: JointNetwork
        if heads:
            network = JointTransformer(shapes, width, depth, heads, classes, vocabularies, context)
        else:
            network = JointMLP(shapes, width, depth, hidden, embed, classes, dropout, vocabularies, context)
        tokens = {name: Absorbing(size) for name, size in (vocabularies or {}).items()}
        paths = {name: tokens.get(name) or path or VPSDE() for name in shapes}
        super().__init__(network, paths, shapes, {name: "logits" if name in tokens else "v" for name in shapes}, spaces)
        self.classes = classes
