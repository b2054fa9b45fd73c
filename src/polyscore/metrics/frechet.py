"""Frechet distance between two sets of features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import DataError

__all__ = ["frechet_distance"]


def frechet_distance(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), for features a (N, D) and b (M, D), in float64.

    The squared 2-Wasserstein distance of the Gaussians with the samples' means m and covariances C (divided by N - 1).
    The trace of the root is the sum of singular values of X_a X_b^T, where C = X^T X, so no matrix root is taken and it works
    for fewer samples than dimensions. Name the extractor beside the number: it is a "FID" only on Inception features.
    Source: Dowson and Landau, 1982; Heusel et al., 2017, for generated images.

    Raises:
        DataError: not two matrices of the same width with two rows or more, or values that are not finite.
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a, "first"), _moments(b, "second")
    if len(mean_a) != len(mean_b):
        raise DataError(f"Frechet distance: expected features of one width, found {len(mean_a)} and {len(mean_b)}")
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(0.0, ((mean_a - mean_b) ** 2).sum() + spread))


def _moments(features: Tensor | np.ndarray, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and a root X (at most D rows, D) of the covariance: X^T X = C."""
    x = features.detach().cpu().numpy() if isinstance(features, torch.Tensor) else np.asarray(features)
    x = x.astype(np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise DataError(f"Frechet distance: expected {which} features (N, D) with N >= 2, found shape {x.shape}")
    if not np.isfinite(x).all():
        raise DataError(f"Frechet distance: {which} features are not all finite")
    mean = x.mean(0)
    root: np.ndarray = np.asarray(np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r"))
    return mean, root
