"""The posterior of an earlier state in closed form, for any two times s < t of a token path.

With (a, b, g) cumulative at s, (A, B, G) at t, and (alpha, beta, gamma) of the step s -> t:

    z_t = mask:   q(mask) = g / G,   q(k) = gamma (a 1[k = z_0] + b) / G
    z_t = x:      q(mask) = 0,       q(k) = (alpha 1[k = x] + beta) (a 1[k = z_0] + b) / (A 1[x = z_0] + B).

A model's posterior is the mixture over its p(z_0 | z_t). At s = 0 it is p itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyscore.paths import Time
from polyscore.tokens.paths import TokenPath

__all__ = ["divide", "model_posterior", "posterior", "reveal_rate", "rows"]


def rows(level: Tensor, like: Tensor) -> Tensor:
    """A level of shape () or (B,) shaped and cast to go with `like` (B, ...)."""
    return level.to(like).reshape(level.shape + (1,) * (like.ndim - 1)) if level.ndim else level.to(like)


def divide(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom, and 0 where `bottom` is 0."""
    return torch.where(bottom > 0, top / torch.where(bottom > 0, bottom, torch.ones_like(bottom)), torch.zeros_like(top))


def reveal_rate(path: TokenPath, s: Time, t: Time) -> Tensor:
    """(gamma_bar_t - gamma_bar_s) / gamma_bar_t: how likely a position masked at t is a token at s."""
    G, g = path.cumulative(t)[2], path.cumulative(s)[2]
    return divide(G - g, G)


def posterior(path: TokenPath, z0: Tensor, z: Tensor, s: Time, t: Time) -> Tensor:
    """q(z_s | z_t = z, z_0) as probabilities (B, L, K + 1), float64. Where (z, z_0) cannot be, all mass stays on z."""
    known = torch.nn.functional.one_hot(z0, path.vocabulary).double()
    return _mix(path, known, z, s, t)


def model_posterior(path: TokenPath, log_probs: Tensor, z: Tensor, s: Time, t: Time) -> Tensor:
    """sum_j p(z_0 = j | z_t) q(z_s | z_t, z_0 = j) as probabilities (B, L, K + 1), in the dtype of log_probs (B, L, K)."""
    return _mix(path, log_probs.exp(), z, s, t)


def _mix(path: TokenPath, p: Tensor, z: Tensor, s: Time, t: Time) -> Tensor:
    line = p[..., 0]
    a, b, g = (rows(v.to(p.device), line) for v in path.cumulative(s))
    A, B, G = (rows(v.to(p.device), line) for v in path.cumulative(t))
    alpha, beta, gamma = (rows(v.to(p.device), line) for v in path.transition(s, t))
    masked = z == path.mask
    here = z.clamp(max=path.vocabulary - 1).unsqueeze(-1)
    p_x = p.gather(-1, here).squeeze(-1)
    # B U with U = sum_j p_j / (A 1[x = j] + B): stays finite as B -> 0.
    evidence = (1 - p_x).clamp(min=0) + p_x * divide(B, A + B)
    scale = torch.where(masked, divide(gamma, G), divide(beta, B).expand_as(line))
    background = torch.where(masked, b.expand_as(line), b * evidence)
    tokens = scale.unsqueeze(-1) * (a.unsqueeze(-1) * p + background.unsqueeze(-1))
    stay = (alpha + beta) * (divide(a * p_x, A + B) + divide(b, B) * evidence)
    stay = torch.where(B > 0, stay, torch.ones_like(stay))
    tokens = tokens.scatter(-1, here, torch.where(masked.unsqueeze(-1), tokens.gather(-1, here), stay.unsqueeze(-1)))
    blank = torch.where(masked, divide(g, G).expand_as(line), torch.zeros_like(line))
    return torch.cat([tokens, blank.unsqueeze(-1)], -1)
