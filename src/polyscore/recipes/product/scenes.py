"""Digits over grounds, 16 x 16 in colour, in two data sets that share no image and no kind of label.

Set A: the first half of MNIST's training digits over grey grounds; only the digit is labelled. Set B: the second half over coloured
grounds; only the colour is labelled. What is wanted, a given digit over a given colour, is in neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polyscore.data.digits import load_mnist

__all__ = ["COLOURS", "SHAPE", "Scenes", "colour_of", "grounds", "load_scenes", "paint"]

SHAPE = (3, 16, 16)
COLOURS = 8
GREY = -1


@dataclass(frozen=True)
class Scenes:
    """Pictures (N, 3, 16, 16) in [0, 1], their digits and colours (N,); -1 where the label is hidden or there is none."""

    x: Tensor
    digits: Tensor
    colours: Tensor

    def __len__(self) -> int:
        return len(self.x)


def load_scenes(kind: str, folder: str | None = None, seed: int = 0) -> Scenes:
    """ "A" and "B" with their one label; "test": test digits over coloured grounds, both labels, which no expert sees; "judge": the
    same of all training digits, for the judge alone.

    Raises:
        DataError: MNIST is not there.
    """
    mnist = load_mnist("test" if kind == "test" else "train", folder)
    half = len(mnist) // 2
    rows = {"A": slice(0, half), "B": slice(half, None)}.get(kind, slice(None))
    digits = mnist.labels[rows]
    generator = torch.Generator().manual_seed(1000 * seed + sum(kind.encode()))
    colours = torch.randint(COLOURS, (len(digits),), generator=generator)
    ground = grounds(torch.full_like(colours, GREY) if kind == "A" else colours, generator)
    x = paint(mnist.x[rows], ground)
    hidden = torch.full_like(digits, -1)
    return Scenes(x, hidden if kind == "B" else digits, hidden if kind == "A" else colours)


def paint(strokes: Tensor, ground: Tensor) -> Tensor:
    """White strokes (N, 1, 28, 28) over grounds (N, 3, 16, 16)."""
    cover = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(strokes, (2, 2, 2, 2)), 2)
    cover = (1.3 * cover).clamp(max=1)
    return ground * (1 - cover) + cover


def grounds(colours: Tensor, generator: torch.Generator) -> Tensor:
    """A ground of each colour (-1: grey): hue colour / 8 give or take .02, saturation .6-.9, brightness .3-.65 with a slope."""
    n = len(colours)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    hue = colours[:, None, None] / COLOURS + uniform(-0.02, 0.02)
    saturation = torch.where(colours[:, None, None] == GREY, 0.0, uniform(0.6, 0.9))
    axis = torch.linspace(-1, 1, SHAPE[1])
    slope = uniform(-0.12, 0.12) * axis[None, :, None] + uniform(-0.12, 0.12) * axis[None, None, :]
    value = (uniform(0.3, 0.65) + slope).clamp(0, 1)
    return torch.stack([_channel(hue, saturation, value, shift) for shift in (5.0, 3.0, 1.0)], 1)


def _channel(hue: Tensor, saturation: Tensor, value: Tensor, shift: float) -> Tensor:
    k = (shift + 6 * hue) % 6
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def colour_of(x: Tensor, grey: float = 0.3) -> Tensor:
    """The colour of the ground, by rule: the nearest of the 8 hues of the frame's median; -1 where its saturation is below `grey`."""
    frame = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2).clamp(0, 1).median(2).values
    top, low = frame.max(1).values, frame.min(1).values
    red, green, blue = frame.unbind(1)
    hue = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * math.pi)
    nearest = (hue * COLOURS).round().long() % COLOURS
    return torch.where((top - low) / top.clamp(min=1e-3) < grey, GREY, nearest)
