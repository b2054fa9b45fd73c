"""Solvers of token modalities: one step from time t_i to t_{i+1}, given log p(z_0 | z_t).

Positions are drawn apart, so a step that decides several of them at once is exact only as steps grow; with one position a step
(`Unmask` with at least as many steps as positions) a perfect denoiser gives exact samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.predictions import TokenPrediction
from polyscore.sampling.correctors import CORRECTORS, When
from polyscore.sampling.walk import Walk
from polyscore.spec import register
from polyscore.tokens.draws import categorical, gumbel, truncate
from polyscore.tokens.paths import TokenPath
from polyscore.tokens.posterior import model_posterior

__all__ = ["Ancestral", "Gibbs", "TokenSolver", "Unmask", "jump_back", "make_token_solver", "partial", "pin", "redraw"]


class TokenSolver(Protocol):
    """The protocol of a solver of tokens."""

    def update(self, walk: Walk, name: str, z: Tensor, p: TokenPrediction, i: int) -> Tensor:
        """The state at t_{i+1}."""
        ...


def _chosen(p: TokenPrediction, truncation: float, temperature: float) -> Tensor:
    log_probs = p.log_probs if temperature == 1 else torch.log_softmax(p.log_probs / temperature, -1)
    return truncate(log_probs, truncation)


@register
@dataclass(frozen=True)
class Ancestral:
    """z_s ~ sum_j p(z_0 = j | z_t) q(z_s | z_t, z_0 = j), the strided posterior of any step t -> s.

    On the grid of the training steps it is the ordinary sampler of D3PM and VQ-Diffusion. Unlike the "fast" mode VQ-Diffusion
    released it reveals the right share of tokens at every stride.

    Args:
        truncation: see `polyscore.tokens.truncate`; 1 keeps every token. temperature: of p(z_0 | z_t).
    """

    truncation: float = 1.0
    temperature: float = 1.0

    def update(self, walk: Walk, name: str, z: Tensor, p: TokenPrediction, i: int) -> Tensor:
        """One step."""
        log_probs = _chosen(p, self.truncation, self.temperature)
        weights = model_posterior(walk.paths[name], log_probs, z, walk.times[i + 1], walk.times[i])
        return categorical(weights, walk.uniform(name))


@register
@dataclass(frozen=True)
class Unmask:
    """Reveal as many masked positions as the path says, in turns: of P positions of all token modalities one every 1/P of the way.

    order "confidence": where the most probable token is most probable; "random": anywhere. Both choose before they draw, so one
    position a step is exact. "maskgit": where the *drawn* token is most probable, with Gumbel noise of size `noise` * t
    (Chang et al. 2022); that prefers likely tokens (biased). "left": from the first to the last, which is exact too; particles then all
    know the same positions, so their weights can be compared at every step. Beside a Gaussian modality that is moved without noise (DDIM,
    DPM-Solver++) only "random" and "left" are exact: an order that looks at its state picks regions which the flow does not carry rightly.
    Needs a path that masks.
    """

    order: Literal["confidence", "random", "left", "maskgit"] = "confidence"
    truncation: float = 1.0
    temperature: float = 1.0
    noise: float = 4.0

    def update(self, walk: Walk, name: str, z: Tensor, p: TokenPrediction, i: int) -> Tensor:
        """One step; remembers how many positions were masked at the start."""
        path = _masking(walk, name)
        masked = z == path.mask
        memory = walk.memory(name)
        if not memory:
            memory.append((masked.flatten(1).sum(1), float(path.cumulative(walk.times[i])[2])))
        free, start = memory[0]
        left = _left(walk, name, float(path.cumulative(walk.times[i + 1])[2]) / start)
        log_probs = _chosen(p, self.truncation, self.temperature)
        uniform = walk.uniform(name, 2)
        drawn = categorical(log_probs.exp(), uniform[..., 0])
        score = self._score(log_probs, drawn, uniform[..., 1], walk.times[i]).masked_fill(~masked, -math.inf).flatten(1)
        rank = score.argsort(dim=1, descending=True).argsort(dim=1).reshape(z.shape)
        count = masked.flatten(1).sum(1) - torch.ceil(free * left - 1e-6).long()
        return torch.where(masked & (rank < count.reshape(-1, *[1] * (z.ndim - 1))), drawn, z)

    def _score(self, log_probs: Tensor, drawn: Tensor, uniform: Tensor, t: float) -> Tensor:
        if self.order == "random":
            return uniform.double()
        if self.order == "left":
            return -torch.arange(uniform[0].numel(), device=uniform.device).reshape(uniform[0].shape).expand_as(uniform).double()
        if self.order == "confidence":
            return log_probs.amax(-1).double()
        return log_probs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1) + self.noise * t * gumbel(uniform)


@register
@dataclass(frozen=True)
class Gibbs:
    """Corrector: mask `sites` positions of the token modalities and draw each anew from sum_j p(z_0^l = j | others) q(z_s^l | j).

    With one site at a time and a perfect denoiser it leaves the law at every noise level as it is, so it repairs what parallel steps get
    wrong (remasking); several sites at once are an approximation. `rounds` evaluations a step. Needs a path that masks.
    """

    sites: int = 1
    rounds: int = 1
    when: When = "after"

    def __call__(self, walk: Walk, z: State, i: int, predict: Callable[[State, int], Mapping[str, Any]]) -> State:
        """The corrected states."""
        names = [name for name in z if isinstance(walk.paths[name], TokenPath)]
        if not any(isinstance(path, TokenPath) for path in walk.paths.values()):
            raise PolyscoreError(f"corrector Gibbs: expected a token modality, found none among {sorted(walk.paths)}")
        for _ in range(self.rounds if names else 0):
            uniform = {n: walk.streams.uniform(f"{n}/gibbs", (*walk.shapes[n], 2)) for n in names}
            here = self._sites({n: uniform[n][..., 0] for n in names})
            blank = z | {n: z[n].masked_fill(here[n], _masking(walk, n).mask) for n in names}
            predictions = predict(blank, i)
            for n in names:
                z = z | {n: torch.where(here[n], self._draw(walk, n, predictions[n], uniform[n][..., 1], i), z[n])}
        return z

    def _sites(self, uniform: State) -> State:
        together = torch.cat([u.flatten(1) for u in uniform.values()], 1)
        chosen = together.argsort(dim=1).argsort(dim=1) < self.sites
        parts = chosen.split([u[0].numel() for u in uniform.values()], 1)
        return {n: part.reshape(u.shape) for (n, u), part in zip(uniform.items(), parts, strict=True)}

    def _draw(self, walk: Walk, name: str, p: TokenPrediction, uniform: Tensor, i: int) -> Tensor:
        alpha, beta, gamma = (float(v) for v in walk.paths[name].cumulative(walk.times[i]))
        tokens = alpha * p.log_probs.exp() + beta
        return categorical(torch.cat([tokens, torch.full_like(tokens[..., :1], gamma)], -1), uniform)


CORRECTORS["gibbs"] = (Gibbs, ("sites", "rounds", "when"))


def redraw(walk: Walk, z: State, fixed: State, rows: Tensor, rounds: int, predict: Callable[[State], Mapping[str, Any]]) -> State:
    """`rounds` times, one free position of each state's tokens drawn anew from p(z_0^l | all others): the law of clean states stays.

    Random numbers are those of the rows `rows` of the walk's streams; positions known in `fixed` (>= 0) stay.
    """
    names = [n for n in z if isinstance(path := walk.paths[n], TokenPath) and path.masks]
    for _ in range(rounds if names else 0):
        uniform = {n: walk.streams.uniform(f"{n}/redraw", (*walk.shapes[n], 2))[rows] for n in names}
        order = {n: uniform[n][..., 0].masked_fill(fixed[n] >= 0, 2.0) if n in fixed else uniform[n][..., 0] for n in names}
        here = {n: chosen & (order[n] <= 1) for n, chosen in Gibbs(1)._sites(order).items()}
        found = predict(z | {n: z[n].masked_fill(here[n], _masking(walk, n).mask) for n in names})
        z = z | {n: torch.where(here[n], categorical(found[n].log_probs.exp(), uniform[n][..., 1]), z[n]) for n in names}
    return z


def _left(walk: Walk, name: str, left: float) -> float:
    """The share of a modality's positions still masked when `left` of all are; no two modalities reveal at the same moment."""
    sizes = {n: math.prod(walk.shapes[n]) for n, path in walk.paths.items() if isinstance(path, TokenPath)}
    turns = sorted(((j + 1) / size, n) for n, size in sizes.items() for j in range(size))
    done = round((1 - left) * len(turns) - 0.5 + 1e-6)
    return 1 - sum(n == name for _, n in turns[:done]) / sizes[name]


def _masking(walk: Walk, name: str) -> TokenPath:
    path = walk.paths[name]
    if not (isinstance(path, TokenPath) and path.masks):
        raise PolyscoreError(f"modality {name!r}: expected a token path that masks, found {path}")
    return path


def pin(z: State, fixed: State) -> State:
    """z with the known positions of `fixed` (-1: free) put in: infilling. Exact on absorbing paths; on others a known token
    is shown at a noise level at which it might have been replaced (biased)."""
    return z | {name: torch.where(known >= 0, known, z[name]) for name, known in fixed.items()}


def partial(path: Any, value: Tensor) -> bool:
    """Whether some positions of a given sequence of tokens are free (-1)."""
    return isinstance(path, TokenPath) and bool((value == -1).any())


def jump_back(walk: Walk, name: str, z: Tensor, i: int) -> Tensor:
    """A draw of q(z_{t_i} | z_{t_{i+1}}) of a token modality."""
    noise = walk.streams.uniform(f"{name}/back", (*walk.shapes[name], 2))
    found: Tensor = walk.paths[name].advance(z, walk.times[i + 1], walk.times[i], noise)
    return found


def make_token_solver(solver: str) -> TokenSolver:
    """ "ancestral", "confidence", "random", "left" or "maskgit"; a colon and a share truncate: "ancestral:0.86".

    Raises:
        PolyscoreError: another name, or a share that is no number from 0 to 1.
    """
    name, _, share = solver.partition(":")
    try:
        truncation = float(share) if share else 1.0
    except ValueError:
        truncation = -1.0
    if name not in ("ancestral", "confidence", "random", "left", "maskgit") or not 0 <= truncation <= 1:
        raise PolyscoreError(
            f"token solver {solver!r}: expected ancestral, confidence, random, left or maskgit, perhaps with a truncation (ancestral:0.86)"
        )
    if name == "ancestral":
        return Ancestral(truncation)
    return Unmask(name, truncation)  # type: ignore[arg-type]
