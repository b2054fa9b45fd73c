"""A mixture of Gaussians as the part of a denoiser that has a closed form; a network beside it learns what is left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath

__all__ = ["MixturePrior"]


class MixturePrior(nn.Module):
    """The exact denoiser of vectors under sum_k w_k N(mu_k, U_k diag(l_k) U_k'), noised along a Gaussian path to z = A x + S eps.

        v = sum_k r_k (U_k (A S (1 - l_k) / (A^2 l_k + S^2) * U_k'(z - A mu_k)) - S mu_k),   r_k = P(k | z)

    No division by S: it holds at both ends of time. Before `fit` every component is N(0, I), whose v is 0.

    Args:
        path: of the vectors. size: D. components: K.
    """

    def __init__(self, path: GaussianPath, size: int, components: int) -> None:
        super().__init__()
        if components < 1:
            raise PolyscoreError(f"mixture: {components} components, expected at least 1")
        self.path = path
        self.register_buffer("log_weight", torch.full((components,), 1 / components).log())
        self.register_buffer("mean", torch.zeros(components, size))
        self.register_buffer("axes", torch.eye(size).repeat(components, 1, 1))
        self.register_buffer("spread", torch.ones(components, size))
        self.log_weight: Tensor
        self.mean: Tensor
        self.axes: Tensor
        self.spread: Tensor

    def fit(self, x: Tensor, seed: int = 0, iterations: int = 60, floor: float = 1e-3, most: int = 20000) -> MixturePrior:
        """Fit to vectors (N, D), `most` of them at random, by expectation maximisation (scikit-learn), `floor` added to every variance.

        Raises:
            PolyscoreError: fewer vectors than components, or of another size.
        """
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        if len(x) < len(self.mean) or x.shape[1:] != self.mean.shape[1:]:
            raise PolyscoreError(f"mixture: {tuple(x.shape)} vectors, expected (at least {len(self.mean)}, {self.mean.shape[1]})")
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:most]]
        options = {"max_iter": iterations, "init_params": "k-means++", "reg_covar": floor, "random_state": seed}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = GaussianMixture(len(self.mean), **options).fit(x.double().numpy())
        spread, axes = torch.linalg.eigh(torch.as_tensor(found.covariances_))
        for name, value in (("log_weight", torch.as_tensor(found.weights_).log()), ("mean", torch.as_tensor(found.means_))):
            getattr(self, name).copy_(value)
        self.axes.copy_(axes)
        self.spread.copy_(spread)
        return self

    def forward(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """v (B, D) and the shares r (B, K) of vectors z (B, D) at times t (B,)."""
        A, S = (torch.as_tensor(part).to(z).expand(len(z))[:, None, None] for part in self.path.coefficients(t))
        u = torch.einsum("bd,kde->bke", z, self.axes) - A * torch.einsum("kd,kde->ke", self.mean, self.axes)
        total = A.square() * self.spread + S.square()
        solved = u / total
        share = (self.log_weight - (u * solved + total.log()).sum(2) / 2).softmax(1)
        pull = share[..., None] * (A * S * (1 - self.spread)) * solved
        return torch.einsum("bke,kde->bd", pull, self.axes) - S[:, 0] * (share @ self.mean), share
