"""Objective of a joint denoiser: noise prediction with a random time per modality."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from polyscore.denoisers import Expert
from polyscore.paths import GaussianPath, expand
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.training.draws import Draw

__all__ = ["JointObjective", "latent"]

BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.01)


@dataclass(frozen=True)
class JointObjective:
    """Mean over the modalities that move of ||v - v_theta||^2 / dim, at times drawn per modality.

    Each sample draws one time t and one role for every modality: moving at t, observed (t = 0) or absent (t = 1). With
    probability `joint` all move together; else each partner of one modality, chosen at random, is observed with probability
    `observed`, absent with `absent`, and moves otherwise. With probability `apart` the moving ones have times of their own.
    With `even` the probability of being observed is drawn anew for each sample, so that 0 to M - 1 observed partners are equally frequent.
    Observed and absent modalities carry no loss. That trains every conditional and every marginal (Bounoua et al. 2024).
    A token modality's loss is `tokens` times -log p(z_0 | z_t) of its corrupted positions, over its number of positions.

    Batch entries are latents (B, *shape), or posterior means and standard deviations stacked as (B, 2, *shape): then a
    sample of the posterior is taken, its noise scaled by `jitter`, or by `observed_jitter` where the modality is observed (0: its mean,
    which is what `encode` gives at sampling). An entry `NAME_missing` (B,) marks rows without NAME: they
    are absent and carry no loss, whatever is in their place.
    """

    joint: float = 0.5
    observed: float = 0.6
    absent: float = 0.3
    apart: float = 0.1
    jitter: float = 1.0
    observed_jitter: float = 0.0
    label_dropout: float = 0.1
    tokens: float = 1.0
    even: bool = False

    def __call__(self, module: Expert, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """The loss, and its mean for each modality and band of noise levels."""
        names = list(module.shapes)
        t, moves = self.times(names, batch, draw)
        clean = {name: self._latent(_filled(batch, name), module.shapes[name], t[name], draw) for name in names}
        noise = {name: self._noise(module, name, draw) for name in names}
        z = {name: module.paths[name].corrupt(clean[name], t[name], noise[name]) for name in names}
        predicted = module(z, t, self._condition(module, batch, draw))
        total, count = torch.zeros_like(t[names[0]]), torch.zeros_like(t[names[0]])
        logs: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
        for name in names:
            said = predicted[name]
            if isinstance(said, TokenPrediction):
                each = self.tokens * self._tokens(said, z[name], clean[name])
            else:
                A, S = cast(GaussianPath, module.paths[name]).coefficients(t[name])
                target = expand(A, noise[name]) * noise[name] - expand(S, noise[name]) * clean[name]
                each = (cast(Prediction, said).v - target).square().flatten(1).mean(1)
            error = each * moves[name]
            total, count = total + error, count + moves[name]
            for low, high in itertools.pairwise(BANDS):
                here = moves[name] * ((t[name] >= low) & (t[name] < high))
                logs[f"{name}_t{low:g}"] = ((error * here).sum().detach(), here.sum())
        return {"loss": (total / count.clamp(min=1)).mean(), **logs}

    @staticmethod
    def _noise(module: Expert, name: str, draw: Draw) -> Tensor:
        shape = module.shapes[name]
        return draw.normal(*shape) if isinstance(module.paths[name], GaussianPath) else draw.uniform(*shape, 2)

    @staticmethod
    def _tokens(said: TokenPrediction, z: Tensor, clean: Tensor) -> Tensor:
        nll = -said.log_probs.gather(-1, clean.unsqueeze(-1)).squeeze(-1)
        return (nll * (z != clean)).flatten(1).mean(1)

    def _latent(self, value: Tensor, shape: tuple[int, ...], t: Tensor, draw: Draw) -> Tensor:
        return latent(value, shape, torch.where(t > 0, self.jitter, self.observed_jitter), draw)

    def _condition(self, module: Expert, batch: Mapping[str, Tensor], draw: Draw) -> Tensor | None:
        if getattr(module.network, "classes", None) is None:
            return None
        return torch.where(draw.uniform() < self.label_dropout, -1, batch["label"])

    def times(self, names: list[str], batch: Mapping[str, Tensor], draw: Draw) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The time of every modality, and 1 where it moves (carries loss), each (B,)."""
        shared = draw.stratified()
        target = draw.integers(len(names))
        together, apart = draw.uniform() < self.joint, draw.uniform() < self.apart
        observed = draw.uniform() if self.even else self.observed
        t, moves = {}, {}
        for place, name in enumerate(names):
            role, own = draw.uniform(), draw.uniform()
            free = together | (target == place)
            now = torch.where(apart & (target != place), own, shared)
            seen = ~free & (role < observed)
            gone = ~free & (role >= observed) & (role < observed + self.absent)
            if f"{name}_missing" in batch:
                missing = batch[f"{name}_missing"].bool()
                gone, seen = gone | missing, seen & ~missing
            t[name] = torch.where(seen, 0.0, torch.where(gone, 1.0, now))
            moves[name] = (~(seen | gone)).float()
        return t, moves


def _filled(batch: Mapping[str, Tensor], name: str) -> Tensor:
    """A modality's entry, with zeros in the rows that miss it: at t = 1 some paths still carry signal."""
    value, mark = batch[name], f"{name}_missing"
    return value.masked_fill(batch[mark].bool().reshape(-1, *[1] * (value.ndim - 1)), 0) if mark in batch else value


def latent(value: Tensor, shape: Sequence[int], jitter: Tensor, draw: Draw) -> Tensor:
    """Latents as they are, or a draw from posteriors (B, 2, *shape), means and deviations, its noise scaled by jitter (B,)."""
    if value.ndim == len(shape) + 1:
        return value
    return value[:, 0] + expand(jitter, value[:, 1]) * value[:, 1] * draw.normal(*shape)  # type: ignore[operator]
