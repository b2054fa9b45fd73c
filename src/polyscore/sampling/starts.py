"""Where a run begins when noise at t = 1 still carries signal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polyscore.denoisers import State
from polyscore.errors import DataError
from polyscore.paths import GaussianPath
from polyscore.sampling.walk import Walk
from polyscore.spec import register

__all__ = ["MomentStart"]


@register
class MomentStart(nn.Module):
    """z_1 ~ N(A mu, A^2 C + S^2 I), mu and C the mean and covariance of the latents, given the observed ones where there are any.

    A path that ends early, such as VPSDE(1, 5) with A(1) = 0.22, leaves modalities correlated at t = 1; starting from independent noise
    loses that. Exact for Gaussian latents; the first two moments of z_1 are right for any (where nothing is observed).

    Args:
        shapes: latent shape of each Gaussian modality.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        ends = list(itertools.accumulate(sizes))
        self.places = {name: torch.arange(end - size, end) for name, size, end in zip(self.shapes, sizes, ends, strict=True)}
        self.register_buffer("mean", torch.zeros(ends[-1]))
        self.register_buffer("covariance", torch.eye(ends[-1]))

    @torch.no_grad()
    def fit(self, latents: Mapping[str, Tensor]) -> MomentStart:
        """Moments of latents (N, *shape), or of samples of posteriors (N, 2, *shape) given as means and standard deviations.

        Entries `NAME_missing` (N,) mark rows without NAME: a mean is taken over the rows that have the modality, a covariance over those
        that have both; negative eigenvalues, which covariances of different rows can have, become 0.

        Raises:
            DataError: fewer than two rows with a modality, or with both of two.
        """
        parts, noise, seen = [], torch.zeros_like(self.mean), []
        for name, shape in self.shapes.items():
            value = latents[name]
            gone = latents.get(f"{name}_missing", torch.zeros(len(value))).bool()
            value = torch.where(gone.reshape(-1, *[1] * (value.ndim - 1)), 0.0, value)
            if value.ndim == len(shape) + 2:
                noise[self.places[name]] = value[:, 1].flatten(1).square().sum(0) / (~gone).sum().clamp(min=1)
                value = value[:, 0]
            parts.append(value.flatten(1))
            seen.append(~gone)
        self._check(torch.stack(seen))
        here = torch.cat([own[:, None].expand(-1, part.shape[1]) for own, part in zip(seen, parts, strict=True)], 1).double()
        flat = torch.cat(parts, 1).double()
        mean = flat.sum(0) / here.sum(0)
        centred = (flat - mean) * here
        covariance = centred.T @ centred / (here.T @ here - 1)
        if not bool(here.all()):
            values, vectors = torch.linalg.eigh(covariance)
            covariance = vectors * values.clamp(min=0) @ vectors.T
        self.mean.copy_(mean)
        self.covariance.copy_(covariance + noise.diag())
        return self

    def _check(self, seen: Tensor) -> None:
        """Enough rows (M, N) of every modality and pair."""
        counts = (seen.double() @ seen.double().T).long()
        for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(self.shapes), 2):
            if counts[i, j] < 2:
                raise DataError(f"moments: expected at least two latents of {a if a == b else f'{a} with {b}'}, found {int(counts[i, j])}")

    @torch.no_grad()
    def forward(self, walk: Walk, start: State, given: State) -> State:
        """The states at the first time of the walk, of the Gaussian modalities in `start` that are not given.

        Args:
            start: what the paths begin with, hypot(A, S) times standard normal noise, (B, *shape).
        """
        names = [name for name in self.shapes if name in start and name not in given and isinstance(walk.paths[name], GaussianPath)]
        if not names:
            return {}
        mean, covariance = self._given(names, {name: given[name] for name in self.shapes if name in given})
        at = {name: walk.at(name, 0) for name in names}
        A, S = (torch.cat([torch.full((len(self.places[n]),), at[n][i]) for n in names]).to(mean) for i in (0, 1))
        root = torch.linalg.cholesky(A[:, None] * covariance * A + S.square().diag())
        noise = torch.cat([start[n].flatten(1) / math.hypot(*at[n]) for n in names], 1).double()
        found = (A * mean + noise @ root.T).to(start[names[0]].dtype)
        parts = found.split([len(self.places[n]) for n in names], 1)
        return {n: part.reshape(-1, *self.shapes[n]) for n, part in zip(names, parts, strict=True)}

    def _given(self, names: Sequence[str], given: State) -> tuple[Tensor, Tensor]:
        """Mean (1 or B, D) and covariance (D, D) of the latents of `names`, given those of others, as if all were Gaussian."""
        mean, covariance = self.mean.double(), self.covariance.double()
        own = torch.cat([self.places[n] for n in names])
        if not given:
            return mean[own][None], covariance[own][:, own]
        other = torch.cat([self.places[n] for n in given])
        seen = torch.cat([value.flatten(1) for value in given.values()], 1).double()
        inner = covariance[other][:, other]
        inner = inner + 1e-6 * inner.diagonal().mean() * torch.eye(len(other)).to(inner)
        slope = torch.linalg.solve(inner, covariance[other][:, own])
        return mean[own] + (seen - mean[other]) @ slope, covariance[own][:, own] - covariance[own][:, other] @ slope
