"""Closed-form denoiser of token modalities, alone or beside Gaussian ones: an enumerated joint law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import Denoiser, State, Times
from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath, Path, Time
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.tokens.paths import TokenPath
from polyscore.tokens.posterior import rows

__all__ = ["TokenTableDenoiser"]

_TINY = 1e-300


class TokenTableDenoiser(Denoiser):
    """Exact denoiser of sum_n weight_n prod_m law_m,n over N entries of a table.

    In entry n a token modality is one sequence, a Gaussian one is N(mean_n, std^2 I). Given z_t at any times, entry n has the weight
    w_n prod_m q(z_t^m | entry n), so every conditional p(z_0^m,l = k | z_t) and E[z_0 | z_t] is exact.

    Args:
        paths: a TokenPath or a Gaussian path a modality.
        tokens: sequences of the token modalities, (N, L) integers each.
        weights: (N,), normalised here; default equal.
        means: centres of the Gaussian modalities, (N, D) each.
        std: their standard deviation.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        tokens: Mapping[str, Tensor],
        weights: Tensor | None = None,
        means: Mapping[str, Tensor] | None = None,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        self.paths, self.std = dict(paths), std
        self.table: dict[str, Tensor] = {**tokens, **{k: v.double() for k, v in (means or {}).items()}}
        if set(self.table) != set(paths) or len({len(v) for v in self.table.values()}) != 1:
            raise PolyscoreError(f"token table: modalities {sorted(self.table)} of equal length, expected {sorted(paths)}")
        for name, value in tokens.items():
            path = paths[name]
            if not isinstance(path, TokenPath):
                raise PolyscoreError(f"modality {name!r}: expected a token path, found {type(path).__name__}")
            path.check(name, value, value.shape[1:])
        self.shapes = {name: tuple(self.table[name].shape[1:]) for name in paths}
        size = len(next(iter(self.table.values())))
        weight = torch.ones(size, dtype=torch.float64) if weights is None else weights.double()
        self.log_weight = (weight / weight.sum()).clamp(min=_TINY).log()

    @classmethod
    def dense(cls, joint: Tensor, paths: Mapping[str, Path], lengths: Mapping[str, int]) -> TokenTableDenoiser:
        """From a joint table with one axis a position, the modalities one after the other."""
        entries = torch.cartesian_prod(*[torch.arange(n) for n in joint.shape]).reshape(joint.numel(), -1)
        parts = entries.split([lengths[name] for name in paths], 1)
        return cls(paths, dict(zip(paths, parts, strict=True)), joint.flatten())

    def log_likelihood(self, z: State, t: Times) -> Tensor:
        """log weight_n + log q(z_t | entry n), (B, N)."""
        total = self.log_weight
        for name, path in self.paths.items():
            if isinstance(path, TokenPath):
                total = total + self._tokens(path, self.table[name], z[name], t[name])
            else:
                total = total + self._gaussian(name, z[name].double(), t)
        return total

    @staticmethod
    def _tokens(path: TokenPath, entries: Tensor, z: Tensor, t: Time) -> Tensor:
        if not (isinstance(t, Tensor) and t.numel() > 1):
            return _at_one_time(path, entries, z, float(t))
        alpha, beta, gamma = (rows(v, z.double()) for v in path.cumulative(t))
        same = (z[:, None] == entries).double()
        token = same * alpha.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
        seen = torch.where((z == path.mask)[:, None], gamma.reshape(-1, 1, 1), token)
        return seen.clamp(min=_TINY).log().sum(-1)

    def _gaussian(self, name: str, z: Tensor, t: Times) -> Tensor:
        A, spread = self._spread(name, t)
        gap = z[:, None] - A * self.table[name]
        return -0.5 * (gap.square() / spread + spread.log()).sum(-1)

    def _spread(self, name: str, t: Times) -> tuple[Tensor, Tensor]:
        A, S = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in self.coefficients(name, t))
        return A, A * A * self.std**2 + S * S

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, Any]:
        """Log-probabilities of every position's token; E[z_0 | z_t] and E[eps | z_t] of the Gaussian modalities."""
        share = self.log_likelihood(z, t).softmax(1)
        return {name: self._answer(name, path, share, z[name], t) for name, path in self.paths.items()}

    def _answer(self, name: str, path: Path, share: Tensor, z: Tensor, t: Times) -> Any:
        if isinstance(path, TokenPath):
            known = torch.nn.functional.one_hot(self.table[name], path.vocabulary).double()
            return TokenPrediction(torch.einsum("bn,nlk->blk", share, known).clamp(min=_TINY).log())
        assert isinstance(path, GaussianPath)
        A, spread = self._spread(name, t)
        S = torch.as_tensor(path.coefficients(t[name])[1], dtype=torch.float64).reshape(-1, 1, 1)
        pulled = (z.double()[:, None] - A * self.table[name]) / spread
        x0 = (share[..., None] * (self.table[name] + A * self.std**2 * pulled)).sum(1)
        eps = (share[..., None] * S * pulled).sum(1)
        return Prediction({"x0": x0.to(z), "eps": eps.to(z)}, z, *self.coefficients(name, t))

    def entries(self, z: State) -> Tensor:
        """The most probable entry of every clean state, (B,)."""
        return self.log_likelihood(z, dict.fromkeys(self.paths, 0.0)).argmax(1)


def _at_one_time(path: TokenPath, entries: Tensor, z: Tensor, t: float) -> Tensor:
    """log q(z_t | entry), (B, N), at one time for all rows: which symbol stands where, times the logarithm of its probability."""
    alpha, beta, gamma = (float(v) for v in path.cumulative(t))
    symbols = path.vocabulary + 1
    table = alpha * torch.nn.functional.one_hot(entries, symbols).double() + beta
    table[..., path.mask] = gamma
    seen = torch.nn.functional.one_hot(z, symbols).to(table)
    return seen.flatten(1) @ table.clamp(min=_TINY).log().flatten(1).T
