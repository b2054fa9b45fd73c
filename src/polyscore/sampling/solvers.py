"""Solvers: one step of one Gaussian modality from time t_i to t_{i+1}, given its prediction.

A solver is a small object with `update(walk, name, z, prediction, i)`; it knows one modality at a time and nothing of
what is sampled. `walk` holds the grid and the coefficients (floats A[i], S[i]), the noise, and a memory per modality.
For A, S at t and a, s at the next time: lambda = log(A / S), h = lambda_next - lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction
from polyscore.sampling.walk import Walk
from polyscore.spec import register

__all__ = ["DDIM", "ByModality", "DPMpp", "EulerMaruyama", "Heun", "NoisyDPMpp", "Solver", "make_solver"]


class Solver(Protocol):
    """The protocol of a solver. `second_order_evaluation`: `refine` wants a second prediction at the new time."""

    refines: ClassVar[bool]

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """The state at t_{i+1}."""
        ...


@register
@dataclass(frozen=True)
class DDIM:
    """z' = a x0 + sqrt(s^2 - eta^2 V) eps + eta sqrt(V) n, V = (S^2 - (A/a)^2 s^2) s^2 / S^2 the variance of q(z' | z, x0).

    eta = 0: DDIM, which is the Euler step of the probability flow in sigma = S / A (and of the flow ODE on the rectified path);
    eta = 1: DDPM ancestral sampling (Ho et al. 2020; Song et al. 2021). Any Gaussian path.
    """

    eta: float = 0.0
    refines: ClassVar[bool] = False

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """One step."""
        (A, S), (a, s) = walk.at(name, i), walk.at(name, i + 1)
        if s == 0:
            return a * p.x0
        variance = self.eta**2 * max(S * S - (A / a) ** 2 * s * s, 0.0) * (s / S) ** 2
        drawn = a * p.x0 + math.sqrt(max(s * s - variance, 0.0)) * p.eps
        return drawn + math.sqrt(variance) * walk.noise(name) if variance > 0 else drawn


@register
@dataclass(frozen=True)
class DPMpp:
    """DPM-Solver++ multistep with data prediction, order 1, 2 or 3 (Lu et al. 2022, Alg. 2).

    z' = (s / S) z - a (e^-h - 1) D, with D extrapolated from the last predictions of x0. The first steps and the step to
    t = 0 are of lower order; under 15 steps so are the last two steps of any grid.

    The multistep rule of order 3 in the authors' code (and in diffusers) has half of the term in D'' = h^2 x0'', which leaves it of
    second order; `full` takes all of it, which is of third order on a Gaussian (tests/sampling/test_solvers.py).
    """

    order: int = 2
    full: bool = False
    refines: ClassVar[bool] = False

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """One step; remembers x0 and lambda of the last steps."""
        (A, S), (a, s) = walk.at(name, i), walk.at(name, i + 1)
        history = walk.memory(name)
        now = math.log(A / S) if A > 0 else -math.inf
        history.append((p.x0, now))
        del history[:-3]
        if s == 0:
            return a * p.x0
        nxt = math.log(a / s)
        order = min(self.order, len(history), walk.steps - i if walk.steps < 15 else 3)
        while order > 1 and history[-order][1] == -math.inf:
            order -= 1
        shrink = math.exp(now - nxt)
        if order == 1:
            return _sum((s / S, z), (a * (1 - shrink), p.x0))
        h = nxt - now
        (x1, lambda1) = history[-2]
        r0 = (now - lambda1) / h
        if order == 2:
            slope = 0.5 * a * (1 - shrink) / r0
            return _sum((s / S, z), (a * (1 - shrink) + slope, p.x0), (-slope, x1))
        (x2, lambda2) = history[-3]
        # D10 = (x0 - x1) / r0, D11 = (x1 - x2) / r1, D' = D10 + r0 / (r0 + r1) (D10 - D11), D'' = (D10 - D11) / (r0 + r1)
        r1 = (lambda1 - lambda2) / h
        first, second = a * ((shrink - 1) / h + 1), -a * ((shrink - 1 + h) / h**2 - 0.5) * (2 if self.full else 1)
        share = (first * r0 + second) / (r0 + r1)
        c10, c11 = (first + share) / r0, -share / r1
        return _sum((s / S, z), (a * (1 - shrink) + c10, p.x0), (c11 - c10, x1), (-c11, x2))


def _sum(*terms: tuple[float, Tensor]) -> Tensor:
    """sum_k c_k x_k, one operation a term."""
    (c, x), *rest = terms
    total = x * c
    for c, x in rest:
        total = total.add(x, alpha=c)
    return total


@register
@dataclass(frozen=True)
class NoisyDPMpp:
    """DPM-Solver++ (2M) for the reverse SDE, with `noise` (eta) times DDPM's (Lu et al. 2022, Sec. 5; any eta: k-diffusion).

    z' = (s / S) e^(-eta h) z + a (1 - e^(-(1 + eta) h)) D + s sqrt(1 - e^(-2 eta h)) n, D = x0 + h / (2 h_last) (x0 - x0_last).
    eta = 0 is the probability flow, eta = 1 the reverse SDE; every eta has the same marginals (and the same particle weights).
    """

    noise: float = 1.0
    refines: ClassVar[bool] = False

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """One step; remembers x0 and lambda of the last one."""
        (A, S), (a, s) = walk.at(name, i), walk.at(name, i + 1)
        history = walk.memory(name)
        now = math.log(A / S) if A > 0 else -math.inf
        last = history[0] if history else (p.x0, -math.inf)
        history[:] = [(p.x0, now)]
        if s == 0:
            return a * p.x0
        h = math.log(a / s) - now
        guess = p.x0 + (0.5 * h / (now - last[1])) * (p.x0 - last[0]) if last[1] > -math.inf else p.x0
        keep = (s / S) * math.exp(-self.noise * h) if self.noise else s / S
        moved = keep * z - a * math.expm1(-(1 + self.noise) * h) * guess
        return moved + s * math.sqrt(-math.expm1(-2 * self.noise * h)) * walk.noise(name) if self.noise else moved


@register
@dataclass(frozen=True)
class Heun:
    """Second order with a second prediction at the new time; the step to t = 0 is an Euler step.

    In y = z / A and sigma = S / A, dy = eps dsigma (Karras et al. 2022, Alg. 1); on paths that are pure noise at the start
    (A = 0) along the chord z' = z + (a - A) x0 + (s - S) eps, which is Heun's rule for the flow ODE on the rectified path.
    """

    refines: ClassVar[bool] = True

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """The Euler step; remembers it for `refine`."""
        walk.memory(name)[:] = [(z, p)]
        return DDIM().update(walk, name, z, p, i)

    def refine(self, walk: Walk, name: str, p: Prediction, i: int) -> Tensor:
        """The trapezoid with the prediction `p` at the new time."""
        (z, first) = walk.memory(name)[0]
        (A, S), (a, s) = walk.at(name, i), walk.at(name, i + 1)
        if walk.at(name, 0)[0] <= 0:
            return z + (0.5 * (a - A)) * (first.x0 + p.x0) + (0.5 * (s - S)) * (first.eps + p.eps)
        return a * (z / A + 0.5 * (s / a - S / A) * (first.eps + p.eps))


@register
@dataclass(frozen=True)
class EulerMaruyama:
    """Reverse SDE: z' = z + (-f z + g^2 score) dt + g sqrt(dt) n; the predictor of the Score-Based Multimodal Autoencoder.

    dt is the grid's own step, or with `even` 1/N at every one of N points, as in the authors' sampler on the grid "score_sde". A run
    returns the mean of its last step, before the noise. `stochastic=False`: the probability flow (half the score, no noise).
    From pure noise (A = 0, where f is infinite) the step is the exact draw of `DDIM`.
    """

    even: bool = False
    stochastic: bool = True
    refines: ClassVar[bool] = False

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """One step."""
        if walk.at(name, i)[0] <= 0:
            return DDIM(float(self.stochastic)).update(walk, name, z, p, i)
        t = walk.times[i]
        dt = 1 / walk.steps if self.even else t - walk.times[i + 1]
        path = walk.paths[name]
        f, g2 = path.drift(t), path.diffusion(t)
        mean = z + dt * ((1.0 if self.stochastic else 0.5) * g2 * p.score - f * z)
        if not self.stochastic:
            return mean
        walk.means[name] = mean
        return mean + math.sqrt(g2 * dt) * walk.noise(name)


@register
@dataclass(frozen=True)
class ByModality:
    """A solver of its own for each modality; those that ask for a second prediction cannot be among them."""

    solvers: Mapping[str, Solver]
    refines: ClassVar[bool] = False

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """One step of the modality's own solver.

        Raises:
            PolyscoreError: it has none.
        """
        if name not in self.solvers:
            raise PolyscoreError(f"solver: none for modality {name!r}, expected one for each, found {sorted(self.solvers)}")
        return self.solvers[name].update(walk, name, z, p, i)


_NAMED: dict[str, Callable[[], Solver]] = {
    "ddpm": lambda: DDIM(1.0),
    "ddim": lambda: DDIM(0.0),
    "euler": lambda: DDIM(0.0),
    "heun": Heun,
    "dpmpp": lambda: DPMpp(2),
    "dpmpp2m": lambda: DPMpp(2),
    "dpmpp3m": lambda: DPMpp(3),
    "dpmpp3m_full": lambda: DPMpp(3, full=True),
    "dpmpp_sde": NoisyDPMpp,
    "euler_maruyama": EulerMaruyama,
    "euler_maruyama_even": lambda: EulerMaruyama(even=True),
}


def make_solver(solver: str | Solver | Mapping[str, Any]) -> Solver:
    """A solver by name, the given object, or {modality: either}.

    Raises:
        PolyscoreError: an unknown name, or a solver with two predictions a step beside others.
    """
    if isinstance(solver, Mapping):
        found = {name: make_solver(own) for name, own in solver.items()}
        if twice := [name for name, own in found.items() if own.refines]:
            raise PolyscoreError(f"solver of {twice[0]!r}: {found[twice[0]]} asks twice a step, which solvers beside others cannot")
        return ByModality(found)
    if not isinstance(solver, str):
        return solver
    if solver not in _NAMED:
        raise PolyscoreError(f"solver {solver!r}: expected one of {', '.join(_NAMED)}")
    return _NAMED[solver]()
