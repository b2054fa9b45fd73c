"""Pairwise energies: how well two noisy latents of one sample go together (the "-C" guidance)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polyscore.denoisers import State, Times, current_run
from polyscore.networks.mlp import FourierTime
from polyscore.paths import VPSDE, Path
from polyscore.ratios.base import Ratio
from polyscore.spec import register

__all__ = ["PairEnergy"]


class _Tower(nn.Module):
    """A linear layer on a modality's flat latent, its time and whether it is observed; the bias is the modality's identity."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.time = FourierTime(16)
        self.latent, self.clock = nn.Linear(size, width), nn.Linear(17, width, bias=False)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        clock = torch.cat([self.time(t), (t <= 0).to(t)[:, None]], 1)
        return _centred(self.latent(z.flatten(1)) + self.clock(clock.to(z)))


def _centred(x: Tensor) -> Tensor:
    """softplus(x) - log 2: 0 at 0, so that deep stacks start well conditioned."""
    return nn.functional.softplus(x) - math.log(2)


class _Softplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _centred(x)


@register
class PairEnergy(Ratio):
    """r(z) = -sum_(i,j) w_ij E(z_i, z_j, t_i, t_j), E low where two latents belong together; one network for all pairs.

    At the optimum of `polyscore.training.energy` with permuted negatives, -E is the pointwise mutual information
    log p_t(z_i, z_j) / (p_t(z_i) p_t(z_j)), so `Guided(denoiser, energy, scale=g)` samples p(z) times that to the power g
    (Score-Based Multimodal Autoencoder, Eq. 8; g is per sample: the authors' scale / 256). Layers: a linear map per modality with its
    time (its bias is the modality's identity), then widths 2S, 2S, S on both members and their product, all softplus, shifted by log 2
    (without the shift and the product 300 steps on PolyMNIST learned nothing; with them they told 62 % right).

    Args:
        shapes: latent shape of each modality. path: of all of them, as in training. width: S.
        pairs: "observed" takes every (observed, generated) pair, or all pairs where nothing is observed; "all" takes every pair with a
            generated member; "random" one pair of those of "observed", drawn anew at every step of a run (the authors' PolyMNIST setting).
        reduction: "mean" divides by the number of partners of a generated modality, "sum" does not. PMIs of
            partners that share what they say count it several times in a sum.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        path: Path | None = None,
        width: int = 128,
        pairs: Literal["observed", "all", "random"] = "observed",
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.path = path or VPSDE()
        self.paths = dict.fromkeys(self.shapes, self.path)
        self.pairs, self.reduction = pairs, reduction
        self.towers = nn.ModuleDict({name: _Tower(math.prod(shape), width) for name, shape in self.shapes.items()})
        act = _Softplus
        self.head = nn.Sequential(
            nn.Linear(3 * width, 2 * width), act(), nn.Linear(2 * width, 2 * width), act(), nn.Linear(2 * width, width), act()
        )
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def features(self, z: State, t: Times) -> State:
        """What each modality brings to its pairs, {modality: (B, S)}."""
        return {name: tower(z[name], _clock(t[name], z[name])) for name, tower in self.towers.items() if name in z}

    def energies(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """E of P pairs of features (B, S), in the modalities' order: (P, B)."""
        a, b = torch.stack(list(first)), torch.stack(list(second))
        x = torch.cat([a, b, a * b], 2)
        found: Tensor = self.last(self.head(x)).squeeze(2)
        return found

    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """-sum w E, (B,)."""
        chosen = self.choose([n for n in self.shapes if n in z], [n for n in self.shapes if n in z and _still(t[n])])
        if not chosen:
            return next(iter(z.values())).new_zeros(len(next(iter(z.values()))))
        u = self.features(z, t)
        energies = self.energies([u[a] for a, _ in chosen], [u[b] for _, b in chosen])
        weights = torch.tensor(list(chosen.values())).to(energies)
        return -(weights[:, None] * energies).sum(0)

    def choose(self, names: Sequence[str], observed: Sequence[str]) -> dict[tuple[str, str], float]:
        """The pairs that count, and their weights w."""
        found = [(a, b) for a, b in itertools.combinations(names, 2) if not (a in observed and b in observed)]
        if observed and self.pairs != "all":
            found = [(a, b) for a, b in found if a in observed or b in observed]
        partners = len(observed) if observed and self.pairs != "all" else len(names) - 1
        if self.pairs == "random" and found:
            run = current_run.get()
            draw = torch.Generator().manual_seed(977 + (run.step if run is not None else 0))
            found = [found[int(torch.randint(len(found), (1,), generator=draw))]]
            partners = 1
        return dict.fromkeys(found, 1 / partners if self.reduction == "mean" else 1.0)


def _clock(t: Any, like: Tensor) -> Tensor:
    if isinstance(t, Tensor):
        return t.to(like.device, torch.float32).expand(len(like))
    return torch.full((len(like),), float(t), device=like.device)


def _still(t: Any) -> bool:
    return bool((t <= 0).all()) if isinstance(t, Tensor) else float(t) <= 0
