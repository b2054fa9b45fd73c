"""Music tokens from a dance: the motion encoder of CDCD beside motion that runs along with the tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.errors import PolyscoreError
from polyscore.networks.transformer import TokenTransformer
from polyscore.spec import register
from polyscore.tokens.paths import Absorbing

__all__ = ["DanceDenoiser", "DanceNetwork", "MotionEncoder"]


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

    The motion has one frame a token and is added to it; its `MotionEncoder` vector is the token that cross-attention looks at. A motion of
    zeros says nothing (give real ones a feature that is always 1). With `visual` (pictures, features) the condition may have "visual" (B,
    pictures, features) too: more tokens of the cross-attention.
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
    ) -> None:
        super().__init__()
        self.length, self.features = length, features
        self.encoder = MotionEncoder(length, features, width)
        self.along = nn.Conv1d(features, width, 5, padding=2)
        self.visual = tuple(visual) if visual else None
        told = {"dance": (1, width)} | ({"visual": self.visual} if self.visual else {})
        self.core = TokenTransformer(
            modality, vocabulary, (length,), width, depth, classes=genres, conditions=told, source=width, along=width
        )

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Logits of every position."""
        given = condition if isinstance(condition, Mapping) else {"label": condition}
        motion = given.get("motion")
        if motion is None:
            motion = torch.zeros(len(next(iter(z.values()))), self.length, self.features)
        if tuple(motion.shape[1:]) != (self.length, self.features):
            raise PolyscoreError(f"motion: expected (n, {self.length}, {self.features}), found {tuple(motion.shape)}")
        told = {"label": given.get("label"), "dance": self.encoder(motion), "along": self.along(motion.transpose(1, 2)).transpose(1, 2)}
        seen = given.get("visual")
        if seen is not None:
            if self.visual is None or tuple(seen.shape[1:]) != self.visual:
                raise PolyscoreError(f"visual: expected (n, {self.visual}), found {tuple(seen.shape)}")
            told["visual"] = seen
        found: State = self.core(z, t, told)
        return found


@register
class DanceDenoiser(Expert):
    """A `DanceNetwork` as a denoiser of music tokens (B, length) on an absorbing path; `visual` as there."""

    def __init__(
        self,
        vocabulary: int,
        length: int = 32,
        features: int = 33,
        genres: int = 3,
        width: int = 64,
        depth: int = 2,
        modality: str = "music",
        visual: Sequence[int] | None = None,
    ) -> None:
        network = DanceNetwork(modality, vocabulary, length, features, genres, width, depth, visual)
        super().__init__(network, {modality: Absorbing(vocabulary)}, {modality: (length,)}, "logits")
