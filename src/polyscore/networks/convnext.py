"""The UNet of the Score-Based Multimodal Autoencoder: latents of 64 numbers as the 8 x 8 channels of one picture, one common time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert, State
from polyscore.errors import PolyscoreError
from polyscore.paths import VPSDE, Path
from polyscore.spec import register

__all__ = ["ConvNextUNet", "StackedDenoiser"]

HEADS, HEAD = 4, 32


class _Block(nn.Module):
    """Depthwise 7x7 convolution plus a bias from the time, then norm, 3x3, GELU, norm, 3x3; a 1x1 skip where the width changes."""

    def __init__(self, a: int, b: int, time: int | None) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.GELU(), nn.Linear(time, a)) if time else None
        self.depthwise = nn.Conv2d(a, a, 7, padding=3, groups=a)
        self.body = nn.Sequential(
            nn.GroupNorm(1, a),
            nn.Conv2d(a, 2 * b, 3, padding=1),
            nn.GELU(),
            nn.GroupNorm(1, 2 * b),
            nn.Conv2d(2 * b, b, 3, padding=1),
        )
        self.skip = nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        y = self.depthwise(x)
        if self.time is not None and t is not None:
            y = y + self.time(t)[:, :, None, None]
        out: Tensor = self.body(y) + self.skip(x)
        return out


class _Attention(nn.Module):
    """x + attention(norm(x)): over all pairs of positions, or linear in their number."""

    def __init__(self, width: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm, self.qkv = nn.GroupNorm(1, width), nn.Conv2d(width, 3 * HEADS * HEAD, 1, bias=False)
        out: list[nn.Module] = [nn.Conv2d(HEADS * HEAD, width, 1)]
        self.out = nn.Sequential(*out, *([nn.GroupNorm(1, width)] if linear else []))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, HEADS, HEAD)).unbind(1)
        if self.linear:
            q, k = q.softmax(2) * HEAD**-0.5, k.softmax(3)
            y = (k @ v.transpose(2, 3)).transpose(2, 3) @ q
        else:
            y = v @ ((q * HEAD**-0.5).transpose(2, 3) @ k).softmax(3).transpose(2, 3)
        out: Tensor = x + self.out(y.flatten(1, 2).unflatten(2, x.shape[2:]))
        return out


class _Level(nn.Module):
    """Two blocks, linear attention, and a change of size (or none)."""

    def __init__(self, a: int, b: int, time: int, resize: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.attention, self.resize = _Block(a, b, time), _Block(b, b, time), _Attention(b, True), resize

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What goes on and what is kept for the skip."""
        kept: Tensor = self.attention(self.second(self.first(x, t), t))
        return self.resize(kept), kept


class ConvNextUNet(nn.Module):
    """(B, channels, H, W) and t (B,) -> (B, channels, H, W); widths dim x (1, 2, 2, 2), halved in size between levels.

    As the authors have it, the largest skip is never used: four are kept, three are taken (42.7 M parameters for 10 channels and dim 128,
    11.0 M for 5 and 64). The time is scaled by 1000 before its sinusoids; unscaled, as they run it, nearly all of them are
    linear in t.
    """

    def __init__(self, channels: int, dim: int = 64, multiples: Sequence[int] = (1, 2, 2, 2), time_scale: float = 1000.0) -> None:
        super().__init__()
        start, time = dim // 3 * 2, 4 * dim
        widths = [start, *(dim * m for m in multiples)]
        pairs = list(itertools.pairwise(widths))
        self.register_buffer("frequencies", torch.exp(torch.arange(dim // 2) * (-math.log(1e4) / (dim // 2 - 1))), persistent=False)
        self.time_scale = time_scale
        self.time = nn.Sequential(nn.Linear(dim, time), nn.GELU(), nn.Linear(time, time))
        self.stem = nn.Conv2d(channels, start, 7, padding=3)
        last = len(pairs) - 1
        self.downs = nn.ModuleList(
            [_Level(a, b, time, nn.Conv2d(b, b, 4, 2, 1) if place < last else nn.Identity()) for place, (a, b) in enumerate(pairs)]
        )
        self.middle = nn.ModuleList(
            [_Block(widths[-1], widths[-1], time), _Attention(widths[-1], False), _Block(widths[-1], widths[-1], time)]
        )
        self.ups = nn.ModuleList([_Level(2 * b, a, time, nn.ConvTranspose2d(a, a, 4, 2, 1)) for a, b in reversed(pairs[1:])])
        self.last, self.head = _Block(dim, dim, None), nn.Conv2d(dim, channels, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The raw output."""
        angles = self.time_scale * t[:, None] * cast(Tensor, self.frequencies)
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x, skips = self.stem(x), []
        for level in self.downs:
            x, kept = level(x, embedding)
            skips.append(kept)
        x = self.middle[2](self.middle[1](self.middle[0](x, embedding)), embedding)
        for level in self.ups:
            x, _ = level(torch.cat([x, skips.pop()], 1), embedding)
        out: Tensor = self.head(self.last(x))
        return out


class _Stacked(nn.Module):
    """network(z, t, condition) on the latents of all modalities as channels of one picture."""

    def __init__(self, names: Sequence[str], side: int, dim: int, time_scale: float) -> None:
        super().__init__()
        self.names, self.side = list(names), side
        self.unet = ConvNextUNet(len(self.names), dim, time_scale=time_scale)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """One common time: that of the modality that is furthest from clean."""
        x = torch.stack([z[name].reshape(-1, self.side, self.side) for name in self.names], 1)
        now = torch.stack([t[name] for name in self.names]).amax(0)
        out = self.unet(x, now)
        return {name: out[:, place].reshape_as(z[name]) for place, name in enumerate(self.names)}


@register
class StackedDenoiser(Expert):
    """The paper's joint score: latents (side^2,) stacked as a picture, a ConvNext UNet that gives eps = -S score, one common time.

    With one clock for all modalities observed ones can only be clamped (`conditioning="scaled"` and the like, biased). Train it by
    `JointObjective(joint=1, apart=0)`.

    Args:
        shapes: latent shape of each modality, side x side numbers. path: (0.1, 5) for ten modalities, (1, 5) for fewer.
        dim: default 128 for more than five modalities, else 64.

    Raises:
        PolyscoreError: latents of unequal sizes, or not a square number.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], path: Path | None = None, dim: int | None = None, time_scale: float = 1000.0
    ) -> None:
        sizes = {math.prod(shape) for shape in shapes.values()}
        side = math.isqrt(max(sizes))
        if len(sizes) != 1 or side * side != max(sizes):
            raise PolyscoreError(f"StackedDenoiser: expected latents of one square number of entries, found {sorted(sizes)}")
        many = len(shapes) > 5
        network = _Stacked(list(shapes), side, dim or (128 if many else 64), time_scale)
        super().__init__(network, dict.fromkeys(shapes, path or VPSDE(0.1 if len(shapes) >= 10 else 1.0, 5.0)), shapes, "eps")
