"""Transformer over tokens: adaptive norms, cross-attention to condition tokens of several modalities, 1-D and 2-D positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.errors import PolyscoreError
from polyscore.networks.mlp import FourierTime
from polyscore.spec import register
from polyscore.tokens.paths import Absorbing, TokenPath

__all__ = ["PRESETS", "ConditionTokens", "Size", "TokenDenoiser", "TokenTransformer", "preset"]

Feed = Literal["gelu", "sigmoid", "conv"]


class AdaptiveNorm(nn.Module):
    """norm(x) (1 + scale) + shift, both from an embedding, or from a table of `rows` (SiLU first): time steps or classes."""

    def __init__(self, width: int, embed: int, rows: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width) if rows else None
        self.linear = nn.Linear(width if rows else embed, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        """x (B, L, width); key (B,) rows of the table, or an embedding (B, embed)."""
        value = nn.functional.silu(self.table(key)) if self.table is not None else key
        scale, shift = self.linear(value).unsqueeze(1).chunk(2, -1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class Attention(nn.Module):
    """Multi-head attention of x to itself or to `source` (B, S, source width), where `mask` (B, S) says which to see."""

    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise PolyscoreError(f"attention: expected a width that {heads} heads divide, found {width}")
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(source or width, width), nn.Linear(source or width, width)

    def forward(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, L, width) -> (B, L, width)."""
        kept = x if source is None else source
        q, k, v = (self._split(f(y)) for f, y in ((self.query, x), (self.key, kept), (self.value, kept)))
        seen = None if mask is None else mask[:, None, None, :]
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return cast(Tensor, self.out(y.transpose(1, 2).flatten(2)))

    def _split(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers (GELU, or y sigmoid(1.702 y)), or two 3 x 3 convolutions on the grid of the tokens."""

    def __init__(self, width: int, times: int, kind: Feed, grid: Sequence[int]) -> None:
        super().__init__()
        self.kind, self.grid = kind, tuple(grid)
        if kind == "conv":
            self.rise: nn.Module = nn.Conv2d(width, times * width, 3, padding=1)
            self.fall: nn.Module = nn.Conv2d(times * width, width, 3, padding=1)
        else:
            self.rise, self.fall = nn.Linear(width, times * width), nn.Linear(times * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, width)."""
        if self.kind == "conv":
            x = x.transpose(1, 2).unflatten(2, self.grid)
        h = self.rise(x)
        y: Tensor = self.fall(h * torch.sigmoid(1.702 * h) if self.kind == "sigmoid" else nn.functional.gelu(h))
        return y.flatten(2).transpose(1, 2) if self.kind == "conv" else y


class Block(nn.Module):
    """x += self-attention(norm_t(x)); x += cross-attention(norm_t(x), condition); x += feed-forward(norm(x))."""

    def __init__(
        self, width: int, heads: int, times: int, kind: Feed, grid: Sequence[int], embed: int, steps: int, source: int, classes: int
    ) -> None:
        super().__init__()
        self.first, self.own = AdaptiveNorm(width, embed, steps), Attention(width, heads)
        self.second = AdaptiveNorm(width, embed, steps) if source else None
        self.cross = Attention(width, heads, source) if source else None
        self.third: nn.Module = AdaptiveNorm(width, embed, classes) if classes else nn.LayerNorm(width)
        self.classed = bool(classes)
        self.feed = FeedForward(width, times, kind, grid)

    def forward(self, x: Tensor, key: Tensor, label: Tensor, source: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, L, width) -> (B, L, width)."""
        x = x + self.own(self.first(x, key))
        if self.cross is not None and self.second is not None:
            x = x + self.cross(self.second(x, key), source, mask)
        y: Tensor = self.third(x, label) if self.classed else self.third(x)
        return x + cast(Tensor, self.feed(y))


class ConditionTokens(nn.Module):
    """Features of several modalities as one sequence of condition tokens, with a mask of what is there.

    {name: (B, S, D)} or (B, D), and optionally {"name_mask": (B, S)}; a modality that is absent is left out of attention. A token that
    stands for "no condition" is always there, so attention never sees nothing.

    Args:
        sizes: {name: (length S, features D)}. width: of the tokens.
    """

    def __init__(self, sizes: Mapping[str, Sequence[int]], width: int) -> None:
        super().__init__()
        self.sizes, self.width = {k: (int(v[0]), int(v[1])) for k, v in sizes.items()}, width
        self.maps = nn.ModuleDict({name: nn.Linear(features, width) for name, (_, features) in self.sizes.items()})
        self.places = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(length, width)) for name, (length, _) in self.sizes.items()})
        self.nothing = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, condition: Mapping[str, Tensor] | None, rows: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, S_1 + S_2 + ... + 1, width) and their mask."""
        tokens, masks = [self.nothing.expand(rows, -1, -1)], [self.nothing.new_ones(rows, 1, dtype=torch.bool)]
        for name, value in (condition or {}).items():
            if name.endswith("_mask"):
                continue
            if name not in self.sizes:
                raise PolyscoreError(f"condition {name!r}: expected one of {', '.join(self.sizes)}")
            wide = value.unsqueeze(1) if value.ndim == 2 else value
            here = (condition or {}).get(f"{name}_mask")
            tokens.append(self.maps[name](wide) + self.places[name][: wide.shape[1]])
            masks.append(torch.ones(wide.shape[:2], dtype=torch.bool, device=wide.device) if here is None else here.bool())
        return torch.cat(tokens, 1), torch.cat(masks, 1)


class TokenTransformer(nn.Module):
    """network(z, t, condition) -> {modality: logits (B, L, K)} for one token modality.

    Args:
        modality: its name. vocabulary: K. grid: (L,) or (H, W); 2-D positions are a row and a column table.
        width, depth, heads, times (of the feed-forward's width), feed: of the blocks.
        steps: > 0 keeps a table of that many time steps in every norm (the papers'); 0 has Fourier features of t.
        classes: class labels as condition (-1 or None: none), in the feed-forward's norm if `class_norm`, else added to the time.
        conditions: {name: (length, features)} as a sequence of condition tokens (`ConditionTokens`); source: their width.
        along: > 0 takes condition["along"], (B, L, along), one row a token, added to it.
        pooled: the mean of the condition tokens that are there is added to the time, too, so that every norm sees it.
    """

    def __init__(
        self,
        modality: str,
        vocabulary: int,
        grid: Sequence[int],
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        times: int = 4,
        feed: Feed = "gelu",
        steps: int = 0,
        classes: int = 0,
        class_norm: bool = False,
        conditions: Mapping[str, Sequence[int]] | None = None,
        source: int = 0,
        along: int = 0,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        if pooled and (steps or not conditions):
            raise PolyscoreError("pooled: expected conditions and Fourier features of the time (steps 0)")
        self.along = nn.Linear(along, width) if along else None
        self.modality, self.vocabulary, self.grid, self.steps = modality, vocabulary, tuple(grid), steps
        self.classes, self.class_norm, embed = classes, class_norm, 2 * width
        self.tokens = nn.Embedding(vocabulary + 1, width)
        self.places = nn.ParameterList([nn.Parameter(torch.zeros(side, width)) for side in self.grid])
        self.time = None if steps else nn.Sequential(FourierTime(32), nn.Linear(32, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.labels = nn.Embedding(classes + 1, embed) if classes and not class_norm else None
        self.sequence = ConditionTokens(conditions, source or width) if conditions else None
        self.pooled = nn.Linear(source or width, embed) if pooled else None
        wide, rows = (source or width) if conditions or source else 0, classes + 1 if class_norm else 0
        self.blocks = nn.ModuleList([Block(width, heads, times, feed, self.grid, embed, steps, wide, rows) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        self.apply(_initialise)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Logits of every position. A condition is a tensor of labels (B,), or a mapping for `ConditionTokens` with perhaps "label"."""
        tokens, clock = z[self.modality], t[self.modality]
        rows = len(tokens)
        given = condition if isinstance(condition, Mapping) else {"label": condition}
        label = self._label(given.get("label"), rows, tokens.device)
        x = self.tokens(tokens) + self._positions()
        if self.along is not None and given.get("along") is not None:
            x = x + self.along(given["along"])
        sequences = {k: v for k, v in given.items() if k not in ("label", "along")}
        source, mask = (None, None) if self.sequence is None else self.sequence(sequences, rows)
        key = self._key(clock, label, source, mask)
        for block in self.blocks:
            x = block(x, key, label, source, mask)
        return {self.modality: self.head(self.norm(x))}

    def _label(self, label: Any, rows: int, device: torch.device) -> Tensor:
        found = torch.full((), -1, device=device) if label is None else torch.as_tensor(label, device=device)
        return found.long().expand(rows) + 1

    def _positions(self) -> Tensor:
        if len(self.places) == 1:
            return cast(Tensor, self.places[0])
        return (self.places[0][:, None] + self.places[1][None]).flatten(0, 1)

    def _key(self, t: Tensor, label: Tensor, source: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.time is None:
            return (t * self.steps).round().long().clamp(1, self.steps) - 1
        key: Tensor = self.time(t)
        if self.pooled is not None and source is not None and mask is not None:
            here = mask.unsqueeze(-1).to(source.dtype)
            key = key + self.pooled((source * here).sum(1) / here.sum(1))
        return nn.functional.silu(key if self.labels is None else key + self.labels(label))


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) weights, zero biases, as the papers' code has it."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, TokenTransformer):
        for place in module.places:
            nn.init.normal_(place, std=0.02)


_PAPER = {"heads": 16, "steps": 100}
PRESETS: dict[str, dict[str, Any]] = {
    "dance": _PAPER | {"vocabulary": 2048, "grid": (344,), "width": 1024, "depth": 19, "feed": "sigmoid", "steps": 80, "source": 1024},
    "text": _PAPER | {"vocabulary": 2887, "grid": (32, 32), "width": 192, "depth": 18, "times": 2, "feed": "conv", "source": 512},
    "class": _PAPER | {"vocabulary": 974, "grid": (16, 16), "width": 512, "depth": 24, "feed": "conv", "classes": 1000, "class_norm": True},
    "small": {"vocabulary": 64, "grid": (7, 7), "width": 64, "depth": 2, "heads": 4, "classes": 10},
}
"""Sizes: "dance", "text" and "class" are the papers' (Tables 5 and B3 of CDCD's code), "small" trains in minutes on a processor."""
Size = Literal["small", "text", "class", "dance"]
_CONDITIONS = {"dance": {"dance": (60, 1024)}, "text": {"text": (77, 512)}}


def preset(name: str, modality: str = "tokens", **changes: Any) -> TokenTransformer:
    """A transformer of a named size; `changes` override it. Build the large ones under `torch.device("meta")` to count them.

    Raises:
        PolyscoreError: an unknown name.
    """
    if name not in PRESETS:
        raise PolyscoreError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
    return TokenTransformer(modality, **{**PRESETS[name], "conditions": _CONDITIONS.get(name), **changes})


@register
class TokenDenoiser(Expert):
    """A `TokenTransformer` of a named size as a denoiser of one token modality.

    Args:
        modality: its name. size: see `PRESETS`. path: default absorbing. changes: of the preset.
    """

    def __init__(self, modality: str, size: str = "small", path: TokenPath | None = None, changes: Mapping[str, Any] | None = None) -> None:
        network = preset(size, modality, **dict(changes or {}))
        length = 1
        for side in network.grid:
            length *= side
        super().__init__(network, {modality: path or Absorbing(network.vocabulary)}, {modality: (length,)}, "logits")
        self.classes = network.classes
