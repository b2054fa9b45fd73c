"""Particles: sample a composition exactly, at no extra evaluation of any network.

A sum of scores is not the score of the noised product. For pi_t(z) ~ prod_i q_i,t(z)^c_i, sum_i c_i = 1, with every q_i,t the law
of expert i at noise level t, the reverse process driven by s = sum_i c_i s_i carries along pi_t if every particle has the weight

    d log w = -1/2 V g^2 dtau,   V = sum_i c_i |s_i|^2 - |s|^2   (tau = 1 - t; Feynman-Kac; Skreta et al. 2025),

whatever the amount of noise in the process. V S^2 is `Prediction.disagreement`, made of predictions that were there anyway. With
l = log SNR, g^2 / S^2 dtau = dl; the integral is taken by the trapezoid rule in A^2 / (A^2 + S^2), which is smooth at both
ends. Each Gaussian modality adds its own. Particles are resampled (systematically) when their effective sample size falls
below `threshold`.

Tokens (absorbing path): revealing position l from prod_i p_i(. | z)^c_i / Z_l multiplies w by Z_l: exact for one position at a time, first
order for several at once. Once all are revealed, redrawing a position from prod_i p_i(. | others)^c_i keeps the law (`moves`).

The weights are exact for experts that are exact at every noise level, as the steps become small and the particles many: with K particles a
sample the bias falls as 1/K, with one population of n K as 1/(n K). Time windows, masks and other things that leave no density to aim at
are listed in `.info["approximations"]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.sampling.noise import Streams
from polyscore.sampling.solvers import DDIM, ByModality, DPMpp, EulerMaruyama, NoisyDPMpp, Solver
from polyscore.sampling.steering import Steering
from polyscore.sampling.walk import Walk

__all__ = ["Particles", "Population", "approximations", "check_shared", "noisy", "summary", "systematic"]


@dataclass(frozen=True)
class Particles:
    """How many particles, and who shares them.

    Args:
        count: K, particles a requested sample.
        population: "sample": every sample has K particles of its own, one of which is drawn; samples are independent of each other and
            of the batch. "run": all n K particles of a batch are one population, from which n are drawn: less biased for the same
            cost, but samples then depend on their batch mates, and must share their conditions. A number: every so many samples of a
            batch are one population.
        threshold: resample when the effective sample size falls below this share.
        moves: tokens: that often, redraw one position of every drawn sample from its law given the others (Gibbs; one evaluation each).
            They keep the law of the composition as it is, and tear copies of one particle apart.
        steer: move the particles by a drift fitted to them, so that little is left to weigh (`polyscore.sampling.steering`); the weights
            stay exact. Acts where a population has at least 2.6 particles for each of 1 + 2 D numbers, D the dimensions of all Gaussian
            modalities: small vectors and large populations.
    """

    count: int = 8
    population: Literal["sample", "run"] | int = "sample"
    threshold: float = 0.5
    moves: int = 0
    steer: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise PolyscoreError(f"particles is {self.count}, expected at least 1")
        if self.population not in ("sample", "run") and not (isinstance(self.population, int) and self.population > 0):
            raise PolyscoreError(f"particle population {self.population!r}: expected sample, run or a number of samples")
        if self.moves < 0:
            raise PolyscoreError(f"particle moves is {self.moves}, expected 0 or more")
        if not 0 <= self.threshold <= 1:
            raise PolyscoreError(f"particle threshold is {self.threshold:g}, expected a number from 0 to 1")


def noisy(solver: Solver) -> Solver:
    """The solver with noise, for particles: without it copies of a particle stay copies.

    Raises:
        PolyscoreError: a solver that has no noisy form.
    """
    if isinstance(solver, ByModality):
        solver, *others = {noisy(own) for own in solver.solvers.values()}
        if others:
            raise PolyscoreError("particles need one solver for all modalities, found several: give solver='dpmpp_sde'")
    if isinstance(solver, DPMpp) and solver.order == 2:
        return NoisyDPMpp()
    if isinstance(solver, DDIM):
        return solver if solver.eta > 0 else DDIM(1.0)
    if isinstance(solver, NoisyDPMpp | EulerMaruyama) or not type(solver).__module__.startswith("polyscore."):
        return solver
    raise PolyscoreError(f"particles need a solver with noise: expected dpmpp_sde, ddpm or euler_maruyama, found {solver!r}")


def approximations(denoiser: nn.Module) -> list[str]:
    """What in a composition leaves particles without an exact target, one line each; empty: they are exact in the limit."""
    return [line for module in denoiser.modules() for line in getattr(module, "approximations", [])]


def systematic(log_weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Indices (G, count) of a systematic resampling of G groups: index k of group g comes w_gk count times, rounded up or down.

    log_weights (G, K), uniform (G, 1) in [0, 1).
    """
    edges = torch.softmax(log_weights.double(), 1).cumsum(1)
    points = (torch.arange(count, device=uniform.device, dtype=torch.float64) + uniform.double()) / count
    return torch.searchsorted(edges, points).clamp(max=log_weights.shape[1] - 1)


@dataclass
class Population:
    """The weights of the particles of one batch: G groups of K rows each, in the order of (group, particle); `wanted` are drawn of each."""

    walk: Walk
    streams: Streams
    groups: int
    size: int
    threshold: float
    wanted: int
    log_weights: Tensor = field(init=False)
    log_normaliser: Tensor = field(init=False)
    lowest: Tensor = field(init=False)
    resamplings: Tensor = field(init=False)
    steering: Steering | None = None
    _last: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zeros = torch.zeros(self.groups, dtype=torch.float64, device=self.streams.device)
        self.log_weights = zeros[:, None].repeat(1, self.size)
        self.log_normaliser, self.lowest, self.resamplings = zeros, zeros + 1, zeros.clone()

    @property
    def share(self) -> Tensor:
        """Effective sample size over K, (G,)."""
        return 1 / (torch.softmax(self.log_weights, 1).square().sum(1) * self.size)

    @classmethod
    def of(cls, particles: Particles, walk: Walk, seed: int, numbers: list[int], device: torch.device, noise: float = 0.0) -> Population:
        """The population of the samples with these numbers: a group each, or one for all."""
        wanted = {"sample": 1, "run": len(numbers)}.get(str(particles.population), particles.population)
        assert isinstance(wanted, int)
        if len(numbers) % wanted:
            raise PolyscoreError(f"particles: a batch of {len(numbers)} samples cannot be cut into populations of {wanted}")
        owners: list[Any] = numbers if wanted == 1 else [("run", number) for number in numbers[::wanted]]
        size = particles.count * wanted
        steering = Steering(walk, len(owners), size, noise) if particles.steer else None
        return cls(walk, Streams(seed, owners, device), len(owners), size, particles.threshold, wanted, steering)

    def select(self, z: State, predictions: Mapping[str, Any], i: int) -> tuple[State, Mapping[str, Any]]:
        """States and predictions at grid point i, after weighing and, where the effective sample size is low, resampling."""
        self._weigh(z, predictions, i)
        index = self._resample()
        if index is not None:
            z = {name: value[index] for name, value in z.items()}
            predictions = {name: _take(p, index, z.get(name)) for name, p in predictions.items()}
        if self.steering is not None and self._last:
            steps = {name: self._place(name, i + 1) - self._place(name, i) for name in self._last}
            psi = torch.stack([-0.5 * steps[name] * rate for name, rate in self._last.items()]).sum(0)
            self.steering.plan(z, predictions, psi, self.log_weights, i)
        return z, predictions

    def finish(self, z: State, given: State) -> tuple[State, State]:
        """The samples drawn from the particles at the end of the grid, and the rows of the given states that belong to them."""
        end = self.walk.steps
        for name, rate in self._last.items():
            self._add(-0.5 * (self._place(name, end) - self._place(name, end - 1)) * rate)
        self.lowest = torch.minimum(self.lowest, self.share)
        index = self._draw()
        return {name: value[index] for name, value in z.items()}, {name: value[index] for name, value in given.items()}

    def own(self) -> Tensor:
        """Row numbers whose random streams the drawn samples go on with: the first of each group."""
        first = torch.arange(self.wanted, device=self.streams.device)
        return (first + self.size * torch.arange(self.groups, device=self.streams.device)[:, None]).flatten()

    def reveal(self, before: State, after: State, predictions: Mapping[str, Any]) -> None:
        """Tokens: multiply by Z_l of every position l that was revealed (whose value changed)."""
        for name, p in predictions.items():
            if name in after and isinstance(p, TokenPrediction) and p.log_normaliser is not None:
                self._add((p.log_normaliser.double() * (before[name] != after[name])).flatten(1).sum(1))

    def _weigh(self, z: State, predictions: Mapping[str, Any], i: int) -> None:
        """Bring the weights to grid point i, with the disagreement found there; the first call only remembers it."""
        for name in z:
            p = predictions[name]
            if isinstance(p, Prediction):
                rate = p.disagreement.double() * self._scale(name, i)
                if name in self._last:
                    self._add(-0.25 * (self._place(name, i) - self._place(name, i - 1)) * (self._last[name] + rate))
                self._last[name] = rate
        growth = None if self.steering is None else self.steering.growth(z, predictions, i)
        if growth is not None:
            self._add(growth)
        self.lowest = torch.minimum(self.lowest, self.share)

    def _add(self, change: Tensor) -> None:
        self.log_weights = self.log_weights + change.reshape(self.groups, self.size)

    def _place(self, name: str, i: int) -> float:
        A, S = self.walk.at(name, i)
        return A * A / (A * A + S * S)

    def _scale(self, name: str, i: int) -> float:
        """dl / d(A^2 / (A^2 + S^2)); 0 at pure noise, where all experts agree."""
        A, S = self.walk.at(name, i)
        return (A * A + S * S) ** 2 / (A * A * S * S) if A > 0 else 0.0

    def _resample(self) -> Tensor | None:
        """Row numbers to keep (all groups that are poor are resampled), or None if no group is."""
        poor = self.share < self.threshold
        if not bool(poor.any()):
            return None
        mean = torch.logsumexp(self.log_weights, 1) - math.log(self.size)
        chosen = systematic(self.log_weights, self.streams.uniform("resampling", (1,)), self.size)
        own = torch.arange(self.size, device=chosen.device).expand_as(chosen)
        index = torch.where(poor[:, None], chosen, own) + self.size * torch.arange(self.groups, device=chosen.device)[:, None]
        self.log_normaliser = torch.where(poor, self.log_normaliser + mean, self.log_normaliser)
        self.log_weights = torch.where(poor[:, None], 0.0, self.log_weights)
        self.resamplings = self.resamplings + poor
        flat = index.flatten()
        self._last = {name: rate[flat] for name, rate in self._last.items()}
        self.walk.take(flat)
        return flat

    def _draw(self) -> Tensor:
        """Row numbers of the samples: `wanted` of every group, in random order."""
        chosen = systematic(self.log_weights, self.streams.uniform("draw", (1,)), self.wanted)
        order = self.streams.uniform("order", (self.wanted,)).argsort(1)
        index = chosen.gather(1, order) + self.size * torch.arange(self.groups, device=chosen.device)[:, None]
        return index.flatten()

    def facts(self) -> dict[str, Tensor]:
        """One number a group: final and lowest ESS share, resamplings, and the estimate of log int prod_i q_i(z)^c_i dz."""
        total = self.log_normaliser + torch.logsumexp(self.log_weights, 1) - math.log(self.size)
        return {"ess": self.share, "ess_lowest": self.lowest, "resamplings": self.resamplings, "log_normaliser": total}


def check_shared(given: State, condition: Any) -> None:
    """Refuse one population for samples with conditions of their own.

    Raises:
        PolyscoreError: naming what differs between samples.
    """
    own = [f"given modality {name!r}" for name, value in given.items() if bool((value != value[:1]).any())]
    own += ["condition"] if isinstance(condition, Tensor) and condition.ndim and bool((condition != condition[:1]).any()) else []
    if own:
        raise PolyscoreError(f"particles: one population for the run, but the {own[0]} differs between samples; use population 'sample'")


def summary(particles: Particles, batches: list[dict[str, Tensor]], approximate: list[str]) -> dict[str, Any]:
    """What a run says of its particles: means over the groups, and the log of the mean of their normaliser estimates."""
    facts = {name: torch.cat([b[name] for b in batches]).cpu() for name in batches[0]}
    logs = facts["log_normaliser"]
    ratio = (logs - logs.max()).exp()
    groups = len(logs)
    error = float(ratio.std() / ratio.mean()) / math.sqrt(groups) if groups > 1 else None
    return {
        "per_sample": particles.count,
        "population": particles.population,
        "steered": particles.steer,
        "moves": particles.moves,
        "ess": float(facts["ess"].mean()),
        "ess_lowest": float(facts["ess_lowest"].min()),
        "resamplings": float(facts["resamplings"].mean()),
        "log_normaliser": float(torch.logsumexp(logs, 0)) - math.log(groups),
        "log_normaliser_error": error,
        "log_normalisers": logs.tolist(),
        "approximations": approximate,
    }


def _take(p: Any, index: Tensor, z: Tensor | None) -> Any:
    return p.rows(index) if isinstance(p, TokenPrediction) else p.rows(index, p.z[index] if z is None else z)
