"""Convolutional networks between data and a smaller grid of vectors, in one dimension (sound) or two (pictures)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from polyscore.errors import PolyscoreError

__all__ = ["DilatedStack", "grid_decoder", "grid_encoder"]

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


class DilatedStack(nn.Module):
    """x + conv1(relu(conv3(relu(x)))) with dilations growth^i, as in the codec of Jukebox; `backwards` turns their order."""

    def __init__(self, dimension: int, width: int, depth: int, growth: int = 3, backwards: bool = False) -> None:
        super().__init__()
        conv = _CONV[dimension]
        dilations = [growth**i for i in range(depth)]
        self.parts = nn.ModuleList(
            nn.Sequential(nn.ReLU(), conv(width, width, 3, padding=d, dilation=d), nn.ReLU(), conv(width, width, 1))
            for d in (reversed(dilations) if backwards else dilations)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, ...) -> the same shape."""
        for part in self.parts:
            x = x + part(x)
        return x


def _checked(dimension: int, strides: Sequence[int]) -> None:
    if dimension not in _CONV or not strides or any(s not in (2, 4) for s in strides):
        raise PolyscoreError(f"grid network: expected 1 or 2 dimensions and strides of 2 or 4, found {dimension} and {list(strides)}")


def grid_encoder(
    dimension: int, channels: int, out: int, width: int = 32, strides: Sequence[int] = (2, 2), depth: int = 1, growth: int = 1
) -> nn.Sequential:
    """(B, channels, *size) -> (B, out, *size / hop), hop the product of the strides. Each stride is followed by a `DilatedStack`."""
    _checked(dimension, strides)
    conv = _CONV[dimension]
    layers: list[nn.Module] = []
    for place, stride in enumerate(strides):
        layers.append(conv(channels if place == 0 else width, width, 2 * stride, stride, stride // 2))
        layers.append(DilatedStack(dimension, width, depth, growth))
    return nn.Sequential(*layers, cast(nn.Module, conv(width, out, 3, padding=1)))


def grid_decoder(
    dimension: int, channels: int, out: int, width: int = 32, strides: Sequence[int] = (2, 2), depth: int = 1, growth: int = 1
) -> nn.Sequential:
    """The mirror of `grid_encoder`: (B, out, *size / hop) -> (B, channels, *size)."""
    _checked(dimension, strides)
    layers: list[nn.Module] = [_CONV[dimension](out, width, 3, padding=1)]
    for place, stride in enumerate(reversed(strides)):
        last = place == len(strides) - 1
        layers.append(DilatedStack(dimension, width, depth, growth, backwards=True))
        layers.append(_TRANSPOSED[dimension](width, channels if last else width, 2 * stride, stride, stride // 2))
    return nn.Sequential(*layers)
