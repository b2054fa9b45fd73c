"""Metrics of pictures and of label maps: SSIM, mean intersection over union, F1."""

from __future__ import annotations

import torch
from torch import Tensor

from polyscore.data.sketch import blur
from polyscore.errors import DataError

__all__ = ["map_scores", "ssim"]


def ssim(a: Tensor, b: Tensor, sigma: float = 1.5) -> float:
    """Mean structural similarity of pictures (N, C, H, W) in [0, 1].

    (2 m_a m_b + c1) (2 s_ab + c2) / ((m_a^2 + m_b^2 + c1) (s_a^2 + s_b^2 + c2)), with means m, variances s^2 and covariance s_ab under
    a Gaussian window; c1 = 0.01^2, c2 = 0.03^2. Source: Wang et al., 2004.

    Raises:
        DataError: unequal shapes.
    """
    if a.shape != b.shape:
        raise DataError(f"SSIM: expected pictures of one shape, found {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    ma, mb = blur(a, sigma), blur(b, sigma)
    va, vb, vab = blur(a * a, sigma) - ma * ma, blur(b * b, sigma) - mb * mb, blur(a * b, sigma) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * ma * mb + c1) * (2 * vab + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))).mean())


def map_scores(found: Tensor, wanted: Tensor, classes: int) -> tuple[float, float]:
    """(mIoU, F1) of label maps (N, H, W): means over classes of TP / (TP + FP + FN) and 2 TP / (2 TP + FP + FN), counted over all items.

    A class in neither counts for nothing.

    Raises:
        DataError: unequal shapes, or no class at all.
    """
    if found.shape != wanted.shape or not found.numel():
        raise DataError(f"label maps: expected two of one shape, found {tuple(found.shape)} and {tuple(wanted.shape)}")
    counts = torch.bincount((wanted * classes + found).flatten(), minlength=classes * classes).reshape(classes, classes).double()
    hit, all_found, all_wanted = counts.diagonal(), counts.sum(0), counts.sum(1)
    seen = all_found + all_wanted > 0
    union = all_found + all_wanted - hit
    return float((hit / union.clamp(min=1))[seen].mean()), float((2 * hit / (all_found + all_wanted).clamp(min=1))[seen].mean())
