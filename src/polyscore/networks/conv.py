"""Small convolutional encoders, decoders and classifiers. Group normalisation only: no statistic crosses the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyscore.spec import register

__all__ = ["ConvDecoder", "ConvEncoder", "ResBlock", "channels_last"]


def channels_last(module: nn.Module) -> None:
    """Store convolution kernels with the channel as the fastest axis, in place: the same results, faster on CPUs."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(width, 8), width)


def _conv(a: int, b: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, stride, padding=1)


class ResBlock(nn.Module):
    """x + f(x), f = (norm, SiLU, 3x3 convolution) twice, with dropout before the second convolution."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(width), nn.SiLU(), _conv(width, width), _norm(width), nn.SiLU(), nn.Dropout(dropout), _conv(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        y: Tensor = x + self.body(x)
        return y


@register
class ConvEncoder(nn.Module):
    """(B, C, H, W) or (B, H, W) -> (B, out).

    Patches of `patch` x `patch` become channels, then one level per entry of `widths` (`blocks` residual blocks each, halved
    in size between levels), then a linear layer on all positions, or on their average when `pool` is true.
    H and W must be multiples of patch * 2^(levels - 1).
    """

    def __init__(
        self,
        shape: Sequence[int],
        out: int,
        widths: Sequence[int] = (32, 64),
        patch: int = 2,
        blocks: int = 1,
        dropout: float = 0.0,
        pool: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = _three(shape)
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), _conv(channels * patch**2, widths[0])]
        for level, w in enumerate(widths):
            if level:
                layers.append(_conv(widths[level - 1], w, stride=2))
            layers.extend(ResBlock(w, dropout) for _ in range(blocks))
        last = widths[-1]
        layers.extend([_norm(last), nn.SiLU()])
        self.body = nn.Sequential(*layers)
        self.pool = pool
        shrink = patch * 2 ** (len(widths) - 1)
        self.head = nn.Linear(last * (1 if pool else (height // shrink) * (width // shrink)), out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, H, W) -> (B, out)."""
        y = self.body(x.unsqueeze(1) if x.dim() == 3 else x)
        y = y.mean((2, 3)) if self.pool else y.flatten(1)
        out: Tensor = self.head(y)
        return out


@register
class ConvDecoder(nn.Module):
    """(B, latent) -> (B, *shape): `ConvEncoder` mirrored, with nearest-neighbour upsampling and sub-pixel output."""

    def __init__(
        self,
        shape: Sequence[int],
        latent: int,
        widths: Sequence[int] = (32, 64),
        patch: int = 2,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        channels, height, width = _three(shape)
        shrink = patch * 2 ** (len(widths) - 1)
        self.start = (widths[-1], height // shrink, width // shrink)
        layers: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            layers.extend(ResBlock(widths[level], dropout) for _ in range(blocks))
            if level:
                layers.extend([nn.Conv2d(widths[level], widths[level - 1], 1), nn.Upsample(scale_factor=2)])
        layers.extend([_norm(widths[0]), nn.SiLU(), _conv(widths[0], channels * patch**2), nn.PixelShuffle(patch)])
        self.stem = nn.Linear(latent, math.prod(self.start))
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, *shape)."""
        y: Tensor = self.body(self.stem(z).unflatten(1, self.start))
        return y.reshape(-1, *self.shape)


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = shape if len(shape) == 3 else (1, *shape)
    return channels, height, width
