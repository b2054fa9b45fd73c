"""Steered particles: a drift, fitted to the particles themselves, that does what their weights would have to do.

Particles that follow a density pi carry the weight d log w = psi dx (x: the way along the grid). With a further drift u,

    d log w = (psi + div u + u . s) dx,   s = grad log pi,

for any u: so u may be chosen to make the weights as equal as possible, and they stay exact. For a Gaussian pi with covariance C
and psi = h . y + y' H y / 2 (y: z minus its mean) u = C h + C H y / 2 leaves nothing to weigh. Here b and B of u = b + B y are
those of the least variance of psi + div u + u . s over the particles. No network is asked: psi and s are known. Each half of a
population is steered by the other half's fit, so that no particle helps to choose its own drift. Source: the gain of the feedback
particle filter (Yang, Mehta and Meyn, 2013), with weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import State
from polyscore.predictions import Prediction
from polyscore.sampling.walk import Walk

__all__ = ["Field", "Steering", "fit_field"]

SPARE = 1.3
"""Particles of one half, for each number fitted."""
LONGEST = 0.5
"""Longest drift of a step, in standard deviations a dimension (root mean square)."""


@dataclass(frozen=True)
class Field:
    """u(z) = b + B (z - m) for a whole step: b, m (2, D), B (2, D, D), one for the even rows of a population and one for the odd."""

    b: Tensor
    B: Tensor
    m: Tensor

    def at(self, z: Tensor, scale: Tensor) -> Tensor:
        """u at states (K, D) given in `scale` (D,) times the units of the fit, in these units."""
        found = torch.empty_like(z)
        for half in (0, 1):
            found[half::2] = scale * (self.b[half] + (z[half::2] / scale - self.m[half]) @ self.B[half].T)
        return found

    def pull(self, z: Tensor, score: Tensor, scale: Tensor) -> Tensor:
        """div u + u . s, (K,)."""
        traces = self.B.diagonal(dim1=1, dim2=2).sum(1)
        return traces[torch.arange(len(z), device=z.device) % 2] + (self.at(z, scale) * score).sum(1)


@dataclass
class Steering:
    """The fields of one batch's populations (G groups of K rows), step by step: `plan`, `drift`, and at the next point `growth`."""

    walk: Walk
    groups: int
    size: int
    noise: float = 0.0
    names: list[str] = field(default_factory=list)
    fields: list[Field | None] = field(default_factory=list)
    pulls: Tensor | None = None
    start: Tensor | None = None

    def plan(self, z: State, predictions: Mapping[str, Any], psi: Tensor, log_weights: Tensor, i: int) -> None:
        """Fit a field for the step from point i, in which log-weights would grow by psi (rows,)."""
        self.names = [name for name in z if isinstance(predictions[name], Prediction)]
        self.pulls = None
        if i + 1 >= self.walk.steps or not self.names:
            return
        self.start, score = self._join(z), self._scores(predictions)
        if 2 * SPARE * (1 + 2 * self.start.shape[1]) > self.size:
            return
        parts = zip(self.start.split(self.size), psi.split(self.size), score.split(self.size), log_weights, strict=True)
        self.fields = [fit_field(rows, growth, s, torch.softmax(logs, 0)) for rows, growth, s, logs in parts]
        self.pulls = self._pulls(self.start, score, torch.ones_like(self.start[0]))

    def drift(self, new: State, i: int) -> State:
        """The states at point i + 1, moved by the field at the middle of the step."""
        if self.pulls is None or self.start is None:
            return new
        scale, end = self._scale(i, new), self._join(new)
        middle = 0.5 * (self.start + end / scale)
        moved = self._each(middle, torch.ones_like(scale))
        end = end + scale.sqrt() * self._share(i, new) * moved
        parts = end.split([new[name][0].numel() for name in self.names], 1)
        return new | {name: part.to(new[name]).reshape(new[name].shape) for name, part in zip(self.names, parts, strict=True)}

    def growth(self, z: State, predictions: Mapping[str, Any], i: int) -> Tensor | None:
        """What the field added to the log-weights between points i - 1 and i, (rows,), by the trapezoid rule."""
        if self.pulls is None:
            return None
        return 0.5 * (self.pulls + self._pulls(self._join(z), self._scores(predictions), self._scale(i - 1, z)))

    def _pulls(self, z: Tensor, score: Tensor, scale: Tensor) -> Tensor:
        rows = zip(self.fields, z.split(self.size), score.split(self.size), strict=True)
        return torch.cat([torch.zeros_like(part[:, 0]) if f is None else f.pull(part, s, scale) for f, part, s in rows])

    def _each(self, z: Tensor, scale: Tensor) -> Tensor:
        parts = zip(self.fields, z.split(self.size), strict=True)
        return torch.cat([torch.zeros_like(part) if f is None else f.at(part, scale) for f, part in parts])

    def _join(self, z: State) -> Tensor:
        return torch.cat([z[name].flatten(1).double() for name in self.names], 1)

    def _scores(self, predictions: Mapping[str, Any]) -> Tensor:
        return torch.cat([predictions[name].score.flatten(1).double() for name in self.names], 1)

    def _scale(self, i: int, z: State) -> Tensor:
        """sqrt(A^2 + S^2) at point i + 1 over that at i, one number a dimension."""
        ratios = [math.hypot(*self.walk.at(name, i + 1)) / math.hypot(*self.walk.at(name, i)) for name in self.names]
        return torch.cat(
            [z[name][0].new_full((z[name][0].numel(),), r, dtype=torch.float64) for name, r in zip(self.names, ratios, strict=True)]
        )

    def _share(self, i: int, z: State) -> Tensor:
        """What is left at the end of step i of a drift spread evenly over it, under the decay of `NoisyDPMpp` with its own noise."""
        shares = []
        for name in self.names:
            (A, S), (a, s) = self.walk.at(name, i), self.walk.at(name, i + 1)
            decay = math.log(S / s) + self.noise * (math.log(a / s) - math.log(A / S)) if A > 0 and s > 0 else 0.0
            shares.append(-math.expm1(-decay) / decay if decay > 1e-9 else 1.0)
        return torch.cat(
            [z[name][0].new_full((z[name][0].numel(),), r, dtype=torch.float64) for name, r in zip(self.names, shares, strict=True)]
        )


def fit_field(z: Tensor, psi: Tensor, score: Tensor, weights: Tensor) -> Field | None:
    """The field for particles (K, D) whose log-weights would grow by psi (K,) in the step to come; None where no fit helps.

    Of a symmetric and a diagonal matrix (in whitened units) the one is taken that leaves less to weigh on particles it was not fitted to.
    """
    size, dims = z.shape
    best: tuple[float, Field] | None = None
    for pairs in (torch.arange(dims).expand(2, -1), torch.triu_indices(dims, dims)):
        if size >= 2 * SPARE * (1 + dims + pairs.shape[1]):
            gain, field = _crossed(z, psi, score, weights, pairs.to(z.device))
            if gain > (0.0 if best is None else best[0]):
                best = (gain, field)
    return None if best is None else best[1]


def _crossed(z: Tensor, psi: Tensor, score: Tensor, weights: Tensor, pairs: Tensor) -> tuple[float, Field]:
    """The share of psi's variance that each half's fit takes away from the other half, and the field."""
    fits = [_fit(z[1 - half :: 2], psi[1 - half :: 2], score[1 - half :: 2], weights[1 - half :: 2], pairs) for half in (0, 1)]
    field = Field(*(torch.stack([fit[k] for fit in fits]) for k in range(3)))
    rest = psi + field.pull(z, score, torch.ones_like(z[0]))
    left, total = (sum(_variance(v[half::2], weights[half::2]) for half in (0, 1)) for v in (rest, psi))
    return (1 - left / total if total > 1e-12 else 0.0), field


def _variance(value: Tensor, weights: Tensor) -> float:
    share = weights / weights.sum()
    return float(share @ (value - share @ value).square())


def _fit(z: Tensor, psi: Tensor, score: Tensor, weights: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """b, B, m of the least weighted variance of psi + div u + u . s, with a little ridge.

    In whitened units w = C^-1/2 (z - m), s_w = C^1/2 s, u_w = b + B w with B symmetric: div u + u . s has a term s_w,k for b_k,
    and w_j s_w,k + w_k s_w,j for B_jk (w_k s_w,k + 1 on the diagonal).
    """
    share = weights / weights.sum()
    m = share @ z
    y = z - m
    values, axes = torch.linalg.eigh((y * share[:, None]).T @ y)
    root = values.clamp(min=1e-12).sqrt()
    up, down = (axes * root) @ axes.T, (axes / root) @ axes.T
    w, s = y @ down, score @ up
    j, k = pairs
    mixed = torch.where(j == k, w[:, j] * s[:, j], w[:, j] * s[:, k] + w[:, k] * s[:, j])
    table = torch.cat([s, mixed], 1)
    table = table - share @ table
    gram = (table * share[:, None]).T @ table
    gram.diagonal().add_(1e-6 + 1e-4 * gram.diagonal().mean() / len(share))
    found = -torch.linalg.solve(gram, table.T @ (share * (psi - share @ psi)))
    b, B = found[: len(m)], torch.zeros_like(up)
    B[j, k] = B[k, j] = found[len(m) :]
    stride = float((share @ (b + w @ B).square().sum(1)).sqrt()) / len(m) ** 0.5
    short = min(1.0, LONGEST / max(stride, 1e-12))
    return short * (up @ b), short * (up @ B @ down), m
