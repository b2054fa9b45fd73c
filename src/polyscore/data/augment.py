"""Random changes of pictures, waveforms and spectrograms that keep what they show or say. All numbers come from a training `Draw`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.training.draws import Draw

__all__ = ["augment_images", "augment_waves", "mask_spectrogram", "warp_spectrogram"]


def augment_images(x: Tensor, draw: Draw, *, shift: float = 0.1, angle: float = 15.0, zoom: float = 0.15, shear: float = 0.2) -> Tensor:
    """Random affine maps of (B, C, H, W): shift in parts of the half width, angle in degrees, zoom and shear as ratios."""
    turn = _between(draw, -angle, angle) * (math.pi / 180)
    size = 1 + _between(draw, -zoom, zoom)
    slant = _between(draw, -shear, shear)
    row1 = torch.stack([size * turn.cos(), -size * turn.sin() + slant, _between(draw, -shift, shift)], 1)
    row2 = torch.stack([size * turn.sin(), size * turn.cos(), _between(draw, -shift, shift)], 1)
    grid = functional.affine_grid(torch.stack([row1, row2], 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def augment_waves(
    x: Tensor,
    draw: Draw,
    *,
    shift: int = 200,
    speed: float = 0.12,
    gain: float = 0.3,
    tilt: float = 0.3,
    noise: float = 0.01,
    peak: float = 0.9,
) -> Tensor:
    """Random speed (with pitch), shift in samples, spectral tilt, gain below `peak` and white noise for waveforms (B, L).

    Speed and gain are ranges of a natural logarithm. Noise has a level up to `noise`, log-uniform over two decades.
    """
    length = x.shape[1]
    rate = _between(draw, -speed, speed).exp()[:, None]
    middle = (length - 1) / 2
    offset = _between(draw, -shift, shift)[:, None]
    y = _resample(x, (torch.arange(length, device=x.device) - middle) * rate + middle + offset)
    y = y + _between(draw, -tilt, tilt)[:, None] * functional.pad(y, (1, 0))[:, :-1]
    y = y * (peak / y.abs().amax(1, keepdim=True).clamp_min(1e-4)) * _between(draw, -gain, 0).exp()[:, None]
    return y + noise * 10 ** _between(draw, -2, 0)[:, None] * draw.normal(length)


def warp_spectrogram(x: Tensor, draw: Draw, *, time: float = 0.1, frequency: float = 0.04, shift: float = 0.0) -> Tensor:
    """Stretch log-spectrograms (B, bins, frames) in time about the middle and in frequency from the lowest bin; edges are repeated.

    `time` and `frequency` are ranges of a natural logarithm, `shift` a part of the half length.
    """
    slow, high = (_between(draw, -s, s).exp() for s in (time, frequency))
    zero = torch.zeros_like(slow)
    row1 = torch.stack([slow, zero, _between(draw, -shift, shift)], 1)
    row2 = torch.stack([zero, high, high - 1], 1)
    grid = functional.affine_grid(torch.stack([row1, row2], 1), [len(x), 1, *x.shape[1:]], align_corners=False)
    return functional.grid_sample(x[:, None], grid, align_corners=False, padding_mode="border")[:, 0]


def mask_spectrogram(x: Tensor, draw: Draw, *, bins: int = 8, frames: int = 12) -> Tensor:
    """Set one random band of up to `bins` and one span of up to `frames` to the item's mean (SpecAugment, Park et al. 2019)."""
    mean = x.mean((1, 2), keepdim=True)
    for axis, most in ((1, bins), (2, frames)):
        size = _between(draw, 0, most + 1).floor()[:, None]
        first = (_between(draw, 0, 1)[:, None] * (x.shape[axis] - size)).floor()
        place = torch.arange(x.shape[axis], device=x.device)
        hit = (place >= first) & (place < first + size)
        x = torch.where(hit.unsqueeze(3 - axis), mean, x)
    return x


def _between(draw: Draw, low: float, high: float) -> Tensor:
    return draw.uniform() * (high - low) + low


def _resample(x: Tensor, position: Tensor) -> Tensor:
    """x (B, L) read at fractional positions (B, L) by Catmull-Rom interpolation; zero outside."""
    padded = functional.pad(x, (2, 2))
    position = (position + 2).clamp(1, x.shape[1] + 1.999)
    whole = position.floor()
    f = position - whole
    a, b, c, d = (padded.gather(1, whole.long() + k) for k in (-1, 0, 1, 2))
    return b + 0.5 * f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))
