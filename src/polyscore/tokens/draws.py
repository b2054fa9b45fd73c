"""Draws of tokens from given uniform numbers, so that each sample keeps to its own stream."""

from __future__ import annotations

import torch
from torch import Tensor

from polyscore.errors import PolyscoreError

__all__ = ["FLOOR", "categorical", "gumbel", "truncate"]

FLOOR = -70.0
"""Log-probabilities below this count as impossible; sums of them stay finite."""


def categorical(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF draws: weights (..., K) >= 0, not all 0, need not be normalised; uniform (...) in [0, 1) -> int64 (...)."""
    steps = weights.double().cumsum(-1)
    goal = uniform.double().unsqueeze(-1) * steps[..., -1:]
    return torch.searchsorted(steps, goal, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel numbers from uniform ones."""
    return -(-uniform.double().clamp(1e-12, 1 - 1e-12).log()).log()


def truncate(log_probs: Tensor, r: float) -> Tensor:
    """Keep the most probable token and every one whose more probable ones have mass < r; the rest fall to -70, then renormalise.

    r = 1 keeps all, r -> 0 only the first (VQ-Diffusion, Sec. 3.3; it uses 0.85 and 0.86).
    """
    if not 0 <= r <= 1:
        raise PolyscoreError(f"truncation: expected a share between 0 and 1, found {r}")
    if r == 1:
        return log_probs
    ranked, order = log_probs.exp().sort(dim=-1, descending=True, stable=True)
    keep = ranked.cumsum(-1) - ranked < r
    keep[..., 0] = True
    kept = torch.zeros_like(keep).scatter(-1, order, keep)
    return torch.log_softmax(log_probs.masked_fill(~kept, FLOOR), -1)
