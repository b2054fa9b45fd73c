"""Closed-form denoisers and ratios: the yardstick for operators, solvers and trained networks.

A mixture of Gaussians stays one under a Gaussian path: with D = diag(A) over the concatenated modalities (each at its own time),
component k of z_t is N(D m_k, D C_k D + diag(S^2)). Everything here is exact, in float64 unless the states say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import Denoiser, State, Times
from polyscore.errors import PolyscoreError
from polyscore.paths import Path
from polyscore.predictions import Prediction
from polyscore.ratios.base import Ratio
from polyscore.token_oracles import TokenTableDenoiser

__all__ = ["ConditionalDenoiser", "ExactRatio", "GaussianDenoiser", "MixtureDenoiser", "TokenTableDenoiser", "gaussian_product"]


class MixtureDenoiser(Denoiser):
    """Exact denoiser of sum_k weight_k N(mean_k, cov_k) over one or several vector modalities.

    Args:
        means: (K, D), D the sum of the modalities' sizes in the order of `paths`.
        covs: (K, D, D), (K, D) diagonals, or a number times the identity.
        paths: Gaussian path of each modality.
        weights: (K,), normalised here; default equal.
        sizes: dimensions of each modality; default D / M each.
    """

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        covs: Tensor | Sequence[Any] | float,
        paths: Mapping[str, Path],
        weights: Tensor | Sequence[float] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        mean = torch.as_tensor(means, dtype=torch.float64)
        K, D = mean.shape
        self.paths = dict(paths)
        self.sizes = dict(sizes) if sizes is not None else {name: D // len(paths) for name in paths}
        if sum(self.sizes.values()) != D:
            raise PolyscoreError(f"mixture: means have {D} dimensions, modalities {self.sizes}")
        self.shapes = {name: (size,) for name, size in self.sizes.items()}
        weight = torch.ones(K) if weights is None else torch.as_tensor(weights)
        self.register_buffer("mean", mean)
        self.register_buffer("cov", _covariances(covs, K, D))
        self.register_buffer("log_weight", (weight.double() / weight.double().sum()).log())
        self.mean: Tensor
        self.cov: Tensor
        self.log_weight: Tensor
        self._diagonal = bool((torch.diag_embed(self.cov.diagonal(dim1=1, dim2=2)) == self.cov).all())
        # With one modality A^2 C + S^2 has the eigenvectors of C at every time: no factorisation a call.
        turned = torch.linalg.eigh(self.cov) if len(self.paths) == 1 and not self._diagonal else None
        self._axes = None if turned is None else (turned.eigenvalues, turned.eigenvectors)

    def _scales(self, t: Times) -> tuple[Tensor, Tensor]:
        """A and S of every dimension, (1 or B, D)."""
        signal, noise = [], []
        for name, size in self.sizes.items():
            A, S = self.coefficients(name, t)
            signal.append(torch.as_tensor(A, dtype=torch.float64).reshape(-1, 1).expand(-1, size))
            noise.append(torch.as_tensor(S, dtype=torch.float64).reshape(-1, 1).expand(-1, size))
        rows = max(len(a) for a in signal)
        return torch.cat([a.expand(rows, -1) for a in signal], 1), torch.cat([s.expand(rows, -1) for s in noise], 1)

    def _solve(self, z: State, t: Times) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, S (1 or B, D), whitened residuals P (z - A m) of shape (B, K, D), and log weight_k N(z; ...) of shape (B, K)."""
        flat = torch.cat([z[name].reshape(len(z[name]), -1).double() for name in self.sizes], 1)
        A, S = self._scales(t)
        gap = flat[:, None] - A[:, None] * self.mean
        if self._diagonal:
            spread = (A * A)[:, None] * self.cov.diagonal(dim1=1, dim2=2) + (S * S)[:, None]
            return A, S, gap / spread, self._log(gap, gap / spread, spread.log().sum(-1))
        if self._axes is not None:
            values, vectors = self._axes
            spread = (A * A)[:, None] * values + (S * S)[:, None]
            turned = torch.einsum("bki,kij->bkj", gap, vectors)
            solved = torch.einsum("bkj,kij->bki", turned / spread, vectors)
            return A, S, solved, self._log(turned, turned / spread, spread.log().sum(-1))
        total = A[:, None, :, None] * self.cov * A[:, None, None, :] + torch.diag_embed(S * S)[:, None]
        factor = torch.linalg.cholesky(total)
        if len(factor) == 1:
            solved = torch.cholesky_solve(gap.permute(1, 2, 0), factor[0]).permute(2, 0, 1)
        else:
            solved = torch.cholesky_solve(gap[..., None], factor)[..., 0]
        return A, S, solved, self._log(gap, solved, 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1))

    def _log(self, gap: Tensor, solved: Tensor, log_det: Tensor) -> Tensor:
        return self.log_weight - 0.5 * ((gap * solved).sum(-1) + log_det + gap.shape[-1] * math.log(2 * math.pi))

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, Any]:
        """E[eps | z_t] and E[z_0 | z_t] of every modality."""
        A, S, solved, log = self._solve(z, t)
        share = log.softmax(1)[..., None]
        eps = S * (share * solved).sum(1)
        pulled = A[:, None] * solved
        diagonal = self.cov.diagonal(dim1=1, dim2=2)
        lifted = diagonal * pulled if self._diagonal else torch.einsum("kij,bkj->bki", self.cov, pulled)
        x0 = (share * (self.mean + lifted)).sum(1)
        found: dict[str, Any] = {}
        start = 0
        for name, size in self.sizes.items():
            part = slice(start, start + size)
            like = z[name]
            known = {"x0": x0[:, part].to(like).reshape(like.shape), "eps": eps[:, part].to(like).reshape(like.shape)}
            found[name] = Prediction(known, like, *self.coefficients(name, t))  # type: ignore[arg-type]
            start += size
        return found

    def log_density(self, z: State, t: Times | None = None) -> Tensor:
        """log q_t(z) in nats, shape (B,); t defaults to 0, the data."""
        times = dict.fromkeys(self.paths, 0.0) if t is None else t
        return torch.logsumexp(self._solve(z, times)[3], 1)

    def marginal(self, names: Sequence[str]) -> MixtureDenoiser:
        """The law of some of the modalities."""
        kept, start = [], 0
        for name, size in self.sizes.items():
            kept += list(range(start, start + size)) if name in names else []
            start += size
        paths = {n: self.paths[n] for n in self.sizes if n in names}
        sizes = {n: self.sizes[n] for n in paths}
        return MixtureDenoiser(self.mean[:, kept], self.cov[:, kept][:, :, kept], paths, self.log_weight.exp(), sizes)

    def draw(self, n: int, generator: torch.Generator | None = None) -> State:
        """n exact samples of the data law."""
        which = torch.multinomial(self.log_weight.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.mean.shape[1], dtype=torch.float64, generator=generator)
        flat = self.mean[which] + (torch.linalg.cholesky(self.cov)[which] @ noise[..., None])[..., 0]
        return dict(zip(self.sizes, flat.split(list(self.sizes.values()), 1), strict=True))


class GaussianDenoiser(MixtureDenoiser):
    """Exact denoiser of one Gaussian N(mean, cov) over one or several vector modalities.

    Args:
        mean: (D,). cov: (D, D), (D,) a diagonal, or a number times the identity.
        paths: Gaussian path of each modality; sizes: dimensions of each, default D / M.
    """

    def __init__(
        self,
        mean: Tensor | Sequence[float],
        cov: Tensor | Sequence[Any] | float,
        paths: Mapping[str, Path],
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        centre = torch.as_tensor(mean, dtype=torch.float64)
        spread = torch.as_tensor(cov, dtype=torch.float64)
        super().__init__(centre[None], spread[None] if spread.ndim else float(spread), paths, sizes=sizes)


class ConditionalDenoiser(Denoiser):
    """Class-conditional oracle: row b is answered by `laws[condition[b]]`, and by `null` for a negative label or no condition."""

    def __init__(self, laws: Sequence[MixtureDenoiser], null: MixtureDenoiser) -> None:
        super().__init__()
        self.laws = torch.nn.ModuleList([*laws, null])
        self.paths, self.shapes = null.paths, null.shapes

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, Any]:
        """Predictions, each row under its own label."""
        rows = len(next(iter(z.values())))
        null = len(self.laws) - 1
        label = torch.full((rows,), null) if condition is None else torch.as_tensor(condition).expand(rows)
        label = torch.where(label < 0, null, label)
        found = {name: {"x0": torch.zeros_like(z[name]), "eps": torch.zeros_like(z[name])} for name in self.paths}
        for value in label.unique().tolist():
            here = label == value
            part = self.laws[value](
                {k: v[here] for k, v in z.items()}, {k: v[here] if isinstance(v, Tensor) and v.ndim else v for k, v in t.items()}
            )
            for name, known in found.items():
                known["x0"][here], known["eps"][here] = part[name].x0, part[name].eps
        return {name: Prediction(known, z[name], *self.coefficients(name, t)) for name, known in found.items()}  # type: ignore[arg-type]


class ExactRatio(Ratio):
    """r = log q_t(z) - sum_i log p_i,t(z): the ratio that a perfect discriminator or energy would learn.

    Args:
        joint: the oracle of q. bases: oracles of the p_i, on disjoint modalities that together are those of q.
    """

    def __init__(self, joint: MixtureDenoiser, bases: Sequence[MixtureDenoiser]) -> None:
        super().__init__()
        self.joint = joint
        self.bases = torch.nn.ModuleList(bases)
        self.paths = dict(joint.paths)

    @classmethod
    def information(cls, joint: MixtureDenoiser) -> ExactRatio:
        """The pointwise mutual information log p_t(z_1, ..., z_M) - sum_m log p_t(z_m): minus the optimal energy."""
        return cls(joint, [joint.marginal([name]) for name in joint.paths])

    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """r of every sample, (B,)."""
        total = self.joint.log_density(z, t)
        for base in self.bases:
            total = total - base.log_density({k: z[k] for k in base.paths}, {k: t[k] for k in base.paths})  # type: ignore[union-attr,operator]
        return total


def gaussian_product(means: Sequence[Tensor], covs: Sequence[Tensor], coefficients: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of prod_i N(mean_i, cov_i)^c_i, where it is a density.

    Raises:
        PolyscoreError: the precision sum_i c_i cov_i^-1 is not positive definite.
    """
    precision = sum(c * torch.linalg.inv(C) for c, C in zip(coefficients, covs, strict=True))
    if not isinstance(precision, Tensor) or float(torch.linalg.eigvalsh(precision).min()) <= 0:
        raise PolyscoreError("gaussian_product: the product is not normalisable (its precision is not positive definite)")
    cov = torch.linalg.inv(precision)
    pull = sum(c * torch.linalg.solve(C, m) for c, m, C in zip(coefficients, means, covs, strict=True))
    return cov @ torch.as_tensor(pull), cov


def _covariances(covs: Tensor | Sequence[Any] | float, K: int, D: int) -> Tensor:
    cov = torch.as_tensor(covs, dtype=torch.float64)
    if cov.ndim == 0:
        return cov * torch.eye(D, dtype=torch.float64).expand(K, D, D)
    if cov.shape == (K, D):
        return torch.diag_embed(cov)
    if cov.shape not in ((K, D, D), (1, D, D)):
        raise PolyscoreError(f"mixture: covariances of shape {tuple(cov.shape)}, expected a number, {(K, D)} or {(K, D, D)}")
    return cov.expand(K, D, D).clone()
