"""Objective of a discriminator that joins frozen experts: binary cross-entropy and denoising regularisation (MMDisCo, Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.denoisers import Denoiser, Independent, State
from polyscore.errors import PolyscoreError
from polyscore.networks.ratio import RatioTwins
from polyscore.paths import GaussianPath, Path, Tabulated, expand
from polyscore.predictions import Prediction
from polyscore.ratios.discriminator import Discriminator
from polyscore.training.draws import Draw
from polyscore.training.fakes import condition_of, flat_condition
from polyscore.training.scalars import by_level

__all__ = ["DiscriminatorObjective", "RealAndFake", "drop_condition", "moving_grid", "snap"]


class RealAndFake:
    """Batches {NAME, fake.NAME, condition..., fake.condition...}: reals epoch by epoch, a random fake beside each.

    Args:
        real: {modality: (N, *shape)}. fake: {modality: (K, *shape)}.
        condition, fake_condition: tensors (N, ...) and (K, ...), mappings of such by modality, or None.
    """

    def __init__(self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor], condition: Any = None, fake_condition: Any = None) -> None:
        if marks := sorted(name for name in real if name.endswith("_missing") and name not in fake):
            raise PolyscoreError(
                f"discriminator: real tuples with {marks[0]}; expected complete ones (leave out those that miss a modality)"
            )
        if set(real) - set(fake):
            raise PolyscoreError(f"discriminator: fakes of {sorted(fake)}, expected modalities {sorted(real)}")
        self.real = {**real, **flat_condition(condition)}
        self.fake = {**{name: fake[name] for name in real}, **flat_condition(fake_condition)}
        for part in (self.real, self.fake):
            sizes = {name: len(value) for name, value in part.items()}
            if len(set(sizes.values())) != 1 or 0 in sizes.values():
                raise PolyscoreError(f"discriminator: expected tensors with the same number of rows, at least one, found {sizes}")
        if set(self.real) != set(self.fake):
            told = [sorted(set(part) - set(real)) for part in (self.real, self.fake)]
            raise PolyscoreError(
                f"discriminator: conditions for the reals only, or for the fakes only: {told[0]} and {told[1]}; expected both or none"
            )

    def __len__(self) -> int:
        return len(next(iter(self.real.values())))

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        """One step's batch."""
        rows = draw.indices(len(self))
        others = draw.integers(len(next(iter(self.fake.values())))).cpu()
        real = {name: value[rows] for name, value in self.real.items()}
        return real | {f"fake.{name}": value[others] for name, value in self.fake.items()}


@dataclass(frozen=True)
class DiscriminatorObjective:
    """adversarial * L_disc + denoise * L_den, on noised reals and fakes; the experts are only read.

    L_disc = E_real softplus(-h) + E_fake softplus(h)                       (their Eq. 10, with the sign that has a minimum)
    L_den  = sum_m E_real || eps_m - eps_m,base(z_t) + S_m grad_m h ||^2    (their Eq. 12)

    Experts that stand apart generate independently, so any pairing of their fakes is a fake: with `pairings` > 0 each batch of fakes counts
    1 + `pairings` times, paired anew each time (softplus(h) is then a mean over them). It needs `grid`, as partners must share a time, a
    network whose modalities meet only at its end (`RatioTwins`), and no condition.

    L_den differentiates the discriminator twice and the experts never. With `observed` > 0 that share of the rows has one
    modality, drawn at random, at t = 0 (no loss there): the ratio then also guides the others given that one, exactly. Entries
    `weight.adversarial` and `weight.denoise` (B,) of a batch weigh its rows.

    Args:
        base: the frozen experts, on the discriminator's paths.
        adversarial: weight of L_disc. denoise: lambda, the weight of L_den; 0 leaves it out.
        reduction: the square in L_den is a "mean" over each modality's entries, or their "sum".
        observed: share of rows with an observed modality. most: the largest number of them (1 to that are equally frequent); None: one.
        dropout: share of rows whose condition is dropped (labels become -1, vectors 0).
        low, high: the times that are drawn. grid: so many different times a batch, evenly spaced and moved at every step by the golden
            ratio (networks then compute each time once); 0 draws a time for each row.
        levels: of noise, in the log.
        pairings: more pairings of every batch of fakes.

    Raises:
        PolyscoreError: `pairings` with experts, times or a network that have no others.
    """

    base: Denoiser
    adversarial: float = 1.0
    denoise: float = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    observed: float = 0.0
    most: int | None = None
    dropout: float = 0.1
    low: float = 0.0
    high: float = 1.0
    grid: int = 0
    levels: int = 5
    pairings: int = 0

    def __post_init__(self) -> None:
        if self.pairings and (not self.grid or self.observed or not isinstance(self.base, Independent)):
            raise PolyscoreError("discriminator: pairings need experts that stand apart (Independent), a grid of times and observed = 0")

    def settings(self) -> dict[str, Any]:
        """The numbers, for the checkpoint."""
        return {name: value for name, value in vars(self).items() if name != "base" and value is not None}

    def __call__(self, module: Discriminator, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss, its parts, and per level: BCE, accuracy, mean |h|; per modality the norm of the correction over that of eps.

        Under autocast only the experts are computed in another precision than float32.
        """
        paths = cast(Mapping[str, Path], module.paths)
        t, moves = self.times(paths, draw)
        keep = draw.uniform() >= self.dropout
        real, noise = _noised(paths, batch, "", t, draw)
        fake, _ = _noised(paths, batch, "fake.", t, draw)
        level = torch.stack(list(t.values())).amax(0)
        known = drop_condition(condition_of(batch), keep)
        guess = self._guess(real, t, known) if self.denoise else {}
        found: dict[str, Tensor] = {}
        total = torch.zeros((), device=level.device)
        with torch.autocast(level.device.type, enabled=False):
            if self.denoise:
                logit, total, found = self._denoising(module, real, noise, t, _weighted(moves, batch), known, guess)
            elif self.adversarial:
                logit = module.logit(real, t, known)
            if self.adversarial:
                other, pushed = self._fakes(module, fake, t, drop_condition(condition_of(batch, "fake.condition"), keep))
                bce = functional.softplus(-logit) + pushed
                total = total + self.adversarial * (bce * batch.get("weight.adversarial", torch.ones_like(bce))).mean()
                right = ((logit > 0).to(bce) + (other < 0).to(bce)) / 2
                size = (logit.abs() + other.abs()) / 2
                found |= {"bce": bce.detach().mean(), "accuracy": right.mean()} | by_level(bce, level, self.levels, "bce")
                found |= by_level(right, level, self.levels, "accuracy") | by_level(size, level, self.levels, "logit")
        return {"loss": total, **found}

    @torch.no_grad()
    def _guess(self, z: State, t: Mapping[str, Tensor], known: Any) -> State:
        """eps of the experts for every modality."""
        found = self.base(z, t, known)
        return {name: cast(Prediction, found[name]).eps.to(value) for name, value in z.items()}

    def _fakes(self, module: Discriminator, fake: State, t: Mapping[str, Tensor], known: Any) -> tuple[Tensor, Tensor]:
        """Logits of the fakes as they are, (B,), and softplus of them, a mean over the pairings."""
        if not self.pairings:
            other = module.logit(fake, t, known)
            return other, functional.softplus(other)
        if not isinstance(module.network, RatioTwins) or known is not None or len(next(iter(t.values()))) % self.grid:
            raise PolyscoreError(
                f"discriminator: pairings need a RatioTwins network, no condition and a batch of whole grids of {self.grid} times, found "
                f"{type(module.network).__name__}, {len(next(iter(t.values())))} rows{'' if known is None else ' and a condition'}"
            )
        features = module.network.features(fake, t)
        logits = module.network.combine(features, self.grid, self.pairings + 1)
        return logits[0], functional.softplus(logits).mean(0)

    def times(self, paths: Mapping[str, Path], draw: Draw) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The time of every modality, and 1 where it moves, each (B,)."""
        t = snap(self.low + (self.high - self.low) * (moving_grid(draw, self.grid) if self.grid else draw.stratified()), paths)
        if not self.observed:
            return dict.fromkeys(paths, t), dict.fromkeys(paths, torch.ones_like(t))
        if self.most is not None:
            number = torch.where(draw.uniform() < self.observed, draw.integers(self.most) + 1, 0)
            rank = draw.uniform(len(paths)).argsort(1).argsort(1)
            moves = {name: (rank[:, place] >= number).to(t) for place, name in enumerate(paths)}
            return {name: t * moves[name] for name in paths}, moves
        which = torch.where(draw.uniform() < self.observed, draw.integers(len(paths)), -1)
        moves = {name: (which != place).to(t) for place, name in enumerate(paths)}
        return {name: t * moves[name] for name in paths}, moves

    def _denoising(
        self, module: Discriminator, z: State, noise: State, t: Mapping[str, Tensor], moves: Mapping[str, Tensor], known: Any, guess: State
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        leaves = {name: value.requires_grad_(True) for name, value in z.items()}
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            logit = module.logit(leaves, t, known)
            slopes = torch.autograd.grad(logit.sum(), list(leaves.values()), create_graph=training)
        level = torch.stack(list(t.values())).amax(0)
        total = torch.zeros((), device=logit.device)
        found: dict[str, Tensor] = {}
        for (name, value), slope in zip(z.items(), slopes, strict=True):
            eps = guess[name]
            correction = expand(cast(GaussianPath, module.paths[name]).coefficients(t[name])[1], value) * slope  # type: ignore[index]
            square = (noise[name] - eps + correction).square().flatten(1)
            loss = (square.mean(1) if self.reduction == "mean" else square.sum(1)) * moves[name]
            total = total + loss.mean()
            share = correction.detach().flatten(1).norm(dim=1) / eps.flatten(1).norm(dim=1).clamp(min=1e-6)
            found |= {f"denoise.{name}": loss.detach().mean()} | by_level(loss, level, self.levels, f"denoise.{name}")
            found |= by_level(share, level, self.levels, f"correction.{name}")
        return logit if training else logit.detach(), self.denoise * total, found


def moving_grid(draw: Draw, levels: int) -> Tensor:
    """`levels` evenly spaced times in [0, 1), shared by the rows of a batch, moved by the golden ratio at every step, (B,)."""
    place = torch.arange(draw.start, draw.stop, device=draw.device) % levels
    return (place + draw.step * 0.6180339887498949 % 1.0) / levels


def snap(t: Tensor, paths: Mapping[str, Path]) -> Tensor:
    """Times in (0, 1]: the next step k / T where all paths have the same T discrete steps, else as they are (0 becomes 1e-4)."""
    steps = {path.steps if isinstance(path, Tabulated) else 0 for path in paths.values()}
    if len(steps) == 1 and (count := steps.pop()):
        return ((t * count).floor() + 1).clamp(1, count) / count
    return t.clamp(min=1e-4)


def drop_condition(condition: Any, keep: Tensor) -> Any:
    """The condition where `keep` (B,) is true; elsewhere integer labels become -1 and real vectors 0."""
    if condition is None:
        return None
    if isinstance(condition, Mapping):
        return {name: drop_condition(value, keep) for name, value in condition.items()}
    rows = keep.reshape(-1, *[1] * (condition.ndim - 1))
    return torch.where(rows, condition, torch.zeros_like(condition) if condition.is_floating_point() else -torch.ones_like(condition))


def _noised(
    paths: Mapping[str, Path], batch: Mapping[str, Tensor], prefix: str, t: Mapping[str, Tensor], draw: Draw
) -> tuple[State, State]:
    noise = {name: draw.normal(*batch[prefix + name].shape[1:]) for name in paths}
    return {name: path.corrupt(batch[prefix + name], t[name], noise[name]) for name, path in paths.items()}, noise


def _weighted(moves: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weight = batch.get("weight.denoise")
    return {name: value if weight is None else value * weight for name, value in moves.items()}
