"""Metrics of samples from a known mixture of well separated, equal Gaussians (the toy of MMDisCo, Table 1).

Points are (n, D) tensors; the mixture has means (K, D), equal weights and covariance `variance` times the identity.
The likelihood alone rewards collapse (its infimum lies below the truth's), so read it beside the other metrics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["energy_distance", "in_mode_share", "mode_weights", "nll_exact", "nll_paper", "variance_ratio"]


def log_density(points: Tensor, means: Tensor, variance: float = 0.01) -> Tensor:
    """log (1/K) sum_k N(x; mean_k, variance I) in nats, (n,)."""
    x, centres = points.double(), means.double()
    squares = (x[:, None] - centres).pow(2).sum(-1)
    constant = math.log(len(centres)) + 0.5 * x.shape[1] * math.log(2 * math.pi * variance)
    return torch.logsumexp(-squares / (2 * variance), 1) - constant


def nll_exact(points: Tensor, means: Tensor, variance: float = 0.01) -> float:
    """-mean log p(x) in nats, summed over dimensions, without a floor. Samples of the toy's own target: -0.158."""
    return float(-log_density(points, means, variance).mean())


def nll_paper(points: Tensor, means: Tensor, variance: float = 0.01, floor: float = 1e-10) -> float:
    """-mean log(p(x) / (2 pi) + floor): the variant that reproduces the numbers printed in MMDisCo, Table 1."""
    return float(-(log_density(points, means, variance).exp() / (2 * math.pi) + floor).log().mean())


def _nearest(points: Tensor, means: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    distance, which = torch.cdist(points.double(), means.double()).min(1)
    return which, distance <= radius


def in_mode_share(points: Tensor, means: Tensor, radius: float = 0.5) -> float:
    """Share of the points within `radius` of a mean."""
    return float(_nearest(points, means, radius)[1].double().mean())


def mode_weights(points: Tensor, means: Tensor) -> Tensor:
    """Share of the points nearest to each mean, (K,)."""
    which, _ = _nearest(points, means, math.inf)
    return torch.bincount(which, minlength=len(means)).double() / len(points)


def variance_ratio(points: Tensor, means: Tensor, variance: float = 0.01, radius: float = 0.5) -> float:
    """Variance of the points in a mode around their own centre, over `variance`, pooled over modes; nan without such points."""
    which, inside = _nearest(points, means, radius)
    total, count = 0.0, 0
    for k in range(len(means)):
        own = points[(which == k) & inside].double()
        if len(own) > 1:
            total += float((own - own.mean(0)).pow(2).sum())
            count += (len(own) - 1) * own.shape[1]
    return total / count / variance if count else math.nan


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples (n, D) and (m, D), without the zero diagonal; 0 for equal laws."""
    a, b = a.double(), b.double()
    own_a = torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))
    own_b = torch.cdist(b, b).sum() / (len(b) * (len(b) - 1))
    return float(2 * torch.cdist(a, b).mean() - own_a - own_b)
