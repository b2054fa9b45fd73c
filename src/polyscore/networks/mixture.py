"""A joint denoiser in closed form: mixtures of Gaussians over the latents of several modalities, and tables of tokens beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import AnyPrediction, Denoiser, State, Times
from polyscore.errors import PolyscoreError
from polyscore.paths import VPSDE, GaussianPath
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.spec import register
from polyscore.tokens.paths import Absorbing

__all__ = ["JointMixture", "MixturePrior", "TablePrior"]


@dataclass(frozen=True)
class _Solved:
    """log p(z_t | k) w_k / w_group(k), (B, K), and per component what `MixturePrior.denoise` adds up: pull (B, K, D), S (B, 1)."""

    log: Tensor
    pull: Tensor
    S: Tensor


class MixturePrior(nn.Module):
    """A mixture of Gaussians N(mu_k, U_k diag(l_k) U_k') of one modality's vectors, noised along a Gaussian path to z = A x + S eps.

        v = sum_k r_k (U_k (A S (1 - l_k) / (A^2 l_k + S^2) * U_k'(z - A mu_k)) - S mu_k),   r_k = P(k | z)

    No division by S: it holds at both ends of time. Before `fit` every component is N(0, I), whose v is 0. With G groups, K / G
    components each, the groups are what the modalities of a `JointMixture` share.

    Args:
        path: of the vectors. size: D. components: K. groups: G, a divisor of K.
    """

    def __init__(self, path: GaussianPath, size: int, components: int, groups: int = 1) -> None:
        super().__init__()
        if components < 1 or groups < 1 or components % groups:
            raise PolyscoreError(f"mixture: {components} components in {groups} groups, expected the same number, at least 1, in each")
        self.path, self.groups = path, groups
        self.register_buffer("log_weight", torch.full((components,), 1 / components).log())
        self.register_buffer("mean", torch.zeros(components, size))
        self.register_buffer("axes", torch.eye(size).repeat(components, 1, 1))
        self.register_buffer("spread", torch.ones(components, size))
        self.log_weight: Tensor
        self.mean: Tensor
        self.axes: Tensor
        self.spread: Tensor

    def fit(self, x: Tensor, labels: Tensor | None = None, seed: int = 0, iterations: int = 60, floor: float = 1e-3) -> MixturePrior:
        """Fit each group to the vectors (N, D) of its label (N,) by expectation maximisation (scikit-learn).

        Args:
            labels: 0 to G - 1; not needed with one group. floor: added to every variance.

        Raises:
            PolyscoreError: fewer vectors of a label than components or than 2, vectors of another size, or no labels for several groups.
        """
        each, size = len(self.mean) // self.groups, self.mean.shape[1]
        labels = _labels(labels, x, self.groups, "vector")
        for group in range(self.groups):
            here = slice(group * each, (group + 1) * each)
            members = x[labels == group]
            least = max(each, 2)
            if len(members) < least or x.shape[1:] != (size,):
                raise PolyscoreError(f"mixture: {tuple(members.shape)} vectors of group {group}, expected (at least {least}, {size})")
            weight, mean, axes, spread = _fitted(members, each, seed, iterations, floor)
            self.log_weight[here] = (weight * len(members) / len(x)).log()
            self.mean[here], self.axes[here], self.spread[here] = mean, axes, spread
        return self

    @property
    def log_group(self) -> Tensor:
        """Log weights of the groups, (G,)."""
        return self.by_group(self.log_weight)

    def by_group(self, log: Tensor) -> Tensor:
        """Sums in logs over the components of each group, (..., K) -> (..., G)."""
        return log.unflatten(-1, (self.groups, -1)).logsumexp(-1)

    def solve(self, z: Tensor, t: Tensor) -> _Solved:
        """Every component on its own, for vectors z (B, D) at times t (B,)."""
        A, S = (torch.as_tensor(part).to(z).expand(len(z))[:, None, None] for part in self.path.coefficients(t))
        u = torch.einsum("bd,kde->bke", z, self.axes) - A * torch.einsum("kd,kde->ke", self.mean, self.axes)
        total = A.square() * self.spread + S.square()
        solved = u / total
        inside = self.log_weight - self.log_group.repeat_interleave(len(self.mean) // self.groups)
        return _Solved(inside - (u * solved + total.log()).sum(2) / 2, (A * S * (1 - self.spread)) * solved, S[:, 0])

    def denoise(self, solved: _Solved, share: Tensor) -> Tensor:
        """v (B, D) where component k has the share r_k (B, K)."""
        return torch.einsum("bke,kde->bd", share[..., None] * solved.pull, self.axes) - solved.S * (share @ self.mean)


class TablePrior(nn.Module):
    """Sequences of tokens whose law in each group is a table of its own for every place: p(w | g) = prod_l table[g, l, w_l].

    Some masked: log p(w_t | g) is the sum over the visible places. Before `fit` all tokens are as likely.

    Args:
        vocabulary: number of tokens K. length: L. groups: G.
    """

    def __init__(self, vocabulary: int, length: int, groups: int) -> None:
        super().__init__()
        self.register_buffer("log_table", torch.full((groups, length, vocabulary), 1 / vocabulary).log())
        self.log_table: Tensor

    def fit(self, tokens: Tensor, labels: Tensor | None = None, floor: float = 1e-6) -> TablePrior:
        """Count the tokens (N, L) of each label (N,); `floor` is the share that any other token keeps.

        Raises:
            PolyscoreError: a label without a sequence, or no labels for several groups.
        """
        groups, _, vocabulary = self.log_table.shape
        labels = _labels(labels, tokens, groups, "sequence")
        for group in range(groups):
            members = tokens[labels == group]
            if not len(members):
                raise PolyscoreError(f"mixture: no sequence of group {group}, expected at least 1")
            share = nn.functional.one_hot(members, vocabulary).float().mean(0)
            self.log_table[group] = ((1 - vocabulary * floor) * share + floor).log()
        return self

    def evidence(self, z: Tensor) -> Tensor:
        """log p(z | g) of partly masked tokens z (B, L), (B, G)."""
        vocabulary = self.log_table.shape[2]
        own = self.log_table.gather(2, z.clamp(max=vocabulary - 1).T.expand(len(self.log_table), -1, -1))  # (G, L, B)
        return (own * (vocabulary > z.T)).sum(1).T

    def denoise(self, share: Tensor) -> Tensor:
        """log p(w_l = k) (B, L, K) where group g has the share (B, G)."""
        return torch.einsum("bg,glk->blk", share, self.log_table.exp()).log()


@register
class JointMixture(Denoiser):
    """Density: p(z_1, ..., z_M) = sum_g w_g prod_m p_m(z_m | g): the modalities apart given the group they share.

        r_mk  ~  p_m(z_m | k) w_k * prod_{other modalities} p(z_other | group of k)

    In a group vectors are mixtures of Gaussians, tokens have a table for each place. The exact denoiser of that law at every combination of
    times, in closed form: joint samples, all conditionals and all marginals, from seconds of expectation maximisation. One group:
    independent mixtures, fitted without labels. A modality at t = 1, and a masked token, are no evidence.

    Args:
        shapes: latent shape of each modality. components: of each mixture, the same number in every group.
        groups: what the modalities share (digits, say). path: Gaussian, of every modality with components.
        vocabularies: number of tokens of the token modalities; they have no components, and absorbing paths.

    Raises:
        PolyscoreError: modalities with both or neither, or tokens alone.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        components: Mapping[str, int],
        groups: int = 1,
        path: GaussianPath | None = None,
        vocabularies: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        along, tokens = path or VPSDE(), dict(vocabularies or {})
        if not components or sorted([*components, *tokens]) != sorted(self.shapes):
            found = f"components of {sorted(components)}, vocabularies of {sorted(tokens)}"
            raise PolyscoreError(f"mixture: {found}; expected each of {sorted(self.shapes)} in one of them, and components of one at least")
        self.paths = {name: Absorbing(tokens[name], "cosine") if name in tokens else along for name in self.shapes}
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.priors = nn.ModuleDict({name: MixturePrior(along, sizes[name], count, groups) for name, count in components.items()})
        self.tables = nn.ModuleDict({name: TablePrior(count, sizes[name], groups) for name, count in tokens.items()})

    def fit(self, latents: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None, seed: int = 0) -> JointMixture:
        """Fit each modality to its latents (N, *shape) and, with several groups, their labels (N,); they need not be paired."""
        for name in self.shapes:
            x, own = latents[name].flatten(1), None if labels is None else labels[name]
            if name in self.tables:
                self._table(name).fit(x, own)
            else:
                self._prior(name).fit(x, own, seed)
        return self

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The exact predictions."""
        rows, clocks, solved = len(next(iter(z.values()))), {}, {}
        first = self._prior(next(iter(self.priors)))
        evidence = {name: self._table(name).evidence(z[name].flatten(1)) for name in self.tables}
        for name in self.priors:
            clocks[name] = torch.as_tensor(t[name]).to(z[name]).expand(rows)
            solved[name] = self._prior(name).solve(z[name].flatten(1), clocks[name])
            evidence[name] = first.by_group(solved[name].log) * (clocks[name] < 1)[:, None]
        total = torch.stack(list(evidence.values())).sum(0) + first.log_group
        found: dict[str, AnyPrediction] = {}
        for name in self.tables:
            found[name] = TokenPrediction(self._table(name).denoise(total.softmax(1)).reshape(*z[name].shape, -1))
        for name, part in solved.items():
            others = (total - evidence[name]).repeat_interleave(part.log.shape[1] // first.groups, 1)
            v = self._prior(name).denoise(part, (part.log + others).softmax(1))
            found[name] = Prediction.of("v", v.reshape(z[name].shape), z[name], *self.coefficients(name, t))
        return found

    def _table(self, name: str) -> TablePrior:
        return cast(TablePrior, self.tables[name])

    def _prior(self, name: str) -> MixturePrior:
        return cast(MixturePrior, self.priors[name])


def _labels(labels: Tensor | None, x: Tensor, groups: int, what: str) -> Tensor:
    """Labels (N,) of x; with one group there need be none."""
    if labels is None and groups > 1:
        raise PolyscoreError(f"mixture: {groups} groups, expected a label for every {what}")
    return torch.zeros(len(x)) if labels is None else labels


def _fitted(x: Tensor, components: int, seed: int, iterations: int, floor: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    options = {"max_iter": iterations, "init_params": "k-means++", "reg_covar": floor, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = GaussianMixture(components, **options).fit(x.double().numpy())
    spread, axes = torch.linalg.eigh(torch.as_tensor(found.covariances_))
    weight, mean = torch.as_tensor(found.weights_), torch.as_tensor(found.means_)
    return weight.float(), mean.float(), axes.float(), spread.float()
