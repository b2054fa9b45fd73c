"""Music tokens from a dance: the motion encoder of CDCD beside motion that runs along with the tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.errors import PolyscoreError
from polyscore.networks.transformer import Feed, TokenTransformer
from polyscore.spec import register
from polyscore.tokens.paths import Absorbing

__all__ = ["SIZES", "DanceDenoiser", "DanceNetwork", "MotionEncoder"]

SIZES: dict[str, dict[str, Any]] = {
    "small": {"width": 64, "depth": 2},
    "paper": {"width": 1024, "depth": 19, "heads": 16, "feed": "sigmoid", "steps": 80, "wide": 800, "channels": (256, 512, 1024, 1024, 1)},
}
"""Of a `DanceNetwork`: "paper" has CDCD's motion encoder (Table 5) and its dance transformer, "small" trains on a processor."""


class MotionEncoder(nn.Module):
    """One vector of a whole motion, (B, frames, features) -> (B, out).

    A linear map of the features, 3-convolutions along them with the frames as channels down to one, and a linear map (CDCD, Table 5; there
    60 frames x 219 features, 800 wide, channels 256, 512, 1024, 1024, 1, out 1024).
    """

    def __init__(self, frames: int, features: int, out: int, wide: int = 96, channels: Sequence[int] = (48, 64, 1)) -> None:
        super().__init__()
        self.first = nn.Linear(features, wide)
        sizes = [frames, *channels]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, 3) for a, b in itertools.pairwise(sizes))
        self.last = nn.Linear(channels[-1] * (wide - 2 * len(channels)), out)

    def forward(self, motion: Tensor) -> Tensor:
        """The vector."""
        h = self.first(motion)
        for conv in self.convs:
            h = conv(nn.functional.silu(h))
        return cast(Tensor, self.last(h.flatten(1)))


class DanceNetwork(nn.Module):
    """network(z, t, condition) -> {modality: logits (B, L, K)}; condition {"motion": (B, L, features), "label": genres (B,)} or None.

    The motion, (B, frames, features), runs along with the tokens (between frames linearly, where there is not one a token) and is added to
    them; its `MotionEncoder` vector is the token that cross-attention looks at. A motion of zeros says nothing (give real ones a feature
    that is always 1). With `visual` (pictures, features) the condition may have "visual" (B, pictures, features) too: more tokens of the
    cross-attention. With `steps`, norms have a table of that many time steps, and the genre is a token of the cross-attention as well.

    Args:
        modality, vocabulary, length: of the tokens. features, frames (default one a token): of the motion. genres: their number; -1: none.
        width, depth, heads, feed, steps: of the `TokenTransformer`. wide, channels: of the `MotionEncoder`.
    """

    def __init__(
        self,
        modality: str,
        vocabulary: int,
        length: int,
        features: int,
        genres: int,
        width: int,
        depth: int,
        visual: Sequence[int] | None = None,
        frames: int | None = None,
        heads: int = 4,
        feed: Feed = "gelu",
        steps: int = 0,
        wide: int = 96,
        channels: Sequence[int] = (48, 64, 1),
    ) -> None:
        super().__init__()
        self.length, self.features, self.frames = length, features, frames or length
        self.encoder = MotionEncoder(self.frames, features, width, wide, channels)
        self.along = nn.Conv1d(features, width, 5, padding=2)
        self.visual = tuple(visual) if visual else None
        self.genre = genres + 1 if steps else 0
        told = {"dance": (1, width)} | ({"genre": (1, self.genre)} if self.genre else {}) | ({"visual": self.visual} if self.visual else {})
        classes = 0 if steps else genres
        self.core = TokenTransformer(
            modality, vocabulary, (length,), width, depth, heads, 4, feed, steps, classes, conditions=told, source=width, along=width
        )

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Logits of every position."""
        given = condition if isinstance(condition, Mapping) else {"label": condition}
        motion, rows = given.get("motion"), len(next(iter(z.values())))
        if motion is None:
            motion = torch.zeros(rows, self.frames, self.features)
        if tuple(motion.shape[1:]) != (self.frames, self.features):
            raise PolyscoreError(f"motion: expected (n, {self.frames}, {self.features}), found {tuple(motion.shape)}")
        along = self.along(motion.transpose(1, 2))
        if self.frames != self.length:
            along = nn.functional.interpolate(along, self.length, mode="linear")
        told = {"label": given.get("label"), "dance": self.encoder(motion), "along": along.transpose(1, 2)}
        if self.genre:
            label = torch.as_tensor(-1 if told["label"] is None else told.pop("label")).long().expand(rows) + 1
            told |= {"label": None, "genre": nn.functional.one_hot(label, self.genre).float()[:, None]}
        seen = given.get("visual")
        if seen is not None:
            if self.visual is None:
                raise PolyscoreError("visual: expected none, as this network was built to see no pictures of the dancer")
            if tuple(seen.shape[1:]) != self.visual:
                raise PolyscoreError(f"visual: expected (n, {self.visual[0]}, {self.visual[1]}), found {tuple(seen.shape)}")
            told["visual"] = seen
        found: State = self.core(z, t, told)
        return found


@register
class DanceDenoiser(Expert):
    """A `DanceNetwork` of a named size (`SIZES`) as a denoiser of music tokens (B, length) on an absorbing path.

    `width` and `depth` override the size's; `visual` and `frames` as there.

    Raises:
        PolyscoreError: an unknown size.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int = 32,
        features: int = 33,
        genres: int = 3,
        width: int | None = None,
        depth: int | None = None,
        modality: str = "music",
        visual: Sequence[int] | None = None,
        size: str = "small",
        frames: int | None = None,
    ) -> None:
        if size not in SIZES:
            raise PolyscoreError(f"size {size!r}: expected one of {', '.join(SIZES)}")
        chosen = SIZES[size] | {name: value for name, value in (("width", width), ("depth", depth)) if value is not None}
        network = DanceNetwork(modality, vocabulary, length, features, genres, visual=visual, frames=frames, **chosen)
        super().__init__(network, {modality: Absorbing(vocabulary)}, {modality: (length,)}, "logits")
