"""Objective of pairwise energies: tell latents of one sample from latents of two."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.errors import DataError
from polyscore.ratios.energy import PairEnergy
from polyscore.training.draws import Draw, Samples, mix, present

__all__ = ["EnergyObjective", "Strangers"]


class Strangers:
    """Batches of tuples, each with a second tuple drawn at random: `{name: (B, ...), name + "_other": (B, ...)}`.

    The second tuple makes the negatives. Without `labels` some of them go together by chance (one in ten with ten
    even classes); with `labels` (N,) the second tuple always has another label, and the energy learns a stronger contrast than PMI.

    Raises:
        DataError: as `Samples`, or labels that are all the same.
    """

    def __init__(self, tensors: Mapping[str, Tensor], labels: Tensor | None = None) -> None:
        self.samples = Samples(tensors)
        self.labels = labels
        if labels is not None:
            if len(labels) != len(self.samples) or len(labels.unique()) < 2:
                raise DataError(f"labels: expected one a sample with two classes or more, found {len(labels)} for {len(self.samples)}")
            self._order = labels.long().argsort(stable=True)
            self._counts = torch.bincount(labels.long())
            self._starts = self._counts.cumsum(0) - self._counts

    def __len__(self) -> int:
        return len(self.samples)

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        """A step's tuples and their strangers."""
        rows = draw.indices(len(self))
        place = draw.uniform().cpu().double()
        if self.labels is None:
            others = (place * len(self)).long()
        else:
            own = self.labels[rows].long()
            # Places after the own class's rows, going round: every other row is equally likely.
            skip = self._starts[own] + self._counts[own]
            others = self._order[(skip + (place * (len(self) - self._counts[own])).long()) % len(self)]
        found = {name: value[rows] for name, value in self.samples.tensors.items()}
        return found | {f"{name}_other": value[others] for name, value in self.samples.tensors.items()}


@dataclass(frozen=True)
class EnergyObjective:
    """-log sigmoid(-E(pair)) - log sigmoid(E(stranger)), mean over the pairs of modalities that a tuple (and its stranger) has.

    A pair (z_i, z_j) is of one tuple, a stranger (z_i, z'_j) of two; both are noised at the same times. All modalities of a sample
    share one time, but each is clean with probability `observed` (shown at t = 0), so that the energy serves observed partners.
    Optimum with "permuted": E = -PMI. "noise" takes z'_j ~ N(0, I) instead and "both" the mean of the two terms (Score-Based Multimodal
    Autoencoder, Eq. 7 as the authors run it); these also learn what a latent looks like, so they are not the PMI.

    Entries `NAME_missing` and `NAME_missing_other` (B,) mark rows without NAME: their pairs carry no loss, whatever is in its place.

    Args:
        observed: probability of a clean modality. negatives: see above. pairs: "all", or "one" drawn for each step (the authors').
        window: the times drawn, for guidance that acts only there.
        jitter: for entries of posterior means and standard deviations (B, 2, *shape): scale of the posterior's noise.
    """

    observed: float = 0.3
    negatives: Literal["permuted", "noise", "both"] = "permuted"
    pairs: Literal["all", "one"] = "all"
    window: tuple[float, float] = (0.0, 1.0)
    jitter: float = 1.0

    def __call__(self, module: PairEnergy, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss, and the share of pairs and strangers told right."""
        names = list(module.shapes)
        low, high = self.window
        shared = low + (high - low) * draw.stratified()
        t = {name: torch.where(draw.uniform() < self.observed, 0.0, shared) for name in names}
        here, there = ({n: present(batch, f"{n}_missing{end}", shared) for n in names} for end in ("", "_other"))
        own = module.features({n: self._noised(module, n, batch[n], here[n], t[n], draw) for n in names}, t)
        made = {}
        if self.negatives != "noise":
            other = {n: self._noised(module, n, batch[f"{n}_other"], there[n], t[n], draw) for n in names}
            made["permuted"] = module.features(other, t)
        if self.negatives != "permuted":
            made["noise"] = module.features({n: draw.normal(*module.shapes[n]) for n in names}, t)
        pairs = list(itertools.combinations(names, 2))
        which = mix(draw.seed, 5, draw.step) % len(pairs) if self.pairs == "one" else None
        pairs = pairs if which is None else pairs[which : which + 1]
        first, second = [own[a] for a, _ in pairs], [own[b] for _, b in pairs]
        right = module.energies(first, second)
        both = torch.stack([here[a] & here[b] for a, b in pairs])
        loss, told = _over(functional.softplus(right), both), _over((right < 0).float(), both) / 2
        for kind, other in made.items():
            wrong = module.energies(first, [other[b] for _, b in pairs])
            known = torch.stack([here[a] & (there[b] if kind == "permuted" else here[b]) for a, b in pairs])
            loss = loss + _over(functional.softplus(-wrong), known) / len(made)
            told = told + _over((wrong > 0).float(), known) / (2 * len(made))
        return {"loss": loss, "accuracy": told.detach()}

    def _noised(self, module: PairEnergy, name: str, value: Tensor, here: Tensor, t: Tensor, draw: Draw) -> Tensor:
        shape = module.shapes[name]
        value = torch.where(here.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0)
        if value.ndim == len(shape) + 2:
            value = value[:, 0] + self.jitter * value[:, 1] * draw.normal(*shape)
        return module.path.corrupt(value, t, draw.normal(*shape))


def _over(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over the rows of the mean of values (P, B) over the pairs that count."""
    return ((values * counts).sum(0) / counts.sum(0).clamp(min=1)).mean()
