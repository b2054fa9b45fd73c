"""What a composition should sample, in closed form or by enumeration, and how far a set of samples is from it."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from polyscore.oracles import MixtureDenoiser, gaussian_product
from polyscore.paths import VPSDE

__all__ = ["Curve", "Mixture", "Projected", "Table", "Truth", "mixture_product", "noise_floor"]

DIRECTIONS = 24
# The truth is kept with its floor, so that its id stays its own.
_FLOORS: dict[tuple[object, ...], tuple[Any, float]] = {}


class Truth(Protocol):
    """A law that can be drawn from, and that can say how far samples are from it."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, D) exact samples."""
        ...

    def distance(self, samples: Tensor) -> float:
        """A number that is small for samples (n, D) of this law, in units of its sampling error."""
        ...


class Projected(abc.ABC):
    """A law in D dimensions whose projections have known distribution functions."""

    dims: int

    @abc.abstractmethod
    def cdf(self, x: Tensor, direction: Tensor) -> Tensor:
        """P(direction . z <= x) for x (N,)."""

    def distance(self, samples: Tensor) -> float:
        """Mean over directions of the Cramer-von Mises statistic n int (F_n - F)^2 dF; about 1/6 for exact independent samples."""
        n, along = len(samples), directions(self.dims)
        places = (2 * torch.arange(1, n + 1, dtype=torch.float64) - 1) / (2 * n)
        projected = (samples.double() @ along.T).sort(0).values.unbind(1)
        found = [(self.cdf(x, d) - places).square().sum() + 1 / (12 * n) for x, d in zip(projected, along, strict=True)]
        return float(torch.stack(found).mean())


class Table:
    """A law over sequences of tokens, (K, ..., K) with one axis a position."""

    def __init__(self, joint: Tensor) -> None:
        self.joint = joint / joint.sum()

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, L) exact samples."""
        chosen = torch.multinomial(self.joint.flatten(), n, replacement=True, generator=generator)
        return torch.stack(torch.unravel_index(chosen, self.joint.shape), 1)

    def distance(self, samples: Tensor) -> float:
        """Mean over pairs of positions of n sum_jk (share_jk - p_jk)^2."""
        n, size, axes = len(samples), self.joint.shape[0], range(self.joint.ndim)
        total = []
        for a, b in itertools.combinations(axes, 2):
            others = [k for k in axes if k not in (a, b)]
            wanted = (self.joint.sum(others) if others else self.joint).flatten()
            seen = torch.bincount(samples[:, a].long() * size + samples[:, b].long(), minlength=size * size) / n
            total.append(n * (seen - wanted).square().sum())
        return float(torch.stack(total).mean())


class Mixture(Projected):
    """A mixture of Gaussians as a truth."""

    def __init__(self, law: MixtureDenoiser) -> None:
        self.law, self.dims = law, law.mean.shape[1]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, D) exact samples."""
        return torch.cat(list(self.law.draw(n, generator).values()), 1)

    def cdf(self, x: Tensor, direction: Tensor) -> Tensor:
        """Sum of the components' normal distribution functions along the direction."""
        means = self.law.mean @ direction
        deviations = torch.einsum("i,kij,j->k", direction, self.law.cov, direction).sqrt()
        return (torch.special.ndtr((x[:, None] - means) / deviations) * self.law.log_weight.exp()).sum(1)


class Curve(Projected):
    """A density on a line, given by its logarithm on a fine grid; `log_normaliser` is the logarithm of its integral."""

    dims = 1

    def __init__(self, x: Tensor, log_density: Tensor) -> None:
        steps = torch.cat([torch.zeros(1, dtype=x.dtype), torch.cumulative_trapezoid((log_density - log_density.max()).exp(), x)])
        self.x, self.share = x, steps / steps[-1]
        self.log_normaliser = float(steps[-1].log() + log_density.max())

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 1) exact samples, by the inverse distribution function."""
        u = torch.rand(n, dtype=torch.float64, generator=generator)
        right = torch.searchsorted(self.share, u).clamp(1, len(self.x) - 1)
        low, high = self.share[right - 1], self.share[right]
        part = (u - low) / (high - low).clamp(min=1e-300)
        return (self.x[right - 1] + part * (self.x[right] - self.x[right - 1]))[:, None]

    def cdf(self, x: Tensor, direction: Tensor) -> Tensor:
        """Linear between grid points."""
        values = x / direction[0]
        right = torch.searchsorted(self.x, values.contiguous()).clamp(1, len(self.x) - 1)
        part = ((values - self.x[right - 1]) / (self.x[right] - self.x[right - 1])).clamp(0, 1)
        share = self.share[right - 1] + part * (self.share[right] - self.share[right - 1])
        return share if float(direction[0]) > 0 else 1 - share


def mixture_product(laws: Sequence[MixtureDenoiser], coefficients: Sequence[float]) -> tuple[Mixture, float]:
    """prod_i law_i^c_i and the log of its integral; laws of several components need c_i = 1 (or are listed twice)."""
    means, covs, logs = [], [], []
    for choice in itertools.product(*[range(len(law.mean)) for law in laws]):
        picked = [(law.mean[k], law.cov[k], float(law.log_weight[k])) for law, k in zip(laws, choice, strict=True)]
        mean, cov = gaussian_product([m for m, _, _ in picked], [C for _, C, _ in picked], coefficients)
        log = sum(c * (w + _at_zero(m, C)) for c, (m, C, w) in zip(coefficients, picked, strict=True)) - _at_zero(mean, cov)
        means.append(mean)
        covs.append(cov)
        logs.append(log)
    log_weights = torch.tensor(logs, dtype=torch.float64)
    total = float(torch.logsumexp(log_weights, 0))
    law = MixtureDenoiser(torch.stack(means), torch.stack(covs), {"x": VPSDE()}, (log_weights - total).exp())
    return Mixture(law), total


def _at_zero(mean: Tensor, cov: Tensor) -> float:
    """log N(0; mean, cov)."""
    pull = mean @ torch.linalg.solve(cov, mean)
    return float(-0.5 * (pull + torch.linalg.slogdet(cov)[1] + len(mean) * math.log(2 * math.pi)))


def directions(dims: int) -> Tensor:
    """The axes (as many as 24), and random directions up to 24 in all; (P, D)."""
    axes = torch.eye(dims, dtype=torch.float64)[:DIRECTIONS]
    if dims == 1:
        return axes
    more = torch.randn(DIRECTIONS, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(dims))
    return torch.cat([axes, more / more.norm(dim=1, keepdim=True)])[: max(DIRECTIONS, len(axes))]


def noise_floor(truth: Truth, n: int, draws: int = 120, quantile: float = 0.99, seed: int = 0) -> float:
    """The distance that 99 % of sets of n exact samples stay below; remembered."""
    key = (id(truth), n, draws, quantile, seed)
    if key in _FLOORS:
        return _FLOORS[key][1]
    generator = torch.Generator().manual_seed(seed)
    found = torch.tensor([truth.distance(truth.draw(n, generator)) for _ in range(draws)], dtype=torch.float64)
    _FLOORS[key] = (truth, float(found.quantile(quantile)))
    return _FLOORS[key][1]
