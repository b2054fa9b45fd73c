"""The joint-over-marginals ratio that a denoiser with per-modality times gives for free."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polyscore.conditions import cut, repeat_condition
from polyscore.denoisers import AnyPrediction, Denoiser, State, Times, current_run, inside
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.spec import register
from polyscore.tokens.paths import TokenPath

__all__ = ["SubsetGuided"]


@register
class SubsetGuided(Denoiser):
    """Density: p(z_u | z_o) [p(z_u | z_o) / prod_m p(z_m)]^w, from one denoiser, or from it and one of the marginals: no discriminator.

    eps_m + w (eps_m(all) - eps_m(all others at t = 1)), m over the modalities that are generated: a partner at t = 1 tells nothing,
    so the second prediction is the marginal of m. Tokens: the same in log-probabilities. The denoiser must have been
    trained with some partners at t = 1. A modality that is sampled alone (all others `absent`) is not guided; with `marginals` it comes
    from them. All predictions of a step are one call of M + 1 times the rows; with `marginals`, a denoiser in which no modality sees
    another (such as `MarginalDenoiser`, or `Independent` experts trained apart), one call of each.
    As a sum of noised scores it is biased, like classifier-free guidance (`polyscore.sampling.particles` weighs it right).

    Args:
        denoiser: a joint denoiser with a time per modality.
        strength: w; 0 is the denoiser itself, at its cost.
        window: the times [low, high] in which the guidance acts.
        marginals: a denoiser of prod_m p(z_m) on the same paths.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        strength: float = 1.0,
        window: tuple[float, float] = (0.0, 1.0),
        marginals: Denoiser | None = None,
    ) -> None:
        super().__init__()
        self.marginals = marginals
        if marginals is not None and dict(marginals.paths) != dict(denoiser.paths):
            raise PolyscoreError(f"SubsetGuided: expected marginals on the paths {dict(denoiser.paths)}, found {dict(marginals.paths)}")
        self.denoiser, self.strength, self.window = denoiser, strength, (window[0], window[1])
        self.paths, self.shapes, self.spaces = denoiser.paths, denoiser.shapes, denoiser.spaces

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The guided predictions."""
        moving = [n for n in self.paths if isinstance(t[n], Tensor) or t[n] > 0]
        run = current_run.get()
        alone = len(set(self.paths) - set(run.absent if run is not None else ())) == 1
        if alone and self.marginals is not None:
            return dict(self.marginals(z, t))
        acts = not alone and self.strength != 0 and inside(self.window, [t[n] for n in moving])
        if acts is False or (isinstance(acts, Tensor) and not acts.any()):
            found: dict[str, AnyPrediction] = self.denoiser(z, t, condition)
            return found
        if self.marginals is not None:
            joint, alone = dict(self.denoiser(z, t, condition)), self.marginals(z, t)
            return joint | {name: _mix(joint[name], alone[name], self.strength * acts) for name in moving}
        return self._guide(z, t, condition, moving, self.strength * acts)

    @property
    def approximations(self) -> list[str]:
        """Why there is no one density whose noised levels particles could weigh: a window."""
        return [f"subset guidance acts in the window {list(self.window)} only"] if self.window != (0.0, 1.0) else []

    def _guide(self, z: State, t: Times, condition: Any, moving: list[str], w: float | Tensor) -> dict[str, AnyPrediction]:
        rows = len(next(iter(z.values())))
        wide_z, wide_t = {}, {}
        for name in self.paths:
            absent = self._absent(name, z[name])
            wide_z[name] = torch.cat([z[name]] + [z[name] if own == name else absent for own in moving])
            now = _row(t[name], rows, z[name])
            wide_t[name] = torch.cat([now] + [now if own == name else torch.ones_like(now) for own in moving])
        wide_c = repeat_condition(condition, rows, 1 + len(moving))
        wide = self.denoiser(wide_z, wide_t, wide_c)
        found = {name: cut(wide[name], z[name], 0, rows) for name in self.paths}
        for place, name in enumerate(moving, start=1):
            found[name] = _mix(found[name], cut(wide[name], z[name], place * rows, rows), w)
        return found

    def _absent(self, name: str, like: Tensor) -> Tensor:
        """What stands in for a modality at t = 1: the run's own initial noise, or zeros outside a run."""
        run = current_run.get()
        noise = run.noise.get(name) if run is not None else None
        if noise is not None and noise.shape == like.shape:
            return noise
        path = self.paths[name]
        return path.absent(like) if isinstance(path, TokenPath) else torch.zeros_like(like)


def _mix(joint: AnyPrediction, marginal: AnyPrediction, w: float | Tensor) -> AnyPrediction:
    """joint + w (joint - marginal), with w one number or one a sample."""
    if isinstance(joint, TokenPrediction) and isinstance(marginal, TokenPrediction):
        return TokenPrediction.mix([("joint", 1 + w, joint), ("marginal", -w, marginal)])
    if not (isinstance(joint, Prediction) and isinstance(marginal, Prediction)):
        raise TypeError("a modality changed its kind between two predictions")
    return Prediction.mix([("joint", 1 + w, joint), ("marginal", -w, marginal)], joint.z, joint.A, joint.S)


def _row(t: Any, rows: int, like: Tensor) -> Tensor:
    if isinstance(t, Tensor):
        return t.expand(rows).to(like.device)
    return torch.full((rows,), float(t), device=like.device, dtype=torch.float64)
