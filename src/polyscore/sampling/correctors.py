"""Correctors: Langevin steps at a fixed noise level, which leave the level's law unchanged as their size goes to 0.

They repair what a sum of scores or a coarse grid gets wrong, at the price of more evaluations.
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
from polyscore.named import Named, make_named
from polyscore.paths import GaussianPath, VariancePreserving
from polyscore.predictions import Prediction
from polyscore.sampling.walk import Walk
from polyscore.spec import register

__all__ = ["CORRECTORS", "Corrector", "Langevin", "SNRLangevin", "When", "make_corrector"]

When = Literal["before", "same", "after"]
Predict = Callable[[State, int], Mapping[str, Any]]


class Corrector(Protocol):
    """`when`: before the solver's step at t_i ("before"), after it but still at t_i ("same"), or after it at t_{i+1} ("after")."""

    @property
    def when(self) -> When:
        """Its place in a step."""
        ...

    def __call__(self, walk: Walk, z: State, i: int, predict: Predict) -> State:
        """The generated states, corrected at grid point i; `predict(z, i)` costs one evaluation."""
        ...


@register
@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin: z <- z + d score + sqrt(2 d) n, d = size * S^2, `steps` times at every level but t = 0.

    Every step costs one evaluation; all generated Gaussian modalities move together.
    """

    steps: int = 1
    size: float = 0.25
    when: When = "after"

    def __call__(self, walk: Walk, z: State, i: int, predict: Predict) -> State:
        """The corrected states."""
        _need_gaussian(walk, self)
        for _ in range(self.steps):
            predictions = predict(z, i)
            z = dict(z)
            for name in z:
                p = predictions[name]
                if isinstance(p, Prediction) and (S := walk.at(name, i)[1]) > 0:
                    walk.means.pop(name, None)
                    # d * score = -size S eps: no division by S.
                    z[name] = z[name] - self.size * S * p.eps + math.sqrt(2 * self.size) * S * walk.noise(name)
        return z


@register
@dataclass(frozen=True)
class SNRLangevin:
    """The corrector of Song et al. 2021 (Alg. 5) as the Score-Based Multimodal Autoencoder runs it.

    z <- z + h g + sqrt(2 h) n with h = 2 alpha (snr |n| / |g|)^2 and alpha = 1 - beta(i/(N-1))/N, i = floor(t (N-1)) on
    variance-preserving paths (at least 0), alpha = 1 on others.

    Args:
        snr: r. when: "same" is the authors' order (the predictor first, the corrector at its old time), "before" the standard one.
        norm: "sample" takes |n| and |g| of each sample (results do not depend on batch mates); "batch" their means over the batch, as
            the authors do. observed: whether the observed modalities' scores count in |g|, as the authors have it.
        limit: of h in units of S^2, for norm "sample": in few dimensions |n| / |g| of one sample has no bound (prefer `Langevin` there).
    """

    snr: float = 0.16
    when: When = "same"
    norm: Literal["sample", "batch"] = "sample"
    observed: bool = False
    limit: float = 0.5
    floor: float = 1e-6

    def __call__(self, walk: Walk, z: State, i: int, predict: Predict) -> State:
        """The corrected states."""
        _need_gaussian(walk, self)
        predictions = {k: p for k, p in predict(z, i).items() if isinstance(p, Prediction) and (self.observed or k in z)}
        noise = {name: walk.noise(name) for name in predictions}
        g = self._norm([p.score for p in predictions.values()]).clamp(min=self.floor)
        e = self._norm(list(noise.values()))
        z = dict(z)
        for name in [n for n in z if n in predictions]:
            h = self.step_size(walk, name, i, e, g).to(z[name]).reshape(-1, *[1] * (z[name].ndim - 1))
            walk.means[name] = z[name] + h * predictions[name].score
            z[name] = walk.means[name] + (2 * h).sqrt() * noise[name]
        return z

    def step_size(self, walk: Walk, name: str, i: int, noise_norm: Tensor, score_norm: Tensor) -> Tensor:
        """h = 2 alpha (snr |n| / |g|)^2, one a sample or one for all."""
        N, path, alpha = walk.steps, walk.paths[name], 1.0
        if isinstance(path, VariancePreserving):
            level = math.floor(walk.times[i] * (N - 1)) / max(N - 1, 1)
            alpha = max(1 - path.diffusion(level) / N, 0.0)
        h = 2 * alpha * (self.snr * noise_norm / score_norm) ** 2
        return h if self.norm == "batch" else h.clamp(max=self.limit * walk.at(name, i)[1] ** 2)

    def _norm(self, values: list[Tensor]) -> Tensor:
        each = torch.cat([v.flatten(1) for v in values], 1).norm(dim=1)
        return each.mean().reshape(1) if self.norm == "batch" else each


def _need_gaussian(walk: Walk, corrector: Corrector) -> None:
    if not any(isinstance(path, GaussianPath) for path in walk.paths.values()):
        raise PolyscoreError(f"corrector {type(corrector).__name__}: expected a Gaussian modality, found tokens only: {sorted(walk.paths)}")


CORRECTORS: dict[str, tuple[Callable[..., Corrector], tuple[str, ...]]] = {
    "langevin": (Langevin, ("size", "steps", "when")),
    "snr": (SNRLangevin, ("snr", "when", "norm", "observed", "limit")),
}
"""By name, with the fields that may be written after it; `polyscore.sampling.tokens` adds its own."""


def make_corrector(corrector: str | Corrector | None) -> Corrector | None:
    """A corrector by name, the given object, or None (also by the name "none").

    "langevin" or "langevin:SIZE", "snr" or "snr:RATIO" (`SNRLangevin`), and for tokens "gibbs" or "gibbs:SITES"; more fields follow by
    name: "langevin:0.25:steps=2:when=before", "gibbs:1:rounds=3".

    Raises:
        PolyscoreError: an unknown name or field, or a value that doesn't fit.
    """
    if not isinstance(corrector, str):
        return corrector
    known: Named = {"none": (lambda: None, ())} | CORRECTORS
    found: Corrector | None = make_named(corrector, known, "corrector")
    return found
