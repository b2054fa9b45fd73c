"""The two-stream discriminator of MMDisCo (Sec. 4, Tables 6, 9 and 10), for any number of modalities of any rank.

States without the batch, by kind: vector (n,), waveform (C, L), image (C, H, W), spectrogram (C, time, mel), video (F, C, H, W).
The streams never mix before the fusion. No batch statistics; every operation can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.networks.conditioned import Conditioned
from polyscore.networks.fusion import FUSIONS
from polyscore.networks.timed import Sinusoid
from polyscore.networks.vit import PatchStream
from polyscore.spec import register

__all__ = ["KINDS", "StreamNetwork", "StreamSize", "infer_kind"]

KINDS = ("vector", "waveform", "spectrogram", "image", "video")
_RANKS = {1: "vector", 2: "waveform", 3: "image", 4: "video"}


def infer_kind(shape: Sequence[int]) -> str:
    """The kind of a state of this shape, by its rank; three numbers mean an image (name "spectrogram" to keep its time axis)."""
    if len(shape) not in _RANKS:
        raise PolyscoreError(f"discriminator: a state of shape {tuple(shape)}: expected one to four dimensions")
    return _RANKS[len(shape)]


@dataclass(frozen=True)
class StreamSize:
    """How large a `StreamNetwork` is, and what it is made of.

    Args:
        width: channels of the first level.
        blocks: residual blocks a level.
        multipliers: of the width, one a level.
        max_dilation: block k of a waveform or spectrogram stream has dilation 2^(k mod max_dilation).
        fusion: "mlp", "transformer" or "aligned".
        fusion_depth: layers of a transformer fusion.
        extractor: "resblock" or "vit".
    """

    width: int = 32
    blocks: int = 1
    multipliers: tuple[int, ...] = (1, 2, 4)
    max_dilation: int = 1
    fusion: Literal["mlp", "transformer", "aligned"] = "mlp"
    fusion_depth: int = 5
    extractor: Literal["resblock", "vit"] = "resblock"


class Conv(nn.Module):
    """A convolution over all positions of a kind; a video's 3-kernel is a 2-D one per frame, then a 1-D one over frames per pixel."""

    def __init__(self, kind: str, before: int, after: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.kind, self.kernel = kind, kernel
        self.time: nn.Module | None = None
        if kind == "vector":
            self.space: nn.Module = nn.Linear(before, after)
        elif kind == "waveform":
            self.space = nn.Conv1d(before, after, kernel, padding="same", dilation=dilation)
        else:
            flat = dilation if kind == "spectrogram" else 1
            self.space = nn.Conv2d(before, after, kernel, padding="same", dilation=flat)
            if kind == "video" and kernel > 1:
                self.time = nn.Conv1d(after, after, kernel, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C', ...); video is (B, F, C, H, W)."""
        if self.kind != "video":
            return cast(Tensor, self.space(x))
        B, F = x.shape[:2]
        y = cast(Tensor, self.space(x.flatten(0, 1))).unflatten(0, (B, F))
        if self.time is None:
            return y
        C, H, W = y.shape[2:]
        line = y.permute(0, 3, 4, 2, 1).reshape(B * H * W, C, F)
        return cast(Tensor, self.time(line)).reshape(B, H, W, C, F).permute(0, 4, 3, 1, 2)


def pool(kind: str, x: Tensor) -> Tensor:
    """Averages: waveform by 4, spectrogram by 2 in mel, image and video by 2 x 2, vectors not at all; frames stay."""
    if kind == "vector":
        return x
    if kind == "waveform":
        return nn.functional.avg_pool1d(x, min(4, x.shape[-1]))
    sides = (1 if kind == "spectrogram" else min(2, x.shape[-2]), min(2, x.shape[-1]))
    if kind == "video":
        return nn.functional.avg_pool2d(x.flatten(0, 1), sides).unflatten(0, x.shape[:2])
    return nn.functional.avg_pool2d(x, sides)


class Norm(nn.GroupNorm):
    """Group normalisation over 32 groups of channels (a vector's all together); a video's frames share their statistics."""

    def __init__(self, width: int, kind: str, affine: bool = True) -> None:
        super().__init__(1 if kind == "vector" else 32, width, affine=affine)
        self.video = kind == "video"

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x of the same shape."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2) if self.video else super().forward(x)


class ResBlock(nn.Module):
    """skip(x) + f(x): norm, SiLU, 3-convolution, perhaps pooled; norm modulated by the embedding, SiLU, 1-convolution that starts at 0."""

    def __init__(self, kind: str, before: int, after: int, embed: int, dilation: int = 1, down: bool = False) -> None:
        super().__init__()
        self.kind, self.down = kind, down
        self.norm = Norm(before, kind)
        self.conv = Conv(kind, before, after, 3, dilation)
        self.modulated = Norm(after, kind, affine=False)
        self.modulation = nn.Linear(embed, 2 * after)
        self.out = Conv(kind, after, after, 1)
        self.skip = Conv(kind, before, after, 1) if before != after else None
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, before, ...) and (B, embed) -> (B, after, ...)."""
        h = self.conv(nn.functional.silu(self.norm(x)))
        if self.down:
            h, x = pool(self.kind, h), pool(self.kind, x)
        h = self.modulated(h)
        place = [len(h), 1, -1, 1, 1] if self.kind == "video" else [len(h), -1, *[1] * (h.ndim - 2)]
        scale, shift = (part.reshape(place) for part in self.modulation(nn.functional.silu(embedding)).chunk(2, dim=1))
        h = self.out(nn.functional.silu(h * (1 + scale) + shift))
        return h + (x if self.skip is None else self.skip(x))


class ConvStream(nn.Module):
    """One modality: a stem, levels of `blocks` residual blocks of width * multiplier, all but the last ended by a pooling block."""

    def __init__(
        self, kind: str, shape: Sequence[int], width: int, blocks: int, multipliers: Sequence[int], embed: int, max_dilation: int
    ) -> None:
        super().__init__()
        self.kind = kind
        channels = shape[1] if kind == "video" else shape[0]
        now = width * multipliers[0]
        self.stem = Conv(kind, channels, now, 3)
        found: list[ResBlock] = []
        for level, multiplier in enumerate(multipliers):
            last = level == len(multipliers) - 1
            for place in range(blocks + (not last)):
                dilation = 2 ** ((len(found) + 1) % max_dilation)
                found.append(ResBlock(kind, now, width * multiplier, embed, dilation, down=place == blocks))
                now = width * multiplier
        self.blocks = nn.ModuleList(found)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, *shape) -> (B, slots of time, features)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, embedding)
        if self.kind == "video":
            return x.mean((3, 4))
        if self.kind == "vector":
            return x[:, None]
        if self.kind == "image":
            return x.mean((2, 3))[:, None]
        return (x.mean(3) if self.kind == "spectrogram" else x).transpose(1, 2)


@register
class StreamNetwork(Conditioned):
    """network(z, t, condition) -> (B,) logits. Two modalities and fusion "mlp" are the authors' default discriminator.

    Conditions, embedded and added to the time (`Conditioned`): labels (B,) of `classes` classes (-1: none), {modality: labels or vectors
    (B, dim)} for that modality's stream (all zeros: none), or both as {"label": ..., modality: ...}. Others are refused.

    Args:
        shapes: of each modality's states. kinds: of each where the rank does not say it ("spectrogram").
        axes: {modality: order}: the network sees axis order[k] of such a state as its axis k, as a video (C, F, H, W) by (1, 0, 2, 3).
        width: C. blocks: L, residual blocks a level. multipliers: of C. embed: of the time; default C.
        max_dilation: block k of a waveform or spectrogram stream has dilation 2^(k mod max_dilation).
        text: size of each modality's text embedding. classes: of labels for all, or {modality: classes} of each one's.
        fusion: "mlp" (mean over time, concatenated, linear), "transformer" (all slots as one sequence), "aligned" (slots of all
            modalities at one instant are one token; the paper's "Frieren").
        fusion_depth: layers of a transformer fusion, the class token's one included.
        extractor: "resblock", or "vit" for modalities with positions (vectors keep residual blocks).
        vit: of the transformers, "width" (256), "depth" (4), "side" (4) and "step" (2): patches, the latter along time.
        zero: start the last layer at 0, so that the ratio starts at 0.

    Raises:
        PolyscoreError: an unknown kind, fusion, extractor or option of one.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        width: int = 128,
        blocks: int = 2,
        multipliers: Sequence[int] = (1, 2, 4),
        kinds: Mapping[str, str] | None = None,
        embed: int | None = None,
        max_dilation: int = 1,
        text: Mapping[str, int] | None = None,
        classes: int | Mapping[str, int] = 0,
        fusion: Literal["mlp", "transformer", "aligned"] = "mlp",
        fusion_depth: int = 5,
        extractor: Literal["resblock", "vit"] = "resblock",
        steps: int = 1000,
        zero: bool = True,
        axes: Mapping[str, Sequence[int]] | None = None,
        vit: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        size, features = embed or width, width * multipliers[-1]
        self.names = list(shapes)
        self.axes = _orders(shapes, axes or {})
        shapes = {name: [shape[axis] for axis in self.axes.get(name, range(len(shape)))] for name, shape in shapes.items()}
        self.kinds = {name: (kinds or {}).get(name, infer_kind(shape)) for name, shape in shapes.items()}
        _check(self.kinds, fusion, extractor, vit or {})
        self.sinusoid = Sinusoid(size, steps)
        self.time = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))
        self.embed_conditions(classes, text, size)
        self.streams = nn.ModuleDict()
        for name, kind in self.kinds.items():
            if extractor == "vit" and kind != "vector":
                self.streams[name] = PatchStream(kind, shapes[name], features, size, **(vit or {}))
            else:
                self.streams[name] = ConvStream(kind, shapes[name], width, blocks, multipliers, size, max_dilation)
        self.fusion = FUSIONS[fusion](len(self.names), features, size, fusion_depth)
        self.head = nn.Linear(cast(int, self.fusion.out), 1)
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> Tensor:
        """Logits (B,)."""
        clocks = {name: cast(Tensor, self.time(self.sinusoid(t[name]))) for name in self.names}
        told = self.told(condition, clocks[self.names[0]])
        embeddings = {name: sum((told[key] for key in (name, "label") if key in told), clock) for name, clock in clocks.items()}
        features = [self.streams[name](self._turned(name, z[name]), embeddings[name]) for name in self.names]
        shared = torch.stack(list(clocks.values())).mean(0)
        return cast(Tensor, self.head(self.fusion(features, shared))[:, 0])

    def _turned(self, name: str, z: Tensor) -> Tensor:
        return z.permute(0, *(1 + axis for axis in self.axes[name])) if name in self.axes else z


def _orders(shapes: Mapping[str, Sequence[int]], axes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    for name, order in axes.items():
        if name not in shapes:
            raise PolyscoreError(f"discriminator: axes of modality {name!r}, expected one of {sorted(shapes)}")
        if sorted(order) != list(range(len(shapes[name]))):
            raise PolyscoreError(f"discriminator: axes {list(order)} of {name!r}, expected an order of 0 to {len(shapes[name]) - 1}")
    return {name: tuple(order) for name, order in axes.items()}


def _check(kinds: Mapping[str, str], fusion: str, extractor: str, vit: Mapping[str, int]) -> None:
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise PolyscoreError(f"discriminator: modality {name!r} of kind {kind!r}: expected one of {', '.join(KINDS)}")
    if fusion not in FUSIONS:
        raise PolyscoreError(f"discriminator: fusion {fusion!r}: expected one of {', '.join(FUSIONS)}")
    if extractor not in ("resblock", "vit"):
        raise PolyscoreError(f"discriminator: extractor {extractor!r}: expected resblock or vit")
    unknown = sorted(set(vit) - {"width", "depth", "side", "step"})
    if unknown or (vit and extractor != "vit"):
        wrong = f"option {unknown[0]!r}, expected width, depth, side or step" if unknown else f"options {dict(vit)} without extractor 'vit'"
        raise PolyscoreError(f"discriminator: vit: {wrong}")
