"""Edges of pictures: Canny's detector (1986), on a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.errors import DataError

__all__ = ["blur", "canny"]

# The two neighbours along the gradient, for directions of 0, 45, 90 and 135 degrees: (rows, columns).
_ALONG = ((0, 1), (1, 1), (1, 0), (1, -1))


def blur(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of (B, C, H, W), borders repeated."""
    radius = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device) / sigma) ** 2)
    line = line / line.sum()
    padded = functional.pad(x.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    smooth = functional.conv2d(functional.conv2d(padded, line[None, None, None]), line[None, None, :, None])
    return smooth[:, 0].unflatten(0, x.shape[:2])


def canny(x: Tensor, low: float = 0.1, high: float = 0.2, sigma: float = 1.0) -> Tensor:
    """(B, 3 or 1, H, W) in [0, 1] -> (B, 1, H, W), 1 on edges.

    Blur, gradient, thinning (a pixel stays if it is the largest of its two neighbours along the gradient), and hysteresis: what is
    above `low` stays where it hangs together with something above `high`. Both are changes of brightness a pixel.

    Raises:
        DataError: thresholds in the wrong order.
    """
    if not 0 <= low <= high:
        raise DataError(f"canny: expected 0 <= low <= high, found {low:g} and {high:g}")
    grey = blur(x.mean(1, keepdim=True), sigma)
    padded = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    size = torch.hypot(down, right)
    sector = (torch.atan2(down, right) / (torch.pi / 4)).round().long() % 4
    around = functional.pad(size, (1, 1, 1, 1))
    height, width = size.shape[2:]
    peak = torch.zeros_like(size, dtype=torch.bool)
    for number, (dy, dx) in enumerate(_ALONG):
        ahead, behind = (around[:, :, 1 + s * dy : 1 + s * dy + height, 1 + s * dx : 1 + s * dx + width] for s in (1, -1))
        peak |= (sector == number) & (size >= ahead) & (size > behind)
    return _connected(peak & (size >= low), peak & (size >= high)).to(x.dtype)


def _connected(weak: Tensor, strong: Tensor) -> Tensor:
    """The weak pixels that a path of weak pixels joins to a strong one."""
    found = strong
    while True:
        grown = (functional.max_pool2d(found.float(), 3, 1, 1) > 0) & weak
        if bool((grown == found).all()):
            return found
        found = grown
