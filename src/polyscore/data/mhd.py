"""Digits three ways, in the manner of the multimodal handwritten digits (MHD): a picture, a spoken clip and a vector of attributes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyscore.data.digits import RATE, Labelled, load_fsdd, load_mnist, pair_by_label
from polyscore.data.rows import Rows, at_least, write_rows

__all__ = ["DigitTriples", "load_digit_triples", "stroke_attributes", "write_digit_triples"]


@dataclass(frozen=True)
class DigitTriples(Rows):
    """Rows that belong together: image (N, 1, 28, 28), sound (N, 8000), attributes (N, 14) in [0, 1], labels (N,)."""

    image: Tensor
    sound: Tensor
    attributes: Tensor
    labels: Tensor

    columns = ("image", "sound", "attributes")


def load_digit_triples(
    split: str = "train", folder: str | os.PathLike[str] | None = None, seed: int = 0, limit: int | None = None
) -> DigitTriples:
    """MNIST pictures, each with a spoken digit of FSDD of the same label, and `stroke_attributes`; the official splits of both.

    Raises:
        DataError: a data set is not there, or a limit below 1.
    """
    at_least(1, limit=limit)
    images, sounds = load_mnist(split, folder), load_fsdd(split, folder)
    images = Labelled(images.x[:limit], images.labels[:limit])
    partner = pair_by_label(images.labels, sounds.labels, seed)
    return DigitTriples(images.x, sounds.x[partner], stroke_attributes(images.x, images.labels), images.labels)


def write_digit_triples(data: DigitTriples, out: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> int:
    """Write OUT/image/NNNNNN.png, OUT/sound/NNNNNN.wav, OUT/attributes/NNNNNN.json and OUT/labels.csv, as `prepare` reads them."""
    kinds: dict[str, dict[str, Any]] = {
        "image": {"kind": "image"},
        "sound": {"kind": "audio", "rate": RATE},
        "attributes": {"kind": "vector"},
    }
    rows = ((f"{row:06d}", values, int(data.labels[row])) for row, values in enumerate(data.each()))
    return write_rows(out, kinds, rows, len(data), progress)


def stroke_attributes(x: Tensor, labels: Tensor) -> Tensor:
    """(N, 1, 28, 28) and labels -> (N, 14): the digit one-hot, then ink, slant, width and height of the stroke, each in [0, 1].

    Ink is the mean brightness times 4; slant the shear s of x = s y that best fits the ink, as (s + 1) / 2; width and height are standard
    deviations of the ink in pixels, over 10.
    """
    weight = x[:, 0] / x[:, 0].sum((1, 2), keepdim=True).clamp_min(1e-6)
    grid = torch.arange(x.shape[-1], dtype=x.dtype)
    across, down = grid[None, None, :], grid[None, :, None]
    dx = across - (weight * across).sum((1, 2), keepdim=True)
    dy = down - (weight * down).sum((1, 2), keepdim=True)
    xx, yy, xy = ((weight * product).sum((1, 2)) for product in (dx * dx, dy * dy, dx * dy))
    shear = -xy / yy.clamp_min(1e-6)
    values = torch.stack([4 * x.mean((1, 2, 3)), (shear + 1) / 2, xx.sqrt() / 10, yy.sqrt() / 10], 1)
    return torch.cat([torch.nn.functional.one_hot(labels, 10).to(x.dtype), values.clamp(0, 1)], 1)
